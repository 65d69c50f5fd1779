"""The end of what a worker has said on stderr."""

from __future__ import annotations

import os
import stat

#: so many bytes are looked at
BYTES_MAX = 64 * 1024


def end_of_file(path: str) -> tuple[str, int]:
    """The end of a log file, and when something was written to it last, in nanoseconds since the epoch.

    Returns:
        An empty text and 0 for what is no file, or can't be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return "", 0
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return "", 0
        raw = os.pread(fd, BYTES_MAX, max(0, status.st_size - BYTES_MAX))
    except OSError:
        return "", 0
    finally:
        os.close(fd)
    return raw.decode("utf-8", "replace"), status.st_mtime_ns


def written_at(path: str) -> int:
    """When a file was written, in nanoseconds since the epoch; 0 if there is none."""
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - one call, no object
    except OSError:
        return 0
