"""One pipe or pseudo-terminal that workers write to, on its way to a file, to the console, or to both."""

from __future__ import annotations

import contextlib
import os
import termios

from toolkit.adapters.output.console import Console
from toolkit.adapters.output.last_words import LastWords
from toolkit.adapters.output.lines import ConsoleLines, FilteredLines
from toolkit.adapters.output.log_writer import CHUNK_BYTES, LogWriter

_RESIZE_S = 1.0


class Source:
    """One pipe or pseudo-terminal.

    Args:
        fd: to read from; closed at the end.
        display: what shows it on the console; None for a stream that only goes to its file.
        console: where that is.
        file: its log, or None.
        filtered: what copies lines with certain words, or None.
        real_terminal: the terminal that a pseudo-terminal stands for.
    """

    def __init__(
        self,
        fd: int,
        display: ConsoleLines | None,
        *,
        console: Console,
        file: LogWriter | None = None,
        filtered: FilteredLines | None = None,
        real_terminal: int | None = None,
    ) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.display = display
        #: keeps the end of it, where somebody wants that
        self.words: LastWords | None = None
        self._console = console
        self._file = file
        self._filtered = filtered
        self._real_terminal = real_terminal
        self._resized_at = -_RESIZE_S
        #: whether nobody can write any more, and all is read
        self.ended = False
        #: position in the file from which on the console has not got it; None if it has all
        self._behind: int | None = None

    @property
    def is_behind(self) -> bool:
        """Whether the file holds something that the console has not got yet."""
        return self._behind is not None

    @property
    def finished(self) -> bool:
        """Whether all has been carried."""
        return self.ended and self._behind is None

    def wants_more(self) -> bool:
        """Whether there is room: on the console, or in a file that the console can be fed from later."""
        return not self.ended and (
            self.display is None
            or (self._file is not None and self._file.readable)
            or self._console.ready(self.display.stream)
        )

    def may_be_idle(self) -> bool:
        """Whether it is read when something comes, and the console has got all of what came."""
        return self.wants_more() and self._behind is None

    def can_catch_up(self) -> bool:
        """Whether the console takes more of what the file holds."""
        return self.is_behind and self.display is not None and self._console.ready(self.display.stream)

    def take(self, now: float, *, alone: bool) -> int:
        """Read what is there, up to a chunk, and carry it; returns the number of bytes."""
        data = self._read()
        if not data:
            return 0
        if self.words is not None:
            self.words.add(data)
        self._follow_size(now)
        start = self._file.append(data) if self._file else None
        if self._filtered:
            self._filtered.feed(data)
        if self._behind is None and self.display is not None:
            if self._console.ready(self.display.stream) or start is None:
                self.display.show(data, now, alone=alone)
            else:
                self._behind = start
        return len(data)

    def catch_up(self, now: float) -> int:
        """Show a chunk of what the console missed while it was slow."""
        if not self.can_catch_up():
            return 0
        assert self._file is not None and self._behind is not None and self.display is not None
        begin, data = self._file.read(self._behind)
        if data:
            self._behind = begin + len(data)
            self.display.show(data, now)
        else:
            self._behind = None
        return len(data)

    def close(self) -> None:
        """Show what is held; say where to find what can't be shown."""
        if self._filtered:
            self._filtered.finish()
        os.close(self.fd)
        if self.display is None:
            return
        if self._file is not None and self._behind is not None:
            self.display.forget()
            self._console.write(
                self.display.stream, f"(output not shown here is in {self._file.path})\n".encode()
            )
        self.display.finish()

    def _read(self) -> bytes:
        parts: list[bytes] = []
        room = CHUNK_BYTES
        while room > 0:
            try:
                part = os.read(self.fd, room)
            except BlockingIOError:
                break
            except OSError:
                part = b""  # EIO: a pseudo-terminal that nobody has open any more
            if not part:
                self.ended = True
                break
            parts.append(part)
            room -= len(part)
            # A pipe gives all it has; a pseudo-terminal gives 4 KiB at a time.
            if self._real_terminal is None:
                break
        return b"".join(parts) if len(parts) != 1 else parts[0]

    def _follow_size(self, now: float) -> None:
        if self._real_terminal is not None and now - self._resized_at >= _RESIZE_S:
            self._resized_at = now
            copy_size(self._real_terminal, self.fd)


def copy_size(from_fd: int, to_fd: int) -> None:
    """Give one terminal the size of another."""
    with contextlib.suppress(OSError, termios.error):
        size = termios.tcgetwinsize(from_fd)
        if size != termios.tcgetwinsize(to_fd):
            termios.tcsetwinsize(to_fd, size)
