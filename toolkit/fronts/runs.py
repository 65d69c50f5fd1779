"""`rally runs`: the recent runs, newest first. stdout is data, stderr is narration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import msgspec

from toolkit.adapters.recording.catalog import RunSummaryEntry, agent_is_alive, list_runs, wall_clock_ns
from toolkit.fronts.show import json_text
from toolkit.fronts.summary import GOING_ON, IsAlive, duration_s, state_with
from toolkit.views.wording import (
    ago,
    duration_in_words,
    local_time,
    look_of,
    moment_of_day,
    moment_text,
    parsed,
    rfc3339,
    shows_unicode,
    visible,
)

__all__ = ["RunRow", "json_schema", "runs_command"]

_ENTRYPOINT_MAX = 30


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """One run in the list.

    Args:
        name: of its directory; `rally show` takes it.
        state: as in `rally show --json`, or "unreadable".
        started: of a simulated run, when it was recorded.
        duration_s: what is recorded of it, if it still runs.
        entrypoint: of a simulated run, SIM and the scenario.
        restarts: those that spent the budget.
        problem: why it can't be read, or empty.
    """

    name: str
    run_id: str
    path: str
    state: str
    result: str
    started: str
    duration_s: float
    entrypoint: str
    nodes: int
    restarts: int
    problem: str


def runs_command(
    *,
    as_json: bool,
    state_dir: Path,
    limit: int,
    stdout: TextIO,
    stderr: TextIO,
    is_alive: IsAlive = agent_is_alive,
) -> int:
    """List the runs under `state_dir`.

    Args:
        as_json: print a list of `RunRow` as JSON.
        limit: at most so many.
        is_alive: asked for agents that did not say that they ended.

    Returns:
        The exit code: 0.
    """
    rows = [_row(entry, is_alive) for entry in list_runs(state_dir, limit)]
    if as_json:
        stdout.write(json_text(rows, stdout))
    elif rows:
        _print_rows(rows, stdout, wall_clock_ns())
    else:
        print(visible(f"no run is recorded under {state_dir}; `rally run` records one", stderr), file=stderr)
    return 0


def _row(entry: RunSummaryEntry, is_alive: IsAlive) -> RunRow:
    timeline = entry.timeline
    nodes = timeline.nodes.values()
    started_ns = entry.run.get("started_wall_ns")
    simulated = _simulated(entry.run)
    known = moment_of_day(started_ns) if isinstance(started_ns, int) else None
    return RunRow(
        name=entry.path.name,
        run_id=entry.run_id,
        path=str(entry.path.absolute()),
        state="unreadable" if entry.problem else state_with(timeline, is_alive),
        result=timeline.result,
        started=("" if simulated else moment_text(timeline.started)) or (rfc3339(known) if known else ""),
        duration_s=duration_s(timeline),
        entrypoint=simulated or next((node.entrypoint for node in nodes if node.entrypoint), ""),
        nodes=len(nodes),
        restarts=timeline.restarts_used,
        problem=entry.problem,
    )


def _simulated(run: Mapping[str, Any]) -> str:
    """What a simulated run is called, whose clock says nothing of when it was made; empty of a real one."""
    simulated = run.get("simulated")
    return f"SIM {simulated.get('scenario', '')}".rstrip() if isinstance(simulated, Mapping) else ""


def _print_rows(rows: list[RunRow], stdout: TextIO, now_ns: int) -> None:
    from rich.console import Console  # late: --json does without
    from rich.text import Text

    console = Console(file=stdout, highlight=False, markup=False, emoji=False)
    unicode = shows_unicode(stdout)
    cells = [_HEAD, *(tuple(visible(cell, stdout) for cell in _cells(row, now_ns)) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    console.print(Text("  " + _aligned(_HEAD, widths), "bold"), soft_wrap=True)
    for row, line in zip(rows, cells[1:], strict=True):
        colour, sign = look_of(row.state, unicode=unicode)
        text = Text(f"{sign} ", f"bold {colour}").append(_aligned(line, widths), "")
        text.stylize(colour, 2, 2 + widths[0])
        console.print(text, soft_wrap=True)
        if row.problem:
            console.print(Text("  " + visible(row.problem, stdout), "dim"), soft_wrap=True)


_HEAD = ("STATE", "RUN", "STARTED", "", "TOOK", "NODES", "RESTARTS", "ENTRYPOINT")
_RIGHT = (4, 5, 6)


def _cells(row: RunRow, now_ns: int) -> tuple[str, ...]:
    moment = parsed(row.started)
    age_s = now_ns / 1e9 - moment.timestamp() if moment else None
    return (
        row.state,
        row.name,
        local_time(moment),
        ago(age_s) if age_s is not None else "",
        _took(row, age_s),
        str(row.nodes),
        str(row.restarts),
        row.entrypoint[:_ENTRYPOINT_MAX],
    )


def _took(row: RunRow, age_s: float | None) -> str:
    if row.state in GOING_ON:
        return duration_in_words(age_s)
    # Nobody knows how long an agent lived after its last event.
    return duration_in_words(None if row.state in ("vanished", "unreadable") else row.duration_s)


def _aligned(line: tuple[str, ...], widths: list[int]) -> str:
    padded = (
        cell.rjust(width) if column in _RIGHT else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(line, widths, strict=True))
    )
    return "  ".join(padded).rstrip()


def json_schema() -> bytes:
    """The JSON schema of the list, as `runs.schema.json` has it."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(list[RunRow])), indent=2) + b"\n"
