"""A log that is appended to as long as it can be, within a size if it has one. What it doesn't take is counted.

With a limit it is kept in pieces, each a quarter of it: `stdout.log.1` is the beginning and stays, `stdout.log` is
what comes now. Between them pieces are numbered upwards as they were written, and the oldest is deleted for a new
one. Nothing is renamed twice, so that a number names the same piece for ever.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path

from toolkit.core.lost_output import LostOutput, lost_in_words

#: of one read
CHUNK_BYTES = 64 * 1024
#: how long a file that took nothing is left alone
RETRY_S = 1.0
#: how many pieces make up the limit
PIECES = 4

_NEWLINE = ord("\n")


class LogWriter:
    """Not for several threads.

    Args:
        path: of the file; its folder is made.
        max_bytes: of all of its pieces together; None for no limit.
    """

    def __init__(self, path: str, max_bytes: int | None = None) -> None:
        self.path = path
        self.lost_bytes = 0
        self.lost_lines = 0
        #: why bytes were lost, or empty
        self.reason = ""
        #: whether what was appended last can be read again
        self.readable = False
        self._piece_bytes = None if max_bytes is None else max(max_bytes // PIECES, 1)
        self._fd = -1
        self._regular = False
        self._closed = False
        self._retry_at = 0.0
        self._in_line = False
        #: bytes and lines that are lost since the last that were written
        self._gap = (0, 0)
        #: whether the last of them was in the middle of a line
        self._gap_in_line = False
        #: bytes of the piece that is written now, and where it begins in the whole
        self._size = self._begin = 0
        #: where those before it begin and end in the whole, and their numbers
        self._older: list[tuple[int, int, int]] = []
        self._number = 1 + _highest_number(path) if max_bytes is not None else 1
        self._open()

    @property
    def lost(self) -> LostOutput | None:
        """What was lost so far, or None."""
        if not self.reason:
            return None
        counted = (
            f"{lost_in_words(self.lost_lines, self.lost_bytes)} lost so far, " if self.lost_bytes else ""
        )
        words = f"cannot write {self.path}: {self.reason}; {counted}the workers go on"
        return LostOutput(words, self.path, self.lost_bytes, self.lost_lines)

    def append(self, data: bytes) -> int | None:
        """Append; returns where `data` begins in the whole, or None if it is not, or not all, there."""
        if self._closed or (self._retry_at and not self._ready_again()):
            self._lose(data)
            return None
        if self._gap[0]:
            data = self._resumed(data)
            if not data:
                return None
        begin = self._begin + self._size
        while self._piece_bytes is not None and self._regular and self._size + len(data) > self._piece_bytes:
            fits = self._that_fits(data, self._piece_bytes)
            if not self._write(data[:fits]) or not self._begin_piece():
                self._lose(data[fits:])
                return None
            data = data[fits:]
        self.readable = self._write(data) and self._regular
        return begin if self.readable else None

    def read(self, position: int) -> tuple[int, bytes]:
        """Up to a chunk from `position` of the whole on, or from the next byte that is kept.

        Returns:
            Where it begins, and what is there; nothing at the end.
        """
        with contextlib.suppress(OSError):
            for begin, end, number in self._older:
                if position < end:
                    at = max(position, begin)
                    return at, self._read_piece(number, at - begin, min(CHUNK_BYTES, end - at))
            at = max(position, self._begin)
            return at, os.pread(self._fd, CHUNK_BYTES, at - self._begin)
        return position, b""

    def close(self) -> None:
        """Release it. What is appended later is lost."""
        self._closed = True
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # --- files -------------------------------------------------------------------------------------------

    def _open(self) -> bool:
        try:
            self._fd = append_to(self.path, os.O_RDWR)
            status = os.fstat(self._fd)
        except OSError as error:
            self._failed(error)
            return False
        self.readable = self._regular = stat.S_ISREG(status.st_mode)
        self._size = status.st_size if self._regular else 0
        return True

    def _ready_again(self) -> bool:
        if time.monotonic() < self._retry_at or (self._fd < 0 and not self._open()):
            return False
        self._retry_at = 0.0
        return True

    def _write(self, data: bytes) -> bool:
        left = data[self._put(data) :]
        if left:
            self._lose(left)
        return not left

    def _put(self, data: bytes) -> int:
        """Write; returns how many bytes the file took."""
        done = 0
        try:
            while done < len(data):
                done += os.write(self._fd, data[done:] if done else data)
        except OSError as error:
            self._failed(error)
        if done:
            self._size += done
            self._in_line = data[done - 1] != _NEWLINE
        return done

    def _failed(self, error: OSError) -> None:
        self.reason = error.strerror or str(error)
        self.readable = False
        self._retry_at = time.monotonic() + RETRY_S

    def _lose(self, data: bytes) -> None:
        if not data:
            return
        lines = data.count(b"\n")
        self.lost_bytes += len(data)
        self.lost_lines += lines
        self._gap = self._gap[0] + len(data), self._gap[1] + lines
        self._gap_in_line = data[-1] != _NEWLINE

    def _resumed(self, data: bytes) -> bytes:
        """What follows a gap: a line that tells of it, and then whole lines. Empty as long as there is none."""
        if self._gap_in_line:
            cut = data.find(b"\n") + 1 or len(data)
            self._lose(data[:cut])
            data = data[cut:]
        if not data:
            return b""
        size, lines = self._gap
        told = f"(rally: {lost_in_words(lines, size)} are missing here: {self.reason})\n".encode()
        told = b"\n" + told if self._in_line else told
        if self._put(told) < len(told):
            self._lose(data)
            return b""
        self._gap = 0, 0
        return data

    # --- pieces ------------------------------------------------------------------------------------------

    def _that_fits(self, data: bytes, piece_bytes: int) -> int:
        """How much of `data` still goes into this piece: whole lines, if there is the end of one."""
        room = max(piece_bytes - self._size, 0)
        whole = data.rfind(b"\n", 0, room) + 1
        if whole or (self._size and not self._in_line):
            return whole
        return room

    def _begin_piece(self) -> bool:
        """Put the piece that is full aside, drop the oldest but the first if there are too many, begin the next."""
        try:
            Path(self.path).rename(f"{self.path}.{self._number}")
        except OSError as error:
            self._failed(error)
            return False
        os.close(self._fd)
        self._fd = -1
        end = self._begin + self._size
        self._older.append((self._begin, end, self._number))
        self._begin = end
        self._size, self._number = 0, self._number + 1
        # With the one that is begun there are as many as make up the limit.
        for number in piece_numbers(Path(self.path))[1 : -(PIECES - 2)]:
            with contextlib.suppress(OSError):
                Path(f"{self.path}.{number}").unlink()
        kept = set(piece_numbers(Path(self.path)))
        self._older = [piece for piece in self._older if piece[2] in kept]
        return self._open()

    def _read_piece(self, number: int, offset: int, size: int) -> bytes:
        fd = os.open(f"{self.path}.{number}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, size, offset)
        finally:
            os.close(fd)


def append_to(path: str, mode: int) -> int:
    """A descriptor that appends to a file, whose folder is made."""
    with contextlib.suppress(FileExistsError):  # a file where the directory should be: open() says it better
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, mode | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o666)


def piece_numbers(path: Path) -> list[int]:
    """Of the pieces of a log that are full, ascending. Never raises."""
    name = path.name + "."
    found = []
    try:
        with os.scandir(path.parent) as entries:
            for entry in entries:
                number = entry.name.removeprefix(name)
                if entry.name.startswith(name) and number.isdecimal():
                    found.append(int(number))
    except OSError:
        return []
    return sorted(found)


def _highest_number(path: str) -> int:
    return max(piece_numbers(Path(path)), default=0)
