"""The worker's side of a stop: a training loop asks once a step whether it is to end, and saves its checkpoint.

    from toolkit import stop_requested

    for step, batch in enumerate(batches):
        train(batch)
        if stop_requested():
            save_checkpoint(step)
            break

It works under `rally run` and under torchrun, and needs no torch. Until it is called for the first time SIGTERM ends
the process at once, as ever; there is nothing to save then.

All ranks must stop after the same step, or those that go on wait for the others in a collective. So let them agree:

    stop = torch.tensor(int(stop_requested()), device=device)
    dist.all_reduce(stop, op=dist.ReduceOp.MAX)
    if stop: ...

The agent sends the signal for every stop: when it was told to end, when nodes join or leave, and when another worker
has failed. After a failure a collective does not come back, or raises; then there is no agreement and no checkpoint,
and what still runs gets SIGKILL when the grace (`--shutdown-timeout`) is over.
"""

from __future__ import annotations

from signal import SIGTERM, Signals

from toolkit.adapters.stop_signals import StopSignals
from toolkit.surroundings import environment

#: torchrun's, in whose environment it is if the user put it there
_GRACE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
_GRACE_OTHERWISE_S = 30.0
_SIGNALS = "TORCHELASTIC_SIGNALS_TO_HANDLE"

_watched: StopSignals | None = None


def stop_requested() -> bool:
    """Whether this worker was told to end. Costs nothing to speak of; never blocks.

    The first call takes SIGTERM, and what else ends the agent (`--signals-to-handle`) in a worker of one. An exit code
    of 0 after a stop is as good as any: the agent does not take it for a failure.

    Raises:
        RuntimeError: the first call is not in the main thread.
    """
    return _signals().came


def stop_seconds_left() -> float:
    """Seconds of the grace that are left until SIGKILL; infinite while nobody asked for a stop.

    The grace is the agent's `--shutdown-timeout`. torchrun tells its workers only by
    `TORCH_ELASTIC_SHUTDOWN_TIMEOUT`, if that is set; else its default of 30 s is taken. A second signal to the agent
    leaves 5 s, of which a worker does not hear.

    Raises:
        RuntimeError: the first call is not in the main thread.
    """
    return _signals().left_s()


def _signals() -> StopSignals:
    global _watched  # noqa: PLW0603 - a process has one set of signal handlers
    if _watched is None:
        watched = StopSignals(_asking(), _grace_s())
        watched.watch()
        _watched = watched
    return _watched


def _grace_s() -> float:
    try:
        return float(environment().get(_GRACE, _GRACE_OTHERWISE_S))
    except ValueError:
        return _GRACE_OTHERWISE_S


def _asking() -> list[Signals]:
    """The signals that ask for a stop: those that an agent hands to its workers when it ends."""
    words = environment().get(_SIGNALS, "") if "TORCHELASTIC_RUN_ID" in environment() else ""
    named = [Signals[word] for word in words.split(",") if word in Signals.__members__]
    return named if SIGTERM in named else [SIGTERM, *named]
