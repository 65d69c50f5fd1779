"""A thread that looks again and again, and an end that anybody may wait for: in a thread, or in any event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any

#: how often a loop wakes in which somebody waits, in seconds
_WAKES_S = 0.2


class Ending:
    """Something that happens once. Waiting for it never changes it: a wait that is cancelled leaves it alone.

    Args:
        cancelled: what is said where a loop cancels a wait.
    """

    def __init__(self, cancelled: str = "") -> None:
        self._cancelled = cancelled
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @property
    def come(self) -> bool:
        """Whether it has happened."""
        return self._event.is_set()

    def comes(self) -> None:
        """It happens."""
        with self._lock:
            self._event.set()
            waiters, self._waiters = self._waiters, []
        for loop, future in waiters:
            with suppress(RuntimeError):  # that loop is closed, and nobody waits there any more
                loop.call_soon_threadsafe(_release, future)

    def wait(self, timeout_s: float | None) -> bool:
        """Wait in this thread; returns whether it has happened."""
        return self._event.wait(timeout_s)

    def __await__(self) -> Generator[Any, None, None]:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        with self._lock:
            if self._event.is_set():
                return
            self._waiters.append((loop, future))
        _wake_until(future, loop)
        try:
            yield from future.__await__()
        except asyncio.CancelledError:
            raise asyncio.CancelledError(*filter(None, [self._cancelled])) from None


def _wake_until(future: asyncio.Future[None], loop: asyncio.AbstractEventLoop) -> None:
    """Have the loop wake now and then: it sleeps on when ipykernel (7.4) cancels what a cell awaits.

    Its handler of SIGINT uses tornado's `add_callback`, which in the loop's own thread does not wake the loop; an
    interrupt would come into effect with the next message only.
    """
    if not future.done():
        loop.call_later(_WAKES_S, _wake_until, future, loop)


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class WatchThread:
    """Calls `look` in a thread of its own until that says that there is no more to see.

    Args:
        look: returns in how many seconds it is to be called again, or None for never. It must not raise.
        name: of the thread.
    """

    def __init__(self, look: Callable[[], float | None], name: str) -> None:
        self._look = look
        self._wanted = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Have it look now."""
        self._wanted.set()

    def close(self) -> None:
        """Have it look no more; a look that goes on is not waited for."""
        self._closed = True
        self._wanted.set()

    def _run(self) -> None:
        while not self._closed:
            pause_s = self._look()
            if pause_s is None:
                return
            self._wanted.wait(pause_s)
            self._wanted.clear()


def run_aside(do: Callable[[], None], name: str) -> None:
    """Do something in a thread of its own, which keeps no process from ending."""
    threading.Thread(target=do, name=name, daemon=True).start()


def used_s() -> float:
    """CPU seconds of this thread so far. It does not count the waits for one that computes."""
    return time.thread_time()


def lock() -> Any:
    """A lock that its thread may take again."""
    return threading.RLock()
