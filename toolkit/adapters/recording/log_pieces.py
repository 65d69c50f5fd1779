"""The bytes of one log through all of its pieces, as `adapters/output/log_writer.py` keeps them.

A log without a limit is one piece. No file stays open between two reads, so that a thousand logs may be read at once.
A piece is known by its number, not by its inode, which the next file may have.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from toolkit.adapters.output.log_writer import piece_numbers
from toolkit.adapters.recording.layout import open_regular
from toolkit.core.errors import RecordingError


def pieces(path: Path) -> list[Path]:
    """The pieces of a log that are there, in the order in which they were written; the last is `path`."""
    return [*(path.with_name(f"{path.name}.{number}") for number in piece_numbers(path)), path]


class LogPieces:
    """A place in a log, from which it is read on. At first the beginning.

    Args:
        path: of the piece that is written now.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        #: whether bytes were skipped, because their piece was deleted or the file was cut off
        self.skipped = False
        #: of the piece that is read; the one that is written now has the number that it will get
        self._number = 0
        self._offset = 0

    def go_to_end(self, before: int) -> bool:
        """Go to `before` bytes before the end that the log has now. Returns whether something is before that.

        Raises:
            RecordingError: it can't be read.
        """
        numbers = piece_numbers(self.path)
        left = before
        self._number = (numbers[-1] if numbers else 0) + 1
        while True:
            fd, _ = self._open()
            size = os.fstat(fd).st_size
            os.close(fd)
            self._offset = max(size - left, 0)
            left -= size
            before_it = [number for number in numbers if number < self._number]
            if left <= 0 or not before_it:
                return self._offset > 0 or bool(before_it)
            self._number = before_it[-1]

    def backward(self, size: int) -> Iterator[tuple[tuple[int, int], bytes]]:
        """Up to `size` bytes at a time from this place back to the beginning. Leaves the place where it is.

        Yields:
            The place of the bytes, for `go_to`, and the bytes.

        Raises:
            RecordingError: it can't be read.
        """
        number, offset = self._number, self._offset
        while True:
            numbers = piece_numbers(self.path)
            full = number <= max(numbers, default=0)
            if not full or number in numbers:
                fd = open_regular(self._piece(number) if full else self.path)
                try:
                    while offset > 0:
                        part = min(size, offset)
                        offset -= part
                        yield (number, offset), os.pread(fd, part, offset)
                except OSError as error:
                    raise RecordingError(f"{self.path} can't be read: {error.strerror}") from error
                finally:
                    os.close(fd)
            number = max((known for known in numbers if known < number), default=0)
            if not number:
                return
            offset = self._piece(number).stat().st_size if self._piece(number).exists() else 0

    def go_to(self, place: tuple[int, int]) -> None:
        """Go to a place that `backward` gave."""
        self._number, self._offset = place

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none if there are no more now.

        Raises:
            RecordingError: it can't be read.
        """
        while True:
            fd, full = self._open()
            try:
                if os.fstat(fd).st_size < self._offset:
                    self._offset, self.skipped = 0, True  # somebody cut it off
                data = os.pread(fd, size, self._offset)
            except OSError as error:
                raise RecordingError(f"{self.path} can't be read: {error.strerror}") from error
            finally:
                os.close(fd)
            self._offset += len(data)
            if data:
                return data
            if full:
                self._number, self._offset = self._number + 1, 0
            elif self._number > max(piece_numbers(self.path), default=0):
                return b""  # else it became full since it was opened, and may have got more before

    def _piece(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _open(self) -> tuple[int, bool]:
        """The piece that is read, and whether it gets no more. If it was deleted, the next one that is there."""
        while True:
            # In this order: if it has no number yet after it was opened, then it had none before.
            current = _opened(self.path)
            numbers = piece_numbers(self.path)
            self._number = self._number or (numbers[0] if numbers else 1)
            if self._number > max(numbers, default=0):
                # What can't be opened says why.
                return (open_regular(self.path) if current is None else current), False
            if current is not None:
                os.close(current)
            if self._number not in numbers:
                self._number = next((number for number in numbers if number > self._number), numbers[-1] + 1)
                self._offset, self.skipped = 0, True
                continue
            if (piece := _opened(self._piece(self._number))) is not None:
                return piece, True


def _opened(path: Path) -> int | None:
    try:
        return open_regular(path)
    except RecordingError:
        return None
