"""Timelines as SVG and HTML, and what a live view is told: well-formed, harmless, small."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given, settings

from tests.core.test_events import sample
from tests.core.test_timeline import ANY_EVENTS
from toolkit.adapters.recording.reader import read_run
from toolkit.core import events as ev
from toolkit.core.timeline import Timeline, fold, fold_all
from toolkit.fronts.notebook.deltas import Deltas
from toolkit.views.html import job_html, standing_alone
from toolkit.views.svg import LANES_MAX, timeline_svg
from toolkit.views.tables import rank_rows

Runs = Callable[..., Path]
SVG = "{http://www.w3.org/2000/svg}"


def timeline_of(path: Path) -> Timeline:
    return fold_all(read_run(path).events())


def ended_ns(timeline: Timeline) -> int:
    return max((node.last_event.wall_ns for node in timeline.nodes.values() if node.last_event), default=1)


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def test_a_lane_for_each_rank_of_a_small_job_and_each_node_of_a_large_one(runs: Runs) -> None:
    small, large = timeline_of(runs("worker-crash")), timeline_of(runs("happy-64"))
    assert _labels(timeline_svg(small, ended_ns(small)))[0] == "0 node0"
    assert len(_labels(timeline_svg(small, ended_ns(small)))) == 8
    assert _labels(timeline_svg(large, ended_ns(large)))[:2] == ["node0", "node1"]
    assert "and 54 more nodes" in timeline_svg(large, ended_ns(large), lanes_max=10)


def _labels(svg: str) -> list[str]:
    return [node.text or "" for node in parsed(svg).iter(f"{SVG}text") if node.get("class") == "rally-label"]


def test_what_failed_is_drawn_even_where_not_all_can_be(runs: Runs) -> None:
    timeline = timeline_of(runs("worker-crash"))
    svg = timeline_svg(timeline, ended_ns(timeline), by="nodes", lanes_max=1)
    assert _labels(svg) == ["node1"], "the node whose worker was killed"
    assert "rally-failure" in svg


@settings(max_examples=60)
@given(ANY_EVENTS)
def test_any_recording_gives_a_picture(of: list[ev.Event]) -> None:
    timeline = fold_all(of)
    for by in ("nodes", "ranks"):
        parsed(timeline_svg(timeline, ended_ns(timeline), by=by))
    page = job_html(timeline, ended_ns(timeline), name="any", mode="REPLAY")
    ElementTree.fromstring(page)
    Deltas("any", acts=True).all(timeline, ended_ns(timeline), "REPLAY")


def test_hostile_words_do_nothing(runs: Runs) -> None:
    hostile = '<script>alert("1")</script>\x1b[31m&"\'>'
    timeline = timeline_of(runs("worker-crash"))
    nodes = {
        f"{hostile}{place}": msgspec.structs.replace(node, name=f"{hostile}{place}", host=hostile)
        for place, node in enumerate(timeline.nodes.values())
    }
    failures = {
        key: msgspec.structs.replace(each, message=hostile, traceback=hostile, node=hostile)
        for key, each in timeline.failures.items()
    }
    bad = msgspec.structs.replace(timeline, run_id=hostile, nodes=nodes, failures=failures)
    for page in (
        job_html(bad, ended_ns(timeline), name=hostile, mode=hostile, notes=[hostile]),
        timeline_svg(bad, ended_ns(timeline)),
    ):
        assert "<script" not in page and "\x1b" not in page
        ElementTree.fromstring(page)


def test_a_picture_that_stands_alone_has_its_colours(runs: Runs) -> None:
    timeline = timeline_of(runs("worker-crash"))
    svg = standing_alone(timeline_svg(timeline, ended_ns(timeline)))
    root = parsed(svg)
    assert root.get("class") == "rally rally-timeline"
    assert "prefers-color-scheme:dark" in svg and ".rally .rally-runs{stroke" in svg


# -- what a live view is told ---------------------------------------------------------------------------------


def shown(told: list[dict[str, Any]]) -> dict[str, Any]:
    """What `live.js` knows after these messages."""
    known: dict[str, Any] = {}
    for message in map(json.loads, map(json.dumps, told)):
        if message["kind"] == "all":
            known = message
            continue
        for name in ("now", "head", "bands", "failures", "notes"):
            known[name] = message.get(name, known[name])
        for columns, values in message.get("rows", ()):
            for at in range(0, len(values), len(columns) + 1):
                for column, value in zip(columns, values[at + 1 :], strict=False):
                    known["rows"][values[at]][column] = value
        for place, lane in message.get("lanes", ()):
            known["lanes"][place] = lane
    return known


@pytest.mark.parametrize("name", ["worker-crash", "moved-rank-0", "scale-up", "flapping-joiner", "happy-64"])
@pytest.mark.parametrize("seed", range(3))
def test_all_changes_make_what_all_at_once_is(runs: Runs, name: str, seed: int) -> None:
    events = list(read_run(runs(name)).events())
    portions, tape = [], random.Random(seed)
    while events:
        size = tape.randint(1, 12)
        portions.append(events[:size])
        del events[:size]
    deltas, timeline = Deltas(name, acts=True), Timeline()
    told = [deltas.all(timeline, 1, "SIM")]
    for portion in portions:
        timeline = fold_all(portion, timeline)
        message = deltas.changes(timeline, ended_ns(timeline), "SIM")
        told += [message] if message is not None else []
    whole = Deltas(name, acts=True).all(timeline, ended_ns(timeline), "SIM")
    known = shown(told)
    # Time goes on without a message: the front end has a clock.
    told_apart = ("kind", "now")
    assert {key: known[key] for key in whole if key not in told_apart} == {
        key: value for key, value in json.loads(json.dumps(whole)).items() if key not in told_apart
    }


def test_nothing_new_is_not_told(runs: Runs) -> None:
    timeline = timeline_of(runs("worker-crash"))
    deltas = Deltas("job", acts=False)
    deltas.all(timeline, ended_ns(timeline), "SIM")
    assert deltas.changes(timeline, ended_ns(timeline) + 10**9, "SIM") is None


def test_what_workers_say_is_told_and_how_they_ended_outlasts_it(runs: Runs) -> None:
    timeline = fold_all(_started(3))
    deltas = Deltas("job", acts=True)
    deltas.all(timeline, 2, "LIVE")
    message = deltas.changes(timeline, 3, "LIVE", (), {("a", 1): "epoch 3 " + "x" * 500})
    assert message is not None and message["rows"] == [[[8], [1, ("epoch 3 " + "x" * 500)[:80]]]]
    assert deltas.changes(timeline, 4, "LIVE", (), {("a", 1): "epoch 3 " + "x" * 500}) is None
    timeline = fold(timeline, _exit(1))
    message = deltas.changes(timeline, 5, "LIVE", (), {("a", 1): "epoch 4"})
    assert message is not None
    page = job_html(timeline, 6, name="job", mode="LIVE", said={("a", 0): "loss <0.3>"})
    assert "loss &lt;0.3&gt;" in page


def test_a_hundred_ranks_that_change_are_three_kilobytes() -> None:
    timeline = fold_all(_started(1000))
    deltas = Deltas("job", acts=True)
    deltas.all(timeline, 2, "LIVE")
    for rank in range(100):
        timeline = fold(timeline, _exit(rank))
    message = deltas.changes(timeline, 3, "LIVE")
    assert message is not None
    ((columns, values),) = message["rows"]
    assert len(values) == 100 * (1 + len(columns))
    assert len(json.dumps(message)) <= 3_000


def test_steps_of_a_hundred_ranks_are_three_kilobytes_too() -> None:
    timeline, deltas = fold_all(_started(1000)), Deltas("job", acts=True)
    deltas.all(timeline, 2, "LIVE")
    workers = [
        ev.WorkerReading(local_rank=rank, cpu_percent=100.0, rss_bytes=rank << 29, step=123_456 + rank)
        for rank in range(900, 1000)
    ]
    timeline = fold(timeline, _said(ev.ReadingsTaken, 2001, incarnation=0, workers=workers, gpus=[]))
    message = deltas.changes(timeline, 3, "LIVE")
    assert message is not None
    ((columns, values),) = message["rows"]
    assert columns == [5, 6, 7] and values[:4] == [900, 124_356, 100, "450G"]
    assert len(json.dumps(message)) <= 3_000


def test_steps_that_ranks_tell_stand_in_the_table_while_they_run() -> None:
    timeline = fold_all(_started(2))
    assert ">step<" not in job_html(timeline, 2, name="job", mode="LIVE")
    workers = [ev.WorkerReading(local_rank=rank, cpu_percent=1.0, rss_bytes=1, step=rank) for rank in (0, 1)]
    timeline = fold(timeline, _said(ev.ReadingsTaken, 2001, incarnation=0, workers=workers, gpus=[]))
    page = job_html(timeline, 3, name="job", mode="LIVE")
    assert ">step<" in page and '<td class="rally-number">1</td><td>1 %</td>' in page
    assert [row["step"] for row in rank_rows(timeline)] == [0, 1]
    # What a worker came to after its last reading nobody knows.
    timeline = fold(timeline, _exit(1, seq=2002))
    assert [row["step"] for row in rank_rows(timeline)] == [0, None]


def test_a_failure_is_told_once() -> None:
    """An agent makes up for want of an error file what the signal says."""
    said = {"global_rank": 2, "exit_code": None, "signal": "SIGKILL", "first": True, "what": "", "remedy": ""}
    for message, shown in (
        ("Signal 9 (SIGKILL) received by PID 7", "rank 2 was killed by SIGKILL</span> <span"),
        ("no memory\nleft", "rank 2 was killed by SIGKILL</span>: no memory <span"),
    ):
        timeline = fold_all([*_started(3), _said(ev.FailureRecorded, 9, message=message, **said)])
        assert shown in job_html(timeline, 3, name="job", mode="LIVE")


def test_readings_make_no_lane_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    timeline = fold_all(_started(8))
    now = Deltas("job", acts=True)
    now.all(timeline, 2, "LIVE")
    drawn: list[Any] = []
    monkeypatch.setattr(
        f"{Deltas.__module__}.rank_stretches", lambda node, rank, of: drawn.append(rank) or []
    )
    workers = [ev.WorkerReading(local_rank=0, cpu_percent=50.0, rss_bytes=1 << 20)]
    timeline = fold(timeline, _said(ev.ReadingsTaken, 2001, incarnation=0, workers=workers, gpus=[]))
    assert now.changes(timeline, 3, "LIVE") is not None and not drawn
    timeline = fold(timeline, _exit(5))
    assert now.changes(timeline, 4, "LIVE") is not None and drawn


def test_what_becomes_something_else_twice_is_told() -> None:
    # What a lane is made of is compared by identity; an address alone would do for another object that came there.
    timeline, now = fold_all(_started(2)), Deltas("job", acts=True)
    now.all(timeline, 2, "LIVE")
    for turn in range(50):
        timeline = fold(timeline, _exit(0, seq=3000 + 2 * turn, incarnation=turn))
        again = {"local_rank": 0, "global_rank": 0, "incarnation": turn + 1, "pid": 7}
        timeline = fold(timeline, _said(ev.WorkerStarted, 3001 + 2 * turn, **again))
        message = now.changes(timeline, 3 + turn, "LIVE")
        assert message is not None and [place for place, _ in message["lanes"]] == [0]


def _said(kind: type[ev.Event], seq: int, **fields: Any) -> ev.Event:
    return msgspec.structs.replace(sample(kind), node="a", run_id="job", round=1, seq=seq, **fields)


def _started(count: int) -> list[ev.Event]:
    workers = (
        _said(ev.WorkerStarted, rank + 2, local_rank=rank, global_rank=rank, incarnation=0, pid=1000 + rank)
        for rank in range(count)
    )
    return [_said(ev.AgentStarted, 1, local_world_size=count), *workers]


def _exit(rank: int, seq: int = 0, incarnation: int = 0) -> ev.Event:
    how = {"exit_code": 0, "signal": "", "stopped_by_agent": True}
    who = {"local_rank": rank, "global_rank": rank, "incarnation": incarnation}
    return _said(ev.WorkerExited, seq or 2000 + rank, **who, **how)


def test_no_more_lanes_than_have_room(runs: Runs) -> None:
    timeline = timeline_of(runs("happy-64"))
    many = {f"x{n}": node for n in range(5) for node in timeline.nodes.values()} | dict(timeline.nodes)
    large = msgspec.structs.replace(timeline, nodes=many)
    message = Deltas("job", acts=False).all(large, ended_ns(timeline), "SIM")
    assert len(message["lanes"]) == LANES_MAX and message["more"] == "and 29 more nodes"
