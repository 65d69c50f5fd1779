"""Moments of a run that are kept as processes which stand still, so that going back to one costs a fork.

There are never more than a bound, and fewer of large jobs: with more of them they stand further apart, as in a film.
"""

from __future__ import annotations

import threading

from simulator.interactive.conversation import Conversation

#: how many are kept, and nodes in all of them: one takes 73 MB of its own where there are 1,000 nodes
CHECKPOINTS_MAX, NODES_MAX = 12, 10_000
CHECKPOINTS_MIN = 4
#: real seconds of running between two of them, at first
SPACING_S = 0.5


class Checkpoint:
    """One moment; several histories may share it.

    Args:
        conversation: with its process, which never goes on.
        ran_s: real seconds that the run had taken.
        injected: faults that had been injected.
    """

    def __init__(self, conversation: Conversation, ran_s: float, injected: int) -> None:
        self.conversation = conversation
        self.ran_s = ran_s
        self.injected = injected
        self._holders = 1
        self._lock = threading.Lock()

    @property
    def now_ns(self) -> int:
        """Its virtual time."""
        return self.conversation.state.moment.now_ns

    def shared(self) -> Checkpoint:
        """The same, for one more holder."""
        with self._lock:
            self._holders += 1
        return self

    def release(self) -> None:
        """One holder less; with the last one the process ends."""
        with self._lock:
            self._holders -= 1
            last = self._holders == 0
        if last:
            self.conversation.close()


class Checkpoints:
    """Those of one history, in the order of its time. The first one, its start, always stays.

    Args:
        nodes: of the job.
        spacing_s: real seconds of running between two of them.
    """

    def __init__(self, nodes: int, spacing_s: float = SPACING_S) -> None:
        self._most = min(CHECKPOINTS_MAX, max(NODES_MAX // nodes, CHECKPOINTS_MIN))
        self._nodes = nodes
        self.spacing_s = spacing_s
        self._kept: list[Checkpoint] = []

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def latest(self) -> Checkpoint:
        """The last one."""
        return self._kept[-1]

    def add(self, checkpoint: Checkpoint) -> None:
        """One that follows on those that there are; others may have to go for it."""
        self._kept.append(checkpoint)
        if len(self._kept) > self._most:
            self._thin_out()  # of those before injections, which come at any time
        while len(self._kept) > self._most:
            self.spacing_s *= 2
            self._thin_out()

    def _thin_out(self) -> None:
        kept, gone = self._kept[:1], list[Checkpoint]()
        for checkpoint in self._kept[1:-1]:
            near = checkpoint.ran_s - kept[-1].ran_s < self.spacing_s
            (gone if near else kept).append(checkpoint)
        # The latest stays: what was done a moment ago is undone most often.
        self._kept = [*kept, self._kept[-1]]
        for checkpoint in gone:
            checkpoint.release()

    def before(self, now_ns: int, injected: int) -> Checkpoint:
        """The last one that is not later than this.

        Args:
            now_ns: virtual time.
            injected: how many of the injected faults it may have had.
        """
        fitting = [kept for kept in self._kept if kept.now_ns <= now_ns and kept.injected <= injected]
        assert fitting, "the start comes before everything"
        return fitting[-1]

    def shared(self, up_to: Checkpoint | None = None) -> Checkpoints:
        """The same for another history that has them in common; with `up_to` none that are later than that one."""
        copy = Checkpoints(self._nodes, self.spacing_s)
        end = len(self._kept) if up_to is None else self._kept.index(up_to) + 1
        copy._kept = [checkpoint.shared() for checkpoint in self._kept[:end]]
        return copy

    def release(self) -> None:
        """Nobody needs them any more."""
        kept, self._kept = self._kept, []
        for checkpoint in kept:
            checkpoint.release()
