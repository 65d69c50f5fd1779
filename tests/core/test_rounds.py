"""The head of a job: its settings, what may follow what, and what became of a round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.rendezvous_values import (
    CRASH,
    JOIN,
    OTHER_VALUES,
    SETTINGS,
    gathering,
    in_phase,
    lost,
    regathering,
    running,
    settings,
)
from toolkit.core import rounds
from toolkit.core.errors import ConfigurationError
from toolkit.core.rounds import (
    ENDED,
    STEPS,
    Head,
    Phase,
    Ring,
    Settings,
    differences,
    over,
)

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
