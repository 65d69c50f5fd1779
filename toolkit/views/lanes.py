"""Swim-lanes: a line of cells for each node or rank over a span of time; rounds as bands, causes as marks. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from toolkit.core.history import Incarnation, Node, Timeline
from toolkit.core.moment import Moment
from toolkit.views.rows import lost_nodes

#: what a node or rank does in a cell: nothing yet, waits for its round, starts or stops workers, its workers run (and
#: how that ended), or it is there and does none of this
Phase = Literal["none", "waits", "moves", "runs", "fails", "succeeds", "done"]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time in so many cells.

    Args:
        start_ns: wall time of the left edge.
        end_ns: of the right edge.
        width: cells.
    """

    start_ns: int
    end_ns: int
    width: int

    def cell_of(self, time_ns: int) -> int:
        """The cell of a moment; outside of 0 to width - 1 for one that is not in it."""
        length = max(self.end_ns - self.start_ns, 1)
        return (time_ns - self.start_ns) * self.width // length

    def time_of(self, cell: int) -> int:
        """The left edge of a cell."""
        return self.start_ns + (self.end_ns - self.start_ns) * cell // max(self.width, 1)


@dataclass(frozen=True, slots=True)
class Mark:
    """A cause on a lane.

    Args:
        cell: where.
        kind: what happened.
        words: how it is said.
    """

    cell: int
    kind: Literal["failure", "bell", "lost", "signal", "from_above", "from_below"]
    words: str


#: how a cause looks, wherever it is drawn
MARK_SIGNS = {"failure": "✗", "bell": "◆", "lost": "☠", "signal": "!", "from_above": "↓", "from_below": "↑"}


@dataclass(frozen=True, slots=True)
class Lane:
    """One line.

    Args:
        key: the node, or "node/local rank".
        label: what stands in front.
        phases: of each cell, `[width]`.
        marks: on top of them, by cell.
    """

    key: str
    label: str
    phases: tuple[Phase, ...]
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Band:
    """A round in the cells that it took, `[first, last]`."""

    number: int
    first: int
    last: int


class _Times:
    """Moments of one node on the axis: its wall clock at its first event, then its monotonic one."""

    def __init__(self, node: Node) -> None:
        first = node.started or node.first_event
        self._offset = None if first is None else first.wall_ns - first.mono_ns

    def of(self, at: Moment) -> int:
        return at.wall_ns if self._offset is None else self._offset + at.mono_ns


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a lane, however many cells that takes.

    Args:
        start_ns: wall time.
        end_ns: None while it goes on.
        phase: what is done.
    """

    start_ns: int
    end_ns: int | None
    phase: Phase


def node_stretches(node: Node, timeline: Timeline) -> list[Stretch]:
    """What a node did, by the beginnings; a later one hides what it overlaps. The first is its whole life.

    Of a node that was lost nobody knows what it does; all that it did ends there.
    """
    times = _Times(node)
    return _ordered(node, times, _runs_of_node(node, times), timeline)


def rank_stretches(node: Node, local_rank: int, timeline: Timeline) -> list[Stretch]:
    """What one rank did, in the same way."""
    times, rank = _Times(node), node.ranks[local_rank]
    runs = (_run(each, times) for each in (*rank.past, rank.now) if each.started is not None)
    return _ordered(node, times, runs, timeline)


def _ordered(node: Node, times: _Times, runs: Iterable[Stretch], timeline: Timeline) -> list[Stretch]:
    life = Stretch(*_alive(node, times), "done")
    parts = (*_waits(node, times), *_moves(node, times), *runs)
    whole = [life, *sorted(parts, key=lambda each: each.start_ns)]
    lost = next((lost for lost in reversed(timeline.job.lost) if lost.node == node.name), None)
    if lost is None or node.name not in lost_nodes(timeline):
        return whole
    lost_ns = lost.at.wall_ns
    return [
        Stretch(min(each.start_ns, lost_ns), min(each.end_ns or lost_ns, lost_ns), each.phase)
        for each in whole
    ]


def node_lane(node: Node, timeline: Timeline, span: Span, now_ns: int) -> Lane:
    """What a node did."""
    phases = _phases(node_stretches(node, timeline), span, now_ns)
    return Lane(node.name, _label(node), phases, node_marks(node, timeline, span))


def rank_lane(node: Node, local_rank: int, timeline: Timeline, span: Span, now_ns: int) -> Lane:
    """What one rank did, incarnation by incarnation."""
    phases = _phases(rank_stretches(node, local_rank, timeline), span, now_ns)
    label = f"rank {node.ranks[local_rank].now.global_rank}"
    return Lane(f"{node.name}/{local_rank}", label, phases, rank_marks(node, local_rank, timeline, span))


def node_marks(node: Node, timeline: Timeline, span: Span) -> tuple[Mark, ...]:
    """The causes on a node's lane, the weightiest of each cell."""
    times = _Times(node)
    return _one_each(
        [
            *_failures(node, timeline, span, times),
            *_losses(node, timeline, span),
            *_bells(node, timeline, span),
            *_arrows(node, timeline, span, times),
        ]
    )


