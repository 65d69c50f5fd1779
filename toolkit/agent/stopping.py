"""Stopping workers: a signal, a grace, SIGKILL. It always goes to its end; further signals only shorten the grace."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from toolkit.core.launch_plan import Leftover
from toolkit.ports import Ports, Workers

#: what the second death signal to the agent leaves of the grace, in seconds; the third leaves nothing
GRACE_AFTER_SECOND_SIGNAL_S = 5.0
#: how long a worker may take to vanish after SIGKILL, in seconds; longer means that the kernel holds it (D-state)
KILL_WAIT_S = 5.0


#: what is left of the grace for what workers leave behind, in seconds
LEFT_GRACE_S = 2.0
#: between two looks for it, at the most, in seconds
LOOK_AGAIN_S = 0.25


@dataclass(frozen=True, slots=True)
class Stopped:
    """How the stop went.

    Args:
        killed: local ranks that needed SIGKILL.
        unkillable: local ranks that are there even so.
        left: what workers had left behind, and was ended, too.
    """

    killed: tuple[int, ...]
    unkillable: tuple[int, ...]
    left: tuple[Leftover, ...] = ()


def stop(
    workers: Workers,
    ports: Ports,
    signum: int,
    grace_s: float,
    on_shortened: Callable[[int, float], None] = lambda signals, left_s: None,
    heard: int = 0,
) -> Stopped:
    """Stop all workers and whatever they have started. Never raises for a stubborn worker.

    What a worker leaves behind gets the same signal and 2 s of the grace. It gets all of the grace if it handles the
    signal and its worker died of it: a shell does, and the program that it had started may be saving its state.

    Args:
        grace_s: between `signum` and SIGKILL.
        on_shortened: told when further signals to the agent leave less of the grace: how many, and the seconds left.
            Also of the first, if it comes while workers are stopped for another reason; that leaves the grace as it is.
        heard: death signals to the agent that are known already, such as that for which the workers are stopped.
    """
    left = _Left(workers, ports, signum)
    left.look()
    if workers.running():
        workers.signal(signum)
    _wait_for_end(workers, ports, left, grace_s, on_shortened, heard)
    killed = tuple(workers.running())
    # Also where nobody runs any more that was seen: who forks all the time may have been missed.
    workers.kill()
    _wait_for_killed(workers, ports)
    return Stopped(killed, tuple(workers.running()), tuple(left.seen.values()))


class _Left:
    """What the workers leave behind while they are stopped."""

    def __init__(self, workers: Workers, ports: Ports, signum: int) -> None:
        self.seen: dict[int, Leftover] = {}
        self._workers = workers
        self._clock = ports.clock
        self._signum = signum
        self._since_ns = 0

    def look(self) -> Sequence[Leftover]:
        """What there is now; who is new gets the signal."""
        found = self._workers.left_behind()
        new = {each.pid: each for each in found if each.pid not in self.seen}
        if new:
            self._since_ns = self._since_ns or self._clock.now_ns()
            self.seen.update(new)
            self._workers.signal_left(self._signum)
        return found

    def patience_s(self, found: Sequence[Leftover]) -> float | None:
        """How much longer these may take by their own right; None: as long as workers may."""
        heirs = {end.local_rank for end in self._workers.exits() if end.exit_code == -self._signum}
        if any(each.local_rank in heirs and each.handles(self._signum) for each in found):
            return None
        return LEFT_GRACE_S - (self._clock.now_ns() - self._since_ns) / 1e9


def _wait_for_end(
    workers: Workers,
    ports: Ports,
    left: _Left,
    limit_s: float,
    on_shortened: Callable[[int, float], None],
    heard: int,
) -> None:
    started_ns = ports.clock.now_ns()
    while True:
        found = () if workers.running() else left.look()
        if not found and not workers.running():
            return
        waited_s = (ports.clock.now_ns() - started_ns) / 1e9
        signals = ports.interrupts.count()
        if signals >= 2 and waited_s + _grace_after(signals) < limit_s:
            limit_s = waited_s + _grace_after(signals)
            on_shortened(signals, _grace_after(signals))
        elif signals == 1 and not heard:
            on_shortened(signals, limit_s - waited_s)
        heard = signals
        patience_s = left.patience_s(found) if found else None
        left_s = limit_s - waited_s if patience_s is None else min(limit_s - waited_s, patience_s)
        if left_s <= 0:
            return
        ports.bell.wait(min(left_s, LOOK_AGAIN_S) if found else left_s)


def _wait_for_killed(workers: Workers, ports: Ports) -> None:
    started_ns = ports.clock.now_ns()
    while (left_s := KILL_WAIT_S - (ports.clock.now_ns() - started_ns) / 1e9) > 0:
        if workers.running():
            ports.bell.wait(left_s)
        elif workers.left_behind():
            workers.kill()
            ports.bell.wait(min(left_s, LOOK_AGAIN_S))
        else:
            return


def _grace_after(signals: int) -> float:
    return GRACE_AFTER_SECOND_SIGNAL_S if signals == 2 else 0.0


def stop_signal_name(signum: int) -> str:
    """The signal's name, for events."""
    return signal.Signals(signum).name
