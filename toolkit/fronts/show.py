"""`rally show`: what happened in a run, in words or as JSON. stdout is data, stderr is narration."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import msgspec

from toolkit.adapters.recording.catalog import agent_is_alive, find_run, latest_run, wall_clock_ns
from toolkit.adapters.recording.reader import read_run
from toolkit.core.errors import ConfigurationError, RecordingError
from toolkit.core.timeline import fold_all
from toolkit.core.words import plural
from toolkit.fronts.summary import (
    GOING_ON,
    FailureSummary,
    IsAlive,
    NodeSummary,
    ReadingSummary,
    RestartSummary,
    RunSummary,
    SimulatedSummary,
    summary,
)
from toolkit.fronts.wording import (
    ago,
    duration_in_words,
    local_time,
    look_of,
    parsed,
    shows_unicode,
    visible,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["RunSummary", "render_text", "show_command", "summary"]

#: how much of each kind is shown; --json has it all
_INCIDENTS_MAX, _CONSEQUENCES_MAX, _NODES_MAX, _TRACEBACK_LINES = 10, 3, 8, 8


def show_command(
    run: str | None,
    *,
    as_json: bool,
    state_dir: Path,
    stdout: TextIO,
    stderr: TextIO,
    is_alive: IsAlive = agent_is_alive,
) -> int:
    """Say what happened in a run.

    Args:
        run: a directory, a run id, or the beginning of one; None is the latest run.
        as_json: print a `RunSummary` as JSON.
        state_dir: where runs are recorded.
        is_alive: asked for agents that did not say that they ended.

    Returns:
        The exit code: 0, or 2 if there is no such run or it can't be read.
    """
    try:
        recording = read_run(find_run(state_dir, run) if run is not None else latest_run(state_dir))
        timeline = fold_all(recording.events())
    except (ConfigurationError, RecordingError) as error:
        print(visible(f"rally show: {error}", stderr), file=stderr)
        return 2
    said = summary(timeline, recording, is_alive)
    if as_json:
        stdout.write(json_text(said, stdout))
    else:
        # A simulated clock has nothing to do with ours.
        render_text(said, stdout, now_ns=None if said.simulated else wall_clock_ns())
    return 0


def json_text(value: object, stream: TextIO) -> str:
    """`value` as indented JSON that `stream` can take."""
    if shows_unicode(stream):
        return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"
    import json

    return json.dumps(msgspec.to_builtins(value), indent=2) + "\n"


def render_text(said: RunSummary, stdout: TextIO, *, now_ns: int | None = None) -> None:
    """Print `said` for people: in colour on a terminal unless NO_COLOR is set, plain elsewhere.

    Args:
        now_ns: wall clock, for "3 min ago"; None leaves that out.
    """
    page = _Page(stdout)
    _print_head(page, said, now_ns)
    _print_incidents(page, said)
    _print_signals(page, said)
    _print_nodes(page, said.nodes)
    _print_foot(page, said)


class _Page:
    """Lines on a stream. All that comes from a recording goes through `visible` before it gets here or in here."""

    def __init__(self, stdout: TextIO) -> None:
        from rich.console import Console  # late: --json does without

        self.stdout = stdout
        self.unicode = shows_unicode(stdout)
        self._console: Console = Console(file=stdout, highlight=False, markup=False, emoji=False)

    def line(self, *parts: str | tuple[str, str], indent: int = 0) -> None:
        """One line of parts with their styles. Wrapped on terminals only: pipes get each line whole."""
        text = self._text(parts)
        if self._console.is_terminal:
            from rich.padding import Padding

            self._console.print(Padding(text, (0, 0, 0, indent), expand=False))
        else:
            self._console.print(" " * indent + text.plain if indent else text, soft_wrap=True)

    def _text(self, parts: Iterable[str | tuple[str, str]]) -> Text:
        from rich.text import Text

        text = Text()
        for part in parts:
            words, style = (part, "") if isinstance(part, str) else part
            text.append(visible(words, self.stdout), style)
        return text

    def gap(self) -> None:
        self._console.print()

    def sign(self, state: str) -> tuple[str, str]:
        """The sign of a state, with its style."""
        colour, sign = look_of(state, unicode=self.unicode)
        return sign, f"bold {colour}"

    @property
    def dot(self) -> str:
        return " · " if self.unicode else ", "


def _print_head(page: _Page, said: RunSummary, now_ns: int | None) -> None:
    colour, _ = look_of(said.state, unicode=True)
    page.line(
        page.sign(said.state),
        " ",
        (said.run_id or said.name, "bold"),
        " ",
        (_headline(said, now_ns), colour),
    )
    page.line((page.dot.join(_facts(said, now_ns)), "dim"), indent=2)
    if said.state == "error" or (said.state == "stopped" and not said.signals):
        page.line(said.reason, indent=2)
    if said.state == "vanished":
        page.line(f"no agent of it runs any more; {_last_event(said, now_ns)}", indent=2)
    elif said.state in GOING_ON and said.nodes and all(node.alive is None for node in said.nodes):
        page.line(f"whether it still runs can't be told from here; {_last_event(said, now_ns)}", indent=2)


def _headline(said: RunSummary, now_ns: int | None) -> str:
    took = duration_in_words(said.duration_s)
    after = f", after {plural(said.restarts.total, 'restart')}" if said.restarts.total else ""
    match said.state:
        case "succeeded" | "failed":
            return f"{said.state} in {took}{after}"
        case "stopped" if said.result == "STOPPED":
            return f"was not needed, and left after {took}"
        case "stopped":
            return f"was stopped by a signal in {took}{after}"
        case "error":
            return f"ended with an error in {took}{after}"
        case "vanished":
            return f"has no end: {_who_vanished(said)} vanished{after}"
        case "unknown":
            return "has not begun to run, or was killed before it did"
        case "rendezvous":
            return f"waits for its nodes{_so_far(said, now_ns)}{after}"
        case _:
            return f"is {said.state}{_so_far(said, now_ns)}{after}"


def _so_far(said: RunSummary, now_ns: int | None) -> str:
    started = parsed(said.started)
    if started is None or now_ns is None:
        return ""
    return f", {duration_in_words(max(now_ns / 1e9 - started.timestamp(), 0.0))} so far"


def _who_vanished(said: RunSummary) -> str:
    return "the agent" if len(said.nodes) == 1 else "the agents"


def _facts(said: RunSummary, now_ns: int | None) -> list[str]:
    hosts = sorted({node.host for node in said.nodes if node.host})
    nodes = plural(len(said.nodes), "node")
    where = f"{nodes} ({', '.join(hosts)})" if 0 < len(hosts) <= 2 else nodes
    workers = said.world_size or len(said.ranks)
    started = f"started {local_time(parsed(said.started))}"
    return [
        *([f"SIM seed {said.simulated.seed}", _what_was_simulated(said.simulated)] if said.simulated else []),
        *([said.entrypoint] if said.entrypoint and not said.simulated else []),
        f"{plural(workers, 'worker')} on {where}",
        started + _how_long_ago(said.started, now_ns, " (", ")"),
        *([plural(said.rounds, "round")] if said.rounds else []),
    ]


def _what_was_simulated(simulated: SimulatedSummary) -> str:
    return f"scenario {simulated.scenario} with {simulated.subject}"


def _how_long_ago(rfc3339: str, now_ns: int | None, before: str, after: str) -> str:
    moment = parsed(rfc3339)
    if moment is None or now_ns is None:
        return ""
    return f"{before}{ago(now_ns / 1e9 - moment.timestamp())}{after}"


def _last_event(said: RunSummary, now_ns: int | None) -> str:
    running = sum(rank.state == "running" for rank in said.ranks)
    left = f", when {plural(running, 'worker')} ran" if running else ""
    when = _how_long_ago(said.last_event, now_ns, " (", ")")
    return f"last event {local_time(parsed(said.last_event))}{when}{left}"


# -- failures and restarts ----------------------------------------------------------------------------------


def _print_incidents(page: _Page, said: RunSummary) -> None:
    """What went wrong, each with what the agent did about it, in the order in which it came."""
    groups = _by_round(said)
    if not groups and said.state not in ("failed", "error"):
        return
    page.gap()
    for failures, restarts in groups[:_INCIDENTS_MAX]:
        _print_failures(page, failures, hint=said.simulated is None)
        _print_restart(page, restarts, over=said.state not in GOING_ON)
    _print_refusals(page, said)
    if len(groups) > _INCIDENTS_MAX:
        page.line((f"and {len(groups) - _INCIDENTS_MAX} more; --json has all", "dim"), indent=2)


def _by_round(said: RunSummary) -> list[tuple[list[FailureSummary], list[RestartSummary]]]:
    """Failures and restarts that belong together: nodes restart as one, and each tells of it.

    Each node counts the rounds that it was part of; one that joined later is behind, and comes too early here.
    """
    groups: dict[int, tuple[list[FailureSummary], list[RestartSummary]]] = {}
    for restart in said.restarts.each:
        groups.setdefault(restart.round, ([], []))[1].append(restart)
    for failure in said.failures:
        groups.setdefault(failure.round, ([], []))[0].append(failure)
    return [groups[number] for number in sorted(groups)]


def _print_failures(page: _Page, failures: list[FailureSummary], *, hint: bool) -> None:
    first = [failure for failure in failures if failure.first]
    others = [failure for failure in failures if not failure.first]
    for failure in first[:_CONSEQUENCES_MAX]:
        page.line(
            page.sign("failed"), " ", (_after(failure.after_s), "dim"), (failure.text, "bold"), indent=2
        )
        _print_evidence(page, failure)
    if hint and first and not any(failure.traceback or failure.stderr or failure.signal for failure in first):
        page.line(("stderr went to the console; with --tee 2 it is kept, too", "dim"), indent=4)
    unshown = others[_CONSEQUENCES_MAX:] + first[_CONSEQUENCES_MAX:]
    for failure in others[:_CONSEQUENCES_MAX]:
        page.line((f"then {failure.text}", "dim"), indent=4)
    if unshown:
        page.line((f"then {len(unshown)} more", "dim"), indent=4)


def _after(seconds: float | None) -> str:
    return f"after {duration_in_words(seconds)}: " if seconds is not None else ""


def _print_evidence(page: _Page, failure: FailureSummary) -> None:
    for line in failure.traceback.strip("\n").splitlines()[-_TRACEBACK_LINES:]:
        page.line((line, "dim"), indent=6)
    if failure.stderr and failure.stderr != "/dev/null":
        page.line((f"its stderr: {failure.stderr}", "dim"), indent=4)


def _print_restart(page: _Page, restarts: list[RestartSummary], *, over: bool) -> None:
    if not restarts:
        return
    told = max(restarts, key=lambda restart: (restart.kind == "failure", restart.total_s or 0.0))
    arrow = "→" if page.unicode else "->"
    kind = "restarted" if told.kind == "failure" else "restarted for a change of membership"
    page.line((f"{arrow} {kind}: ", "cyan"), told.reason, indent=4)
    page.line(f"{_back(told, over=over)}: {_phases(told)}{_slowest(restarts)}", indent=6)


def _back(restart: RestartSummary, *, over: bool) -> str:
    if restart.total_s is not None:
        return f"back in {duration_in_words(restart.total_s)}"
    return "never came back" if over else "not back yet"


def _print_refusals(page: _Page, said: RunSummary) -> None:
    """Why a node gave up; each reason once."""
    arrow = "→" if page.unicode else "->"
    refusals = (made.reason for made in said.last_decisions if made.action in ("fail", "abort"))
    for reason in list(dict.fromkeys(refusals))[:_CONSEQUENCES_MAX]:
        page.line((f"{arrow} not restarted: ", "red"), reason, indent=4)


def _phases(restart: RestartSummary) -> str:
    phases = (
        ("detect", restart.detect_s),
        ("stop", restart.stop_s),
        # Without a back-off this is the time between two events.
        ("wait", restart.wait_s if restart.wait_s and restart.wait_s >= 0.05 else None),
        ("rendezvous", restart.rendezvous_s),
        ("start", restart.start_s),
    )
    shown = [f"{name} {duration_in_words(seconds)}" for name, seconds in phases if seconds is not None]
    return " + ".join(shown) or "no phase is recorded"


def _slowest(restarts: list[RestartSummary]) -> str:
    nodes = len({restart.node for restart in restarts})
    if nodes < 2:
        return ""
    slowest = max(restarts, key=lambda restart: restart.total_s or 0.0)
    return f" ({nodes} nodes; {slowest.node} was back last, in {duration_in_words(slowest.total_s)})"


# -- the rest -------------------------------------------------------------------------------------------------


def _print_signals(page: _Page, said: RunSummary) -> None:
    if not said.signals:
        return
    page.gap()
    for signal in said.signals[:_INCIDENTS_MAX]:
        where = f" on {signal.node}" if len(said.nodes) > 1 else ""
        moment = parsed(signal.at)
        page.line(
            page.sign("stopped"), f" the agent{where} got {signal.signal} at {local_time(moment)}", indent=2
        )


def _print_nodes(page: _Page, nodes: list[NodeSummary]) -> None:
    if len(nodes) < 2:
        return
    page.gap()
    by_trouble = sorted(
        nodes, key=lambda node: (_node_word(node) in ("succeeded", "running"), node.group_rank)
    )
    width = min(max(len(node.node) for node in by_trouble[:_NODES_MAX]), 40)
    for node in by_trouble[:_NODES_MAX]:
        word = _node_word(node)
        rank = f"group rank {node.group_rank}" if node.group_rank >= 0 else "no group rank"
        page.line(
            page.sign(word),
            f" {node.node:<{width}}  {word:<10} {rank}, {plural(node.local_world_size, 'worker')}",
            indent=2,
        )
    if len(nodes) > _NODES_MAX:
        page.line((f"and {plural(len(nodes) - _NODES_MAX, 'more node')}; --json has all", "dim"), indent=2)


def _node_word(node: NodeSummary) -> str:
    if not node.result:
        return node.state
    words = {"SUCCEEDED": "succeeded", "FAILED": "failed", "SIGNAL": "stopped", "STOPPED": "left"}
    return words.get(node.result, "error")


def _print_foot(page: _Page, said: RunSummary) -> None:
    page.gap()
    restarts = said.restarts
    if restarts.total:
        changes = f", {restarts.membership} for membership" if restarts.membership else ""
        lost = duration_in_words(restarts.time_lost_s)
        page.line(
            ("restarts   ", "dim"),
            f"{restarts.used} of {restarts.max} used{changes}; {lost} lost in them",
            indent=2,
        )
    page.line(("recording  ", "dim"), said.path, indent=2)
    if said.sessions > 1:
        page.line(f"It holds {said.sessions} jobs that ran one after another; this is the last.", indent=2)
    for warning in _warnings(said.recording):
        page.line(("! ", "bold yellow"), warning, indent=2)


def _warnings(reading: ReadingSummary) -> Iterable[str]:
    kinds = {
        "torn": reading.torn,
        "of an unknown type": reading.unknown,
        "not valid": reading.invalid,
        "of another run": reading.foreign,
        "too long": reading.oversized,
    }
    left_out = [f"{count} {kind}" for kind, count in kinds.items() if count]
    if left_out:
        yield f"{plural(sum(kinds.values()), 'line')} could not be read: {', '.join(left_out)}"
    if reading.dropped:
        yield f"{plural(reading.dropped, 'event')} could not be written by the agent (full or slow disk)"
    elif reading.missing:
        yield f"{plural(reading.missing, 'event')} missing from the recording"