def rank_marks(node: Node, local_rank: int, timeline: Timeline, span: Span) -> tuple[Mark, ...]:
    """The causes on a rank's lane, the weightiest of each cell."""
    times = _Times(node)
    return _one_each(
        [
            *_failures(node, timeline, span, times, local_rank),
            *_losses(node, timeline, span),
            *_arrows(node, timeline, span, times),
        ]
    )


def bands(timeline: Timeline, span: Span, now_ns: int) -> list[Band]:
    """The rounds, from when the first member had its ranks until the next one formed."""
    begins: dict[int, int] = {}
    for node in timeline.nodes.values():
        times = _Times(node)
        for each in node.rounds:
            if each.completed is not None:
                at = times.of(each.completed)
                begins[each.number] = min(at, begins.get(each.number, at))
    order = sorted(begins.items())
    ended = timeline.ended.wall_ns if timeline.ended is not None else now_ns
    found = []
    for index, (number, start_ns) in enumerate(order):
        end_ns = order[index + 1][1] if index + 1 < len(order) else max(ended, start_ns)
        first, last = max(span.cell_of(start_ns), 0), min(span.cell_of(end_ns - 1), span.width - 1)
        if first < span.width and last >= 0 and first <= last:
            found.append(Band(number, first, last))
    return found


def _label(node: Node) -> str:
    return node.host or node.name


def _alive(node: Node, times: _Times) -> tuple[int, int | None]:
    first = node.first_event
    return (times.of(first) if first else 0), (times.of(node.ended) if node.ended else None)


def _waits(node: Node, times: _Times) -> Iterable[Stretch]:
    for each in node.rounds:
        if each.started is not None:
            end = times.of(each.completed) if each.completed is not None else None
            yield Stretch(times.of(each.started), end, "waits")


def _moves(node: Node, times: _Times) -> Iterable[Stretch]:
    for restart in node.restarts:
        if restart.stopped is not None:
            yield Stretch(times.of(restart.decided), times.of(restart.stopped), "moves")
        if restart.starting is not None:
            end = times.of(restart.started) if restart.started is not None else None
            yield Stretch(times.of(restart.starting), end, "moves")


def _runs_of_node(node: Node, times: _Times) -> Iterable[Stretch]:
    """An incarnation of a node runs while one of its ranks does, and is what the worst of them is."""
    by_number: dict[int, list[Stretch]] = {}
    for rank in node.ranks.values():
        for each in (*rank.past, rank.now):
            if each.started is not None:
                by_number.setdefault(each.number, []).append(_run(each, times))
    for runs in by_number.values():
        ends = [run.end_ns for run in runs]
        end = None if None in ends else max(end for end in ends if end is not None)
        phase = next((p for p in _WORST if any(run.phase == p for run in runs)), runs[0].phase)
        yield Stretch(min(run.start_ns for run in runs), end, phase)


_WORST: tuple[Phase, ...] = ("fails", "runs", "succeeds")


def _run(each: Incarnation, times: _Times) -> Stretch:
    assert each.started is not None, "asked by the callers"
    phase: Phase = "fails" if each.state == "failed" else "succeeds" if each.state == "succeeded" else "runs"
    return Stretch(times.of(each.started), times.of(each.ended) if each.ended else None, phase)


