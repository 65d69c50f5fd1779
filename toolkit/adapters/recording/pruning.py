"""What recordings fill on the disk, and their removal."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from toolkit.adapters.recording.catalog import RunSummaryEntry, is_live, starter_may_run
from toolkit.core.errors import RecordingError


def disk_use(path: Path) -> int:
    """Bytes on the disk of all that lies below `path`. Links are not followed; what can't be read does not count."""
    total, folders = 0, [path]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    total += status.st_blocks * 512
                    if stat.S_ISDIR(status.st_mode):
                        folders.append(Path(entry.path))
        except OSError:
            continue
    return total


def may_run(entry: RunSummaryEntry) -> bool:
    """Whether a run may still go on: an agent of it lives, or that can't be told from here."""
    if entry.problem or is_live(entry.timeline) is not False:
        return True
    return not entry.timeline.nodes and starter_may_run(entry.run)


def remove(path: Path) -> None:
    """Remove a recording with its logs.

    Raises:
        RecordingError: some of it is left.
    """
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise RecordingError(f"{path} can't be removed: {error.strerror}") from error
