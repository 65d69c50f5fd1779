"""Logs of several workers as one, in the order of the times in their lines."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from toolkit.adapters.recording.log_file import LINES_MAX, LogFile

#: logs that are read at once
LOGS_MAX = 256
_SEARCHED = 80
#: ISO 8601 and Python's logging; glog, absl and torch's C++; a time alone
_ISO = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?")
_GLOG = re.compile(r"\b[IWEF](\d\d)(\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?")
_TIME = re.compile(r"(?<![\d:])(\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?(?![\d:])")


#: what stands before a message when it begins with its time
_TIME_AHEAD = re.compile(
    r"\s*\[?(?:[IWEF]\d{4} |\d{4}-\d\d-\d\d[ T])?\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?\]?[:\s]*"
)


def without_time(line: str) -> str:
    """A line without the time that it begins with, where it is shown in little room."""
    found = _TIME_AHEAD.match(line)
    return line[found.end() :] or line if found else line


def time_in(line: str, day: datetime) -> float | None:
    """The time that a line gives, in seconds since some moment that is the same for all; None if it gives none.

    Args:
        day: on which it was written, for times without a date.
    """
    head = line[:_SEARCHED]
    if found := _ISO.search(head):
        date, time, part = found.groups()
    elif found := _GLOG.search(head):
        date, time, part = f"{day.year}-{found[1]}-{found[2]}", found[3], found[4]
    elif found := _TIME.search(head):
        date, time, part = f"{day:%Y-%m-%d}", found[1], found[2]
    else:
        return None
    try:
        return datetime.fromisoformat(f"{date}T{time}").timestamp() + float(f"0.{part or 0}")
    except (ValueError, OverflowError, OSError):
        return None


class MergedLogs:
    """Several logs that may grow.

    Lines without a time stay behind the line before them. What comes later is put behind what is there.

    Args:
        logs: a name for each, and its path.
    """

    def __init__(self, logs: Sequence[tuple[str, Path]]) -> None:
        self.logs = tuple(logs)
        taken = self.logs[:LOGS_MAX]
        self._files = [(name, LogFile(path, share=len(taken))) for name, path in taken]
        self._times = [0.0] * len(self._files)
        #: name and text
        self.lines: deque[tuple[str, str]] = deque(maxlen=LINES_MAX)
        self.count = 0
        #: whether a line had a time
        self.has_times = False

    @property
    def left_out(self) -> int:
        """Logs that are not read, because there are too many."""
        return len(self.logs) - len(self._files)

    def unfinished(self) -> list[tuple[str, str]]:
        """Name and text of the lines that have no end yet."""
        return [(name, text) for name, file in self._files if (text := file.unfinished)]

    @property
    def cut(self) -> list[Path]:
        """Logs of which only the end was read."""
        return [file.path for _, file in self._files if file.cut]

    def read_new(self) -> None:
        """Read on. Never raises."""
        found: list[tuple[float, str, str]] = []
        for index, (name, file) in enumerate(self._files):
            if not file.read_new():
                continue
            day = _day_of(file.path)
            for line in file.lines:
                at = time_in(line, day)
                self.has_times = self.has_times or at is not None
                self._times[index] = at = self._times[index] if at is None else at
                found.append((at, name, line))
            file.lines.clear()  # they are kept here
        found.sort(key=lambda line: line[0])
        self.lines.extend((name, line) for _, name, line in found)
        self.count += len(found)


def _day_of(path: Path) -> datetime:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime)
    except (OSError, ValueError, OverflowError):
        return datetime.fromtimestamp(0)
