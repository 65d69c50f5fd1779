"""Folders: what is free there, and whether a file can be made."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from toolkit.adapters.doctor.limits import text_in
from toolkit.core.doctor.facts import FolderFacts


def folder(path: Path) -> FolderFacts:
    """A folder, or the nearest above it that exists. Makes a file without a name there for a moment.

    Args:
        path: absolute. Waits as long as the file system does.
    """
    there = path
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    start = time.monotonic()
    problem = _problem_of(there)
    took_s = time.monotonic() - start
    room = os.statvfs(there)
    return FolderFacts(
        path=str(path),
        exists=str(there),
        filesystem=_kind_of(there.resolve(), text_in(Path("/proc/self/mountinfo")) or ""),
        writable=not problem,
        problem=problem,
        free_bytes=room.f_bavail * room.f_frsize,
        total_bytes=room.f_blocks * room.f_frsize,
        free_inodes=room.f_favail if room.f_files else None,
        total_inodes=room.f_files or None,
        took_s=round(took_s, 4),
    )


def _problem_of(there: Path) -> str:
    if not there.is_dir():
        return f"{there} is a file"
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"rally doctor")
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _kind_of(path: Path, mountinfo: str) -> str:
    """The kind of the file system that a path is on: that of the longest mount above it, the latest of equals."""
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, words = left.split(), right.split()
        if len(fields) < 5 or not words:
            continue
        mount = Path(fields[4].replace("\\040", " "))
        if path.is_relative_to(mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), words[0]
    return kind
