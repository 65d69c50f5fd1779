"""Signals that the agent hands on to its workers, such as Slurm's SIGUSR1 before the time limit.

Each worker gets a signal once, in its first process: not in its process group, whose helpers would die of it. Nobody
dies of such a signal: who has no handler for it yet, because it still imports, gets it as soon as it has one. Where no
workers run, between two incarnations or before the first, the signal is kept for the next.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.agent.reporting import Reporter
from toolkit.agent.stopping import stop_signal_name
from toolkit.core import events
from toolkit.ports import Ports, Workers

#: how often workers that have no handler yet are looked at again, in seconds
LOOK_AGAIN_S = 0.2


class Forwarding:
    """What is to be handed on to the workers of one agent.

    Args:
        ports: of the agent.
        reporter: takes the events.
    """

    def __init__(self, ports: Ports, reporter: Reporter) -> None:
        self._ports, self._reporter = ports, reporter
        #: signal -> local ranks that are to get it; None is all of the next incarnation
        self._due: dict[int, Sequence[int] | None] = {}

    @property
    def looks_again(self) -> bool:
        """Whether somebody waits for a worker to make a handler."""
        return any(ranks is not None for ranks in self._due.values())

    def hand_on(self, workers: Workers | None, incarnation: int) -> None:
        """Send what is due to `workers`, which run; None if none do.

        Args:
            incarnation: theirs.
        """
        for signum in self._ports.interrupts.take_forwarded():
            self._due[signum] = None
        running = workers.running() if workers is not None and self._due else ()
        if workers is None or not running:
            return
        for signum, due in list(self._due.items()):
            wanted = list(running) if due is None else [rank for rank in due if rank in running]
            got = list(workers.forward(signum, wanted))
            waiting = [rank for rank in wanted if rank not in got]
            if got or due is None:
                self._reporter.say(
                    events.SignalForwarded,
                    incarnation=incarnation,
                    signal=stop_signal_name(signum),
                    local_ranks=got,
                    waiting=waiting,
                )
            if waiting:
                self._due[signum] = waiting
            else:
                del self._due[signum]

    def workers_are_gone(self) -> None:
        """Who still waited for a signal gets none; those that take their place do."""
        self._due = dict.fromkeys(self._due)
