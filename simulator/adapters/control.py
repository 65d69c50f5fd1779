"""Orders to a simulated agent, as somebody at its machine gives them."""

from __future__ import annotations

from collections import deque
from typing import Any

from toolkit.core.actions import Action, Outcome
from toolkit.ports import Bell


class SimOrder:
    """Implements `toolkit.ports.Order`."""

    def __init__(self, action: Action) -> None:
        self.action = action
        self.withdrawn = ""
        self.outcome: Outcome | None = None

    def answer(self, outcome: Outcome) -> None:
        """Keep it."""
        self.outcome = outcome


class SimControl:
    """Implements `toolkit.ports.Control`.

    Args:
        bell: of the agent.
    """

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._queue: deque[SimOrder] = deque()

    def put(self, action: Action) -> SimOrder:
        """Give an order. Never blocks; what becomes of it is in it later."""
        order = SimOrder(action)
        self._queue.append(order)
        self._bell.ring()
        return order

    def waiting(self) -> bool:
        """Whether nobody took one yet."""
        return bool(self._queue)

    def met(self, store: Any, group_rank: int, group_world_size: int) -> None:
        """Nobody watches from other machines here."""

    def take(self) -> SimOrder | None:
        """The oldest."""
        return self._queue.popleft() if self._queue else None
