"""Who may take part, who is chosen, and who gets which rank."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.core.rendezvous_values import (
    ADDRESSES,
    LABELS,
    OTHER_VALUES,
    SECOND,
    SETTINGS,
    candidate,
    card,
    gathering,
    regathering,
    settings,
    situations,
)
from toolkit.core import seats
from toolkit.core.model import _RoleInstanceInfo
from toolkit.core.ranks import RankBase, rank_bases
from toolkit.core.rounds import (
    HOLD_MAX_S,
    HOLD_S,
    PROTOCOL,
    Head,
    hold_s,
)
from toolkit.core.seats import (
    Candidate,
    Card,
    Place,
    Plan,
    Seat,
    chosen,
    group_ranks,
    planned,
    refusal,
)

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
    assert not seats.was_member(card("a", round=1, group_rank=0), regathering(2))
    assert not seats.was_member(card("a", round=2, group_rank=-1), regathering(2))
    assert seats.was_member(card("a", round=2, group_rank=0), regathering(2))
    assert not seats.was_member(card("a", round=0, group_rank=0), gathering())


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
    old = {c.node for c in coming if seats.was_member(c.card, head)}
    assert len(old) <= head.size <= head.settings.max_nodes
    assert old <= set(names(chosen(head, coming, now_ns)))


@given(situations())
def test_who_would_rather_wait_does_where_it_can(situation: tuple[Head, list[Candidate], int]) -> None:
    head, coming, now_ns = situation
    members = chosen(head, coming, now_ns)
    fresh = [m for m in members if not seats.was_member(m.card, head)]
    if any(m.card.spare for m in fresh):
        assert len(members) <= max(head.settings.min_nodes, head.size)
    if any(seats.held_ns(m, head) > now_ns for m in fresh):
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
        if not seats.was_member(member.card, head) or before >= len(members) or before in asked:
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
