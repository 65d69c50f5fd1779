"""Run directories: made, and opened for writing. `catalog` finds them, `reader` reads them.

A run directory holds `run.json`, one `events-<node>.jsonl` for each agent that writes there, and `logs/`. Run
ids and node names are whatever a user typed; only `path_safe` names touch the file system.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from toolkit.adapters.recording.layout import (
    NOTE_SUFFIX,
    RUN_FILE,
    events_file_name,
    path_safe,
    read_run_file,
    text_of,
)
from toolkit.adapters.recording.writer import JsonLinesSink
from toolkit.core.errors import ConfigurationError, RecordingError

FORMAT = 1
_SAME_NAME_MAX = 1000


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """A run directory that this process may write into.

    Args:
        path: absolute.
        run_id: the job.
    """

    path: Path
    run_id: str

    @property
    def logs(self) -> Path:
        """Where the workers' logs go; not made here."""
        return self.path / "logs"

    def events_path(self, node: str) -> Path:
        """The events file of one node."""
        return self.path / events_file_name(path_safe(node))

    def open_sink(self, node: str) -> JsonLinesSink:
        """A sink that appends to the events file of `node`.

        Raises:
            ConfigurationError: it can't be written, or another agent writes it now.
        """
        path = self.events_path(node)
        try:
            fd = os.open(path, _APPEND_FLAGS, 0o600)
        except OSError as error:
            raise ConfigurationError(_unwritable(path, error)) from error
        try:
            _claim(fd, path)
            _end_torn_line(fd, path)
        except BaseException:
            os.close(fd)
            raise
        return JsonLinesSink(fd)


# O_NONBLOCK has no effect on regular files; it keeps a FIFO of that name from stopping the agent.
_APPEND_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def _claim(fd: int, path: Path) -> None:
    import fcntl  # readers do without
    import stat

    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise ConfigurationError(f"{path} is not a regular file; move it away or give another run directory")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigurationError(
            f"{path} is being written by another agent; give each agent a node name of its own"
        ) from error
    except OSError:
        # Some network file systems have no locks; then the node names alone keep agents apart.
        return


def _end_torn_line(fd: int, path: Path) -> None:
    """End the line that an agent of before may have left half written."""
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            os.write(fd, b"\n")
    except OSError as error:
        raise ConfigurationError(_unwritable(path, error)) from error


def _unwritable(path: Path, error: OSError) -> str:
    return f"{path} can't be written: {error.strerror}; give another run directory"


def fresh_run_directory(
    state_dir: Path, run_id: str, run: Mapping[str, Any], *, started_wall_ns: int
) -> RunDirectory:
    """Make a new run directory under `state_dir`; its name sorts by time and has the run id in it.

    Args:
        state_dir: made if missing, for its owner alone.
        run: goes into `run.json`, with `run_id` and `started_wall_ns` added; values that are no JSON
            go in as their `str`.
        started_wall_ns: nanoseconds since the Unix epoch.

    Raises:
        ConfigurationError: it can't be written.
    """
    name = stamped_name(run_id, started_wall_ns)
    for path in (state_dir / name, *(state_dir / f"{name}.{n}" for n in range(2, _SAME_NAME_MAX))):
        try:
            _make_directory(path)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigurationError(
                f"{_unwritable(path, error)} (--run-dir DIR), or a place for all of them (XDG_STATE_HOME=/DIR)"
            ) from error
        return _described(path, run_id, run, started_wall_ns, made=True)
    raise ConfigurationError(
        f"{state_dir / name} and {_SAME_NAME_MAX - 2} more of that name exist; give --run-dir"
    )


def open_for_writing(
    path: Path, run_id: str, run: Mapping[str, Any], *, started_wall_ns: int
) -> RunDirectory:
    """Open `path` as the run directory of the job, and make it if it is missing.

    Agents of one job may share it; the first one to come writes `run.json`.

    Raises:
        ConfigurationError: it can't be written, or holds the recording of another run.
    """
    made = False
    try:
        with contextlib.suppress(FileExistsError):
            _make_directory(path)
            made = True
    except OSError as error:
        raise ConfigurationError(_unwritable(path, error)) from error
    return _described(path, run_id, run, started_wall_ns, made=made)


def note_elsewhere(state_dir: Path, directory: RunDirectory, *, started_wall_ns: int) -> None:
    """Note under `state_dir` where a run is recorded that is not recorded there, so that lists can find it.

    The run does without where that can't be written.
    """
    if directory.path.parent == state_dir.absolute():
        return
    note = state_dir / f"{stamped_name(directory.run_id, started_wall_ns)}{NOTE_SUFFIX}"
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_once(note, os.fsencode(directory.path))
    except OSError:
        return


def stamped_name(run_id: str, started_wall_ns: int) -> str:
    """The name of a run directory: names sort by the time of their runs' start, to the millisecond."""
    # UTC: local time goes back an hour once a year, and the names would sort wrong.
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(started_wall_ns // 1_000_000_000))
    return f"{stamp}.{started_wall_ns // 1_000_000 % 1000:03d}-{path_safe(run_id)}"


def _make_directory(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(mode=0o700)


def _described(
    path: Path, run_id: str, run: Mapping[str, Any], started_wall_ns: int, *, made: bool
) -> RunDirectory:
    said = {**run, "format": FORMAT, "run_id": run_id, "started_wall_ns": started_wall_ns}
    try:
        encoded = msgspec.json.encode(said, enc_hook=str)
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"run {run_id!r} can't be described: {error.object!r} is not UTF-8"
        ) from error
    try:
        _write_once(path / RUN_FILE, msgspec.json.format(encoded, indent=2) + b"\n")
    except FileExistsError:
        _check_same_run(path, run_id)
    except OSError as error:
        if made:
            with contextlib.suppress(OSError):
                path.rmdir()  # a folder that has something in it by now stays
        raise ConfigurationError(_unwritable(path, error)) from error
    return RunDirectory(path.absolute(), run_id)


_NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


def _write_once(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        FileExistsError: it is there already.
        OSError: it can't be written.
    """
    temporary = path.with_name(f".{path.name}-{os.urandom(8).hex()}")
    try:
        with os.fdopen(os.open(temporary, _NEW_FILE_FLAGS, 0o600), "wb") as file:
            file.write(data)
        try:
            path.hardlink_to(temporary)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS or os.path.lexists(path):
                raise
            # Two agents in this very moment would both write; either will do.
            temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_same_run(path: Path, run_id: str) -> None:
    try:
        there = text_of(read_run_file(path), "run_id")
    except RecordingError as error:
        raise ConfigurationError(f"{error}; give another --run-dir or move that file away") from error
    if there != run_id:
        raise ConfigurationError(
            f"{path} holds the recording of run {there!r}, and this is run {run_id!r}; "
            "give another --run-dir, or remove the directory"
        )
