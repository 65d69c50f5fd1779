"""`rally check`: holds the recording of a run against the promises, the same ones as simulated runs. stdout is data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import msgspec

from toolkit.adapters.recording.catalog import find_run
from toolkit.adapters.recording.reader import Recording, read_run
from toolkit.core.errors import ConfigurationError, RecordingError
from toolkit.core.events import AgentFinished, AgentStarted, AnyEvent
from toolkit.core.words import plural
from toolkit.fronts.show import json_text
from toolkit.views.wording import look_of, shows_unicode, visible

if TYPE_CHECKING:
    from simulator.checkers import Broken, Facts, Judgement, Ruling

Verdict = Literal["held", "broken", "undetermined"]
_EXIT_CODES: dict[Verdict, int] = {"held": 0, "broken": 1, "undetermined": 3}
_BAD_INPUT = 2

#: recordings are hostile input: no more events than this are held in memory
EVENTS_MAX = 1_000_000
#: how many findings of one promise are shown; --json has all
_FINDINGS_MAX = 3


class BrokenPromise(msgspec.Struct, frozen=True):
    """A promise that was not kept; the same fields as in `rally sim --json`."""

    promise: str
    detail: str
    node: str
    at_s: float | None


class OpenPromise(msgspec.Struct, frozen=True):
    """A promise of which nothing can be said, and why."""

    promise: str
    why: str


class CheckSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What `rally check --json` prints.

    Args:
        run_id: the job.
        path: of the recording.
        verdict: broken if any promise was; undetermined if the recording is too incomplete to say.
        broken: with what happened.
        held: names of the promises that held.
        undetermined: what this recording is too incomplete for.
        not_judged: what no recording can tell.
        nodes: agents in the recording.
        events: that were judged.
        sessions: jobs that the recording holds, one after another.
    """

    run_id: str
    path: str
    verdict: Verdict
    broken: list[BrokenPromise]
    held: list[str]
    undetermined: list[OpenPromise]
    not_judged: list[OpenPromise]
    nodes: int
    events: int
    sessions: int


def check_command(run: str, *, as_json: bool, state_dir: Path, stdout: TextIO, stderr: TextIO) -> int:
    """Hold a recording against the promises.

    Args:
        run: a directory, a run id, or the beginning of one.
        as_json: print a `CheckSummary` as JSON.
        state_dir: where runs are recorded.

    Returns:
        The exit code: 0 all promises held that a recording can tell of, 1 one was broken, 2 there is no such
        recording or it can't be read, 3 the recording is too incomplete to say.
    """
    try:
        recording = read_run(find_run(state_dir, run))
        events = _events_of(recording)
    except (ConfigurationError, RecordingError) as error:
        print(visible(f"rally check: {error}", stderr), file=stderr)
        return _BAD_INPUT
    judgements = [_judged(session, recording.run) for session in sessions_of(events)]
    said = _summary(recording, events, judgements)
    if as_json:
        stdout.write(json_text(said, stdout))
    else:
        _print(said, judgements, stdout)
    return _EXIT_CODES[said.verdict]


def _events_of(recording: Recording) -> list[AnyEvent]:
    events = list(islice(recording.events(), EVENTS_MAX + 1))
    if len(events) > EVENTS_MAX:
        raise RecordingError(f"{recording.path} has more than {EVENTS_MAX:,} events; so many are not judged")
    if not events:
        raise RecordingError(f"{recording.path} has no events that could be judged")
    return events


def sessions_of(events: Sequence[AnyEvent]) -> list[list[AnyEvent]]:
    """The jobs that a recording holds, one after another: an agent that starts when all have ended begins a new one."""
    sessions: list[list[AnyEvent]] = [[]]
    running: set[str] = set()
    ended = False
    for event in events:
        if isinstance(event, AgentStarted):
            if ended and not running:
                sessions.append([])
                ended = False
            running.add(event.node)
        elif isinstance(event, AgentFinished):
            running.discard(event.node)
            ended = True
        sessions[-1].append(event)
    return sessions


def _judged(events: Sequence[AnyEvent], run: Mapping[str, Any]) -> Judgement:
    from simulator.checkers import judge  # late: only this command needs it

    return judge(events, _facts(run))


def _facts(run: Mapping[str, Any]) -> Facts:
    from simulator.checkers import Facts

    return Facts(min_nodes=_count(run, "min_nodes"), max_nodes=_count(run, "max_nodes"))


