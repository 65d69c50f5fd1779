"""What a test left behind in this process. Others may end threads and close files of theirs meanwhile: only what is new
counts.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def open_files() -> dict[str, str]:
    """What the descriptors of this process lead to."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = str(Path("/proc/self/fd", fd).readlink())
        except FileNotFoundError:
            continue  # the listing's own
    return found


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail if the body leaves threads or open files."""
    files, threads = open_files(), set(threading.enumerate())
    yield
    assert not set(threading.enumerate()) - threads
    assert not dict(open_files().items() - files.items())
