"""Run directories: made, opened for writing, listed and found. What is in one, `event_reader` reads.

A run directory holds `run.json`, one `events-<node>.jsonl` for each agent that writes there, and `logs/`. Run
ids and node names are whatever a user typed; only `path_safe` names touch the file system.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from toolkit.adapters.event_reader import (
    RUN_FILE,
    Counters,
    EventFile,
    Limits,
    Recording,
    events_file_name,
    is_recording,
    read_run,
    read_run_file,
    text_of,
)
from toolkit.adapters.event_writer import JsonLinesSink
from toolkit.core.errors import ConfigurationError, RecordingError
from toolkit.core.timeline import Timeline, fold_all

__all__ = [
    "RunDirectory",
    "fresh_run_directory",
    "open_for_writing",
    "note_elsewhere",
    "JsonLinesSink",
    "Recording",
    "EventFile",
    "Counters",
    "Limits",
    "read_run",
    "RunSummaryEntry",
    "list_runs",
    "find_run",
    "latest_run",
    "agent_is_alive",
    "path_safe",
    "wall_clock_ns",
]

FORMAT = 1
_NAME_MAX = 80
#: up to this many bytes of events are folded for a list of runs; of more only the two ends
_FOLDED_WHOLE_MAX = 2 << 20
_HEAD_BYTES, _TAIL_BYTES = 64 << 10, 256 << 10
_SAME_NAME_MAX = 1000
#: a file under the state directory that holds the path of a run recorded elsewhere
_NOTE_SUFFIX = ".at"
_NOTE_BYTES_MAX = 4096
#: what a wall clock may be set by while an agent runs, before it is taken for dead
_CLOCK_SLACK_S = 60.0


# -- writing ------------------------------------------------------------------------------------------------


def path_safe(name: str) -> str:
    """`name` as one component of a path: letters, digits, `.`, `_`, `-`. Different names stay different."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:_NAME_MAX].lstrip(".-") or "unnamed"
    if kept == name:
        return name
    import hashlib  # it costs milliseconds, and few names need it

    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{kept.rstrip('.-')}-{digest}"


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
    return f"{path} can't be written: {error.strerror}; give another place with --run-dir"


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
    name = _stamped_name(run_id, started_wall_ns)
    for path in (state_dir / name, *(state_dir / f"{name}.{n}" for n in range(2, _SAME_NAME_MAX))):
        try:
            _make_directory(path)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigurationError(_unwritable(path, error)) from error
        return _described(path, run_id, run, started_wall_ns)
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
    try:
        with contextlib.suppress(FileExistsError):
            _make_directory(path)
    except OSError as error:
        raise ConfigurationError(_unwritable(path, error)) from error
    return _described(path, run_id, run, started_wall_ns)


def note_elsewhere(state_dir: Path, directory: RunDirectory, *, started_wall_ns: int) -> None:
    """Note under `state_dir` where a run is recorded that is not recorded there, so that lists can find it.

    The run does without where that can't be written.
    """
    if directory.path.parent == state_dir.absolute():
        return
    note = state_dir / f"{_stamped_name(directory.run_id, started_wall_ns)}{_NOTE_SUFFIX}"
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_once(note, os.fsencode(directory.path))
    except OSError:
        return


def _stamped_name(run_id: str, started_wall_ns: int) -> str:
    # UTC: local time goes back an hour once a year, and the names would sort wrong.
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(started_wall_ns / 1e9))}-{path_safe(run_id)}"


