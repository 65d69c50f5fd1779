"""What a stream shows that moves its cursor up and down, as several progress bars at once do.

On the real screen such moves would end up in other workers' lines. So the rows are kept here, and what they show is
told in lines of their own, now and then.
"""

from __future__ import annotations

import re

#: a row that is longer is cut; rows further above the last one can't be moved to
ROW_MAX, REACH_MAX = 4096, 100

#: moves of the cursor and what erases more than a line (ECMA-48)
MOVES = re.compile(rb"\x1b(?:\[[0-9;?]*[ABEFHJLMSTdfhlrsu]|[78DEMc])")
_TOKENS = re.compile(rb"\n|\r|\x1b(?:\[[0-?]*[ -/]*[@-~]|[ -/]*[0-~])|[^\n\r\x1b]+|\x1b")
_UNFINISHED = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*)?\Z")


class Rows:
    """The last rows of one stream. The cursor's column is not kept: text that comes after a return replaces a row."""

    def __init__(self) -> None:
        self._rows = [b""]
        self._shown: list[bytes] = [b""]
        self._at = 0
        self._replaces = False
        #: how far above the last row the cursor has been
        self._reach = 0
        self._carried = b""
        #: bytes since the cursor was moved last
        self._calm = 0

    @property
    def is_calm(self) -> bool:
        """Whether the stream writes lines like any other again."""
        return self._calm >= ROW_MAX and self._at == len(self._rows) - 1

    def feed(self, data: bytes) -> bytes:
        """Take what was written; returns the rows that nothing can change any more, as lines."""
        data = self._carried + data
        cut = _UNFINISHED.search(data)
        self._carried = data[cut.start() :] if cut else b""
        self._calm += len(data)
        for token in _TOKENS.findall(data[: cut.start()] if cut else data):
            self._take(token)
        return self._settled()

    def changed(self) -> bytes:
        """The rows that show something else than when they were told last, as lines."""
        lines = []
        for index, row in enumerate(self._rows):
            if row != self._shown[index]:
                self._shown[index] = row
                lines.append(row)
        return _as_lines(lines)

    def _take(self, token: bytes) -> None:
        if token == b"\n":
            self._go(self._at + 1)
            self._replaces = True
        elif token == b"\r":
            self._replaces = True
        elif token[0] == 0x1B:
            self._obey(token)
        else:
            before = b"" if self._replaces else self._rows[self._at]
            self._rows[self._at] = (before + token)[:ROW_MAX]
            self._replaces = False

    def _obey(self, sequence: bytes) -> None:
        final = sequence[-1:]
        if final == b"m":
            before = b"" if self._replaces else self._rows[self._at]
            self._rows[self._at] = (before + sequence)[:ROW_MAX]
            self._replaces = False
        elif final == b"K" and (self._replaces or sequence != b"\x1b[K"):
            self._rows[self._at] = b""
        elif final in b"AF":
            self._go(self._at - _count(sequence))
        elif final in b"BE":
            self._go(self._at + _count(sequence))
        if MOVES.fullmatch(sequence):
            self._calm = 0

    def _go(self, row: int) -> None:
        self._at = max(row, len(self._rows) - 1 - REACH_MAX, 0)
        while self._at >= len(self._rows):
            self._rows.append(b"")
            self._shown.append(b"")
        self._reach = max(self._reach, len(self._rows) - 1 - self._at)

    def _settled(self) -> bytes:
        over = len(self._rows) - 1 - self._reach
        if over <= 0:
            return b""
        lines = [
            row for row, shown in zip(self._rows[:over], self._shown[:over], strict=True) if row != shown
        ]
        del self._rows[:over], self._shown[:over]
        self._at -= over
        return _as_lines(lines)


def _as_lines(rows: list[bytes]) -> bytes:
    return b"".join(row + b"\n" for row in rows if row.strip())


def _count(sequence: bytes) -> int:
    digits = sequence[2:-1]
    return min(int(digits), REACH_MAX) if digits.isdigit() else 1
