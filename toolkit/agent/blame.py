"""Who made the workers of one incarnation fail: told from those who died of it, and from those whom the agent stopped.

A dying process closes its connections before it is gone, and what has only been waiting for it can be gone first. So an
agent that has seen nobody but victims waits a moment for the culprit. What the agent itself has stopped is no cause.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from toolkit.core.actions import Action
from toolkit.core.diagnosing.diagnosis import Diagnosis, diagnose
from toolkit.core.failures import culprit_first
from toolkit.core.launch_plan import WorkerExit
from toolkit.ports import Ports, Workers

#: how long a culprit may take to end after its first victim, in seconds: a Python process with torch takes that long
SETTLE_S = 1.0
#: how far the time that a file system writes down may be behind the clock, in nanoseconds
_TICK_NS = 10_000_000


class Blame:
    """Diagnoses of one incarnation, each made once.

    Args:
        ports: the outside world.
    """

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._told: dict[int, Diagnosis] = {}
        #: when the agent told the workers to stop, by the wall clock; None before
        self._stopped_wall_ns: int | None = None
        self._stop_signal = 0
        #: local ranks that got SIGKILL from the agent
        self._killed: frozenset[int] = frozenset()
        #: signals that somebody had the agent send, by local rank and number: whose wish that was
        self._asked: dict[tuple[int, int], str] = {}

    def diagnosis(self, end: WorkerExit) -> Diagnosis:
        """What a worker that failed has died of."""
        if end.local_rank not in self._told:
            self._told[end.local_rank] = self._as_asked(end, diagnose(end))
        return self._told[end.local_rank]

    def asked_for(self, action: Action) -> None:
        """The agent is about to send a signal because somebody wants it to."""
        self._asked.update({(rank, action.signum): action.in_words() for rank in action.local_ranks})

    def _as_asked(self, end: WorkerExit, told: Diagnosis) -> Diagnosis:
        asked = self._asked.get((end.local_rank, -end.exit_code))
        if asked is None or told.kind == "memory":
            return told
        return msgspec.structs.replace(told, what=asked, kind="stopped", hand="first", remedy="")

    def in_order(self, ends: Iterable[WorkerExit]) -> list[tuple[WorkerExit, Diagnosis]]:
        """Those of `ends` that failed, who failed first at the top."""
        return culprit_first((end, self.diagnosis(end)) for end in ends if end.failed)

    def only_victims(self, ends: Sequence[WorkerExit]) -> bool:
        """Whether some have failed, and all of them of another's death."""
        failed = [end for end in ends if end.failed]
        return bool(failed) and all(self.diagnosis(end).hand == "second" for end in failed)

    def settle(
        self,
        workers: Workers,
        exits: Callable[[], Sequence[WorkerExit]],
        elsewhere: bool,
        over: Callable[[], Any],
    ) -> None:
        """Wait a moment for the culprit, if only victims have died so far. Does not wait in any other case.

        Args:
            exits: of these workers, with what the agent knows of them.
            elsewhere: whether the culprit may be on another node, so that waiting makes sense without other workers.
            over: true once another node has decided what follows.
        """
        clock, interrupts = self._ports.clock, self._ports.interrupts
        until_ns = clock.now_ns() + int(SETTLE_S * 1e9)
        while self.only_victims(exits()) and (elsewhere or workers.running()):
            left_ns = until_ns - clock.now_ns()
            if left_ns <= 0 or interrupts.count() or self._ports.control.waiting() or over():
                return
            self._ports.bell.wait(left_ns / 1e9)

    # -- while the agent stops the others ---------------------------------------------------------------------

    def stopping(self, signum: int) -> None:
        """The agent is about to tell those that run to stop."""
        self._stopped_wall_ns, self._stop_signal = self._ports.clock.wall_ns(), signum

    def stopped(self, killed: Iterable[int]) -> None:
        """It has; these needed SIGKILL."""
        self._killed = frozenset(killed)

    def failed_meanwhile(self, end: WorkerExit) -> bool:
        """Whether a worker that ended after the agent had told it to stop failed of itself all the same.

        It did if it had said of what, of itself or of another's death, before it was told to stop; or if SIGKILL ended
        it that the agent had not sent. What comes of the agent's signal (an exception in a handler, a child that died
        of it) is no failure.
        """
        if not end.failed or self._stopped_wall_ns is None:
            return False
        if end.exit_code == -signal.SIGKILL:
            return self._stop_signal != signal.SIGKILL and end.local_rank not in self._killed
        said_before = 0 < end.said_at_ns < self._stopped_wall_ns - _TICK_NS
        # Somebody who logs an error and goes on is stopped by the signal; an error file is written by who ends.
        own_end = end.exit_code != -self._stop_signal or (
            end.error_data is not None and not end.error_unusable
        )
        return said_before and own_end and self.diagnosis(end).hand != "unclear"