def _make_directory(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(mode=0o700)


def _described(path: Path, run_id: str, run: Mapping[str, Any], started_wall_ns: int) -> RunDirectory:
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


# -- finding ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunSummaryEntry:
    """One run in a list.

    Args:
        path: of its directory.
        run: what its `run.json` says.
        timeline: folded of all its events, or of the first and last ones only.
        whole: whether it is folded of all.
        problem: why it can't be read, or empty.
    """

    path: Path
    run: Mapping[str, Any]
    timeline: Timeline
    whole: bool = True
    problem: str = ""

    @property
    def run_id(self) -> str:
        """The job."""
        return text_of(self.run, "run_id") or self.timeline.run_id


def list_runs(state_dir: Path, limit: int | None = None) -> list[RunSummaryEntry]:
    """The runs under `state_dir`, newest first. Of a long recording only the two ends are read. Never raises.

    Args:
        limit: at most so many.
    """
    return [_entry(path) for path in _run_paths(state_dir, limit)]


def _run_paths(state_dir: Path, limit: int | None = None) -> list[Path]:
    """Paths of the recordings under `state_dir`, newest first: their names begin with their time."""
    try:
        names = sorted((path.name for path in state_dir.iterdir()), reverse=True)
    except OSError:
        return []
    paths: list[Path] = []
    for name in names:
        if limit is not None and len(paths) >= limit:
            break
        path = _noted_path(state_dir / name) if name.endswith(_NOTE_SUFFIX) else state_dir / name
        if path is not None and path not in paths and is_recording(path):
            paths.append(path)
    return paths


def _noted_path(note: Path) -> Path | None:
    try:
        fd = os.open(note, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            path = Path(os.fsdecode(file.read(_NOTE_BYTES_MAX)))
    except OSError:
        return None
    return path if path.is_absolute() and "\0" not in str(path) else None


def _entry(path: Path) -> RunSummaryEntry:
    try:
        recording = read_run(path)
        whole = recording.size() <= _FOLDED_WHOLE_MAX
        events = recording.events() if whole else recording.ends(_HEAD_BYTES, _TAIL_BYTES)
        return RunSummaryEntry(path, recording.run, fold_all(events), whole)
    except RecordingError as error:
        return RunSummaryEntry(path, {}, Timeline(), problem=str(error))


def latest_run(state_dir: Path) -> Path:
    """The newest run under `state_dir`.

    Raises:
        ConfigurationError: there is none.
    """
    paths = _run_paths(state_dir, limit=1)
    if not paths:
        raise ConfigurationError(f"no run is recorded under {state_dir}; `rally run` records one")
    return paths[0]


def find_run(state_dir: Path, name: str) -> Path:
    """The run that a user means by `name`.

    Args:
        name: a directory, the name of one under `state_dir`, a run id, or the beginning of either. A run id that
            was used several times means its newest run.

    Raises:
        ConfigurationError: there is none, or it could be several.
    """
    given = Path(name)
    if name and is_recording(given):
        return given
    known = [(path, _run_id_at(path)) for path in _run_paths(state_dir)]
    for path, run_id in known:
        if name in (path.name, run_id):
            return path
    begun = [(path, run_id) for path, run_id in known if name and _begins(name, path.name, run_id)]
    if begun and len({run_id for _, run_id in begun}) == 1:
        return begun[0][0]
    if begun:
        several = ", ".join(path.name for path, _ in begun[:5])
        raise ConfigurationError(
            f"{name!r} could be any of {len(begun)} runs: {several}; give more of the name"
        )
    if name and given.is_dir():
        raise ConfigurationError(f"{name} is not a recording: it has neither {RUN_FILE} nor events")
    raise ConfigurationError(_not_found(state_dir, name, known))


def _begins(name: str, *candidates: str) -> bool:
    return any(candidate.startswith(name) for candidate in candidates)


def _run_id_at(path: Path) -> str:
    try:
        return text_of(read_run_file(path), "run_id")
    except RecordingError:
        return ""


def _not_found(state_dir: Path, name: str, known: list[tuple[Path, str]]) -> str:
    import difflib  # only needed for this message

    ids = dict.fromkeys(run_id for _, run_id in known if run_id)
    names = dict.fromkeys(path.name for path, _ in known)
    near = difflib.get_close_matches(name, [*ids, *names], n=3, cutoff=0.5)
    remedy = f"did you mean {' or '.join(near)}?" if near else "`rally runs` lists those that there are"
    return f"no run {name!r} is recorded under {state_dir}; {remedy}"


# -- this machine -------------------------------------------------------------------------------------------


def wall_clock_ns() -> int:
    """Nanoseconds since the Unix epoch."""
    return time.time_ns()


def agent_is_alive(host: str, pid: int, started_wall_ns: int) -> bool | None:
    """Whether the agent that said so of itself still runs; None if it is on another machine.

    Args:
        started_wall_ns: when it began to record. A process that is younger has its pid by accident.
    """
    here = os.uname().nodename
    if host.split(".")[0] != here.split(".")[0] or pid <= 0:
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        state, start_ticks = fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return False
    if state in (b"Z", b"X"):
        return False
    began_s = _boot_s() + start_ticks / os.sysconf("SC_CLK_TCK")
    return began_s <= started_wall_ns / 1e9 + _CLOCK_SLACK_S


def _boot_s() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
