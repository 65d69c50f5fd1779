"""Stopping workers: a signal, a grace, SIGKILL. It always goes to its end; further signals only shorten the grace."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from toolkit.ports import Ports, Workers

#: what the second death signal to the agent leaves of the grace, in seconds; the third leaves nothing
GRACE_AFTER_SECOND_SIGNAL_S = 5.0
#: how long a worker may take to vanish after SIGKILL, in seconds; longer means that the kernel holds it (D-state)
KILL_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Stopped:
    """How the stop went.

    Args:
        killed: local ranks that needed SIGKILL.
        unkillable: local ranks that are there even so.
    """

    killed: tuple[int, ...]
    unkillable: tuple[int, ...]


def stop(workers: Workers, ports: Ports, signum: int, grace_s: float) -> Stopped:
    """Stop all workers and whatever they left in their process groups. Never raises for a stubborn worker."""
    if workers.running():
        workers.signal(signum)
        _wait_for_exits(workers, ports, grace_s, heed_signals=True)
    killed = tuple(workers.running())
    # Also where no worker runs any more: a worker that died may have left children in its process group.
    workers.kill()
    if killed:
        _wait_for_exits(workers, ports, KILL_WAIT_S, heed_signals=False)
    return Stopped(killed, tuple(workers.running()))


def _wait_for_exits(workers: Workers, ports: Ports, limit_s: float, *, heed_signals: bool) -> None:
    started_ns = ports.clock.now_ns()
    while workers.running():
        if heed_signals:
            limit_s = _shortened(limit_s, ports.interrupts.count())
        left_s = limit_s - (ports.clock.now_ns() - started_ns) / 1e9
        if left_s <= 0:
            return
        ports.bell.wait(left_s)


def _shortened(grace_s: float, signals: int) -> float:
    if signals >= 3:
        return 0.0
    return min(grace_s, GRACE_AFTER_SECOND_SIGNAL_S) if signals == 2 else grace_s


def stop_signal_name(signum: int) -> str:
    """The signal's name, for events."""
    return signal.Signals(signum).name
