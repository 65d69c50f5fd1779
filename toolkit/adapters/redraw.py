"""Draws something again when it has changed, and now and then on its own, from a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Redraw:
    """Calls `draw` after a change, not more often than allowed.

    Args:
        draw: draws, and returns the seconds after which it wants to be called even if nothing changes. It is called
            with `lock` held and must not raise.
        pause_s: the least time between two calls.
    """

    def __init__(self, draw: Callable[[], float], pause_s: float) -> None:
        #: held while `draw` runs; whoever changes what is drawn holds it, too
        self.lock = threading.Condition()
        self._draw = draw
        self._pause_s = pause_s
        self._due_s = 0.0
        self._changed = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def closed(self) -> bool:
        """Whether it draws no more."""
        return self._stop.is_set()

    def change(self) -> None:
        """What is drawn has changed. To be called with `lock` held; starts the thread the first time."""
        self._changed = True
        self.lock.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rally-redraw", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Draw no more. Waits for a drawing that goes on, for a second at the most. May be called again."""
        self._stop.set()
        with self.lock:
            self.lock.notify()
        if self._thread is not None:
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            with self.lock:
                if not self._changed:
                    self.lock.wait(self._due_s)
                if self._stop.is_set():
                    return
                self._changed = False
                self._due_s = self._draw()
            self._stop.wait(self._pause_s)
