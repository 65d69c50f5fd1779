"""Code beside the agent's loop: daemon threads, and bells and locks for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any


class ThreadBell:
    """Implements `toolkit.ports.Bell` for a thread: one waits, anybody rings."""

    def __init__(self) -> None:
        self._rung = threading.Event()

    def ring(self) -> None:
        """Wake the waiter, now or at its next wait."""
        self._rung.set()

    def wait(self, timeout_s: float | None) -> bool:
        """Block until rung, or until the time is over."""
        rung = self._rung.wait(timeout_s)
        if rung:
            self._rung.clear()
        return rung


class Threads:
    """Implements `toolkit.ports.Tasks`."""

    def spawn(self, run: Callable[[], None], name: str) -> None:
        """Start a thread. A daemon: one that a store holds up must not keep the process from ending."""
        threading.Thread(target=run, name=name, daemon=True).start()

    def new_bell(self) -> ThreadBell:
        """A bell for a thread."""
        return ThreadBell()

    def new_lock(self) -> AbstractContextManager[Any]:
        """A lock."""
        return threading.Lock()
