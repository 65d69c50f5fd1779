"""The end of what a stream has carried, kept in memory: what a worker said last counts when it has failed."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable

#: so many bytes are kept of each stream
BYTES_MAX = 64 * 1024
#: how long somebody waits for what is still on its way, in seconds
ON_ITS_WAY_S = 0.25


class LastWords:
    """The last chunks of one stream. One thread adds, any reads; costs no copy."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = 0
        #: when the last of it came, in nanoseconds since the epoch
        self.at_ns = 0

    def add(self, data: bytes) -> None:
        """What the stream carried next."""
        self._chunks.append(data)
        self._size += len(data)
        self.at_ns = time.time_ns()
        while self._size - len(self._chunks[0]) >= BYTES_MAX:
            self._size -= len(self._chunks.popleft())

    def text(self) -> str:
        """The end of it."""
        return b"".join(tuple(self._chunks))[-BYTES_MAX:].decode("utf-8", "replace")


class Drained:
    """Lets a thread wait until another has read from a descriptor what was there."""

    def __init__(self) -> None:
        self._wanted: dict[int, threading.Event] = {}

    def want(self, fd: int) -> threading.Event:
        """Set once `fd` is found to have nothing more to read."""
        return self._wanted.setdefault(fd, threading.Event())

    @property
    def is_wanted(self) -> bool:
        """Whether anybody waits."""
        return bool(self._wanted)

    def wanted(self) -> tuple[int, ...]:
        """The descriptors that somebody waits for now."""
        return tuple(self._wanted)

    def note(self, looked_at: Iterable[int], readable: set[int]) -> None:
        """A look is over.

        Args:
            looked_at: what was `wanted` before it. Who came later has to wait for the next one.
            readable: what had something to read.
        """
        for fd in looked_at:
            if fd not in readable:
                self._wanted.pop(fd).set()