def _phases(stretches: Sequence[Stretch], span: Span, now_ns: int) -> tuple[Phase, ...]:
    life = stretches[0]
    end_ns = now_ns if life.end_ns is None else life.end_ns
    last = min(span.cell_of(end_ns), span.width - 1)
    cells: list[Phase] = ["none"] * span.width
    for stretch in stretches:
        stop = end_ns if stretch.end_ns is None else stretch.end_ns
        low, high = span.cell_of(stretch.start_ns), span.cell_of(max(stop, stretch.start_ns))
        for cell in range(max(low, 0), min(high, last) + 1):
            cells[cell] = stretch.phase
    return tuple(cells)


def _failures(
    node: Node, timeline: Timeline, span: Span, times: _Times, local_rank: int | None = None
) -> list[Mark]:
    marks = []
    for failure in timeline.failures.values():
        mine = failure.node == node.name and local_rank in (None, failure.local_rank)
        if mine and 0 <= (cell := span.cell_of(times.of(failure.at))) < span.width:
            how = failure.signal or f"exit {failure.exit_code}"
            marks.append(Mark(cell, "failure", f"rank {failure.global_rank}: {how}"))
    return marks


def _losses(node: Node, timeline: Timeline, span: Span) -> list[Mark]:
    return [
        Mark(cell, "lost", f"lost: {lost.reason}")
        for lost in timeline.job.lost
        if lost.node == node.name and 0 <= (cell := span.cell_of(lost.at.wall_ns)) < span.width
    ]


def _bells(node: Node, timeline: Timeline, span: Span) -> list[Mark]:
    """Rounds that this node has ended for all."""
    return [
        Mark(cell, "bell", f"bell: {end.reason}")
        for each in timeline.job.rounds.values()
        for end in each.ends
        if end.by == node.name and 0 <= (cell := span.cell_of(end.at.wall_ns)) < span.width
    ]


def _arrows(node: Node, timeline: Timeline, span: Span, times: _Times) -> Iterable[Mark]:
    """Rounds that another node has ended for this one: an arrow that comes from where the bell was rung."""
    first_ns, last_ns = _alive(node, times)
    for each in timeline.job.rounds.values():
        for end in each.ends:
            at_ns = end.at.wall_ns
            there = first_ns <= at_ns and (last_ns is None or at_ns <= last_ns)
            cell = span.cell_of(at_ns)
            if end.by != node.name and end.by in timeline.nodes and there and 0 <= cell < span.width:
                above = next(name for name in timeline.nodes if name in (end.by, node.name)) == end.by
                yield Mark(cell, "from_above" if above else "from_below", f"{end.by} rang: {end.reason}")


_WEIGHT = {"failure": 0, "lost": 1, "bell": 2, "signal": 3, "from_above": 4, "from_below": 4}


def _one_each(marks: Sequence[Mark]) -> tuple[Mark, ...]:
    """The weightiest mark of each cell."""
    best: dict[int, Mark] = {}
    for mark in marks:
        if mark.cell not in best or _WEIGHT[mark.kind] < _WEIGHT[best[mark.cell].kind]:
            best[mark.cell] = mark
    return tuple(best[cell] for cell in sorted(best))


def ticks(span: Span, origin_ns: int, every: int = 12) -> list[tuple[int, str]]:
    """Times along the axis, as seconds from `origin_ns`, at round numbers: cell and text."""
    length_s = max(span.end_ns - span.start_ns, 1) / 1e9
    count = max(span.width // every, 1)
    step = _STEPS[min(bisect_right(_STEPS, length_s / count), len(_STEPS) - 1)]
    first = -(-(span.start_ns - origin_ns) // int(step * 1e9))
    found = []
    for index in range(first, first + count + 2):
        cell = span.cell_of(origin_ns + int(index * step * 1e9))
        if 0 <= cell < span.width:
            found.append((cell, since(index * step, 3 if step < 0.01 else 2 if step < 0.1 else 1)))
    return found


_STEPS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30),
    *(60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400, 604800),
)


def since(seconds: float, decimals: int = 1) -> str:
    """A time from the start of a run: "+3.5s", "+2:05", "+1:00:00"."""
    sign, seconds = ("-" if seconds < 0 else "+"), abs(seconds)
    if seconds < 60:
        whole = abs(seconds - round(seconds)) < 0.5 * 10**-decimals
        return f"{sign}{seconds:.0f}s" if whole else f"{sign}{seconds:.{decimals}f}s"
    whole = int(seconds)
    if whole < 3600:
        return f"{sign}{whole // 60}:{whole % 60:02d}"
    return f"{sign}{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
