"""Where two runs part, and what came of them: of simulations, of reports and of bare events."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("greenlet")

from simulator.checkers import record_of
from simulator.faults import CrashNode, SlowWorker
from simulator.interactive.comparison import compare
from simulator.report import simulate
from tests.simulator.interactive.jobs import SMALL
from toolkit.core import events

PLAIN = replace(SMALL, faults=())


def test_a_run_and_itself() -> None:
    one, other = simulate(SMALL, seed=3).record, simulate(SMALL, seed=3).record
    found = compare(one, other)
    assert found.same
    assert found.first is None
    assert str(found) == f"the same: {len(one.told)} events of 3 nodes, and what came of them"


def test_a_node_is_lost_in_one_of_them() -> None:
    plain = simulate(PLAIN).record
    crashed = simulate(replace(PLAIN, faults=(CrashNode("node1", 30.0),))).record
    found = compare(plain, crashed, names=("plain", "crashed"))
    assert found.first is not None
    assert found.first.at_s > 30.0
    assert found.by_node["node1"].other == "says nothing more"
    told = {difference.what: (difference.one, difference.other) for difference in found.outcome}
    assert told["node1"] == ("SUCCEEDED", "lost power")
    assert told["fault"] == ("-", "node1 loses power at 30.0 s")
    assert told["rounds"] == (str(len(plain.rounds)), str(len(crashed.rounds)))
    assert {"restarts", "length"} <= set(told)
    lines = str(found).splitlines()
    assert lines[0] == f"they part at {found.first.at_s:.3f} s, on {found.first.node}; 3 of 3 nodes differ"
    assert lines[2].split() == ["plain", "crashed"]
    assert max(map(len, lines)) <= 98
    assert len(lines) < 25


def test_the_same_said_later_is_told_as_that() -> None:
    slow = simulate(replace(PLAIN, faults=(SlowWorker("node0", 20.0, factor=3.0, for_s=10.0),))).record
    found = compare(simulate(PLAIN).record, slow)
    assert "the same, " in str(found)
    assert " s later" in str(found)


def test_what_is_of_one_run_only_is_no_difference() -> None:
    start = events.AgentStarted(
        node="gpu-a_12", seq=1, mono_ns=5, wall_ns=7, pid=12, hostname="gpu-a", role="trainer",
        local_world_size=1, restarts_max=3, backend="", entrypoint="train.py",
    )  # fmt: skip
    bell = events.LeaseLost(
        node="gpu-a_12", seq=2, wall_ns=8, mono_ns=6, lost="gpu-b_7_abcdef", reason="silent", stood_s=3.0
    )
    again = replace_event(start, node="gpu-a_99", pid=99, wall_ns=100)
    later = replace_event(bell, node="gpu-a_99", wall_ns=101, lost="gpu-b_8_012345")
    assert compare(record_of([start, bell]), record_of([again, later])).same
    other = replace_event(bell, stood_s=4.0)
    found = compare(record_of([start, bell]), record_of([start, other])).first
    assert found is not None
    assert (found.one, found.other) == ("lease lost (stood_s 3.0)", "lease lost (stood_s 4.0)")


def replace_event(event: events.Event, **changes: object) -> events.Event:
    import msgspec

    return msgspec.structs.replace(event, **changes)


def test_nothing_and_something() -> None:
    found = compare(record_of([]), simulate(PLAIN).record)
    assert found.first is not None
    assert found.first.one == "says nothing more"
    assert ("node0", "is not there", "SUCCEEDED") in {(d.what, d.one, d.other) for d in found.outcome}
    assert compare(record_of([]), record_of([])).same


def test_many_nodes_take_one_screen() -> None:
    many = replace(PLAIN, nodes=30, plans={}, min_nodes=20)
    crashed = replace(many, faults=tuple(CrashNode(f"node{index}", 20.0) for index in range(5)))
    lines = str(compare(simulate(many).record, simulate(crashed).record)).splitlines()
    assert len(lines) <= 30
    assert any(line.strip() == "and 20 more" for line in lines)
