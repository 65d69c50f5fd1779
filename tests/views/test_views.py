"""Rows, lanes, words and code from timelines: no screen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings

from tests.core.test_events import sample
from tests.core.test_timeline import ANY_EVENTS
from toolkit.adapters.recording.reader import read_run
from toolkit.core import events as ev
from toolkit.core.moment import Moment
from toolkit.core.timeline import Timeline, fold_all
from toolkit.fronts.tui.overview import detail_lines, overview, sparkline
from toolkit.views import lanes
from toolkit.views.lanes import Span
from toolkit.views.rows import NODE_FIELDS, RANK_FIELDS, RowMaker, age_s, short_duration, size_in_words
from toolkit.views.telling import told

Runs = Callable[..., Path]
SECOND = 10**9


def timeline_of(path: Path) -> Timeline:
    return fold_all(read_run(path).events())


@settings(deadline=None, max_examples=200)
@given(events=ANY_EVENTS)
def test_nothing_that_a_recording_says_breaks_a_view(events: list[ev.AnyEvent]) -> None:
    timeline, maker = fold_all(events), RowMaker()
    nodes, ranks = maker.nodes(timeline), maker.ranks(timeline)
    assert {row.key for row in nodes} == set(timeline.nodes)
    for row in nodes:
        assert tuple(row.fields) == NODE_FIELDS
    for row in ranks:
        assert tuple(row.fields) == RANK_FIELDS
        detail_lines(timeline, row, 0)
    span = Span(0, 100 * SECOND, 50)
    for node in timeline.nodes.values():
        lane = lanes.node_lane(node, timeline, span, 0)
        assert len(lane.phases) == 50 and all(0 <= mark.cell < 50 for mark in lane.marks)
        for local_rank in node.ranks:
            assert len(lanes.rank_lane(node, local_rank, timeline, span, 0).phases) == 50
    lanes.bands(timeline, span, 0)
    lines = overview(timeline, nodes, ranks, [], elapsed_s=1.0, width=80, height=20, since=[])
    assert len(lines) <= 20
    for event in events:
        told(event)


@pytest.mark.parametrize("kind", get_args(ev.AnyEvent), ids=lambda kind: kind.__name__)
def test_each_event_is_one_line_or_no_news(kind: type[ev.Event]) -> None:
    line = told(sample(kind))
    assert line is None or ("\n" not in line.words and line.words)
    if line is None:
        assert kind is ev.ReadingsTaken


def test_a_row_that_did_not_change_is_the_same_object(runs: Runs) -> None:
    events = list(read_run(runs("worker-crash")).events())
    maker = RowMaker()
    before = {row.key: row for row in maker.ranks(fold_all(events[:-20]))}
    timeline = fold_all(events[:-20])
    again = maker.ranks(timeline)
    third = maker.ranks(fold_all(events[-20:-19], timeline))
    assert [row is before[row.key] for row in again].count(True) == 0, "another fold has other objects"
    assert [a is b for a, b in zip(again, third, strict=True)].count(False) <= 2


def test_a_lane_tells_the_story_of_its_node(runs: Runs) -> None:
    timeline = timeline_of(runs("worker-crash"))
    first, last = timeline.started, timeline.ended
    assert first is not None and last is not None
    span = Span(first.wall_ns, last.wall_ns, 100)
    [failed] = {failure.node for failure in timeline.failures.values() if failure.signal == "SIGKILL"}
    lane = lanes.node_lane(timeline.nodes[failed], timeline, span, last.wall_ns)
    assert "fails" in lane.phases and "succeeds" in lane.phases
    [mark] = [mark for mark in lane.marks if mark.kind == "failure"]
    assert "SIGKILL" in mark.words
    assert lane.phases[mark.cell - 1] == "fails" and lane.phases[-2] == "succeeds"
    bands = lanes.bands(timeline, span, last.wall_ns)
    assert [band.number for band in bands] == [1, 2]
    assert bands[0].last < bands[1].first or bands[0].last == bands[1].first


def test_an_axis_has_round_numbers() -> None:
    span = Span(0, 60 * SECOND, 60)
    assert lanes.ticks(span, 0) == [(0, "+0s"), (15, "+15s"), (30, "+30s"), (45, "+45s")]
    assert lanes.since(3725) == "+1:02:05" and lanes.since(-5) == "-5s" and lanes.since(0.25) == "+0.2s"


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (None, ""),
        (0, "0B"),
        (999, "999B"),
        (2048, "2K"),
        (5 << 20, "5M"),
        (3 << 30, "3.0G"),
        (250 << 30, "250G"),
    ],
)
def test_sizes(count: int | None, words: str) -> None:
    assert size_in_words(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (5.9, "5s"), (65, "1m05s"), (3700, "1h01m"), (90000, "1d01h"), (1e30, "11574d01h")],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert short_duration(seconds) == words


def test_an_age_is_never_negative() -> None:
    assert age_s(Moment(0, 10 * SECOND), 5 * SECOND) == 0.0
    assert age_s(None, 5) is None


def test_a_curve_in_letters() -> None:
    assert sparkline([0, 50, 100, None, 1e9], 100) == "▁▅█ █"
    assert sparkline([], 0) == "" and sparkline([0.0], 0.0) == "▁"


def test_a_bell_points_from_who_rang_it_to_those_whose_round_it_ended(runs: Runs) -> None:
    timeline = timeline_of(runs("worker-crash"))
    first, last = timeline.started, timeline.ended
    assert first is not None and last is not None
    span = Span(first.wall_ns, last.wall_ns, 60)
    nodes = timeline.nodes.values()
    lanes_of = {node.host: lanes.node_lane(node, timeline, span, last.wall_ns) for node in nodes}
    kinds = {host: {mark.kind for mark in lane.marks} for host, lane in lanes_of.items()}
    assert kinds == {
        "node0": {"from_below"},
        "node1": {"failure"},
        "node2": {"from_above"},
        "node3": {"from_above"},
    }
    [mark] = lanes_of["node2"].marks
    assert mark.words.startswith("node1_") and "was killed by SIGKILL" in mark.words
