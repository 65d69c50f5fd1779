"""Stopping workers: a signal, a grace, SIGKILL. It always goes to its end; further signals only shorten the grace."""

from __future__ import annotations

import signal
from collections.abc import Callable
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


def stop(
    workers: Workers,
    ports: Ports,
    signum: int,
    grace_s: float,
    on_shortened: Callable[[int, float], None] = lambda signals, left_s: None,
) -> Stopped:
    """Stop all workers and whatever they left in their process groups. Never raises for a stubborn worker.

    Args:
        grace_s: between `signum` and SIGKILL.
        on_shortened: told when further signals to the agent leave less of the grace: how many, and the seconds left.
    """
    if workers.running():
        workers.signal(signum)
        _wait_for_exits(workers, ports, grace_s, on_shortened)
    killed = tuple(workers.running())
    # Also where no worker runs any more: a worker that died may have left children in its process group.
    workers.kill()
    if killed:
        _wait_for_exits(workers, ports, KILL_WAIT_S)
    return Stopped(killed, tuple(workers.running()))


def _wait_for_exits(
    workers: Workers, ports: Ports, limit_s: float, on_shortened: Callable[[int, float], None] | None = None
) -> None:
    started_ns = ports.clock.now_ns()
    while workers.running():
        waited_s = (ports.clock.now_ns() - started_ns) / 1e9
        signals = ports.interrupts.count()
        if on_shortened is not None and signals >= 2 and waited_s + _grace_after(signals) < limit_s:
            limit_s = waited_s + _grace_after(signals)
            on_shortened(signals, _grace_after(signals))
        if limit_s - waited_s <= 0:
            return
        ports.bell.wait(limit_s - waited_s)


def _grace_after(signals: int) -> float:
    return GRACE_AFTER_SECOND_SIGNAL_S if signals == 2 else 0.0


def stop_signal_name(signum: int) -> str:
    """The signal's name, for events."""
    return signal.Signals(signum).name
