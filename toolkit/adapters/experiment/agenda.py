"""What is to happen at which second of an experiment, and the wait for it, or for the end of a process."""

from __future__ import annotations

import heapq
import itertools
import os
import select
import time
from collections.abc import Callable


class Agenda:
    """Does what is due, in one thread. Its clock stands at 0 until it is started."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._watched: dict[int, Callable[[], object]] = {}
        self._poll = select.poll()
        self._started: float | None = None

    @property
    def now_s(self) -> float:
        """Seconds since the start of the clock."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    @property
    def started(self) -> bool:
        """Whether the clock runs."""
        return self._started is not None

    def start_clock(self) -> None:
        """Now is 0."""
        self._started = time.monotonic()

    def at(self, at_s: float, action: Callable[[], object]) -> None:
        """Do something at that second, or as soon as it can be done."""
        heapq.heappush(self._due, (at_s, next(self._numbers), action))

    def watch(self, fd: int, action: Callable[[], object]) -> None:
        """Do something whenever a descriptor can be read, until it is no longer watched."""
        self._watched[fd] = action
        self._poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Close a descriptor that was watched. Harmless the second time."""
        if self._watched.pop(fd, None) is not None:
            self._poll.unregister(fd)
            os.close(fd)

    def run(self, over: Callable[[], bool], limit_s: float) -> bool:
        """Go on until it is over, or for so many seconds more. Returns whether it is over."""
        deadline = time.monotonic() + limit_s
        while not over():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            if self._started is not None and self._due:
                left_s = min(left_s, self._due[0][0] - self.now_s)
            for fd, _ in self._poll.poll(max(left_s, 0.0) * 1000 + 0.5 if left_s > 0 else 0):
                action = self._watched.get(fd)
                if action is not None:
                    action()
            while self._started is not None and self._due and self._due[0][0] <= self.now_s:
                heapq.heappop(self._due)[2]()
        return True

    def close(self) -> None:
        """Let go of all descriptors."""
        for fd in list(self._watched):
            self.unwatch(fd)
