"""Something that may hang, done in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Aside(Generic[_T]):
    """Does one thing at a time for somebody who can't wait for ever. Used by one thread.

    Args:
        name: of the thread, which starts with the first `ask`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._task: Callable[[], _T] | None = None
        self._answer: _T | None = None
        self._busy = False
        self._closing = False
        self._thread: threading.Thread | None = None

    def ask(self, task: Callable[[], _T], patience_s: float) -> _T | None:
        """What `task` returns, or None if that takes longer than `patience_s`, or what was asked before still hangs.

        Args:
            task: must not raise. A late answer is dropped.
        """
        with self._changed:
            if self._busy or self._closing:
                return None
            self._task, self._answer, self._busy = task, None, True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._busy, patience_s)
            return self._answer

    def close(self, timeout_s: float) -> None:
        """No more tasks. Waits for one that goes on, for `timeout_s` at the most."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while (task := self._next_task()) is not None:
            answer = task()
            with self._changed:
                self._answer, self._busy = answer, False
                self._changed.notify_all()

    def _next_task(self) -> Callable[[], _T] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._task is not None or self._closing)
            task, self._task = self._task, None
            return None if self._closing else task
