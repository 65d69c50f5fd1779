"""The lines of one log, however long it is: its last ones, or all, and then those that come. Memory stays bounded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path

from toolkit.adapters.recording.log_pieces import LogPieces

#: bytes of one read, and of one line; a longer one is split
READ_BYTES, LINE_MAX = 64 << 10, 1 << 20
#: lines of a block that are looked at for one with a time
_LOOKED_AT = 50


class LogLines:
    """A place in a log, from which its lines are read. At first the beginning.

    Args:
        path: of the log; all of its pieces are read.

    Each method raises RecordingError if the log can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pieces = LogPieces(path)
        #: what stands behind the last line and has no end yet
        self.rest = b""

    @property
    def skipped(self) -> bool:
        """Whether lines are missing before those that were read last; asking forgets it."""
        skipped, self._pieces.skipped = self._pieces.skipped, False
        return skipped

    def last(self, count: int, wanted: Callable[[bytes], bool], *, with_rest: bool) -> list[bytes]:
        """Go to the end; the last lines before it that are wanted, at most `count`, without their ends.

        Args:
            with_rest: what has no end yet is a line, too.
        """
        self._pieces.go_to_end(0)
        from_end = self._from_end()
        self.rest = next(from_end, b"")
        if with_rest and self.rest:
            from_end, self.rest = chain((self.rest,), from_end), b""
        found = list(islice(filter(wanted, from_end), count))
        return found[::-1]

    def go_back_to(self, is_before: Callable[[bytes], bool | None]) -> bool:
        """Go to a line, from the end backwards, that is before what is looked for, or to the beginning.

        Args:
            is_before: None where a line does not tell.

        Returns:
            Whether any line told.
        """
        self._pieces.go_to_end(0)
        told = False
        begin: tuple[int, int] | None = None
        for place, block in self._pieces.backward(READ_BYTES):
            begin = place
            lines = block.split(b"\n", _LOOKED_AT)[0 if place[1] == 0 else 1 :]
            answers = [answer for line in lines if (answer := is_before(line)) is not None]
            told = told or bool(answers)
            if any(answers):
                break
        if begin is not None:
            self._pieces.go_to(begin)
        return told

    def read(self) -> list[bytes]:
        """Whole lines that come next, without their ends; none if there are no more now."""
        while True:
            skipped, self._pieces.skipped = self._pieces.skipped, False
            data = self._pieces.read(READ_BYTES)
            if self._pieces.skipped:
                self.rest = b""  # the line that it began is not kept any more
            self._pieces.skipped = self._pieces.skipped or skipped
            if not data:
                return []
            *lines, self.rest = (self.rest + data).split(b"\n")
            if len(self.rest) > LINE_MAX:
                lines.append(self.rest)
                self.rest = b""
            if lines:
                return lines

    def all(self) -> Iterator[bytes]:
        """The lines from here on, those without an end included."""
        while lines := self.read():
            yield from lines
        if self.rest:
            rest, self.rest = self.rest, b""
            yield rest

    def _from_end(self) -> Iterator[bytes]:
        """Lines from the end to the beginning; the first is what has no end, and may be empty."""
        ahead: deque[bytes] = deque()
        size = 0
        for _, block in self._pieces.backward(READ_BYTES):
            first, *others = block.split(b"\n")
            if others:
                yield others[-1] + b"".join(ahead)
                yield from others[-2::-1]
                ahead.clear()
                size = 0
            ahead.appendleft(first)
            size += len(first)
            if size > LINE_MAX:
                yield b"".join(ahead)
                ahead.clear()
                size = 0
        yield b"".join(ahead)


def modified_s(path: Path) -> float:
    """When a log was written last, in seconds since the epoch; 0 if that can't be told."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def now_s() -> float:
    """Seconds since the epoch."""
    return time.time()


def pause(seconds: float) -> None:
    """Wait before the next look."""
    time.sleep(seconds)
