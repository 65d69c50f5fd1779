"""The job on one screen: state, budget, what restarts cost, who failed first, a cell for each rank. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.text import Text

from toolkit.core.history import Failure, Node, Restart, Timeline
from toolkit.core.words import ending, failing, plural, without_tokens
from toolkit.fronts.tui.look import TONE_SIGNS, TONES, state_look
from toolkit.views.failure_report import details, report_in_words
from toolkit.views.rows import RANK_STATES, NodeRow, RankRow, failure_of, size_in_words
from toolkit.views.session import Line
from toolkit.views.wording import duration_in_words, harmless

_LABEL = 11
#: lines of the strip of ranks
_STRIP_MAX = 8
#: restarts that are told one by one, the latest
_RESTARTS_SHOWN = 3


def overview(
    timeline: Timeline,
    nodes: Sequence[NodeRow],
    ranks: Sequence[RankRow],
    recent: Sequence[Line],
    *,
    elapsed_s: float,
    width: int,
    height: int,
    since: Iterable[str],
) -> list[Text]:
    """Lines, `height` of them at the most.

    Args:
        recent: events, the latest last.
        elapsed_s: since the job began.
        since: the time of each of `recent`, from the start of the run.
    """
    lines = [
        *_head(timeline, nodes, ranks, elapsed_s),
        *_restarts(timeline, elapsed_s),
        *_failure(timeline),
        *_hangs(timeline),
        Text(),
        *_strip(ranks, width),
        *_odd_nodes(nodes),
        Text(),
    ]
    room = max(height - len(lines) - 1, 0)
    shown = list(zip(recent, since, strict=True))[-room:] if room else []
    if shown:
        lines.append(Text("what came last", "bold"))
        lines += [_event(line, at) for line, at in shown]
    return lines[:height]


def _line(label: str, *parts: str | tuple[str, str]) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{label:<{_LABEL}}", "bold")
    for part in parts:
        text, look = (part, "") if isinstance(part, str) else part
        line.append(harmless(text), look)
    return line


def _head(
    timeline: Timeline, nodes: Sequence[NodeRow], ranks: Sequence[RankRow], elapsed_s: float
) -> Iterable[Text]:
    colour, sign = state_look(timeline.state)
    running = sum(row.state == "running" for row in ranks)
    entry = next((row.node.entrypoint for row in nodes if row.node.entrypoint), "")
    yield _line(
        "job", (f"{sign} {timeline.state}", f"bold {colour}"), f"  {timeline.run_id}  ", (entry, "dim")
    )
    size = f"round {timeline.rounds} · {plural(len(nodes), 'node')} · {running} of {plural(len(ranks), 'rank')} running"
    coordinator = next((row.key for row in nodes if row.coordinates), "")
    said = f" · {coordinator} coordinates" if coordinator else ""
    took = f"{duration_in_words(elapsed_s)}{'' if timeline.result else ' so far'}"
    yield _line("group", f"{size} · {took}{said}")


def _restarts(timeline: Timeline, elapsed_s: float) -> Iterable[Text]:
    used, budget, total = timeline.restarts_used, timeline.restarts_max, timeline.restarts_total
    left = max(budget - used, 0)
    colour = "red" if budget and not left else "yellow" if used else ""
    more = f"; {plural(total - used, 'restart')} because nodes came or went" if total > used else ""
    yield _line("restarts", (f"{used} of {budget} used, {left} left", colour), more)
    restarts = timeline.restarts
    whole = [restart for restart in restarts if restart.total_s is not None]
    if whole:
        yield _line("MTTR", *_phases(whole))
    lost_s, workers = timeline.time_lost_s, _workers(timeline)
    if lost_s and elapsed_s:
        share = max(1 - lost_s / elapsed_s, 0.0)
        gpu, so_far = duration_in_words(lost_s * workers), "" if timeline.result else " so far"
        yield _line("ETTR", f"{share:.1%}{so_far}; {duration_in_words(lost_s)} lost, {gpu} of worker time")
    if restarts:
        yield from _latest_restarts(timeline, restarts)


def _latest_restarts(timeline: Timeline, every: Sequence[Restart]) -> Iterable[Text]:
    """What each of the latest restarts took and cost, the last one first: all its workers stood still meanwhile."""
    by_round: dict[int, list[Restart]] = {}
    for restart in every:
        by_round.setdefault(restart.round, []).append(restart)
    sizes = {each.number: each.world_size for node in timeline.nodes.values() for each in node.rounds}
    for place, number in enumerate(sorted(by_round, reverse=True)[:_RESTARTS_SHOWN]):
        restarts = by_round[number]
        took_s = max((each.total_s for each in restarts if each.total_s is not None), default=None)
        workers = max(sizes.get(number, 0), sizes.get(number + 1, 0))
        cost = "not back yet"
        if took_s is not None:
            each, all_of_them = duration_in_words(took_s), duration_in_words(took_s * workers)
            cost = f"{plural(workers, 'worker')} x {each} = {all_of_them}"
        why = harmless(without_tokens(restarts[0].reason))
        yield _line("" if place else "cost", f"round {number} → {cost}  ", (why, "dim"))


def _workers(timeline: Timeline) -> int:
    return max((each.world_size for node in timeline.nodes.values() for each in node.rounds[-1:]), default=0)


def _phases(restarts: Sequence[Restart]) -> Iterable[str]:
    yield duration_in_words(statistics.median(r.total_s for r in restarts if r.total_s is not None))
    yield " median: "
    parts = []
    for name in ("detect", "stop", "wait", "rendezvous", "start"):
        took = [s for r in restarts if (s := getattr(r, f"{name}_s")) is not None]
        if took and max(took) >= 0.0005:
            parts.append(f"{name} {duration_in_words(statistics.median(took))}")
    yield " · ".join(parts)


def _failure(timeline: Timeline) -> Iterable[Text]:
    outcome = timeline.job.outcome
    if outcome is not None and outcome.outcome == "failed":
        words = report_in_words(outcome.why, outcome.failures)
        yield _line("failed", (words.first, "bold red"))
        for detail in words.details:
            yield _line("", detail)
        for other in words.others:
            yield _line("", (other, "red"))
        if words.why:
            yield _line("", words.why)
        return
    lost = timeline.job.lost
    if lost:
        yield _line("lost", (f"{lost[-1].node}: {without_tokens(lost[-1].reason)}", "red"))
    first = _first_failure(timeline)
    if first is not None:
        told = _first_in_words(timeline, first)
        yield _line("first", (told, "red"))
        for detail in details(told, first.what, first.remedy):
            yield _line("", harmless(detail))


def _hangs(timeline: Timeline) -> Iterable[Text]:
    """Workers that hang now, of each node."""
    for node in timeline.nodes.values():
        if node.hangs and node.hangs[-1].ended is None and not node.result:
            yield _line("hangs", (node.hangs[-1].why, "bold red"))


def _first_failure(timeline: Timeline) -> Failure | None:
    """Who failed first in the latest round in which somebody did."""
    if not timeline.failures:
        return None
    latest = max(failure.round for failure in timeline.failures.values())
    of_round = [failure for failure in timeline.failures.values() if failure.round == latest]
    return next((failure for failure in of_round if failure.first), of_round[0])


def _first_in_words(timeline: Timeline, first: Failure) -> str:
    of_round = [failure for failure in timeline.failures.values() if failure.round == first.round]
    how, detail = failing(first.exit_code, first.signal, first.message)
    told = f": {detail}" if detail else ""
    more = f"; {plural(len(of_round) - 1, 'more failure')} after it" if len(of_round) > 1 else ""
    return (
        f"rank {first.global_rank} on {first.hostname or first.node} {how}{told} (round {first.round}){more}"
    )


def _strip(ranks: Sequence[RankRow], width: int) -> Iterable[Text]:
    """A cell for each rank; of very many, one for several, which shows the worst of them."""
    if not ranks:
        return
    room = max(width - _LABEL - 1, 10)
    each = -(-len(ranks) // (room * _STRIP_MAX))
    cells = [_worst(ranks[start : start + each]) for start in range(0, len(ranks), each)]
    for number, start in enumerate(range(0, len(cells), room)):
        line = Text(f"{'ranks' if number == 0 else '':<{_LABEL}}", "bold", no_wrap=True)
        # Alike ones together: textual paints each piece of a line by itself, and there may be a thousand.
        for state, alike in groupby(cells[start : start + room]):
            colour, sign = state_look(state)
            line.append(sign * len(list(alike)), colour)
        yield line
    counts: dict[str, int] = {}
    for row in ranks:
        counts[row.state] = counts.get(row.state, 0) + 1
    said = Text(" " * _LABEL, no_wrap=True)
    for state, count in sorted(counts.items(), key=lambda item: _WEIGHT.get(item[0], 9)):
        colour, sign = state_look(state)
        said.append(f"{sign} {count} {state}   ", colour)
    if each > 1:
        said.append(f"(a cell is {each} ranks, the worst of them)", "dim")
    yield said


_WEIGHT = {state: weight for weight, state in enumerate(RANK_STATES)}


def _worst(rows: Sequence[RankRow]) -> str:
    return min((row.state for row in rows), key=lambda state: _WEIGHT.get(state, 9))


def _odd_nodes(nodes: Sequence[NodeRow]) -> Iterable[Text]:
    """Nodes that do something else than most."""
    states = [row.state for row in nodes]
    usual = max(set(states), key=lambda state: (states.count(state), state), default="")
    odd = [row for row in nodes if row.state != usual or row.failed]
    if odd and len(nodes) > 1:
        said = ", ".join(f"{row.key} {row.state}" for row in odd[:4])
        more = f" and {len(odd) - 4} more" if len(odd) > 4 else ""
        yield _line("odd nodes", (f"{said}{more}", "yellow"), f"; the other {len(nodes) - len(odd)} {usual}")


def _event(line: Line, at: str) -> Text:
    tone = line.told.tone
    text = Text(f"{at:>10} ", "dim", no_wrap=True, overflow="ellipsis")
    text.append(f"{TONE_SIGNS[tone]} ", TONES[tone])
    text.append(f"{harmless(line.node):<14} ", "dim")
    return text.append(harmless(line.told.words), TONES[tone])


_BARS = "▁▂▃▄▅▆▇█"


def sparkline(points: Sequence[float | None], highest: float) -> str:
    """A curve, a letter for each point; blanks where nothing is known."""
    top = max(highest, 1e-9)
    return "".join(
        " " if point is None else _BARS[min(int(max(point, 0.0) / top * len(_BARS)), len(_BARS) - 1)]
        for point in points
    )


def _usage(node: Node, row: RankRow) -> Iterable[Text]:
    """What the rank used in the last two minutes."""
    readings, usage = node.readings, row.usage
    if readings is None:
        return
    width = 60
    reading = readings.worker(row.key[1])
    if reading is not None and reading.step is not None:
        yield _line("step", str(reading.step))
    if usage.cpu_percent is not None:
        curve = readings.cpu_percent(row.key[1])[-width:]
        highest = max((point for point in curve if point is not None), default=0.0)
        yield _line("cpu", f"{usage.cpu_percent:.0f} %".ljust(10), (sparkline(curve, highest), "cyan"))
        rss = readings.rss_bytes(row.key[1])[-width:]
        most = max((point for point in rss if point is not None), default=0.0)
        yield _line("memory", size_in_words(usage.rss_bytes).ljust(10), (sparkline(rss, most), "cyan"))
    for gpu in readings.gpus_of(row.key[1]):
        util = readings.util_percent(gpu.index)[-width:]
        used, total = size_in_words(gpu.memory_used_bytes), size_in_words(gpu.memory_total_bytes)
        facts = [f"{used} of {total}"] if used else []
        facts += [f"{gpu.temperature_c:.0f} °C"] if gpu.temperature_c is not None else []
        facts += [f"{gpu.power_w:.0f} W"] if gpu.power_w is not None else []
        facts += [f"held down by {', '.join(gpu.throttled)}"] if gpu.throttled else []
        said = "" if gpu.util_percent is None else f"{gpu.util_percent:.0f} %"
        yield _line(
            f"gpu {gpu.index}", said.ljust(10), (sparkline(util, 100.0), "cyan"), "  " + " · ".join(facts)
        )
        if gpu.xids:
            yield _line(
                "", (f"XID {', '.join(map(str, gpu.xids))}: the driver has reported errors", "bold red")
            )


def detail_lines(timeline: Timeline, row: RankRow, now_ns: int) -> list[Text]:
    """All that is known of one rank: its incarnations, and how each of them ended."""
    node = timeline.nodes[row.key[0]]
    now = row.now
    colour, sign = state_look(now.state)
    head = _line(f"rank {now.global_rank}", (f"{sign} {now.state}", f"bold {colour}"), f"  {row.last}")
    lines = [
        head,
        _line(
            "node", f"{node.name}, local rank {now.local_rank}, role {node.role}, role rank {now.role_rank}"
        ),
        _line("process", f"pid {now.pid or 'unknown'}, incarnation {now.number} of {now.world_size} ranks"),
        _line("stdout", now.stdout or "on the console; `--redirects 3` or `--tee 3` keeps it"),
        _line("stderr", now.stderr or "on the console; `--redirects 3` or `--tee 3` keeps it"),
        Text(),
    ]
    lines[-1:] = [*_usage(node, row), Text()]
    rank = node.ranks[row.key[1]]
    for each in (rank.now, *reversed(rank.past)):
        colour, sign = state_look(each.state)
        how = "" if each.state == "running" else f", {ending(each.exit_code, each.signal)}"
        how = ", stopped by the agent" if each.stopped_by_agent else how
        lines.append(
            _line(f"  start {each.number}", (f"{sign} {each.state}{how}", colour), f"  pid {each.pid}")
        )
        failure = failure_of(timeline, node, each)
        if failure is not None:
            lines += [Text(f"      {harmless(part)}", "red") for part in failure.message.splitlines()[:20]]
            for detail in details(failure.message, failure.what, failure.remedy):
                lines.append(Text(f"      {harmless(detail)}"))
            lines += [Text(f"      {harmless(part)}", "dim") for part in failure.traceback.splitlines()[-60:]]
    return lines
