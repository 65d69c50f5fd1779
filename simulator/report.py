"""The verdict on a simulated run: which promises held, which were broken and why, on one screen or as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from simulator.checkers import (
    Broken,
    Facts,
    Hit,
    Judgement,
    NodeEnd,
    Record,
    checkers_named,
    judge_record,
    record_of,
)
from simulator.excuses import Excused, excused
from simulator.progress import Training
from simulator.scenario import Scenario
from simulator.trace import GAP, Mark, Row, cell_lines, clipped, lane_width, rows_of, wrapped
from toolkit.core.errors import ConfigurationError
from toolkit.core.events import DecisionMade, Event
from toolkit.core.timeline import Timeline, fold_all
from toolkit.core.words import plural

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from simulator.rng import Choice
    from simulator.simulation import Outcome, ScenarioRun
    from simulator.subject import Subject

Verdict = Literal["held", "broken", "undetermined"]
EXIT_CODES: dict[Verdict, int] = {"held": 0, "broken": 1, "undetermined": 3}

#: the finding of a run that Ctrl-C ended
BROKEN_OFF = "broken off by Ctrl-C"

_WIDTH, _TIME_WIDTH = 98, 10
_BROKEN_MAX, _EXCUSED_MAX, _FAULTS_MAX, _LANES_MAX, _NODES_MAX = 3, 2, 4, 4, 8
_LOOKS: dict[Verdict, tuple[str, str]] = {
    "held": ("✓", "green"),
    "broken": ("✗", "red"),
    "undetermined": ("?", "yellow"),
}


@dataclass(frozen=True, repr=False)
class Report:
    """What came of a run. Prints as the one-screen text; rich shows the same in colour.

    Args:
        scenario: what was run.
        subject: with whom.
        seed: and how.
        judgement: what each checker says.
        broken: promises that were broken, in the order of time.
        excused: those that nobody could have kept, with the reason.
        finding: why the run could not be finished, or empty.
        record: the events in order.
        digest: of everything that happened; equal for equal runs.
        virtual_s: length of the run.
        steps: of the kernel.
        choices: the tape.
        struck: faults in words, as they struck.
        wall_s: what it took for real; 0 if nobody measured.
        command: the line that runs it again.
    """

    scenario: Scenario
    subject: str
    seed: int
    judgement: Judgement
    broken: tuple[Broken, ...]
    excused: tuple[Excused, ...]
    finding: str
    record: Record
    digest: str
    virtual_s: float
    steps: int
    choices: Sequence[Choice] = ()
    struck: Sequence[str] = ()
    wall_s: float = 0.0
    command: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether all promises held; undetermined if the run was cut short before that could be known."""
        if self.broken:
            return "broken"
        if self.judgement.with_status("undetermined") or self._cut_short:
            return "undetermined"
        return "held"

    @property
    def _cut_short(self) -> bool:
        facts = self.record.facts
        forgiven = {found.broken.node for found in self.excused if found.broken.promise == "everyone-ends"}
        going_on = [name for name, end in facts.nodes.items() if not end.ended and name not in forgiven]
        return bool(self.finding) and (bool(going_on) or not (facts.limit or facts.stuck))

    @property
    def exit_code(self) -> int:
        """Of a command that ran this."""
        return EXIT_CODES[self.verdict]

    @property
    def events(self) -> list[Event]:
        """What the agents said, in the order of the world."""
        return [told.event for told in self.record.told]

    @cached_property
    def timeline(self) -> Timeline:
        """The events folded."""
        return fold_all(self.events)

    @property
    def rounds(self) -> int:
        """Rounds that formed."""
        return len(self.record.rounds)

    @property
    def restarts(self) -> int:
        """Rounds with a member that had been in one before, whatever the reason."""
        return sum(
            any(seat is not seat.life.seats[0] for seat in group.seats) for group in self.record.rounds
        )

    @property
    def training(self) -> Training:
        """What of the time of the job was useful."""
        return self.record.facts.training or Training(0.0, self.virtual_s, done=False)

    @property
    def nodes(self) -> dict[str, NodeEnd]:
        """How each node ended."""
        return dict(self.record.facts.nodes)

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints; values that JSON has."""
        return {
            "scenario": self.scenario.name,
            "subject": self.subject,
            "seed": self.seed,
            "verdict": self.verdict,
            "broken": [_as_json(broken) for broken in self.broken],
            "excused": [{**_as_json(found.broken), "excuse": found.excuse} for found in self.excused],
            "digest": self.digest,
            "virtual_s": self.virtual_s,
            "steps": self.steps,
            "events": len(self.record.told),
            "rounds": self.rounds,
            "restarts": self.restarts,
            "nodes": {
                name: {"result": end.result, "exited_at_s": end.exited_at_s}
                for name, end in self.nodes.items()
            },
            "wall_s": self.wall_s,
        }

    def __repr__(self) -> str:
        return f"Report({self.scenario.name!r}, {self.subject!r}, seed {self.seed}: {self.verdict})"

    def __str__(self) -> str:
        """One screen of text."""
        return "\n".join("".join(words for words, _ in line).rstrip() for line in _screen(self)) + "\n"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        for line in _screen(self, min(max(options.max_width - 2, 60), 140)):
            yield Text.assemble(*line, no_wrap=True, overflow="ellipsis")


def _as_json(broken: Broken) -> dict[str, Any]:
    return {
        "promise": broken.promise,
        "detail": broken.detail,
        "node": broken.node,
        "at_s": broken.at_s if broken.at_s is not None and math.isfinite(broken.at_s) else None,
    }


# -- running --------------------------------------------------------------------------------------------------


def simulate(
    scenario: Scenario | str,
    subject: str | Subject = "rally",
    seed: int = 0,
    recorded: Sequence[Choice] = (),
    *,
    stopwatch: Callable[[], float] | None = None,
    command: str = "",
    started: Callable[[ScenarioRun], None] | None = None,
) -> Report:
    """Run a scenario to its end and judge it.

    Args:
        scenario: what to run; of one that comes with the simulator its name does.
        subject: "rally" (our agent), "torch" (torch's), or a subject of one's own.
        seed: fills the choice tape.
        recorded: a tape to repeat instead.
        stopwatch: seconds of a real clock, for `wall_s`; the simulator has none of its own.
        command: the line that runs it again; by default `rally sim` with name, subject and seed, or a line of Python
            for a scenario of one's own.
        started: given the simulation before it runs, so that somebody can stop it.

    Returns:
        The report, also when the run was broken off by Ctrl-C: of what was reached.

    Raises:
        ConfigurationError: no such scenario, subject or checker, or the subject can't run here.
        TapeMismatch: the tape was recorded with another scenario or version.
    """
    # Late: importing this module needs neither greenlet nor the agent.
    from simulator import scenarios
    from simulator.simulation import ScenarioRun

    if isinstance(scenario, str):
        scenario = scenarios.named(scenario)
    if not isinstance(scenario, Scenario):
        raise ConfigurationError(f"{scenario!r} is no scenario; give a Scenario, or the name of one")
    checkers_named(scenario.checkers)
    chosen = _subject(subject)
    began_s = stopwatch() if stopwatch is not None else 0.0
    simulation = ScenarioRun(scenario, chosen, seed, tuple(recorded))
    if started is not None:
        started(simulation)
    try:
        try:
            outcome = simulation.run()
        except KeyboardInterrupt:
            outcome = simulation.broken_off(BROKEN_OFF)
        facts = facts_of(simulation, outcome)
    finally:
        simulation.close()
    took_s = stopwatch() - began_s if stopwatch is not None else 0.0
    return report_of(outcome, facts, wall_s=took_s, command=command)


def _subject(subject: str | Subject) -> Subject:
    if not isinstance(subject, str):
        return subject
    from simulator.subjects import subject_named

    return subject_named(subject)


def facts_of(simulation: ScenarioRun, outcome: Outcome) -> Facts:
    """What the simulator knows of a run beside its events."""
    from simulator.simulation import store_host_of

    scenario, world = simulation.scenario, simulation.world
    low, high = scenario.bounds
    stuck = outcome.finding if outcome.finding.startswith("nothing is left") else ""
    over_limit = outcome.finding if outcome.finding.startswith("the run takes more") else ""
    addresses: dict[str, str] = {}
    orphans: dict[str, list[str]] = {}
    for node in world.nodes.values():
        addresses.update({node.name: node.name, f"{node.name}.sim": node.name, node.address: node.name})
        alive = [process for process in node.processes.values() if process.alive]
        serves_only = node.name not in outcome.nodes
        if node.up and not serves_only and not any(process.label == "agent" for process in alive):
            orphans[node.name] = [process.label for process in alive]
    return Facts(
        min_nodes=low,
        max_nodes=high,
        nodes={
            name: NodeEnd(end.result, end.exited_at_s, end.reason, end.waits_for, end.exit_code)
            for name, end in outcome.nodes.items()
        },
        hits=tuple(Hit(hit.kind, hit.node, hit.at_s, hit.until_s, hit.words) for hit in outcome.hits),
        said=[(said.at_ns, said.operations) for said in outcome.said],
        ended_s=outcome.virtual_s,
        end_by_s=outcome.quiet_at_s + scenario.quiet_by_s,
        notice_s=_notice_s(scenario),
        grace_s=scenario.shutdown_timeout_s,
        limit=over_limit,
        stuck=stuck,
        store_host=store_host_of(scenario),
        addresses=addresses,
        orphans={name: left for name, left in orphans.items() if left},
        training=simulation.jobs.progress.training(scenario.step_s, simulation.kernel.now_ns),
    )


def _notice_s(scenario: Scenario) -> float:
    """How long a node that died may go unnoticed: half a lease longer than its lease, if that is longer than usual."""
    try:
        lease_s = float(scenario.rdzv_conf.get("lease", 0))
    except ValueError:
        return Facts().notice_s  # it is the agent that refuses it
    return max(Facts().notice_s, 1.5 * lease_s)


def _too_late(outcome: Outcome) -> list[str]:
    """Faults planned for later than the job's end: without a word a reader would think that they were borne."""
    late = [fault for fault in outcome.scenario.faults if fault.at_s > outcome.virtual_s]
    why = "the run went no further" if outcome.finding else "the run had ended"
    return [f"{fault.words()}: struck nothing, {why}" for fault in late]


def report_of(outcome: Outcome, facts: Facts, *, wall_s: float = 0.0, command: str = "") -> Report:
    """Judge what a run left."""
    scenario = outcome.scenario
    record = record_of(outcome.events, facts)
    judgement = judge_record(record, checkers_named(scenario.checkers))
    broken, forgiven = excused(judgement.broken, record)
    return Report(
        scenario=scenario,
        subject=outcome.subject,
        seed=outcome.seed,
        judgement=judgement,
        broken=tuple(broken),
        excused=tuple(forgiven),
        finding=outcome.finding,
        record=record,
        digest=outcome.digest,
        virtual_s=outcome.virtual_s,
        steps=outcome.steps,
        choices=outcome.choices,
        struck=(*outcome.struck, *_too_late(outcome)),
        wall_s=wall_s,
        command=command or _command(outcome),
    )


def _command(outcome: Outcome) -> str:
    """What runs it once more: a line of the terminal for what ships with the simulator, else one of Python."""
    from simulator import scenarios

    scenario, subject, seed = outcome.scenario, outcome.subject, outcome.seed
    if scenarios.ALL.get(scenario.name) == scenario:
        return f"rally sim {scenario.name} --subject {subject} --seed {seed}"
    return f"simulate(report.scenario, {subject!r}, seed={seed})"


# -- the screen -----------------------------------------------------------------------------------------------

_Line = list[tuple[str, str]]


def _screen(report: Report, width: int = _WIDTH) -> Iterator[_Line]:
    yield from _head(report, width)
    yield from _promises(report, width)
    yield from _lanes(report, width)
    yield from _ends(report, width)
    yield from _foot(report)


def _head(report: Report, width: int) -> Iterator[_Line]:
    sign, colour = _LOOKS[report.verdict]
    scenario = report.scenario
    yield [
        (f"{sign} {report.verdict.upper()}  ", f"bold {colour}"),
        (scenario.name, "bold"),
        (f"  with {report.subject}, seed {report.seed}", ""),
    ]
    for line in wrapped(scenario.about, width - 2):
        yield [(f"  {line}", "")]
    low, high = scenario.bounds
    workers = sum(scenario.workers_of(name) for name in scenario.node_names)
    size = f"{low}" if low == high else f"{low} to {high}"
    job = (
        f"{plural(scenario.nodes, 'node')}, {plural(workers, 'worker')}, {size} in a round, "
        f"{plural(scenario.max_restarts, 'restart')} allowed"
    )
    yield [(f"  {job}", "dim")]


def _promises(report: Report, width: int) -> Iterator[_Line]:
    about = {ruling.checker.promise: ruling.checker.about for ruling in report.judgement.rulings}
    for promise, found in _grouped(report.broken)[:_BROKEN_MAX]:
        yield []
        first, *rest = wrapped(f"{promise}: {about.get(promise, '')}", width - 4)
        yield [("  ✗ ", "bold red"), (promise, "bold red"), (first.removeprefix(promise), "red")]
        for line in rest:
            yield [(f"    {line}", "red")]
        for line in wrapped(found[0].detail, width - 4):
            yield [(f"    {line}", "")]
        if len(found) > 1:
            yield [(f"    and {len(found) - 1} more of this kind", "dim")]
    others = _grouped(report.broken)[_BROKEN_MAX:]
    if others:
        yield [(f"  and broken as well: {', '.join(promise for promise, _ in others)}", "red")]
    if report.excused:
        yield []
    for excuse in report.excused[:_EXCUSED_MAX]:
        for line in wrapped(f"{excuse.broken.promise} is excused: {excuse.excuse}", width - 4):
            yield [("  ~ ", "yellow"), (line, "dim")]
    if report.verdict == "undetermined":
        yield []
        for line in wrapped(_why_undetermined(report), width - 4):
            yield [("  ? ", "bold yellow"), (line, "")]


def _why_undetermined(report: Report) -> str:
    open_rulings = [
        f"{ruling.checker.promise}: {ruling.why}" for ruling in report.judgement.with_status("undetermined")
    ]
    return report.finding or "; ".join(open_rulings[:3])


def _grouped(broken: Sequence[Broken]) -> list[tuple[str, list[Broken]]]:
    groups: dict[str, list[Broken]] = {}
    for found in broken:
        groups.setdefault(found.promise, []).append(found)
    return list(groups.items())


def _lanes(report: Report, width: int) -> Iterator[_Line]:
    nodes = _lane_nodes(report)
    hits = [hit for hit in report.record.facts.hits if hit.words]
    marks = [
        *(Mark(hit.at_s, "fault", hit.words) for hit in hits),
        *(
            Mark(found[0].at_s, "broken", promise)
            for promise, found in _grouped(report.broken)
            if found[0].at_s is not None and math.isfinite(found[0].at_s)
        ),
    ]
    missed = [words for words in report.struck if "struck nothing" in words]
    lane = lane_width(nodes, width - _TIME_WIDTH)
    rows = rows_of(report.record, nodes, marks, lane)
    yield []
    head = "".join(f"{clipped(name, lane):<{lane + GAP}}" for name in nodes)
    more = len(report.record.facts.nodes) - len(nodes)
    yield [(f"{'':>{_TIME_WIDTH}}{head}", "bold")]
    for row in rows:
        yield from _row(row, nodes, lane, width)
    if more > 0:
        yield [(f"  and {plural(more, 'more node')} that look alike or have nothing to do with it", "dim")]
    for words in missed[:_FAULTS_MAX]:
        yield [(f"  {clipped(words, width - 2)}", "dim")]


def _lane_nodes(report: Report) -> list[str]:
    """The nodes to show: those that have to do with a finding or a fault first, all in their usual order."""
    names = list(report.record.facts.nodes)
    concerned = [
        *(found.node for found in report.broken),
        *(hit.node for hit in report.record.facts.hits),
        *(name for found in report.broken for name in names if f"{name} " in found.detail),
        *names,
    ]
    chosen = list(dict.fromkeys(name for name in concerned if name in names))[:_LANES_MAX]
    return [name for name in names if name in chosen]


def _row(row: Row, nodes: Sequence[str], lane: int, width: int) -> Iterator[_Line]:
    at = f"{row.at_s:>{_TIME_WIDTH - 4}.1f} s  "
    match row.kind:
        case "skipped":
            yield [(f"{'⋮':>{_TIME_WIDTH - 4}}", "dim")]
        case "fault":
            yield [(at, "dim"), (clipped(f"⚡ {row.words}", width - _TIME_WIDTH), "bold yellow")]
        case "broken":
            yield [(at, "dim"), (clipped(f"✗ {row.words}", width - _TIME_WIDTH), "bold red")]
        case _:
            yield from _cells(at, [cell_lines(row.cells.get(name, ""), lane) for name in nodes], lane)


def _cells(at: str, cells: list[list[str]], lane: int) -> Iterator[_Line]:
    for number in range(max(map(len, cells))):
        line: _Line = [(at if number == 0 else " " * _TIME_WIDTH, "dim")]
        for cell in cells:
            if not cell:
                line.append((f"{'·' if number == 0 else '':<{lane + GAP}}", "dim"))
            else:
                line.append((f"{cell[number] if number < len(cell) else '':<{lane + GAP}}", ""))
        yield line


def _ends(report: Report, width: int) -> Iterator[_Line]:
    ends = report.nodes
    names = _lane_nodes(report) if len(ends) > _NODES_MAX else list(ends)
    widest = max((len(name) for name in names), default=0)
    yield []
    for name in names:
        words, style = _end_in_words(ends[name], _last_reason(report.record, name))
        lines = wrapped(words, width - widest - 4)
        for index, line in enumerate(lines[:2]):
            label = f"{name:<{widest}}" if index == 0 else " " * widest
            yield [(f"  {label}  ", "bold"), (line if index == 0 or len(lines) < 3 else f"{line} …", style)]
    if len(names) < len(ends):
        counts: dict[str, int] = {}
        for name, end in ends.items():
            if name not in names:
                counts[end.result] = counts.get(end.result, 0) + 1
        others = ", ".join(f"{count} {result}" for result, count in sorted(counts.items()))
        yield [(f"  the others: {others}", "dim")]


def _last_reason(record: Record, name: str) -> str:
    """What the last agent of a node said of why it gave up."""
    lives = [life for life in record.lives if life.name == name]
    made = [event for _, event in lives[-1].of(DecisionMade)] if lives else []
    return made[-1].reason if made and made[-1].action in ("fail", "abort") else ""


def _end_in_words(end: NodeEnd, said: str) -> tuple[str, str]:
    at = "" if end.exited_at_s is None else f" at {end.exited_at_s:.1f} s"
    match end.result:
        case "SUCCEEDED":
            return f"succeeded{at}", "green"
        case "RUNNING":
            return f"still waits for {end.waits_for}" if end.waits_for else "still runs", "yellow"
        case "WAITING":
            return "never started", "dim"
        case "LOST":
            return "lost power, and did not come back", "yellow"
        case "STOPPED":
            return f"was not needed, and left{at}", "dim"
        case result:
            reason = f": {end.reason or said}" if end.reason or said else ""
            return f"{result}{at}{reason}", "yellow" if result in ("SIGNAL", "KILLED") else "red"


def _foot(report: Report) -> Iterator[_Line]:
    held = len(report.judgement.with_status("held"))
    unjudged = [ruling.checker.promise for ruling in report.judgement.with_status("not judged")]
    took = f" in {report.wall_s:.2f} s" if report.wall_s else ""
    yield []
    yield [
        (
            f"  {report.virtual_s:.1f} s of virtual time{took}, {report.steps:,} steps, "
            f"{plural(report.rounds, 'round')}, {plural(report.restarts, 'restart')}; digest {report.digest[:12]}",
            "dim",
        )
    ]
    not_judged = f"; not judged: {', '.join(unjudged)}" if unjudged else ""
    yield [(f"  {plural(held, 'promise')} held{not_judged}", "dim")]
    yield [("  again: ", "dim"), (report.command, "bold")]
