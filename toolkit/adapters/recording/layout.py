"""What a run directory looks like from outside: the names of its files, and `run.json`."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from toolkit.core.errors import RecordingError

RUN_FILE = "run.json"
#: a file under the state directory that holds the path of a run recorded elsewhere
NOTE_SUFFIX = ".at"
_RUN_FILE_MAX = 1 << 20
_PREFIX, _SUFFIX = "events-", ".jsonl"
_NAME_MAX = 80


def events_file_name(node: str) -> str:
    """The name of the events file of a node whose name is already safe in a path."""
    return f"{_PREFIX}{node}{_SUFFIX}"


def is_events_file(name: str) -> bool:
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def is_recording(path: Path) -> bool:
    """Whether the directory looks like a recording. Reads none of it."""
    try:
        return any(entry.name == RUN_FILE or is_events_file(entry.name) for entry in path.iterdir())
    except (OSError, ValueError):
        # A user may ask for any text, also for one that is no path.
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder, as far as this user may see. Never raises, as pathlib does for another user's."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def unreadable(path: Path) -> str:
    """Why this user can't know what is in a folder; empty where that can be known, or there is none."""
    try:
        next(path.iterdir(), None)
    except PermissionError as error:
        return error.strerror or str(error)
    except (OSError, ValueError):
        pass
    return ""


def text_of(run: Mapping[str, Any], key: str) -> str:
    """A string in what `run.json` says, or an empty one."""
    value = run.get(key)
    return value if isinstance(value, str) else ""


def read_run_file(path: Path) -> dict[str, Any]:
    """What the `run.json` in the directory `path` says; empty if there is none.

    Raises:
        RecordingError: it can't be read, is too large, or is no JSON object.
    """
    file = path / RUN_FILE
    if not os.path.lexists(file):
        return {}
    fd = open_regular(file)
    with os.fdopen(fd, "rb") as opened:
        try:
            data = opened.read(_RUN_FILE_MAX + 1)
        except OSError as error:
            raise RecordingError(f"{file} can't be read: {error.strerror}") from error
    if len(data) > _RUN_FILE_MAX:
        raise RecordingError(f"{file} has more than {_RUN_FILE_MAX} bytes; it is not what a run writes")
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RecordingError(f"{file} is not a JSON object: {error}") from error


def open_regular(path: Path) -> int:
    """A file descriptor for reading. Never blocks, never follows a link.

    Raises:
        RecordingError: it is a link, no regular file, or can't be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        link = " (links are not followed)" if error.errno == errno.ELOOP else ""
        raise RecordingError(f"{path} can't be read: {error.strerror}{link}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise RecordingError(f"{path} is not a regular file; a recording has no others")
    return fd


def path_safe(name: str) -> str:
    """`name` as one component of a path: letters, digits, `.`, `_`, `-`. Different names stay different."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:_NAME_MAX].lstrip(".-") or "unnamed"
    if kept == name:
        return name
    import hashlib  # it costs milliseconds, and few names need it

    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{kept.rstrip('.-')}-{digest}"
