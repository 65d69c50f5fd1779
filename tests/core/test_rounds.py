"""Rendezvous as values: the head keeps to its table, ranks have one holder each, rounds close when they should."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from toolkit.core import rounds
from toolkit.core.errors import ConfigurationError
from toolkit.core.model import _RoleInstanceInfo
from toolkit.core.ranks import RankBase, rank_bases
from toolkit.core.rounds import (
    CARD_MAX,
    ENDED,
    HOLD_MAX_S,
    HOLD_S,
    PROTOCOL,
    STEPS,
    Candidate,
    Card,
    Gathering,
    GiveUp,
    Head,
    Malformed,
    Phase,
    Place,
    Plan,
    Ring,
    Seal,
    Seat,
    Settings,
    Wait,
    chosen,
    differences,
    encoded,
    group_ranks,
    hold_s,
    look,
    over,
    planned,
    refusal,
    welcome,
)

SECOND = 1_000_000_000

SETTINGS = Settings(min_nodes=1, max_nodes=4)
CRASH = Ring(action="restart", reason="rank 1 exited with code 3", by="b", cause="exit code 3", spends=True)
JOIN = Ring(action="membership", reason="1 node waits to join: e", by="a")


def settings(**changes: Any) -> Settings:
    return Settings(**({"min_nodes": 1, "max_nodes": 4} | changes))


def card(node: str, **changes: Any) -> Card:
    fields: dict[str, Any] = {
        "node": node,
        "host": f"host-{node}",
        "address": "10.0.0.1",
        "port": 29500,
        "role": "trainer",
        "local_world_size": 2,
        "settings": SETTINGS,
    }
    return Card(**(fields | changes))


def candidate(node: str, seat: int, since_ns: int = 0, **changes: Any) -> Candidate:
    return Candidate(seat, card(node, **changes), since_ns)


def gathering(**changes: Any) -> Head:
    """A job whose first round is yet to form."""
    return Head(**({"coordinator": "a", "writer": "a", "settings": SETTINGS} | changes))


def running(number: int = 1, size: int = 2, **changes: Any) -> Head:
    return gathering(**({"round": number, "phase": "running", "size": size, "sealed_epoch": 1} | changes))


def regathering(number: int = 1, size: int = 2, ring: Ring = CRASH, **changes: Any) -> Head:
    """A job whose round has ended."""
    return running(number, size, phase="gathering", ring=ring, **changes)


def in_phase(phase: Phase, number: int = 1, **changes: Any) -> Head:
    if phase == "gathering":
        return regathering(number, **changes)
    return running(number, phase=phase, **({"why": "rank 1 failed"} if phase == "failed" else {}) | changes)


# -- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"min_nodes": 0}, ["a round of 0 to 4 nodes", "1 <= min <= max"]),
        ({"min_nodes": 5}, ["a round of 5 to 4 nodes", "1 <= min <= max"]),
        ({"min_nodes": -1, "max_nodes": -1}, ["a round of -1 to -1 nodes"]),
        ({"spares": -1}, ["spares is -1", "0 or more"]),
        ({"beat_s": 0}, ["beat_s is 0", "more than 0 seconds"]),
        ({"lease_s": -4}, ["lease_s is -4", "more than 0 seconds"]),
        ({"join_timeout_s": 0}, ["join_timeout_s is 0", "more than 0 seconds"]),
        ({"store_timeout_s": 0}, ["store_timeout_s is 0", "more than 0 seconds"]),
        ({"last_call_s": -1}, ["last_call_s is -1", "0 or more seconds"]),
        ({"join_window_s": -0.5}, ["join_window_s is -0.5", "0 or more seconds"]),
        ({"beat_s": 3}, ["a lease of 4 s", "a beat each 3 s", "at least 6 s"]),
        ({"lease_s": 60}, ["a store timeout of 60 s", "the lease of 60 s", "a longer one"]),
    ],
)
def test_settings_that_cannot_be_are_refused_in_words(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings(**values)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", ["beat_s", "lease_s", "last_call_s", "join_timeout_s", "join_window_s", "store_timeout_s"]
)
def test_a_time_is_a_finite_number(name: str, value: float) -> None:
    """JSON has no other numbers, and no clock reaches them."""
    with pytest.raises(ConfigurationError, match=name.removesuffix("_s").replace("_", ".")):
        settings(**{name: value})


def test_what_is_just_allowed() -> None:
    made = settings(beat_s=2, lease_s=4, store_timeout_s=4.1, last_call_s=0, join_window_s=0, spares=0)
    assert made.alert_beat_s < made.beat_s
    assert made.alert_lease_s < made.lease_s


@given(st.floats(0.01, 100), st.floats(2, 10))
def test_the_alert_lease_spans_more_than_one_beat(beat_s: float, beats: float) -> None:
    made = settings(beat_s=beat_s, lease_s=beat_s * beats, store_timeout_s=2000)
    assert made.alert_lease_s >= 1.5 * made.alert_beat_s * (1 - 1e-9)


OTHER_VALUES: dict[str, Any] = {
    "min_nodes": 2,
    "max_nodes": 5,
    "max_restarts": 7,
    "spares": 3,
    "beat_s": 1.5,
    "lease_s": 5.0,
    "last_call_s": 31.0,
    "join_timeout_s": 601.0,
    "join_window_s": 6.0,
    "store_timeout_s": 61.0,
}


def test_the_table_of_other_values_knows_every_setting() -> None:
    assert set(OTHER_VALUES) == set(Settings.__struct_fields__)


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_difference_names_the_setting_and_both_values(name: str) -> None:
    here, there = settings(max_restarts=3, spares=1), settings(max_restarts=3, spares=1)
    there = msgspec.structs.replace(there, **{name: OTHER_VALUES[name]})
    assert differences(here, there) == [
        f"{name} is {OTHER_VALUES[name]} there and {getattr(here, name)} here"
    ]


def test_all_differences_are_told() -> None:
    assert len(differences(settings(max_restarts=0, spares=0), Settings(**OTHER_VALUES))) == len(OTHER_VALUES)


def test_no_difference_is_none() -> None:
    assert differences(SETTINGS, settings()) == []


@pytest.mark.parametrize(("here", "there"), [(None, 3), (3, None), (None, None), (3, 3), (0, None)])
def test_a_budget_that_one_leaves_open_is_no_difference(here: int | None, there: int | None) -> None:
    assert differences(settings(max_restarts=here), settings(max_restarts=there)) == []


def test_no_budget_and_an_open_one_are_not_the_same() -> None:
    assert differences(settings(max_restarts=0), settings(max_restarts=3))


def test_any_number_of_spares_is_another_thing_than_some() -> None:
    assert differences(settings(spares=None), settings(spares=2))


# -- transitions ----------------------------------------------------------------------------------------------

#: name of a transition -> what it makes of a head, for node "a", the coordinator, in the round of the head
TRANSITIONS: dict[str, Callable[[Head, str, int], Head | None]] = {
    "taken_over": lambda head, node, number: rounds.taken_over(head, node),
    "vacated": lambda head, node, number: rounds.vacated(head, node),
    "sealed": lambda head, node, number: rounds.sealed(head, node, 3),
    "rung for a crash": lambda head, node, number: rounds.rung(head, node, number, CRASH),
    "rung for a join": lambda head, node, number: rounds.rung(head, node, number, JOIN),
    "finishing": rounds.finishing,
    "succeeded": rounds.succeeded,
    "failed": lambda head, node, number: rounds.failed(head, node, number, "rank 1 failed"),
}
#: what follows, written down once more, by hand: transition -> phase before -> phase after; what is left out is None
FOLLOWS: dict[str, dict[str, str]] = {
    "taken_over": {"gathering": "gathering", "running": "running", "finishing": "finishing"},
    "vacated": {"gathering": "gathering", "running": "running", "finishing": "finishing"},
    "sealed": {"gathering": "running"},
    "rung for a crash": {"running": "gathering"},
    "rung for a join": {"running": "gathering"},
    "finishing": {"running": "finishing"},
    "succeeded": {"finishing": "succeeded"},
    "failed": {"gathering": "failed", "running": "failed", "finishing": "failed"},
}
OF_A_ROUND = ("rung for a crash", "rung for a join", "finishing", "succeeded", "failed")


def test_the_table_knows_every_phase_and_what_ended_stays_so() -> None:
    assert set(STEPS) == set(get_args(Phase))
    assert all(after in STEPS for nexts in STEPS.values() for after in nexts)
    assert all(STEPS[phase] == frozenset() for phase in ENDED)


def test_success_comes_only_out_of_finishing_which_nothing_restarts() -> None:
    assert [phase for phase, nexts in STEPS.items() if "succeeded" in nexts] == ["finishing"]
    assert not STEPS["finishing"] & {"gathering", "running"}


@pytest.mark.parametrize("phase", STEPS)
@pytest.mark.parametrize("name", TRANSITIONS)
def test_each_transition_in_each_phase(name: str, phase: Phase) -> None:
    before = in_phase(phase)
    after = TRANSITIONS[name](before, "a", before.round)
    assert (None if after is None else after.phase) == FOLLOWS[name].get(phase)
    if after is not None:
        assert after.phase == phase or after.phase in STEPS[phase]
        assert (after.version, after.writer) == (before.version + 1, "a")


@pytest.mark.parametrize("phase", STEPS)
@pytest.mark.parametrize("number", [0, 2, 4])
@pytest.mark.parametrize("name", OF_A_ROUND)
def test_what_is_said_of_another_round_is_not_to_be_had(name: str, number: int, phase: Phase) -> None:
    assert TRANSITIONS[name](in_phase(phase, 3), "a", number) is None


@pytest.mark.parametrize("name", ["sealed", "vacated"])
def test_only_the_coordinator_seals_and_vacates(name: str) -> None:
    assert TRANSITIONS[name](regathering(), "b", 1) is None


def test_whoever_was_replaced_cannot_seal() -> None:
    replaced = rounds.taken_over(regathering(), "b")
    assert replaced is not None
    assert rounds.sealed(replaced, "a", 2) is None
    assert rounds.sealed(replaced, "b", 2) is not None


def test_a_job_opens_with_nothing_formed() -> None:
    head = rounds.opened("a", SETTINGS)
    assert (head.phase, head.round, head.epoch, head.coordinator) == ("gathering", 0, 1, "a")
    assert (head.restarts, head.moves, head.ring, head.ended) == (0, 0, None, False)


def test_taking_over_begins_the_next_epoch_and_leaves_the_round_alone() -> None:
    before = running(3, epoch=5)
    after = rounds.taken_over(before, "c")
    assert after is not None
    assert (after.epoch, after.coordinator) == (6, "c")
    assert (after.round, after.sealed_epoch, after.size) == (3, 1, 2)


def test_who_vacates_leaves_the_epoch_to_whoever_takes_it() -> None:
    after = rounds.vacated(running(epoch=5), "a")
    assert after is not None
    assert (after.epoch, after.coordinator) == (5, "")


def test_a_seal_counts_the_round_and_forgets_why_the_last_one_ended() -> None:
    after = rounds.sealed(regathering(2, epoch=7), "a", 3)
    assert after is not None
    assert (after.round, after.phase, after.size, after.sealed_epoch, after.ring) == (
        3,
        "running",
        3,
        7,
        None,
    )


def test_a_crash_spends_and_a_join_does_not() -> None:
    crashed, joined = rounds.rung(running(), "b", 1, CRASH), rounds.rung(running(), "b", 1, JOIN)
    assert crashed is not None
    assert joined is not None
    assert (crashed.restarts, crashed.moves, crashed.ring) == (1, 0, CRASH)
    assert (joined.restarts, joined.moves, joined.ring) == (0, 1, JOIN)


def test_a_crash_in_a_round_that_ended_for_a_join_is_still_counted_once() -> None:
    joined = rounds.rung(running(restarts=1), "a", 1, JOIN)
    assert joined is not None
    crashed = rounds.rung(joined, "b", 1, CRASH)
    assert crashed is not None
    assert (crashed.phase, crashed.ring, crashed.restarts, crashed.moves) == ("gathering", CRASH, 2, 0)
    assert rounds.rung(crashed, "c", 1, CRASH) is None
    assert rounds.rung(crashed, "c", 1, JOIN) is None


@pytest.mark.parametrize("second", [CRASH, JOIN])
def test_a_second_failure_of_one_round_is_not_counted(second: Ring) -> None:
    crashed = rounds.rung(running(), "b", 1, CRASH)
    assert crashed is not None
    assert rounds.rung(crashed, "c", 1, second) is None


def test_a_second_join_in_one_round_is_not_counted() -> None:
    assert rounds.rung(regathering(ring=JOIN, moves=1), "c", 1, JOIN) is None


def test_a_crash_after_the_next_round_has_formed_is_of_the_past() -> None:
    sealed = rounds.sealed(regathering(ring=JOIN, moves=1), "a", 2)
    assert sealed is not None
    assert rounds.rung(sealed, "b", 1, CRASH) is None


@pytest.mark.parametrize("ring", [CRASH, JOIN])
def test_before_the_first_round_there_is_nothing_to_ring(ring: Ring) -> None:
    assert rounds.rung(gathering(), "a", 0, ring) is None


def test_a_first_round_that_never_forms_can_fail() -> None:
    after = rounds.failed(gathering(), "a", 0, "0 of the 2 nodes that a round needs are there")
    assert after is not None
    assert (after.phase, after.why) == ("failed", "0 of the 2 nodes that a round needs are there")


def lost(head: Head, hosts: list[str]) -> Head:
    after = rounds.rung(head, "a", 1, JOIN, hosts)
    assert after is not None
    return after


def test_losses_are_counted_by_host() -> None:
    head = running(losses={"x": 1})
    after = lost(head, ["x", "y", "y"])
    assert after.losses == {"x": 2, "y": 2}
    assert after.version == head.version + 1, "one change, one bell"
    assert head.losses == {"x": 1}, "a head is a value"


def test_no_loss_leaves_the_losses() -> None:
    assert lost(running(losses={"x": 1}), []).losses == {"x": 1}


def test_the_memory_for_losses_is_bounded() -> None:
    full = lost(running(), [f"h{i}" for i in range(5000)])
    assert len(full.losses) == 1000
    again = lost(running(losses=full.losses), ["h0", "another"])
    assert len(again.losses) == 1000
    assert again.losses["h0"] == 2


STEP = st.tuples(st.sampled_from([*TRANSITIONS]), st.sampled_from("abc"), st.sampled_from([-1, 0, 0, 0, 1]))


@given(st.lists(STEP, max_size=60))
def test_no_walk_leaves_the_table(walk: list[tuple[str, str, int]]) -> None:
    head = rounds.opened("a", SETTINGS)
    spent: Counter[int] = Counter()
    rings: Counter[int] = Counter()
    for name, node, off in walk:
        after = TRANSITIONS[name](head, node, head.round + off)
        if after is None:
            continue
        assert after.phase == head.phase or after.phase in STEPS[head.phase]
        assert after.version > head.version
        assert after.epoch - head.epoch == (name == "taken_over")
        assert after.round - head.round == (name == "sealed")
        grown = after.restarts - head.restarts
        assert grown in (0, 1)
        assert not grown or name == "rung for a crash"
        spent[head.round] += grown
        rings[head.round] += name.startswith("rung")
        assert spent[head.round] <= 1
        assert after.moves >= 0
        assert after.moves + after.restarts == sum(1 for count in rings.values() if count)
        assert (after.ring is not None) <= (after.phase in ("gathering", "failed"))
        assert 0 <= after.sealed_epoch <= after.epoch
        head = after


@given(st.lists(STEP, max_size=60))
def test_what_has_ended_stays_as_it_is(walk: list[tuple[str, str, int]]) -> None:
    for phase in ENDED:
        head = in_phase(phase)
        assert head.ended
        for name, node, off in walk:
            if name != "losses":
                assert TRANSITIONS[name](head, node, head.round + off) is None


# -- what became of a round -----------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", STEPS)
def test_what_is_not_seen_yet_is_not_over(phase: Phase) -> None:
    assert over(in_phase(phase, 3), 4) is None


@pytest.mark.parametrize("phase", ["running", "finishing"])
def test_a_round_that_goes_on_is_not_over(phase: Phase) -> None:
    assert over(in_phase(phase, 3), 3) is None


def test_a_round_that_was_ended_tells_why() -> None:
    ring = msgspec.structs.replace(CRASH, delay_s=2.5)
    ended = over(regathering(3, ring=ring, restarts=2), 3)
    assert ended == rounds.Over("restart", ring.reason, "b", "exit code 3", True, 2.5, 2)
    moved = over(regathering(3, ring=JOIN, restarts=2), 3)
    assert moved == rounds.Over("membership", JOIN.reason, "a", restarts=2)


def test_success_is_of_all() -> None:
    ended = over(in_phase("succeeded", 3, writer="c", restarts=1), 3)
    assert ended == rounds.Over("succeeded", "all nodes succeeded", "c", restarts=1)


@pytest.mark.parametrize("number", [1, 3])
def test_a_job_that_failed_has_failed_for_the_members_of_each_round(number: int) -> None:
    ended = over(in_phase("failed", 3, writer="c", restarts=1), number)
    assert ended == rounds.Over("failed", "rank 1 failed", "c", restarts=1)


@pytest.mark.parametrize("phase", ["gathering", "running", "finishing", "succeeded"])
def test_who_was_left_behind_is_told_of_the_round_that_formed_without_it(phase: Phase) -> None:
    ended = over(in_phase(phase, 3), 2)
    assert ended is not None
    assert ended.kind == "evicted"
    assert "round 3 has formed since round 2" in ended.reason
    assert not ended.spends


@given(st.sampled_from(list(STEPS)), st.integers(1, 5), st.integers(1, 5))
def test_what_ended_a_round_has_a_reason(phase: Phase, number: int, of_round: int) -> None:
    ended = over(in_phase(phase, number), of_round)
    assert ended is None or ended.reason


# -- who may take part ----------------------------------------------------------------------------------------


def test_a_node_that_fits_is_not_refused() -> None:
    assert refusal(card("a"), [card("b")], SETTINGS) == ""


def test_another_version_is_refused_with_both() -> None:
    said = refusal(card("a", v=PROTOCOL + 1), [], SETTINGS)
    assert f"version {PROTOCOL + 1}" in said
    assert f"this job version {PROTOCOL}" in said
    assert "install one version" in said


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_other_settings_are_refused_with_both_values(name: str) -> None:
    job = settings(max_restarts=3, spares=1)
    its = msgspec.structs.replace(job, **{name: OTHER_VALUES[name]})
    said = refusal(card("a", settings=its), [], job)
    # As the node that reads it sees it.
    assert f"{name} is {getattr(job, name)} there and {OTHER_VALUES[name]} here" in said
    assert "start it with the same ones" in said


def test_a_budget_that_is_left_open_is_not_refused() -> None:
    assert refusal(card("a", settings=settings(max_restarts=None)), [], settings(max_restarts=3)) == ""


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"local_world_size": 0}, "0 workers"),
        ({"local_world_size": -2}, "-2 workers"),
        ({"port": -1}, "port -1"),
        ({"port": 65536}, "port 65536"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(changes: dict[str, int], named: str) -> None:
    assert named in refusal(card("a", **changes), [], SETTINGS)


@pytest.mark.parametrize("rank", [-1, 4, 5])
def test_a_node_rank_out_of_range_is_refused_with_the_range(rank: int) -> None:
    said = refusal(card("a", node_rank=rank), [], SETTINGS)
    assert f"node rank {rank}" in said
    assert "0 to 3" in said


@pytest.mark.parametrize("rank", [0, 3])
def test_a_node_rank_within_range_is_fine(rank: int) -> None:
    assert refusal(card("a", node_rank=rank), [card("b", node_rank=1), card("c")], SETTINGS) == ""


def test_twins_are_refused_by_name() -> None:
    there: list[Card | Place] = [
        card("b", node_rank=1),
        Place(node="c", host="h", node_rank=2, seat=Seat(verdict="member")),
    ]
    assert "so has b" in refusal(card("a", node_rank=1), there, SETTINGS)
    assert "so has c" in refusal(card("a", node_rank=2), there, SETTINGS)


def test_a_node_is_not_its_own_twin() -> None:
    assert refusal(card("a", node_rank=1), [card("a", node_rank=1)], SETTINGS) == ""


# -- who is chosen --------------------------------------------------------------------------------------------


def names(members: Sequence[Candidate]) -> list[str]:
    return [member.node for member in members]


def test_the_first_round_takes_who_came_first() -> None:
    coming = [candidate(node, at) for at, node in enumerate("edcba")]
    assert names(chosen(gathering(), coming, 0)) == ["e", "d", "c", "b"]


def test_members_of_the_last_round_go_before_who_came_earlier() -> None:
    coming = [
        *[candidate(node, at) for at, node in enumerate("xyz")],
        candidate("b", 8, round=1, group_rank=1),
        candidate("a", 9, round=1, group_rank=0),
    ]
    assert names(chosen(regathering(size=2), coming, 0)) == ["a", "b", "x", "y"]


def test_who_was_a_member_long_ago_is_none() -> None:
    assert not rounds.was_member(card("a", round=1, group_rank=0), regathering(2))
    assert not rounds.was_member(card("a", round=2, group_rank=-1), regathering(2))
    assert rounds.was_member(card("a", round=2, group_rank=0), regathering(2))
    assert not rounds.was_member(card("a", round=0, group_rank=0), gathering())


def test_a_spare_waits_while_the_others_are_enough() -> None:
    coming = [candidate("s", 0, spare=True), candidate("a", 1), candidate("b", 2)]
    assert names(chosen(gathering(settings=settings(min_nodes=2)), coming, 0)) == ["a", "b"]


def test_spares_are_taken_to_reach_min_nodes() -> None:
    coming = [candidate("s", 0, spare=True), candidate("t", 1, spare=True), candidate("a", 2)]
    assert names(chosen(gathering(settings=settings(min_nodes=2)), coming, 0)) == ["a", "s"]


def test_spares_are_taken_to_keep_the_size_of_the_last_round() -> None:
    back = [candidate(node, at, round=1, group_rank=at) for at, node in enumerate("ab")]
    coming = [candidate("s", 7, spare=True), candidate("t", 8, spare=True), *back]
    assert names(chosen(regathering(size=3), coming, 0)) == ["a", "b", "s"]


def test_a_host_that_is_held_back_waits() -> None:
    head = regathering(size=2, losses={"host-x": 2})
    coming = [candidate("a", 0, round=1, group_rank=0), candidate("x", 1)]
    assert names(chosen(head, coming, int(HOLD_S * SECOND) - 1)) == ["a"]
    assert names(chosen(head, coming, int(HOLD_S * SECOND))) == ["a", "x"]


def test_a_host_that_is_held_back_is_taken_where_it_is_needed() -> None:
    head = regathering(size=2, losses={"host-x": 9}, settings=settings(min_nodes=2))
    coming = [candidate("x", 0), candidate("a", 1, round=1, group_rank=0)]
    assert names(chosen(head, coming, 0)) == ["a", "x"]


def test_a_spare_goes_before_a_host_that_is_held_back() -> None:
    head = regathering(size=2, losses={"host-x": 9}, settings=settings(min_nodes=2))
    back = candidate("a", 2, round=1, group_rank=0)
    assert names(chosen(head, [candidate("x", 0), candidate("s", 1, spare=True), back], 0)) == ["a", "s"]


def test_a_member_is_never_held_back() -> None:
    head = regathering(size=1, losses={"host-a": 9})
    assert names(chosen(head, [candidate("a", 0, round=1, group_rank=0)], 0)) == ["a"]


def test_the_first_return_is_free_and_the_wait_then_doubles_up_to_its_bound() -> None:
    assert [hold_s(losses) for losses in range(8)] == [0, 0, 30, 60, 120, 240, 480, 600]
    assert hold_s(10**9) == HOLD_MAX_S


@given(st.integers(0, 10**6))
def test_the_wait_never_shrinks(losses: int) -> None:
    assert 0 <= hold_s(losses) <= hold_s(losses + 1) <= HOLD_MAX_S


# -- any candidates at all ------------------------------------------------------------------------------------

LABELS = st.sampled_from(["", "a", "b", "rack1", "rack01", "rack2", "rack10", "a/1", "1"])
ADDRESSES = st.sampled_from(["10.0.0.9", "10.0.0.10", "10.0.0.100", "10.0.10.1", "node9", "node10", "::1"])


@st.composite
def heads_that_gather(draw: st.DrawFn) -> Head:
    most = draw(st.integers(1, 7))
    its = settings(
        min_nodes=draw(st.integers(1, most)), max_nodes=most, spares=draw(st.sampled_from([None, 0, 1, 3]))
    )
    number = draw(st.integers(0, 2))
    size = draw(st.integers(its.min_nodes, most)) if number else 0
    losses = draw(st.dictionaries(st.sampled_from(["h0", "h1", "h2"]), st.integers(1, 5), max_size=3))
    return gathering(
        round=number,
        size=size,
        settings=its,
        losses=losses,
        restarts=draw(st.integers(0, 3)),
        ring=CRASH if number else None,
    )


@st.composite
def candidates_of(draw: st.DrawFn, head: Head, *, honest: bool = True) -> list[Candidate]:
    """Whoever waits for the round after `head`.

    Args:
        head: of the job.
        honest: whether old ranks and wishes are one of a kind, as admission sees to it; else they are anything.
    """
    size = draw(st.integers(0, 10))
    old_ranks = iter(draw(st.permutations(range(head.size))))
    wishes = iter(draw(st.permutations(range(head.settings.max_nodes))))
    seats = draw(st.permutations(range(-1, size)))
    made = []
    for at in range(size):
        old = next(old_ranks, None) if draw(st.booleans()) else None
        wish = next(wishes, None) if draw(st.integers(0, 3)) == 0 else None
        if not honest:
            old, wish = draw(st.sampled_from([None, 0, 1, 50])), draw(st.sampled_from([None, -1, 0, 1, 99]))
        made.append(
            Candidate(
                seats[at],
                card(
                    f"n{at}",
                    host=f"h{draw(st.integers(0, 9))}",
                    address=draw(ADDRESSES),
                    port=29500 + at,
                    role=draw(st.sampled_from(["trainer", "ps"])),
                    local_world_size=draw(st.integers(1, 8)),
                    topology=draw(LABELS),
                    node_rank=wish,
                    spare=draw(st.booleans()),
                    round=head.round if old is not None else draw(st.integers(0, 3)) * 10,
                    group_rank=-1 if old is None else old,
                ),
                draw(st.integers(0, 50)) * SECOND,
            )
        )
    return made


@st.composite
def situations(draw: st.DrawFn, *, honest: bool = True) -> tuple[Head, list[Candidate], int]:
    head = draw(heads_that_gather())
    return head, draw(candidates_of(head, honest=honest)), draw(st.integers(0, 100)) * SECOND


@given(situations(honest=False))
def test_whoever_comes_a_round_has_a_size_within_its_bounds(
    situation: tuple[Head, list[Candidate], int],
) -> None:
    head, coming, now_ns = situation
    members = chosen(head, coming, now_ns)
    assert len({member.seat for member in members}) == len(members)
    assert all(any(member is one for one in coming) for member in members)
    assert len(members) <= head.settings.max_nodes
    assert len(members) >= min(head.settings.min_nodes, len(coming)), "enough are there, willing or not"


@given(situations())
def test_members_of_the_last_round_are_never_left_out_for_others(
    situation: tuple[Head, list[Candidate], int],
) -> None:
    head, coming, now_ns = situation
    old = {c.node for c in coming if rounds.was_member(c.card, head)}
    assert len(old) <= head.size <= head.settings.max_nodes
    assert old <= set(names(chosen(head, coming, now_ns)))


@given(situations())
def test_who_would_rather_wait_does_where_it_can(situation: tuple[Head, list[Candidate], int]) -> None:
    head, coming, now_ns = situation
    members = chosen(head, coming, now_ns)
    fresh = [m for m in members if not rounds.was_member(m.card, head)]
    if any(m.card.spare for m in fresh):
        assert len(members) <= max(head.settings.min_nodes, head.size)
    if any(rounds.held_ns(m, head) > now_ns for m in fresh):
        assert len(members) <= head.settings.min_nodes


@given(situations(honest=False))
def test_each_rank_has_one_holder(situation: tuple[Head, list[Candidate], int]) -> None:
    head, coming, now_ns = situation
    members = chosen(head, coming, now_ns)
    seated = group_ranks(members, head)
    assert list(seated) == list(range(len(members)))
    assert sorted(m.seat for m in seated.values()) == sorted(m.seat for m in members)


@given(situations())
def test_who_asked_for_a_rank_gets_it(situation: tuple[Head, list[Candidate], int]) -> None:
    head, coming, now_ns = situation
    members = chosen(head, coming, now_ns)
    seated = group_ranks(members, head)
    for member in members:
        wish = member.card.node_rank
        if wish is not None and wish < len(members):
            assert seated[wish] is member


@given(situations())
def test_members_keep_their_rank_unless_somebody_asked_for_it(
    situation: tuple[Head, list[Candidate], int],
) -> None:
    head, coming, now_ns = situation
    members = chosen(head, coming, now_ns)
    seated = group_ranks(members, head)
    asked = {m.card.node_rank for m in members}
    for member in members:
        before = member.card.group_rank
        if not rounds.was_member(member.card, head) or before >= len(members) or before in asked:
            continue
        if member.card.node_rank is None or member.card.node_rank >= len(members):
            assert seated[before] is member


@given(situations())
def test_the_order_of_the_members_does_not_matter(situation: tuple[Head, list[Candidate], int]) -> None:
    head, coming, now_ns = situation
    members = chosen(head, coming, now_ns)
    assert group_ranks(members[::-1], head) == group_ranks(members, head)


@pytest.mark.parametrize("lost", range(4))
def test_a_spare_gets_the_seat_of_whom_it_replaces(lost: int) -> None:
    back = [
        candidate(node, at, round=1, group_rank=at, address=f"10.0.0.{9 - at}")
        for at, node in enumerate("abcd")
        if at != lost
    ]
    coming = [candidate("s", 9, spare=True, address="10.0.0.1"), *back]
    head = regathering(size=4)
    seated = group_ranks(chosen(head, coming, 0), head)
    assert seated[lost].node == "s"
    assert {rank: c.node for rank, c in seated.items() if rank != lost} == {
        at: node for at, node in enumerate("abcd") if at != lost
    }


def test_a_round_that_shrinks_moves_only_whose_rank_is_gone() -> None:
    back = [candidate(node, at, round=1, group_rank=at) for at, node in enumerate("abcd") if node != "b"]
    seated = group_ranks(back, regathering(size=4))
    assert [c.node for c in seated.values()] == ["a", "d", "c"]


def test_a_rank_that_was_asked_for_goes_before_the_one_who_had_it() -> None:
    coming = [
        candidate("a", 0, round=1, group_rank=0),
        candidate("b", 1, round=1, group_rank=1),
        candidate("x", 2, node_rank=0),
    ]
    assert [c.node for c in group_ranks(coming, regathering(size=2)).values()] == ["x", "b", "a"]


def test_ranks_that_were_asked_for_and_are_too_high_keep_their_order() -> None:
    coming = [candidate("c", 0, node_rank=7), candidate("b", 1, node_rank=5), candidate("a", 2, node_rank=0)]
    assert [c.node for c in group_ranks(coming, gathering()).values()] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "in_order",
    [
        ["10.0.0.2", "10.0.0.9", "10.0.0.10", "10.0.1.1"],
        ["node1", "node2", "node10", "node100"],
        ["gpu1-rack2", "gpu1-rack10", "gpu2-rack1", "gpu10-rack1"],
    ],
)
def test_addresses_are_in_the_order_in_which_people_count(in_order: list[str]) -> None:
    coming = [candidate(f"n{at}", at, address=address) for at, address in enumerate(reversed(in_order))]
    assert [c.card.address for c in group_ranks(coming, gathering()).values()] == in_order


@given(st.lists(st.text(max_size=12), min_size=1, max_size=8))
def test_any_address_has_its_place(addresses: list[str]) -> None:
    coming = [candidate(f"n{at}", at, address=address) for at, address in enumerate(addresses)]
    assert len(group_ranks(coming, gathering())) == len(coming)


def test_racks_are_in_order_and_addresses_within_them() -> None:
    places = [("rack10", "10.0.0.1"), ("rack2", "10.0.0.10"), ("rack2", "10.0.0.9"), ("rack10", "10.0.0.3")]
    coming = [
        candidate(f"n{at}", at, topology=label, address=address) for at, (label, address) in enumerate(places)
    ]
    assert [c.node for c in group_ranks(coming, gathering()).values()] == ["n2", "n1", "n0", "n3"]


@given(st.lists(st.tuples(LABELS, ADDRESSES), min_size=1, max_size=12))
def test_nodes_with_one_label_sit_beside_each_other(places: list[tuple[str, str]]) -> None:
    coming = [
        candidate(f"n{at}", at, topology=label, address=address) for at, (label, address) in enumerate(places)
    ]
    labels = [c.card.topology for c in group_ranks(coming, gathering()).values()]
    changes = sum(before != after for before, after in pairwise(labels))
    assert changes == len(set(labels)) - 1, labels


# -- the plan -------------------------------------------------------------------------------------------------


@given(situations(), st.integers(0, 100))
def test_a_plan_says_to_each_node_what_it_needs(
    situation: tuple[Head, list[Candidate], int], read_to: int
) -> None:
    head, coming, now_ns = situation
    members = chosen(head, coming, now_ns)
    assume(members)
    plan = planned(head, coming, members, read_to)
    assert (plan.round, plan.epoch, plan.read_to) == (head.round + 1, head.epoch, read_to)
    by_rank = list(group_ranks(members, head).values())
    assert [place.node for place in plan.members] == names(by_rank)
    bases = rank_bases(
        [_RoleInstanceInfo(c.card.role, rank, c.card.local_world_size) for rank, c in enumerate(by_rank)]
    )
    for rank, (place, its, base) in enumerate(zip(plan.members, by_rank, bases, strict=True)):
        seat = place.seat
        assert (place.host, place.node_rank) == (its.card.host, its.card.node_rank)
        assert (seat.verdict, seat.group_rank, seat.group_world_size) == ("member", rank, len(members))
        assert RankBase(*seat.base) == base
        assert (seat.master_addr, seat.master_port) == (by_rank[0].card.address, by_rank[0].card.port)
        assert (seat.round, seat.epoch, seat.coordinator) == (head.round + 1, head.epoch, head.coordinator)
        assert (seat.restarts, seat.seat) == (head.restarts, its.seat)


@given(situations())
def test_everyone_has_one_place(situation: tuple[Head, list[Candidate], int]) -> None:
    head, coming, now_ns = situation
    members = chosen(head, coming, now_ns)
    assume(members)
    plan = planned(head, coming, members)
    assert sorted(p.seat.seat for p in [*plan.members, *plan.parked]) == sorted(c.seat for c in coming)
    parked = [p for p in plan.parked if p.seat.verdict == "parked"]
    assert all(p.seat.reason for p in plan.parked)
    assert all(p.seat.group_rank == -1 for p in plan.parked)
    # Beside a round that is not full only those wait who are held back, and they are not refused for that.
    spares = head.settings.spares if len(plan.members) == head.settings.max_nodes else None
    assert len(parked) == (len(plan.parked) if spares is None else min(spares, len(plan.parked)))
    assert plan.parked[: len(parked)] == parked, "who came first may wait"


def test_global_and_role_ranks_run_on_over_nodes_of_any_size() -> None:
    coming = [
        candidate("a", 0, role="ps", local_world_size=1, address="10.0.0.1", port=1111),
        candidate("b", 1, role="trainer", local_world_size=4, address="10.0.0.2", port=2222),
        candidate("c", 2, role="ps", local_world_size=2, address="10.0.0.3", port=3333),
    ]
    plan = planned(gathering(), coming, coming)
    assert [p.seat.base for p in plan.members] == [(0, 7, 0, 3), (1, 7, 0, 4), (5, 7, 1, 3)]
    assert {(p.seat.master_addr, p.seat.master_port) for p in plan.members} == {("10.0.0.1", 1111)}


def plan_beside_a_full_round(spares: int | None, waiting: int = 2) -> Plan:
    coming = [candidate(f"n{at}", at) for at in range(2 + waiting)]
    return planned(gathering(settings=settings(max_nodes=2, spares=spares)), coming, coming[:2])


def test_who_does_not_fit_waits() -> None:
    assert [p.seat.verdict for p in plan_beside_a_full_round(None).parked] == ["parked", "parked"]


@pytest.mark.parametrize(
    ("spares", "said"),
    [(0, "its 2 nodes and none may wait (--spares 0)"), (1, "its 2 nodes and 1 node may wait (--spares 1)")],
)
def test_who_may_not_wait_is_refused_with_the_limit(spares: int, said: str) -> None:
    parked = plan_beside_a_full_round(spares).parked
    assert [p.seat.verdict for p in parked] == ["parked"] * spares + ["refused"] * (2 - spares)
    assert said in parked[-1].seat.reason


def test_a_round_that_is_not_full_is_not_said_to_be() -> None:
    """A host that is held back, or one that would rather wait, stays outside though there is room."""
    head = gathering(settings=settings(max_nodes=4, spares=0))
    coming = [candidate("a", 0), candidate("s", 1, spare=True)]
    [place] = planned(head, coming, chosen(head, coming, 0)).parked
    assert "4 nodes" not in place.seat.reason, place.seat.reason


# -- when a round closes --------------------------------------------------------------------------------------


def gathered(
    coming: Sequence[Candidate],
    awaited: Sequence[str] = (),
    since_s: float = 0,
    enough_s: float | None = None,
) -> Gathering:
    enough_ns = None if enough_s is None else int(enough_s * SECOND)
    return Gathering(tuple(coming), tuple(awaited), int(since_s * SECOND), enough_ns)


FOUR = [candidate(node, at) for at, node in enumerate("abcd")]
FIRST = gathering(settings=settings(min_nodes=2, max_nodes=4, last_call_s=30, join_timeout_s=600))


def back(nodes: str, number: int = 1) -> list[Candidate]:
    return [candidate(node, at, round=number, group_rank=at) for at, node in enumerate(nodes)]


def test_the_first_round_closes_at_once_when_it_is_full() -> None:
    assert look(FIRST, gathered(FOUR, enough_s=0), 0) == Seal(tuple(FOUR))


def test_the_first_round_waits_for_more_until_the_last_call_is_over() -> None:
    two = FOUR[:2]
    waits = look(FIRST, gathered(two, enough_s=10), 20 * SECOND)
    assert isinstance(waits, Wait)
    assert waits.until_ns == 40 * SECOND
    assert "last call" in waits.why
    assert isinstance(look(FIRST, gathered(two, enough_s=10), 40 * SECOND - 1), Wait)
    assert look(FIRST, gathered(two, enough_s=10), 40 * SECOND) == Seal(tuple(two))


def test_the_last_call_begins_when_enough_are_there() -> None:
    waits = look(FIRST, gathered(FOUR[:3]), 500 * SECOND)
    assert isinstance(waits, Wait)
    assert waits.until_ns == 530 * SECOND


def test_without_a_last_call_enough_is_enough() -> None:
    head = gathering(settings=settings(min_nodes=2, max_nodes=4, last_call_s=0))
    assert look(head, gathered(FOUR[:2], enough_s=0), 0) == Seal(tuple(FOUR[:2]))


@pytest.mark.parametrize("head", [FIRST, regathering(size=2, settings=FIRST.settings)])
def test_too_few_are_waited_for_up_to_the_join_timeout(head: Head) -> None:
    waits = look(head, gathered(FOUR[:1], since_s=5), 604 * SECOND)
    assert isinstance(waits, Wait)
    assert waits.until_ns == 605 * SECOND
    assert "1 of the 2 nodes" in waits.why
    gives_up = look(head, gathered(FOUR[:1], since_s=5), 605 * SECOND)
    assert isinstance(gives_up, GiveUp)
    assert "1 of the 2 nodes" in gives_up.why
    assert "600 s (join_timeout)" in gives_up.why


def test_a_restart_never_waits_for_the_last_call() -> None:
    head = regathering(size=2, settings=FIRST.settings)
    assert look(head, gathered(back("ab"), enough_s=0), 0) == Seal(tuple(back("ab")))


def test_a_restart_waits_for_who_lives_and_is_not_back() -> None:
    head = regathering(size=3, settings=FIRST.settings)
    waits = look(head, gathered(back("ab"), awaited=["c"]), 0)
    assert isinstance(waits, Wait)
    assert waits.why == "1 node of the last round to come back"
    assert waits.until_ns == 600 * SECOND


def test_a_restart_goes_on_without_who_does_not_come_back() -> None:
    head = regathering(size=3, settings=FIRST.settings)
    assert look(head, gathered(back("ab"), awaited=["c"]), 600 * SECOND) == Seal(tuple(back("ab")))


def test_a_restart_gives_up_when_too_few_come_back() -> None:
    head = regathering(size=3, settings=FIRST.settings)
    assert isinstance(look(head, gathered(back("a"), awaited=["b", "c"]), 600 * SECOND), GiveUp)


@given(situations(), st.integers(0, 700), st.integers(0, 3))
def test_every_look_has_an_end(
    situation: tuple[Head, list[Candidate], int], now_s: int, awaited: int
) -> None:
    """Whoever waits does so for a moment in the future, and after the last of these it waits no more."""
    head, coming, _ = situation
    known = gathered(coming, [f"w{i}" for i in range(awaited)], enough_s=0 if coming else None)
    now_ns = now_s * SECOND
    seen = look(head, known, now_ns)
    for _ in range(3):
        if not isinstance(seen, Wait):
            break
        assert seen.until_ns > now_ns
        assert seen.why
        now_ns = seen.until_ns
        seen = look(head, known, now_ns)
    assert not isinstance(seen, Wait)
    if isinstance(seen, Seal):
        assert head.settings.min_nodes <= len(seen.members) <= head.settings.max_nodes
    else:
        assert len(coming) < head.settings.min_nodes


# -- when a running round is restarted for joins --------------------------------------------------------------

WINDOW_S = SETTINGS.join_window_s


@pytest.mark.parametrize("phase", ["gathering", "finishing", "succeeded", "failed"])
def test_only_a_running_round_is_restarted_for_joins(phase: Phase) -> None:
    assert welcome(in_phase(phase), [candidate("x", 1)], 100 * SECOND) is None


def test_a_full_round_is_restarted_for_nobody() -> None:
    assert welcome(running(size=4), [candidate("x", 1)], 100 * SECOND) is None


@pytest.mark.parametrize("coming", [[], [candidate("s", 1, spare=True)]])
def test_who_would_only_wait_restarts_nobody(coming: list[Candidate]) -> None:
    assert welcome(running(), coming, 100 * SECOND) is None


def test_joins_are_gathered_for_a_window() -> None:
    coming = [candidate("x", 1, 10 * SECOND), candidate("y", 2, 12 * SECOND)]
    ready_ns = int((10 + WINDOW_S) * SECOND)
    waits = welcome(running(), coming, ready_ns - 1)
    assert isinstance(waits, Wait)
    assert waits.until_ns == ready_ns
    ring = welcome(running(), coming, ready_ns)
    assert isinstance(ring, Ring)
    assert (ring.action, ring.spends, ring.by) == ("membership", False, "a")
    assert ring.reason == "2 nodes wait to join: x, y"


def test_no_more_are_named_than_find_room() -> None:
    coming = [candidate(node, at) for at, node in enumerate("xyz")]
    ring = welcome(running(size=3), coming, 100 * SECOND)
    assert isinstance(ring, Ring)
    assert ring.reason == "1 node waits to join: x"


def test_of_many_a_few_are_named() -> None:
    coming = [candidate(node, at) for at, node in enumerate("efghij")]
    ring = welcome(running(settings=settings(max_nodes=20)), coming, 100 * SECOND)
    assert isinstance(ring, Ring)
    assert ring.reason == "6 nodes wait to join: e, f, g, h and 2 more"


def test_a_host_that_was_lost_again_and_again_is_held_back() -> None:
    head = running(losses={"host-x": 3})
    waits = welcome(head, [candidate("x", 1, 10 * SECOND)], 60 * SECOND)
    assert isinstance(waits, Wait)
    assert waits.until_ns == 70 * SECOND
    assert isinstance(welcome(head, [candidate("x", 1, 10 * SECOND)], 70 * SECOND), Ring)


def test_who_is_held_back_holds_up_nobody_else() -> None:
    ring = welcome(
        running(losses={"host-x": 9}), [candidate("x", 1), candidate("y", 2)], int(WINDOW_S * SECOND)
    )
    assert isinstance(ring, Ring)
    assert ring.reason == "1 node waits to join: y"


def test_a_host_that_was_lost_once_waits_no_longer_than_others() -> None:
    ring = welcome(running(losses={"host-x": 1}), [candidate("x", 1)], int(WINDOW_S * SECOND))
    assert isinstance(ring, Ring)


@given(situations())
def test_a_restart_for_joins_lets_somebody_in(situation: tuple[Head, list[Candidate], int]) -> None:
    """Else it would be for nothing, and the next look would restart the round again."""
    head, coming, now_ns = situation
    assume(head.round > 0)
    members = [candidate(f"m{at}", 100 + at, round=head.round, group_rank=at) for at in range(head.size)]
    fresh = [c for c in coming if not rounds.was_member(c.card, head)]
    now = msgspec.structs.replace(head, phase="running", ring=None)
    said = welcome(now, fresh, now_ns)
    if isinstance(said, Wait):
        assert said.until_ns > now_ns
    if isinstance(said, Ring):
        after = rounds.rung(now, "a", now.round, said)
        assert after is not None
        sealed = look(after, gathered([*members, *fresh]), now_ns)
        assert isinstance(sealed, Seal)
        assert len(sealed.members) > head.size


# -- codec ----------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBER = st.integers(-(2**63), 2**63 - 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
ANY_SETTINGS = st.builds(
    Settings,
    min_nodes=st.integers(1, 3),
    max_nodes=st.integers(3, 2**31),
    max_restarts=st.none() | st.integers(0, 10),
    spares=st.none() | st.integers(0, 10),
    beat_s=st.floats(0.1, 2),
    lease_s=st.floats(4, 50),
    last_call_s=st.floats(0, 1e9),
    join_timeout_s=st.floats(0.1, 1e9),
    join_window_s=st.floats(0, 1e9),
    store_timeout_s=st.floats(51, 1e9),
)
ANY_RING = st.builds(
    Ring,
    action=st.sampled_from(["restart", "membership"]),
    reason=TEXT,
    by=TEXT,
    cause=TEXT,
    spends=st.booleans(),
    delay_s=FINITE,
)
ANY_HEAD = st.builds(
    Head,
    version=NUMBER,
    writer=TEXT,
    epoch=NUMBER,
    coordinator=TEXT,
    round=NUMBER,
    phase=st.sampled_from(list(STEPS)),
    sealed_epoch=NUMBER,
    size=NUMBER,
    restarts=NUMBER,
    moves=NUMBER,
    settings=ANY_SETTINGS,
    ring=st.none() | ANY_RING,
    why=TEXT,
    losses=st.dictionaries(TEXT, NUMBER, max_size=5),
)
ANY_CARD = st.builds(
    Card,
    v=NUMBER,
    node=TEXT,
    host=TEXT,
    address=TEXT,
    port=NUMBER,
    role=TEXT,
    local_world_size=NUMBER,
    topology=TEXT,
    node_rank=st.none() | NUMBER,
    spare=st.booleans(),
    round=NUMBER,
    group_rank=NUMBER,
    settings=ANY_SETTINGS,
)
ANY_SEAT = st.builds(
    Seat,
    verdict=st.sampled_from(get_args(rounds.Verdict)),
    reason=TEXT,
    round=NUMBER,
    epoch=NUMBER,
    coordinator=TEXT,
    group_rank=NUMBER,
    group_world_size=NUMBER,
    base=st.tuples(NUMBER, NUMBER, NUMBER, NUMBER),
    master_addr=TEXT,
    master_port=NUMBER,
    restarts=NUMBER,
    seat=NUMBER,
)
ANY_PLACE = st.builds(Place, node=TEXT, host=TEXT, node_rank=st.none() | NUMBER, seat=ANY_SEAT)
ANY_PLAN = st.builds(
    Plan,
    round=NUMBER,
    epoch=NUMBER,
    members=st.lists(ANY_PLACE, max_size=3),
    parked=st.lists(ANY_PLACE, max_size=3),
    read_to=NUMBER,
)
DECODERS: dict[str, Callable[[bytes], Any]] = {
    "head": rounds.head_of,
    "card": rounds.card_of,
    "seat": rounds.seat_of,
    "plan": rounds.plan_of,
}
SAMPLES: dict[str, msgspec.Struct] = {
    "head": regathering(losses={"x": 1}),
    "card": card("a", topology="räck 1"),
    "seat": Seat(verdict="member", base=(1, 2, 3, 4)),
    "plan": planned(gathering(), FOUR, FOUR[:2]),
}


@given(
    st.one_of(
        st.tuples(st.just("head"), ANY_HEAD),
        st.tuples(st.just("card"), ANY_CARD),
        st.tuples(st.just("seat"), ANY_SEAT),
        st.tuples(st.just("plan"), ANY_PLAN),
    )
)
def test_what_is_written_is_read(what: tuple[str, Any]) -> None:
    name, value = what
    data = encoded(value)
    assert DECODERS[name](data) == value
    json.loads(data)


def test_one_value_is_always_the_same_bytes() -> None:
    """Compare-and-set needs it."""
    head = regathering(losses={"b": 1, "a": 2})
    assert encoded(rounds.head_of(encoded(head))) == encoded(head)


@pytest.mark.parametrize("name", DECODERS)
def test_what_a_later_version_adds_is_passed_over(name: str) -> None:
    more = json.loads(encoded(SAMPLES[name])) | {"new": {"deep": [1, 2]}}
    assert DECODERS[name](json.dumps(more).encode()) == SAMPLES[name]


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")))
def test_garbage_is_malformed(name: str, data: bytes) -> None:
    with pytest.raises(Malformed):
        DECODERS[name](data)


@pytest.mark.parametrize("name", DECODERS)
def test_torn_json_is_malformed(name: str) -> None:
    data = encoded(SAMPLES[name])
    for end in range(len(data)):
        with pytest.raises(Malformed):
            DECODERS[name](data[:end])


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("deep", [b"[" * 10_000, b'{"a":' * 2_500, b"[" * 8_000 + b"]" * 8_000])
def test_what_is_nested_too_deeply_is_malformed(name: str, deep: bytes) -> None:
    # Also where it stands in a field that nobody reads.
    for data in (deep, encoded(SAMPLES[name])[:-1] + b',"new":' + deep + b"}"):
        with pytest.raises(Malformed):
            DECODERS[name](data)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("data", [b"", b"null", b"0", b"[]", b'"text"', b"{}", b"\xff\xfe", b"NaN"])
def test_other_json_is_malformed(name: str, data: bytes) -> None:
    with pytest.raises(Malformed):
        DECODERS[name](data)


@pytest.mark.parametrize("name", DECODERS)
def test_text_that_is_no_utf8_is_malformed(name: str) -> None:
    field = {"head": b'"writer":"', "card": b'"node":"', "seat": b'"reason":"', "plan": b'"node":"'}[name]
    data = encoded(SAMPLES[name])
    assert field in data
    with pytest.raises(Malformed):
        DECODERS[name](data.replace(field, field + b"\xff\xfe", 1))


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("head", "phase", "sleeping"),
        ("head", "round", "1"),
        ("head", "round", 1.5),
        ("head", "losses", {"x": "often"}),
        ("head", "losses", None),
        ("card", "port", True),
        ("card", "node", None),
        ("card", "node_rank", "0"),
        ("seat", "verdict", "maybe"),
        ("seat", "base", [1, 2, 3]),
        ("seat", "base", [1, 2, 3, 4, 5]),
        ("plan", "members", {}),
        ("plan", "members", [{}]),
    ],
)
def test_a_field_of_another_kind_is_malformed(name: str, field: str, value: Any) -> None:
    changed = json.loads(encoded(SAMPLES[name])) | {field: value}
    with pytest.raises(Malformed, match=r"is malformed: .*" + field):
        DECODERS[name](json.dumps(changed).encode())


@pytest.mark.parametrize("name", ["head", "card"])
@pytest.mark.parametrize(
    "change", [{"min_nodes": 0}, {"beat_s": -1}, {"lease_s": 1e300}, {"max_nodes": None}]
)
def test_settings_that_cannot_be_are_malformed_in_the_store(name: str, change: dict[str, Any]) -> None:
    changed = json.loads(encoded(SAMPLES[name]))
    changed["settings"] |= change
    with pytest.raises(Malformed):
        DECODERS[name](json.dumps(changed).encode())


def test_a_card_has_a_size_that_is_bounded() -> None:
    left = CARD_MAX - len(encoded(card("a", role="")))
    largest = card("a", role="x" * left)
    assert rounds.card_of(encoded(largest)) == largest
    with pytest.raises(Malformed, match=r"16,385 bytes; 16,384 are allowed"):
        rounds.card_of(encoded(card("a", role="x" * (left + 1))))
