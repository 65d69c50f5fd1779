"""Rounds close when they should, and end for joins when they should."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.core.rendezvous_values import (
    CRASH,
    FIRST,
    FOUR,
    SECOND,
    SETTINGS,
    back,
    candidate,
    gathering,
    in_phase,
    regathering,
    running,
    settings,
    situations,
)
from toolkit.core import rounds, seats
from toolkit.core.gathering import Gathering, GiveUp, Seal, Wait, late_ns, look, welcome
from toolkit.core.rounds import (
    Head,
    Phase,
    Ring,
)
from toolkit.core.seats import (
    Candidate,
)

# -- when a round closes --------------------------------------------------------------------------------------


def gathered(
    coming: Sequence[Candidate],
    awaited: Sequence[str] = (),
    since_s: float = 0,
    enough_s: float | None = None,
) -> Gathering:
    enough_ns = None if enough_s is None else int(enough_s * SECOND)
    return Gathering(tuple(coming), tuple(awaited), int(since_s * SECOND), enough_ns)


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


def test_a_back_off_of_the_restart_policy_is_no_delay_of_the_nodes() -> None:
    head = regathering(ring=msgspec.structs.replace(CRASH, delay_s=1000.0))
    assert late_ns(head, 5 * SECOND) == late_ns(regathering(), 5 * SECOND) + 1000 * SECOND
    assert late_ns(gathering(), 0) == int(SETTINGS.join_timeout_s * SECOND)


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
    fresh = [c for c in coming if not seats.was_member(c.card, head)]
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
