"""How far the training of a simulated job comes, and what of its time that was: seen by rank 0, step by step.

Nobody in the simulated world reads this: it is what a run is measured by.
"""

from __future__ import annotations

from dataclasses import dataclass

_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Training:
    """What a run trained, and what that took.

    Args:
        useful_s: steps that count at the end, each as long as an undisturbed one. Of a job that did not end well these
            are the steps of its last checkpoint: what is left to whoever starts it again.
        ended_s: when its last step was done, or else the end of the run.
        done: whether all steps were.
        stood_s: for each time that workers were started again, how long no step was finished.
        redone_s: steps that were done again, since they came after the last checkpoint.
    """

    useful_s: float
    ended_s: float
    done: bool
    stood_s: tuple[float, ...] = ()
    redone_s: float = 0.0

    @property
    def ettr(self) -> float:
        """Effective training time ratio, from 0 to 1: useful training by the time that it took.

        Meta's measure (Kokolis et al., "Revisiting Reliability in Large-Scale Machine Learning Research Clusters",
        arXiv:2410.21680: productive runtime by available wallclock time). What is not productive here: the first
        start-up, standing still from a failure until steps are finished again, steps done again since the last
        checkpoint, saving checkpoints, and steps that took longer than an undisturbed one. Queueing is not modelled.
        """
        return self.useful_s / self.ended_s if self.ended_s > 0 else 0.0

    @property
    def lost_s(self) -> float:
        """Seconds of the job that were no useful training."""
        return self.ended_s - self.useful_s

    @property
    def mttr_s(self) -> float | None:
        """Mean time to train again: from the last step before a restart to the first moment of the next one.

        None if there was no restart. Unlike `Restart.total_s` of the agents' events it has in it how long the failure
        went unnoticed, and how long the new workers took to come to their first step.
        """
        return sum(self.stood_s) / len(self.stood_s) if self.stood_s else None


class Progress:
    """What rank 0 does, as it goes on; told by the workers themselves."""

    def __init__(self) -> None:
        self._step = self._saved = self._redone = 0
        self._last_ns: int | None = None
        self._done_ns: int | None = None
        self._stood_ns: list[int] = []

    def begins(self, step: int, now_ns: int) -> None:
        """All workers have met, and the first of them begins with the step after `step`."""
        if self._last_ns is not None:
            self._stood_ns.append(now_ns - self._last_ns)
            self._redone += max(self._step - step, 0)
        self._step, self._last_ns, self._done_ns = step, now_ns, None

    def stepped(self, step: int, now_ns: int) -> None:
        """All workers have finished that many steps."""
        self._step, self._last_ns = step, now_ns

    def saved(self, step: int, now_ns: int) -> None:
        """A checkpoint of so many steps is on the disk."""
        self._saved, self._last_ns = max(step, self._saved), now_ns

    def done(self, now_ns: int) -> None:
        """All steps are."""
        self._done_ns = now_ns

    def training(self, step_s: float, now_ns: int) -> Training:
        """What came of it by now.

        Args:
            step_s: what an undisturbed step takes.
            now_ns: virtual time.
        """
        done = self._done_ns is not None
        return Training(
            useful_s=(self._step if done else self._saved) * step_s,
            ended_s=(now_ns if self._done_ns is None else self._done_ns) / _SECOND,
            done=done,
            stood_s=tuple(stood_ns / _SECOND for stood_ns in self._stood_ns),
            redone_s=self._redone * step_s,
        )
