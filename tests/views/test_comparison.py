"""Two recordings held against each other: what counts as a difference, what doesn't, and in which words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import msgspec
import pytest

from simulator import scenarios, simulate
from toolkit.core import events as ev
from toolkit.core.experiment import NodeEnd, Strike
from toolkit.views.comparison import Comparison, Side, compare

pytest.importorskip("greenlet")


@cache
def told(name: str, seed: int = 0) -> tuple[ev.Event, ...]:
    return tuple(simulate(scenarios.named(name), seed=seed).events)


def side(name: str, said: Sequence[ev.Event]) -> Side:
    return Side(name, tuple(said))


def against_changed(change: Callable[[ev.Event], ev.Event | None]) -> Comparison:
    """A run of three nodes with a crash, and the same with some events changed, or left out."""
    said = told("short-worker-crash")
    changed = [event for event in map(change, said) if event is not None]
    return compare(side("one", said), side("the other", changed))


def words(found: Comparison) -> list[str]:
    assert found.agree == (not found.differences)
    return [difference.words for difference in found.differences]


@pytest.mark.parametrize("name", scenarios.SHORT)
@pytest.mark.parametrize("seed", range(1, 8))
def test_two_seeds_of_one_scenario_agree(name: str, seed: int) -> None:
    """Other latencies, another coordinator, another one first to notice: none of that is a difference."""
    assert words(compare(side("one", told(name)), side("the other", told(name, seed)))) == []


def test_other_ranks_are_named() -> None:
    def change(event: ev.Event) -> ev.Event:
        if isinstance(event, ev.RendezvousCompleted) and event.round == 2 and event.node.startswith("node2"):
            return msgspec.structs.replace(event, group_rank=1, global_ranks=[2, 3])
        return event

    assert words(against_changed(change)) == [
        "node2 is in round 2 as node 2 of 3, ranks 4 to 5 of 6 in one, "
        "and in round 2 as node 1 of 3, ranks 2 to 3 of 6 in the other"
    ]


def test_a_step_that_is_missing_is_named_with_what_came_before() -> None:
    def change(event: ev.Event) -> ev.Event | None:
        return None if isinstance(event, ev.WorkersStopped) and event.node.startswith("node0") else event

    [difference] = words(against_changed(change))
    assert difference == (
        "node0: after “round 1 is over”, one has “its workers are stopped”; the other has nothing"
    )


def test_another_order_is_named() -> None:
    said = list(told("short-worker-crash"))
    at = {
        kind: next(n for n, e in enumerate(said) if isinstance(e, kind) and e.node.startswith("node1"))
        for kind in (ev.RendezvousCompleted, ev.WorkersStarted)
    }
    here, there = at.values()
    said[here], said[there] = said[there], said[here]
    found = compare(side("one", told("short-worker-crash")), side("the other", said))
    assert {difference.node for difference in found.differences if difference.kind == "order"} == {"node1"}


def test_who_comes_back_may_read_first_that_its_round_ended_or_that_one_has_formed() -> None:
    said = told("short-scale-up")
    ended = next(
        event for event in said if isinstance(event, ev.RoundEnded) and event.node.startswith("node1")
    )
    header = {name: getattr(ended, name) for name in ev.Event.__struct_fields__}
    evicted = ev.Evicted(**header, left=ended.ended, reason="it was silent")
    changed = [evicted if event is ended else event for event in said]
    assert words(compare(side("one", said), side("the other", changed))) == []


def test_a_node_that_is_not_there_is_named() -> None:
    found = against_changed(lambda event: None if event.node.startswith("node2") else event)
    assert "node2 takes part in one only, and not in the other" in words(found)


class TestCauses:
    def test_another_worker_is_a_difference(self) -> None:
        def change(event: ev.Event) -> ev.Event:
            match event:
                case ev.FailureRecorded(local_rank=1) | ev.WorkerExited(local_rank=1, signal="SIGKILL"):
                    return msgspec.structs.replace(event, local_rank=0)
            return event

        assert words(against_changed(change)) == [
            "who failed first in round 1: in one local rank 1 on node1 was killed by SIGKILL; "
            "in the other local rank 0 on node1 was killed by SIGKILL"
        ]

    def test_which_of_two_was_first_is_none(self) -> None:
        """When an agent is killed the workers of both other nodes fail in the same millisecond."""
        firsts = set()
        for seed in range(8):
            said = told("short-agent-kill", seed)
            assert words(compare(side("one", told("short-agent-kill")), side("the other", said))) == []
            failures = [e for e in said if isinstance(e, ev.FailureRecorded)]
            firsts.add(min(failures, key=lambda e: e.wall_ns).node.partition("_")[0])
        assert firsts == {"node0", "node2"}, "else this shows nothing"


class TestOfTheJob:
    def test_its_outcome(self) -> None:
        def change(event: ev.Event) -> ev.Event:
            return (
                msgspec.structs.replace(event, outcome="failed") if isinstance(event, ev.JobEnded) else event
            )

        assert "the job succeeded in one, and failed in the other" in words(against_changed(change))

    def test_what_restarts_cost(self) -> None:
        def change(event: ev.Event) -> ev.Event:
            return msgspec.structs.replace(event, restart_count=0)

        assert words(against_changed(change)) == [
            "1 restart spent of the budget in one, and 0 in the other",
        ]

    def test_why_a_round_ended(self) -> None:
        def change(event: ev.Event) -> ev.Event:
            if isinstance(event, ev.RoundEnded):
                return msgspec.structs.replace(event, action="membership", spends_budget=False)
            return event

        assert words(against_changed(change)) == [
            "round 1 ended for a failure, at the cost of the budget in one, "
            "and for nodes that come or go, for free in the other"
        ]

    def test_who_was_lost(self) -> None:
        def change(event: ev.Event) -> ev.Event | None:
            return None if isinstance(event, ev.LeaseLost) else event

        said = told("short-agent-crash")
        changed = [event for event in map(change, said) if event is not None]
        found = compare(side("one", said), side("the other", changed))
        assert words(found) == ["taken for lost: node1 in one, nobody in the other"]

    def test_how_each_node_ended(self) -> None:
        mine = replace(side("one", told("short-scale-up")), ends={"node0": NodeEnd("SUCCEEDED", 0)})
        theirs = replace(mine, name="the other", ends={"node0": NodeEnd("KILLED", -9)})
        assert words(compare(mine, theirs)) == [
            "node0 ends as SUCCEEDED with exit code 0 in one, and as KILLED with exit code -9 in the other"
        ]
        unknown = replace(mine, ends={"node0": NodeEnd("SUCCEEDED")})
        assert words(compare(mine, unknown)) == []


class TestDurations:
    def test_they_stand_side_by_side_and_are_no_difference(self) -> None:
        def slower(event: ev.Event) -> ev.Event:
            return msgspec.structs.replace(event, mono_ns=3 * event.mono_ns)

        found = against_changed(slower)
        assert found.agree
        stop = next(each for each in found.durations if each.phase == "after round 1: stop")
        assert stop.first_s and stop.second_s
        assert stop.ratio == pytest.approx(3)

    def test_from_a_fault_to_the_end_of_the_round(self) -> None:
        said = told("short-agent-crash")
        began_ns = min(event.wall_ns for event in said)
        struck = (Strike("CrashNode", "node1", 1.6, None, "node1 loses power"),)
        mine = replace(side("one", said), strikes=struck, began_wall_ns=began_ns)
        found = compare(mine, replace(mine, name="the other"))
        phase = next(each for each in found.durations if each.phase.startswith("fault 1"))
        assert phase.first_s == phase.second_s
        assert 1 < (phase.first_s or 0) < 3, "a lease of 2 s"

    def test_a_phase_that_only_one_side_has(self) -> None:
        found = compare(side("one", told("short-worker-crash")), side("the other", told("short-scale-up")))
        phases = {each.phase: each for each in found.durations}
        assert phases["after round 1: detect"].second_s is None
        assert phases["after round 1: detect"].ratio is None


def test_on_one_screen() -> None:
    def change(event: ev.Event) -> ev.Event | None:
        return None if isinstance(event, ev.WorkersStopped) and event.node.startswith("node0") else event

    text = str(against_changed(change))
    lines = text.splitlines()
    assert lines[0] == "✗ one and the other differ in 1 thing"
    assert (
        lines[1]
        == "  ✗ node0: after “round 1 is over”, one has “its workers are stopped”; the other has nothing"
    )
    assert lines[3] == "  node1 and node2, the same on both sides"
    assert lines[4].startswith("    its agent starts; in round 1; its workers run; round 1 is over; ")
    assert lines[6].split() == ["longest", "of", "all", "nodes", "one", "the", "other", "ratio"]
    assert max(map(len, lines)) < 200
    assert str(compare(side("a", told("short-scale-up")), side("b", told("short-scale-up")))).startswith(
        "✓ a and b agree\n"
    )
