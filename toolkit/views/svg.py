"""The timeline as an SVG: a lane for each node or rank, rounds as bands, causes as marks. Pure, and no script in it.

A stretch is told by its thickness as well as by its colour: a hair for nothing, thin for waiting, dashed for starting
and stopping, thick for workers that run. Stretches of one kind are one path, so that a thousand of them are some
kilobytes. Colours are those of the page around it (`views/html.py`), or the ones given here where there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeVar

from toolkit.core.history import Node, Timeline
from toolkit.core.words import plural
from toolkit.views.lanes import (
    MARK_SIGNS,
    Mark,
    Phase,
    Span,
    Stretch,
    bands,
    node_marks,
    node_stretches,
    rank_marks,
    rank_stretches,
    ticks,
)
from toolkit.views.rows import RowMaker
from toolkit.views.wording import harmless

#: lanes that are drawn; the rest is counted
LANES_MAX = 40
#: up to so many ranks have a lane each, if nobody says what is wanted
RANKS_MAX = 16
WIDTH = 860
_LABEL, _RIGHT, _TOP, _AXIS = 104, 12, 22, 20
#: height of a lane: of a few, and of many
_LANE, _THIN = 18, 12
_LABEL_LETTERS = 15
_Key = TypeVar("_Key")

_ORDER: tuple[Phase, ...] = ("done", "waits", "moves", "runs", "succeeds", "fails")


@dataclass(frozen=True, slots=True)
class _Row:
    label: str
    about: str
    stretches: Sequence[Stretch]
    marks: Sequence[Mark]


def timeline_svg(
    timeline: Timeline,
    now_ns: int,
    *,
    by: str = "auto",
    lanes_max: int = LANES_MAX,
    span_ns: tuple[int, int] | None = None,
) -> str:
    """The picture.

    Args:
        now_ns: wall time up to which what goes on is drawn.
        by: "nodes", "ranks", or "auto": a lane for each rank of a small job, for each node of a larger one.
        lanes_max: at the most; nodes and ranks that something happened to come first.
        span_ns: wall time of both edges; None is the whole run.
    """
    began = timeline.started
    start_ns = began.wall_ns if began is not None else now_ns
    low, high = span_ns or (start_ns, max(now_ns, start_ns + 1))
    span = Span(low, max(high, low + 1), (WIDTH - _LABEL - _RIGHT) * 4)
    rows, more = _rows(timeline, span, by, lanes_max)
    picture = _Picture(span, now_ns, len(rows))
    parts = [
        *picture.bands(timeline),
        *picture.axis(start_ns),
        *picture.lanes(rows),
    ]
    height = picture.bottom + _AXIS
    if more:
        parts.append(f'<text class="rally-dim" x="{_LABEL}" y="{height + 10}">{escape(more)}</text> ')
        height += 16
    thin = " rally-thin" if picture.lane == _THIN else ""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="rally-timeline{thin}" viewBox="0 0 {WIDTH} {height}" '
        f'width="100%" style="max-width:{WIDTH}px" role="img" aria-label="{escape(_in_words(timeline))}">'
    )
    return "".join((head, *parts, "</svg>"))


def _in_words(timeline: Timeline) -> str:
    ranks = sum(len(node.ranks) for node in timeline.nodes.values())
    return f"timeline of {harmless(timeline.run_id)}: {plural(len(timeline.nodes), 'node')}, {plural(ranks, 'rank')}"


def _rows(timeline: Timeline, span: Span, by: str, lanes_max: int) -> tuple[list[_Row], str]:
    ranks = sum(len(node.ranks) for node in timeline.nodes.values())
    if by == "ranks" or (by == "auto" and 1 < ranks <= RANKS_MAX):
        maker, what = _rank_rows(timeline, span, lanes_max), "rank"
        more = ranks - lanes_max
    else:
        maker, what = _node_rows(timeline, span, lanes_max), "node"
        more = len(timeline.nodes) - lanes_max
    return list(maker), f"and {plural(more, f'more {what}')}" if more > 0 else ""


def _node_rows(timeline: Timeline, span: Span, lanes_max: int) -> Iterable[_Row]:
    names = [row.key for row in RowMaker().nodes(timeline)]
    struck = {failure.node for failure in timeline.failures.values()} | {
        lost.node for lost in timeline.job.lost
    }
    for name in _chosen(names, struck, lanes_max):
        node = timeline.nodes[name]
        yield _Row(
            node.host or name, _about(node), node_stretches(node, timeline), node_marks(node, timeline, span)
        )


def _rank_rows(timeline: Timeline, span: Span, lanes_max: int) -> Iterable[_Row]:
    rows = {row.key: row for row in RowMaker().ranks(timeline)}
    struck = {(failure.node, failure.local_rank) for failure in timeline.failures.values()}
    for key in _chosen(list(rows), struck, lanes_max):
        row, node = rows[key], timeline.nodes[key[0]]
        label = (
            f"rank {row.now.global_rank}" if len(timeline.nodes) == 1 else f"{row.now.global_rank} {row.host}"
        )
        about = f"{_about(node)}, local rank {key[1]}, {row.state}"
        yield _Row(
            label, about, rank_stretches(node, key[1], timeline), rank_marks(node, key[1], timeline, span)
        )


def _chosen(keys: list[_Key], struck: set[_Key], most: int) -> list[_Key]:
    if len(keys) <= most:
        return keys
    kept = set(list(dict.fromkeys((*(key for key in keys if key in struck), *keys)))[:most])
    return [key for key in keys if key in kept]


def _about(node: Node) -> str:
    return f"{node.name}, group rank {node.group_rank}"


class _Picture:
    """Turns moments into places. A blank is behind each text: a page that takes pictures away leaves their words."""

    def __init__(self, span: Span, now_ns: int, count: int) -> None:
        self._span, self._now_ns = span, now_ns
        self.lane = _LANE if count <= RANKS_MAX else _THIN
        self.bottom = _TOP + self.lane * count
        self._scale = (WIDTH - _LABEL - _RIGHT) / (span.end_ns - span.start_ns)

    def _x(self, time_ns: int) -> float:
        span = self._span
        return _LABEL + (min(max(time_ns, span.start_ns), span.end_ns) - span.start_ns) * self._scale

    def _x_of_cell(self, cell: int) -> float:
        return _LABEL + cell * (WIDTH - _LABEL - _RIGHT) / self._span.width

    def bands(self, timeline: Timeline) -> Iterable[str]:
        height = self.bottom - _TOP
        for band in bands(timeline, self._span, self._now_ns):
            x, end = self._x_of_cell(band.first), self._x_of_cell(band.last + 1)
            shade = "rally-odd" if band.number % 2 else "rally-even"
            yield f'<rect class="{shade}" x="{x:.1f}" y="{_TOP}" width="{end - x:.1f}" height="{height}"/>'
            if end - x > 14:
                words = f"round {band.number}" if end - x > 56 else str(band.number)
                yield f'<text class="rally-dim" x="{x + 3:.1f}" y="{_TOP - 7}">{words}</text> '

    def axis(self, origin_ns: int) -> Iterable[str]:
        bottom = self.bottom
        for cell, words in ticks(self._span, origin_ns, every=self._span.width // 9):
            x = self._x_of_cell(cell)
            yield f'<path class="rally-grid" d="M{x:.1f} {_TOP}V{bottom + 3}"/>'
            yield f'<text class="rally-dim" x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{words}</text> '

    def lanes(self, rows: Sequence[_Row]) -> Iterable[str]:
        paths: dict[Phase, list[str]] = {phase: [] for phase in _ORDER}
        labels, marks = [], []
        for place, row in enumerate(rows):
            middle = _TOP + place * self.lane + self.lane // 2
            labels.append(_label(row, middle))
            for stretch in row.stretches:
                x, end = self._x(stretch.start_ns), self._x(stretch.end_ns or self._now_ns)
                if stretch.phase in paths:
                    paths[stretch.phase].append(f"M{x:.1f} {middle}h{max(end - x, 0.5):.1f}")
            marks += [self._mark(mark, middle) for mark in row.marks]
        for phase, parts in paths.items():
            if parts:
                yield f'<path class="rally-{phase}" d="{"".join(parts)}"/>'
        yield from labels
        yield from marks

    def _mark(self, mark: Mark, middle: int) -> str:
        x, words = self._x_of_cell(mark.cell), escape(harmless(mark.words))
        return (
            f'<text class="rally-mark rally-{mark.kind}" x="{x:.1f}" y="{middle + 4}" text-anchor="middle">'
            f"{MARK_SIGNS[mark.kind]}<title> {words}</title></text> "
        )


def _label(row: _Row, middle: int) -> str:
    words = harmless(row.label)
    if len(words) > _LABEL_LETTERS:
        words = f"{words[: _LABEL_LETTERS - 1]}…"
    return (
        f'<text class="rally-label" x="{_LABEL - 6}" y="{middle + 4}" text-anchor="end">{escape(words)}'
        f"<title> {escape(harmless(row.about))}</title></text> "
    )
