"""How long something stood still: what the observer did not see does not count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from toolkit.core.liveness import Standstill

SECOND = 1_000_000_000
GAP = 2 * SECOND


def test_what_stands_is_counted_from_look_to_look() -> None:
    seen = Standstill(7, 10 * SECOND)
    assert [seen.look(7, at * SECOND, GAP) // SECOND for at in (10, 11, 13, 14)] == [0, 1, 3, 4]


def test_what_moves_begins_anew() -> None:
    seen = Standstill(b"1", 0)
    assert seen.look(b"1", SECOND, GAP) == SECOND
    assert seen.look(b"2", 2 * SECOND, GAP) == 0
    assert seen.look(b"2", 3 * SECOND, GAP) == SECOND


def test_a_counter_that_goes_back_has_moved() -> None:
    """Another incarnation of a node begins to count again."""
    seen = Standstill(100, 0, 3 * SECOND)
    assert seen.look(1, SECOND, GAP) == 0


def test_an_observer_that_was_held_up_counts_one_gap_at_the_most() -> None:
    seen = Standstill(7, 0)
    assert seen.look(7, 3600 * SECOND, GAP) == GAP
    assert seen.look(7, 3601 * SECOND, GAP) == GAP + SECOND


def test_after_a_hold_up_the_next_gap_is_counted_from_the_look() -> None:
    seen = Standstill(7, 0)
    seen.look(8, 3600 * SECOND, GAP)
    assert seen.look(8, 3601 * SECOND, GAP) == SECOND


LOOKS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10 * SECOND)), max_size=30)


@given(LOOKS)
def test_nothing_is_counted_that_was_not_seen(looks: list[tuple[int, int]]) -> None:
    """The sum of the gaps since the counter moved last, none of them for more than it may count."""
    now_ns = 0
    seen, expected, last = Standstill(0, 0), 0, 0
    for value, gap_ns in looks:
        now_ns += gap_ns
        expected = expected + min(gap_ns, GAP) if value == last else 0
        last = value
        assert seen.look(value, now_ns, GAP) == expected
        assert (seen.value, seen.looked_ns, seen.stood_ns) == (value, now_ns, expected)
        assert seen.stood_ns <= now_ns


@given(st.integers(1, 50), st.integers(1, 10**12))
def test_a_lease_takes_several_looks_however_long_they_are_apart(looks: int, gap_ns: int) -> None:
    seen = Standstill(0, 0)
    for at in range(1, looks + 1):
        seen.look(0, at * gap_ns, SECOND)
    assert seen.stood_ns <= looks * SECOND
