"""`rally runs --prune-to` and `--prune-older`: old recordings go, those that may still run never."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from toolkit.adapters.recording.catalog import RunSummaryEntry, list_runs, wall_clock_ns
from toolkit.adapters.recording.pruning import disk_use, may_run, remove
from toolkit.core.errors import RecordingError
from toolkit.core.lost_output import size_in_words
from toolkit.core.words import plural
from toolkit.views.wording import ago, visible


@dataclass(frozen=True, slots=True)
class _Old:
    entry: RunSummaryEntry
    size: int
    age_s: float


def prune_command(
    *,
    state_dir: Path,
    to_bytes: int | None,
    older_s: float | None,
    really: bool,
    stdout: TextIO,
    stderr: TextIO,
) -> int:
    """List the runs that would go, or remove them. Those recorded elsewhere (`--run-dir`) are left alone.

    Args:
        state_dir: where runs are recorded.
        to_bytes: the oldest go until the others fill no more than this; None for any size.
        older_s: runs that began longer ago go; None for any age.
        really: remove them.

    Returns:
        The exit code: 0, or 1 if one could not be removed.
    """
    every = _runs_below(state_dir)
    going = _going(every, to_bytes, older_s)
    gone: list[_Old] = []
    code = 0
    for run in going:
        name = visible(run.entry.path.name, stdout)
        if really:
            try:
                remove(run.entry.path)
            except RecordingError as error:
                print(visible(f"rally runs: {error}", stderr), file=stderr)
                code = 1
                continue
        gone.append(run)
        print(
            f"{'removed' if really else 'would go'}  {size_in_words(run.size):>9}  {name}  {ago(run.age_s)}",
            file=stdout,
        )
    size = sum(run.size for run in gone)
    told = f"{plural(len(gone), 'run')} ({size_in_words(size)})"
    left = sum(run.size for run in every) - size
    kept = f"{plural(len(every) - len(gone), 'run')} ({size_in_words(left)})"
    if not going:
        print(f"nothing to remove; {kept} stay", file=stderr)
    elif really:
        print(f"removed {told}; {kept} stay", file=stderr)
    else:
        print(f"{told} would go, {kept} stay; --yes removes them", file=stderr)
    return code


def _runs_below(state_dir: Path) -> list[_Old]:
    """Newest first. Those that may still run are not there."""
    now_ns = wall_clock_ns()
    found = []
    for entry in list_runs(state_dir, None):
        if entry.path.parent != state_dir or entry.path.is_symlink() or may_run(entry):
            continue
        started_ns = entry.run.get("started_wall_ns")
        age_s = (now_ns - started_ns) / 1e9 if isinstance(started_ns, int) else 0.0
        found.append(_Old(entry, disk_use(entry.path), age_s))
    return found


def _going(every: Sequence[_Old], to_bytes: int | None, older_s: float | None) -> list[_Old]:
    """The oldest first."""
    kept = 0
    going: list[_Old] = []
    for run in every:
        too_old = older_s is not None and run.age_s > older_s
        too_much = to_bytes is not None and (bool(going) or kept + run.size > to_bytes)
        if too_old or too_much:
            going.append(run)
        else:
            kept += run.size
    return going[::-1]
