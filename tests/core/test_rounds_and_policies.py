"""What restart policies add to the head of a job: its memory, free restarts, who outranks whom, a shorter wait."""

from __future__ import annotations

from msgspec.structs import replace

from tests.core.rendezvous_values import CRASH, JOIN, regathering, running
from toolkit.core import rounds
from toolkit.core.job_restarts import KEPT_MAX, Entry
from toolkit.core.rounds import Ring, over

FIRST = replace(
    CRASH, cause="SIGKILL", hand="first", entry=Entry(cause="SIGKILL"), verdict="restart 1 of 3", delay_s=4.0
)
SECOND = replace(
    CRASH, cause="peer gone", hand="second", entry=Entry(cause="peer gone"), verdict="restart 1 of 3"
)
FREE = Ring(
    action="restart",
    reason="exit code 75",
    by="b",
    cause="exit code 75",
    free=True,
    hand="first",
    entry=Entry(cause="exit code 75", free=True),
)


def test_a_job_remembers_what_its_policy_asks_for() -> None:
    head = rounds.rung(running(1), "b", 1, FIRST)
    assert head is not None
    assert [entry.cause for entry in head.past] == ["SIGKILL"]
    again = rounds.sealed(replace(head, coordinator="b"), "b", 2, since_s=3.5)
    assert again is not None
    assert (again.past, again.since_s) == (head.past, 3.5)
    assert rounds.head_of(rounds.encoded(again)) == again


def test_the_plain_budget_remembers_nothing() -> None:
    head = rounds.rung(running(1), "b", 1, CRASH)
    assert head is not None
    assert head.past == ()
    sealed = rounds.sealed(replace(head, coordinator="b"), "b", 2, since_s=3.5)
    assert sealed is not None
    assert b"since_s" not in rounds.encoded(sealed)


def test_the_memory_is_bounded() -> None:
    head = rounds.rung(running(1, past=(Entry(cause="x"),) * KEPT_MAX), "b", 1, FIRST)
    assert head is not None
    assert len(head.past) == KEPT_MAX
    assert head.past[-1].cause == "SIGKILL"


def test_a_free_restart_spends_nothing_and_is_no_move() -> None:
    head = rounds.rung(running(1, restarts=2, moves=1), "b", 1, FREE)
    assert head is not None
    assert (head.restarts, head.moves) == (2, 1)
    ended = over(head, 1)
    assert ended is not None
    assert (ended.kind, ended.free, ended.spends) == ("restart", True, False)


def test_a_first_hand_failure_takes_the_place_of_a_second_hand_one() -> None:
    head = rounds.rung(running(1), "a", 1, SECOND)
    assert head is not None
    told = rounds.rung(head, "b", 1, FIRST)
    assert told is not None
    assert told.ring == FIRST
    assert [entry.cause for entry in told.past] == ["SIGKILL"], "one failure, one entry"
    assert told.restarts == 1
    free = rounds.rung(head, "b", 1, FREE)
    assert free is not None
    assert free.restarts == 0
    assert rounds.rung(told, "a", 1, SECOND) is None, "never the other way round"
    assert rounds.rung(told, "c", 1, replace(FIRST, by="c")) is None


def test_a_failure_after_a_move_is_remembered() -> None:
    head = rounds.rung(regathering(1, ring=JOIN, moves=1), "b", 1, FREE)
    assert head is not None
    assert (head.restarts, head.moves, len(head.past)) == (0, 0, 1)


def test_a_refusal_ends_the_job_also_after_a_restart_was_decided() -> None:
    head = regathering(1, ring=FIRST)
    assert rounds.failed(head, "b", 1, "exit code 78 forbids a restart") is not None
    assert rounds.failed(head, "b", 1, "exit code 78 forbids a restart", "unclear") is not None


def test_who_died_of_another_s_death_has_no_say_about_the_others() -> None:
    assert rounds.failed(regathering(1, ring=FIRST), "b", 1, "why", "second") is None
    assert rounds.failed(regathering(1, ring=SECOND), "b", 1, "why", "second") is not None
    assert rounds.failed(regathering(1, ring=JOIN), "b", 1, "why", "second") is not None
    assert rounds.failed(running(1), "b", 1, "why", "second") is not None


def test_a_back_off_can_be_cut_short_for_all() -> None:
    head = rounds.hurried(regathering(1, ring=FIRST), "c", 1)
    assert head is not None
    ended = over(head, 1)
    assert ended is not None
    assert ended.delay_s == 0
    assert head.restarts == regathering(1, ring=FIRST).restarts
    assert rounds.hurried(head, "c", 1) is None
    assert rounds.hurried(running(1), "c", 1) is None
    assert rounds.hurried(regathering(1, ring=FIRST), "c", 2) is None
