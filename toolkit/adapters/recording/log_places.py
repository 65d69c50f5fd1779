"""Where the logs of a worker lie, and what it said last."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from toolkit.adapters.recording.log_file import last_line

#: logs whose last line is remembered
_REMEMBERED_MAX = 50_000


def log_path(name: str, folder: Path | None) -> Path | None:
    """The log that a recording names; None if it names none.

    Args:
        folder: of the recording. One that was moved has its logs below it.
    """
    if not name:
        return None
    path = Path(name)
    if folder is None or os.path.lexists(path):
        return path
    _, found, below = name.partition("/logs/")
    return folder / "logs" / below if found else path


class LastLines:
    """What workers have said last. Reads a log only if it has changed.

    Args:
        folder: of the recording, or None.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._seen: dict[str, tuple[tuple[int, int], str]] = {}

    def of(self, names: Iterable[str]) -> str:
        """The last line of whichever of these logs was written last; empty if there is none. Never raises."""
        latest: tuple[int, str, Path, int] | None = None
        for name in names:
            path = log_path(name, self._folder)
            if path is None:
                continue
            try:
                seen = path.stat()
            except (OSError, ValueError):
                continue
            if seen.st_size and (latest is None or seen.st_mtime_ns > latest[0]):
                latest = seen.st_mtime_ns, name, path, seen.st_size
        if latest is None:
            return ""
        changed_ns, name, path, size = latest
        stamp, line = self._seen.get(name, ((0, 0), ""))
        if stamp != (changed_ns, size):
            line = last_line(path)
            if len(self._seen) >= _REMEMBERED_MAX:
                self._seen.clear()
            self._seen[name] = (changed_ns, size), line
        return line
