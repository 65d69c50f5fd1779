"""Orders to an agent: put in by the threads that serve its control endpoint, taken by its loop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from toolkit.adapters.control.roster import Roster
from toolkit.core.actions import Action, Outcome

#: orders that may wait for the loop; more are refused
QUEUE_MAX = 32


class QueuedOrder:
    """Implements `toolkit.ports.Order`."""

    def __init__(self, action: Action) -> None:
        self.action = action
        self.withdrawn = ""
        self.outcome: Outcome | None = None
        self.answered = threading.Event()

    def answer(self, outcome: Outcome) -> None:
        """Wake whoever waits for it."""
        self.outcome = outcome
        self.answered.set()


def _nobody() -> None:
    """The bell of an agent that is not there yet."""


class Orders:
    """Implements `toolkit.ports.Control`. Safe in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[QueuedOrder] = deque()
        self._ring: Callable[[], None] = _nobody
        self._closed = False
        #: of the agents whose round this one is in
        self.roster = Roster(None)

    def met(self, store: Any, group_rank: int, group_world_size: int) -> None:
        """This agent has its place in a round."""
        self.roster.met(store, group_rank, group_world_size)

    def rings(self, ring: Callable[[], None]) -> None:
        """From now on an order that comes does this: it wakes the agent's loop."""
        self._ring = ring

    def waiting(self) -> bool:
        """Whether there is an order that nobody took yet."""
        return bool(self._queue)

    def take(self) -> QueuedOrder | None:
        """The oldest of them."""
        with self._lock:
            return self._queue.popleft() if self._queue else None

    def ask(self, action: Action, timeout_s: float) -> Outcome:
        """Have the agent's loop do something, and wait until it has said what became of it.

        What it has not begun with within `timeout_s` is withdrawn: nothing happens later that nobody waits for.
        """
        order = QueuedOrder(action)
        with self._lock:
            refusal = self._refusal()
            if refusal:
                return Outcome(outcome="refused", detail=refusal)
            self._queue.append(order)
        self._ring()
        if not order.answered.wait(timeout_s):
            with self._lock:
                if order in self._queue:
                    order.withdrawn = (
                        f"the agent was busy for {timeout_s:g} s, and nobody waited for longer: it forms its group or "
                        "stops its workers"
                    )
                    return Outcome(outcome="refused", detail=order.withdrawn)
            # Taken: it needs moments only, if the store of the job answers.
            order.answered.wait(timeout_s)
        return order.outcome or Outcome(
            outcome="unknown", detail="the agent has begun with it; its events tell what becomes of it"
        )

    def _refusal(self) -> str:
        if self._closed:
            return "the run has ended"
        if len(self._queue) >= QUEUE_MAX:
            return f"{len(self._queue)} orders wait for the agent already"
        return ""

    def close(self) -> None:
        """The loop has ended: refuse what waits and what comes."""
        with self._lock:
            self._closed = True
            left, self._queue = list(self._queue), deque()
        for order in left:
            order.answer(Outcome(outcome="refused", detail="the run has ended"))
