"""Finding runs: those under the state directory, and those that left a note there. What is in one, `reader` reads."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.adapters.recording import layout
from toolkit.adapters.recording.layout import NOTE_SUFFIX, RUN_FILE, is_recording, read_run_file, text_of
from toolkit.adapters.recording.reader import read_run
from toolkit.core.errors import ConfigurationError, RecordingError
from toolkit.core.timeline import Timeline, fold_all

#: up to this many bytes of events are folded for a list of runs; of more only the two ends
_FOLDED_WHOLE_MAX = 2 << 20
_HEAD_BYTES, _TAIL_BYTES = 64 << 10, 256 << 10
_NOTE_BYTES_MAX = 4096
#: whether agents live is asked for so many nodes; the rest is taken to be like them
_ASKED_MAX = 64
#: what a wall clock may be set by while an agent runs, before it is taken for dead
_CLOCK_SLACK_S = 60.0


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
        path = _noted_path(state_dir / name) if name.endswith(NOTE_SUFFIX) else state_dir / name
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
    if name and (why := layout.unreadable(given)):
        raise ConfigurationError(f"{name} can't be read: {why}")
    if name and layout.is_folder(given):
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

    # torch's backends call every job "none" that nobody named.
    ids = dict.fromkeys(run_id for _, run_id in known if run_id not in ("", "none"))
    names = dict.fromkeys(path.name for path, _ in known)
    near = difflib.get_close_matches(name, [*ids, *names], n=3, cutoff=0.5)
    remedy = f"did you mean {' or '.join(near)}?" if near else "`rally runs` lists those that there are"
    return f"no run {name!r} is recorded under {state_dir}; {remedy}"


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


def starter_may_run(run: Mapping[str, Any]) -> bool:
    """Whether the agent that wrote a run's file may still run: for one that has not said yet that it does."""
    host, pid, started_ns = (run.get(key) for key in ("host", "pid", "started_wall_ns"))
    if not (isinstance(host, str) and isinstance(pid, int) and isinstance(started_ns, int)):
        return False
    return agent_is_alive(host, pid, started_ns) is not False


def is_live(timeline: Timeline) -> bool | None:
    """Whether an agent of this run still runs; None if all that could are on other machines."""
    answers: list[bool | None] = []
    for node in timeline.nodes.values():
        if not node.result and node.started is not None:
            answers.append(agent_is_alive(node.host, node.pid, node.started.wall_ns))
        if len(answers) >= _ASKED_MAX:
            break
    if any(answers):
        return True
    return None if None in answers else False


def _boot_s() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
