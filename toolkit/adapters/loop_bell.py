"""The bell of the agent's loop: one selector over a wake-up pipe and whatever else may wake the loop.

Worker exits are file descriptors here (pidfds), so no thread stands between a death and the agent.
"""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable


class LoopBell:
    """Implements `toolkit.ports.Bell`. One thread waits; anybody rings."""

    def __init__(self) -> None:
        self._closed = True  # until there is something to close
        self._read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._read_fd, selectors.EVENT_READ, None)
        self._closed = False

    def ring(self) -> None:
        """Wake the waiter. Safe in a signal handler and in any thread; does nothing once closed."""
        if self._closed:
            return
        try:
            os.write(self._write_fd, b"\0")
        except BlockingIOError:
            pass  # the pipe is full of rings: the waiter will wake
        except OSError:
            if not self._closed:
                raise

    @property
    def wakeup_fd(self) -> int:
        """What is written to it rings: for `signal.set_wakeup_fd`."""
        return self._write_fd

    def wait(self, timeout_s: float | None) -> bool:
        """Block until rung, or until a watched descriptor is ready, or until the time is over."""
        ready = self._selector.select(timeout_s if timeout_s is None else max(0.0, timeout_s))
        for key, _ in ready:
            if key.data is None:
                self._drain()
            else:
                key.data()
        return bool(ready)

    def _drain(self) -> None:
        try:
            while len(os.read(self._read_fd, 4096)) == 4096:
                pass
        except BlockingIOError:
            pass

    def watch(self, fd: int, on_ready: Callable[[], None]) -> None:
        """Have `wait` return and call `on_ready` in its thread whenever `fd` is readable. Same thread only."""
        self._selector.register(fd, selectors.EVENT_READ, on_ready)

    def unwatch(self, fd: int) -> None:
        """Forget `fd`; to be called before it is closed."""
        self._selector.unregister(fd)

    def close(self) -> None:
        """Release the descriptors. Watched ones stay their owners'."""
        if self._closed:
            return
        self._closed = True
        self._selector.close()
        os.close(self._read_fd)
        os.close(self._write_fd)

    def __del__(self) -> None:
        # The agent has no end of life that its users tell us; the bell goes with it.
        self.close()
