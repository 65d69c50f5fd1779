"""What a live view is told: all once, then what has changed. Pure.

A rank is a short list of values, and what changes is told as the columns that are new, once, and then place and values
of each rank that has such: mostly all have new readings. So a hundred ranks that change are less than three kilobytes,
also as a kernel writes JSON, with all its blanks.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any

from toolkit.core.history import Timeline
from toolkit.core.moment import Moment
from toolkit.core.words import plural
from toolkit.views import html
from toolkit.views.html import NOTHING_SAID, Said
from toolkit.views.lanes import (
    Mark,
    Span,
    Stretch,
    bands,
    node_marks,
    node_stretches,
    rank_marks,
    rank_stretches,
)
from toolkit.views.rows import RANK_STATES, RankKey, RankRow, RowMaker, size_in_words
from toolkit.views.svg import LANES_MAX, RANKS_MAX

Message = dict[str, Any]
Lane = list[Any]


class Deltas:
    """Turns one moment after the other into messages.

    Args:
        name: of the job.
        acts: whether it can be told what to do.
    """

    def __init__(self, name: str, *, acts: bool) -> None:
        self._name, self._acts = name, acts
        self._maker = RowMaker()
        #: of which was told last
        self._told: tuple[Timeline, str, str] | None = None
        self._said: Said = NOTHING_SAID
        self._shape: tuple[Any, ...] | None = None
        self._rows: list[list[Any]] = []
        self._ranked: list[RankRow] = []
        self._lanes: list[Lane] = []
        self._lane_of: list[list[object]] = []
        #: what lanes are made of, whichever it is: the same list while it holds the same
        self._causes: list[object] = []
        self._rest: Message = {}

    def all(
        self,
        timeline: Timeline,
        now_ns: int,
        mode: str,
        notes: Sequence[str] = (),
        said: Said = NOTHING_SAID,
        state: str = "",
    ) -> Message:
        """Everything.

        Args:
            said: the last lines of workers.
            state: what to call its state; as the timeline does if empty.
        """
        self._told, self._said = (timeline, mode, state), said
        self._ranked = self._maker.ranks(timeline)
        self._rows = [_values(row, said) for row in self._ranked]
        keys = _lane_keys(timeline, self._ranked)
        self._shape = self._shape_of(timeline, self._ranked, keys, mode)
        self._find_causes(timeline)
        self._lane_of = [_of_lane(timeline, key, self._causes) for key in keys]
        began = timeline.started
        self._lanes = [_lane(timeline, key, now_ns, began) for key in keys]
        self._rest = self._others(timeline, now_ns, notes, state)
        more = max(len(timeline.nodes) - LANES_MAX, 0) if keys and isinstance(keys[0], str) else 0
        return {
            "kind": "all",
            "name": self._name,
            "mode": mode,
            "acts": self._acts,
            "runs": mode == "LIVE" and not timeline.result,
            "states": [_look(state) for state in RANK_STATES],
            "rows_max": html.ROWS_MAX,
            "rows": [list(row) for row in self._rows],
            "lanes": list(self._lanes),
            "more": f"and {plural(more, 'more node')}" if more else "",
            "now": _ms(now_ns, timeline),
            **self._rest,
        }

    def changes(
        self,
        timeline: Timeline,
        now_ns: int,
        mode: str,
        notes: Sequence[str] = (),
        said: Said = NOTHING_SAID,
        state: str = "",
    ) -> Message | None:
        """What is new since the last message; everything where ranks came, went or moved; None where nothing is."""
        if self._is_told(timeline, mode, notes, state) and said == self._said:
            return None
        self._told = timeline, mode, state
        ranked = self._maker.ranks(timeline)
        keys = _lane_keys(timeline, ranked)
        if self._shape != self._shape_of(timeline, ranked, keys, mode):
            return self.all(timeline, now_ns, mode, notes, said, state)
        message: Message = {}
        rows = self._changed_rows(ranked, said)
        if rows:
            message["rows"] = rows
        lanes = self._changed_lanes(timeline, keys, now_ns)
        if lanes:
            message["lanes"] = lanes
        rest = self._others(timeline, now_ns, notes, state)
        message |= {name: value for name, value in rest.items() if value != self._rest[name]}
        self._rest = rest
        if not message:
            return None
        return {"kind": "changes", "now": _ms(now_ns, timeline), **message}

    def _is_told(self, timeline: Timeline, mode: str, notes: Sequence[str], state: str) -> bool:
        # Timelines are values; to compare what is made of one takes milliseconds, ten times a second.
        return (
            self._told is not None
            and self._told[0] is timeline
            and self._told[1:] == (mode, state)
            and self._rest["notes"] == list(notes)
        )

    def _changed_rows(self, ranked: list[RankRow], said: Said) -> list[list[list[Any]]]:
        """By the columns that are new: those, then places and new values, one after the other."""
        changed: dict[tuple[int, ...], list[Any]] = {}
        for place, (row, before) in enumerate(zip(ranked, self._ranked, strict=True)):
            if row is before and said.get(row.key) == self._said.get(row.key):
                continue
            old, new = self._rows[place], _values(row, said)
            if old != new:
                self._rows[place] = new
                columns = tuple(column for column, value in enumerate(new) if value != old[column])
                changed.setdefault(columns, []).extend((place, *(new[column] for column in columns)))
        self._ranked, self._said = ranked, said
        return [[list(columns), values] for columns, values in changed.items()]

    def _changed_lanes(self, timeline: Timeline, keys: Sequence[Any], now_ns: int) -> list[list[Any]]:
        self._find_causes(timeline)
        changed, began = [], timeline.started
        for place, key in enumerate(keys):
            made_of = _of_lane(timeline, key, self._causes)
            if not _same(made_of, self._lane_of[place]):
                self._lane_of[place] = made_of
                lane = _lane(timeline, key, now_ns, began)
                if lane != self._lanes[place]:
                    self._lanes[place] = lane
                    changed.append([place, lane])
        return changed

    def _find_causes(self, timeline: Timeline) -> None:
        causes: list[object] = [timeline.started, timeline.job, *timeline.failures.values()]
        if not _same(causes, self._causes):
            self._causes = causes

    def _shape_of(
        self, timeline: Timeline, ranked: list[RankRow], keys: Sequence[Any], mode: str
    ) -> tuple[Any, ...]:
        return (
            tuple(row.key for row in ranked),
            tuple(keys),
            mode,
            bool(timeline.result),
            bool(timeline.nodes),
        )

    def _others(self, timeline: Timeline, now_ns: int, notes: Sequence[str], state: str) -> Message:
        # What took how long is drawn from "now"; else there would be a message each second that says nothing else.
        facts = html.job_facts(timeline, now_ns)
        return {
            "head": {
                "badge": _look(state or timeline.state),
                "facts": list(facts[:-1] if timeline.started else facts),
            },
            "bands": _bands(timeline, now_ns),
            "failures": html.failures_html(timeline),
            "notes": list(notes),
        }


def _look(state: str) -> list[str]:
    look, sign = html.look_of(state)
    return [state, look, sign]


_PLACES = {state: place for place, state in enumerate(RANK_STATES)}


def _values(row: RankRow, said: Said) -> list[Any]:
    now, usage = row.now, row.usage
    cpu = None if usage.cpu_percent is None else round(usage.cpu_percent)
    memory = size_in_words(usage.rss_bytes)
    return [
        now.global_rank,
        row.host,
        _PLACES[row.state],
        now.number,
        str(now.pid or ""),
        row.step,
        cpu,
        memory,
        html.last_of(row, said),
    ]


def _ms(time_ns: int, timeline: Timeline) -> int:
    began = timeline.started
    return 0 if began is None else max(time_ns - began.wall_ns, 0) // 1_000_000


def _lane_keys(timeline: Timeline, ranked: list[RankRow]) -> list[Any]:
    if 1 < len(ranked) <= RANKS_MAX:
        return [row.key for row in ranked]
    return list(timeline.nodes)[:LANES_MAX]


def _of_lane(timeline: Timeline, key: str | RankKey, causes: list[object]) -> list[object]:
    """What a lane is made of: while these are the same objects, it is. They are kept, so that none takes their place.

    Readings make a new node each second or two, and no new lane.
    """
    node = timeline.nodes[key if isinstance(key, str) else key[0]]
    return [causes, node.rounds, node.restarts, node.ended, *node.ranks.values()]


def _same(some: list[object], others: list[object]) -> bool:
    return len(some) == len(others) and all(map(is_, some, others))


def _lane(timeline: Timeline, key: str | RankKey, now_ns: int, began: Moment | None) -> Lane:
    start_ns = now_ns if began is None else began.wall_ns
    length = max((now_ns - start_ns) // 1_000_000, 1) + 1
    span = Span(start_ns, start_ns + length * 1_000_000, length)
    if isinstance(key, str):
        node = timeline.nodes[key]
        return [
            node.host or key,
            f"{key}, group rank {node.group_rank}",
            _stretches(node_stretches(node, timeline), start_ns),
            _marks(node_marks(node, timeline, span)),
        ]
    node = timeline.nodes[key[0]]
    rank = node.ranks[key[1]].now.global_rank
    return [
        f"rank {rank}" if len(timeline.nodes) == 1 else f"{rank} {node.host}",
        f"{node.name}, local rank {key[1]}",
        _stretches(rank_stretches(node, key[1], timeline), start_ns),
        _marks(rank_marks(node, key[1], timeline, span)),
    ]


def _stretches(stretches: Sequence[Stretch], start_ns: int) -> list[list[Any]]:
    return [
        [
            (each.start_ns - start_ns) // 1_000_000,
            None if each.end_ns is None else (each.end_ns - start_ns) // 1_000_000,
            each.phase,
        ]
        for each in stretches
        if each.phase != "none"
    ]


def _marks(marks: Sequence[Mark]) -> list[list[Any]]:
    return [[mark.cell, mark.kind, mark.words] for mark in marks]


def _bands(timeline: Timeline, now_ns: int) -> list[list[Any]]:
    began = timeline.started
    if began is None:
        return []
    length = max((now_ns - began.wall_ns) // 1_000_000, 1) + 1
    span = Span(began.wall_ns, began.wall_ns + length * 1_000_000, length)
    found = bands(timeline, span, now_ns)
    open_ended = None if not timeline.ended else found[-1].last if found else None
    return [[band.number, band.first, open_ended if band is found[-1] else band.last] for band in found]