def _count(run: Mapping[str, Any], key: str) -> int | None:
    value = run.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _summary(
    recording: Recording, events: Sequence[AnyEvent], judgements: Sequence[Judgement]
) -> CheckSummary:
    broken = [_broken(found) for judgement in judgements for found in judgement.broken]
    unsure = _open(judgements, "undetermined")
    promises = [ruling.checker.promise for ruling in judgements[0].rulings]
    unjudged = _open(judgements, "not judged")
    not_held = {found.promise for found in broken} | {found.promise for found in (*unsure, *unjudged)}
    return CheckSummary(
        run_id=recording.run_id or events[0].run_id,
        path=str(recording.path),
        verdict="broken" if broken else "undetermined" if unsure else "held",
        broken=broken,
        held=[promise for promise in promises if promise not in not_held],
        undetermined=unsure,
        not_judged=unjudged,
        nodes=len({event.node for event in events}),
        events=len(events),
        sessions=len(judgements),
    )


def _broken(found: Broken) -> BrokenPromise:
    return BrokenPromise(found.promise, found.detail, found.node, found.at_s)


def _open(
    judgements: Sequence[Judgement], status: Literal["undetermined", "not judged"]
) -> list[OpenPromise]:
    why: dict[str, str] = {}
    for judgement in judgements:
        for ruling in judgement.with_status(status):
            why.setdefault(ruling.checker.promise, ruling.why)
    return [OpenPromise(promise, reason) for promise, reason in why.items()]


def json_schema() -> bytes:
    """The JSON schema of `CheckSummary`, as `check.schema.json` has it."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(CheckSummary)), indent=2) + b"\n"


# -- for people -----------------------------------------------------------------------------------------------


def _print(said: CheckSummary, judgements: Sequence[Judgement], stdout: TextIO) -> None:
    """In colour on a terminal unless NO_COLOR is set, plain elsewhere."""
    from rich.console import Console  # late: --json does without
    from rich.text import Text

    console = Console(file=stdout, highlight=False, markup=False, emoji=False)
    for line in _lines(said, judgements, unicode=shows_unicode(stdout)):
        parts = [(visible(words, stdout), style) for words, style in line]
        console.print(Text.assemble(*parts), soft_wrap=True)


_Line = list[tuple[str, str]]


def _lines(said: CheckSummary, judgements: Sequence[Judgement], *, unicode: bool) -> list[_Line]:
    state = {"held": "succeeded", "broken": "failed", "undetermined": "stopped"}[said.verdict]
    colour, sign = look_of(state, unicode=unicode)
    lines: list[_Line] = [
        [(f"{sign} ", f"bold {colour}"), (said.run_id, "bold"), (f" {_headline(said)}", colour)],
        [(f"  {plural(said.nodes, 'node')}, {plural(said.events, 'event')}, in {said.path}", "dim")],
    ]
    if said.sessions > 1:
        lines.append([(f"  It holds {said.sessions} jobs that ran one after another; all are judged.", "")])
    lines.append([])
    for rulings in zip(*(judgement.rulings for judgement in judgements), strict=True):
        lines.extend(_ruling_lines(rulings, unicode=unicode))
    return lines


def _headline(said: CheckSummary) -> str:
    counts = (
        (len({found.promise for found in said.broken}), "broken"),
        (len(said.held), "held"),
        (len(said.undetermined), "undetermined"),
        (len(said.not_judged), "not judged"),
    )
    return "promises: " + ", ".join(f"{count} {status}" for count, status in counts if count)


def _ruling_lines(rulings: Sequence[Ruling], *, unicode: bool) -> list[_Line]:
    """One promise, over all jobs of the recording: the worst that is said of it."""
    order = ("broken", "undetermined", "not judged", "held")
    worst = min(rulings, key=lambda ruling: order.index(ruling.status))
    looks = {"broken": "failed", "held": "succeeded"}
    colour, sign = look_of(looks[worst.status], unicode=unicode) if worst.status in looks else ("dim", "-")
    checker = worst.checker
    name_style = f"bold {colour}" if worst.status == "broken" else ""
    lines: list[_Line] = [
        [(f"  {sign} ", colour), (f"{checker.promise:<30}", name_style), (checker.about, "dim")]
    ]
    found = [broken for ruling in rulings for broken in ruling.broken]
    for broken in found[:_FINDINGS_MAX]:
        lines.append([("      ", ""), (broken.detail, "")])
    if len(found) > _FINDINGS_MAX:
        lines.append([(f"      and {len(found) - _FINDINGS_MAX} more; --json has all", "dim")])
    if worst.status in ("undetermined", "not judged"):
        lines.append([(f"      {worst.status}: {worst.why}", "dim")])
    return lines
