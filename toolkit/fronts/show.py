"""`rally show`: what happened in a run, in words or as JSON. stdout is data, stderr is narration."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import msgspec

from toolkit.adapters.recording.catalog import agent_is_alive, find_run, latest_run, wall_clock_ns
from toolkit.adapters.recording.reader import read_run
from toolkit.core.errors import ConfigurationError, RecordingError
from toolkit.core.timeline import fold_all
from toolkit.core.words import plural
from toolkit.fronts.forwarded import print_forwarded
from toolkit.fronts.hang_summary import print_hangs
from toolkit.fronts.incidents import INCIDENTS_MAX, print_incidents
from toolkit.fronts.job_incidents import job_rows, print_job_incidents
from toolkit.fronts.job_summary import JobSummary
from toolkit.fronts.lost_logs import lost_in_sentences
from toolkit.fronts.page import Page
from toolkit.fronts.summary import (
    GOING_ON,
    IsAlive,
    NodeSummary,
    ReadingSummary,
    RestartsSummary,
    RunSummary,
    SimulatedSummary,
    summary,
)
from toolkit.views.wording import (
    ago,
    duration_in_words,
    local_time,
    look_of,
    parsed,
    shows_unicode,
    visible,
)

__all__ = ["RunSummary", "render_text", "show_command", "summary"]

#: nodes that are shown; --json has them all
_NODES_MAX = 8


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
    page = Page(stdout)
    _print_head(page, said, now_ns)
    if said.job is not None:
        print_job_incidents(page, said, said.job)
    else:
        print_incidents(page, said)
    print_hangs(page, said.hangs)
    _print_signals(page, said)
    print_forwarded(page, said.forwarded, several_nodes=len(said.nodes) > 1)
    _print_nodes(page, said.nodes, said.job)
    _print_foot(page, said)


def _print_head(page: Page, said: RunSummary, now_ns: int | None) -> None:
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
            by = " by a signal" if said.result == "SIGNAL" else ""
            return f"was stopped{by} in {took}{after}"
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
    count = said.group_world_size or len(said.nodes)
    nodes = plural(count, "node")
    where = f"{nodes} ({', '.join(hosts)})" if 0 < len(hosts) <= min(count, 2) else nodes
    if len(said.nodes) < count:
        where = f"{nodes}, {len(said.nodes)} of them recorded here"
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


# -- the rest -------------------------------------------------------------------------------------------------


def _print_signals(page: Page, said: RunSummary) -> None:
    if not said.signals:
        return
    page.gap()
    for signal in said.signals[:INCIDENTS_MAX]:
        where = f" on {signal.node}" if len(said.nodes) > 1 else ""
        moment = parsed(signal.at)
        page.line(
            page.sign("stopped"), f" the agent{where} got {signal.signal} at {local_time(moment)}", indent=2
        )


def _print_nodes(page: Page, nodes: list[NodeSummary], job: JobSummary | None) -> None:
    if len(nodes) < 2:
        return
    page.gap()
    rows = _node_rows(nodes, job)
    width = min(max(len(name) for _, name, _ in rows[:_NODES_MAX]), 40)
    for word, name, words in rows[:_NODES_MAX]:
        page.line(page.sign(word), f" {name:<{width}}  {word:<10} {words}", indent=2)
    if len(rows) > _NODES_MAX:
        page.line((f"and {plural(len(rows) - _NODES_MAX, 'more node')}; --json has all", "dim"), indent=2)


def _node_rows(nodes: list[NodeSummary], job: JobSummary | None) -> list[tuple[str, str, str]]:
    """Word, name and what else there is to say of each; those in trouble first.

    Agents of one host that never got a seat are told in one row.
    """
    refused = {join.joiner for join in job.joins if join.kind == "refused"} if job else set()
    groups: dict[tuple[str, ...], list[NodeSummary]] = {}
    for node in nodes:
        word = "refused" if node.node in refused else _node_word(node)
        alone = node.node if node.group_rank >= 0 else node.host
        groups.setdefault((word, alone, _node_words(node)), []).append(node)
    by_trouble = sorted(
        groups.items(),
        key=lambda group: (group[0][0] in ("succeeded", "running"), group[1][0].group_rank),
    )
    return [
        (word, found[0].node if len(found) == 1 else f"{found[0].host} ({len(found)} agents)", words)
        for (word, _, words), found in by_trouble
    ]


def _node_words(node: NodeSummary) -> str:
    rank = f"group rank {node.group_rank}" if node.group_rank >= 0 else "no group rank"
    times = "once" if node.evictions == 1 else f"{node.evictions} times"
    evicted = f"; evicted {times}" if node.evictions else ""
    innocent = node.result == "FAILED" and node.own_workers == "succeeded"
    own = "; its own workers succeeded" if innocent else ""
    return f"{rank}, {plural(node.local_world_size, 'worker')}{own}{evicted}"


def _node_word(node: NodeSummary) -> str:
    if not node.result:
        return node.state
    words = {"SUCCEEDED": "succeeded", "FAILED": "failed", "SIGNAL": "stopped", "STOPPED": "left"}
    return words.get(node.result, "error")


def _used(restarts: RestartsSummary) -> str:
    """What was spent; with a window it may be more than the budget, which comes back."""
    if restarts.used > restarts.max:
        return f"{restarts.used} used, of {restarts.max} within the window"
    return f"{restarts.used} of {restarts.max} used"


def _print_foot(page: Page, said: RunSummary) -> None:
    page.gap()
    restarts = said.restarts
    if restarts.total:
        free = f", {restarts.free} free" if restarts.free else ""
        changes = f", {restarts.membership} for membership" if restarts.membership else ""
        lost = duration_in_words(restarts.time_lost_s)
        page.line(
            ("restarts   ", "dim"),
            f"{_used(restarts)}{free}{changes}; {lost} lost in them",
            indent=2,
        )
    for label, words in job_rows(said.job) if said.job is not None else ():
        page.line((f"{label:<11}", "dim"), words, indent=2)
    page.line(("recording  ", "dim"), said.path, indent=2)
    if said.sessions > 1:
        page.line(f"It holds {said.sessions} jobs that ran one after another; this is the last.", indent=2)
    for warning in (*lost_in_sentences(said.lost_logs), *_warnings(said.recording)):
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
