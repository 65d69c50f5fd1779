"""What an agent's loop asks of its keeper: done in the keeper's task, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from toolkit.core.errors import StoreLostError
from toolkit.ports import Bell


class Request:
    """One of them."""

    __slots__ = ("run", "done", "answer", "error")

    def __init__(self, run: Callable[[], Any]) -> None:
        self.run = run
        self.done = False
        self.answer: Any = None
        self.error: BaseException | None = None


class Requests:
    """A queue of them.

    Args:
        asker: rung when one is done.
    """

    def __init__(self, asker: Bell) -> None:
        self._asker = asker
        self._queue: deque[Request] = deque()

    def __bool__(self) -> bool:
        return bool(self._queue)

    def put(self, run: Callable[[], Any]) -> Request:
        """Ask for something. Safe in any thread."""
        request = Request(run)
        self._queue.append(request)
        return request

    def serve(self) -> None:
        """Do all that was asked for. An error is raised where it was asked, too.

        Raises:
            StoreLostError: the store is gone, so that nothing more can be done.
        """
        while self._queue:
            request = self._queue.popleft()
            try:
                request.answer = request.run()
            except StoreLostError as error:
                request.error = error
                raise
            except Exception as error:  # noqa: BLE001 - whoever asked raises it
                request.error = error
            finally:
                request.done = True
                self._asker.ring()

    def refuse(self, error: BaseException) -> None:
        """Do nothing of what was asked for."""
        while self._queue:
            request = self._queue.popleft()
            request.error, request.done = error, True
        self._asker.ring()
