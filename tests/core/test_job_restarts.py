"""What a job of several nodes remembers of its restarts: the same for a node that was there and one that came late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from toolkit.core.job_restarts import CAUSE_MAX, Entry, by_clock, entry_of, shortened
from toolkit.core.restarts import FailureCause, PastRestart

SECOND = 1_000_000_000


def test_an_entry_says_how_long_after_the_one_before_it_came() -> None:
    cause = FailureCause((7,), "exit code 7", progress=40, uptime_s=3.5)
    first = entry_of(cause, (), 100 * SECOND, free=False)
    assert first == Entry(cause="exit code 7", progress=40, uptime_s=3.5)
    second = entry_of(cause, (PastRestart(100 * SECOND, "x"),), 130 * SECOND, free=True)
    assert (second.gap_s, second.free) == (30.0, True)


def test_a_cause_is_kept_in_short() -> None:
    long = entry_of(FailureCause((1,), "x" * 5000), (), 0, free=False)
    assert len(long.cause) == CAUSE_MAX
    assert long.cause == shortened("x" * 5000)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20), st.integers(-(10**15), 10**15))
def test_entries_by_another_clock_are_as_far_apart(gaps_s: list[int], apart_ns: int) -> None:
    """One node makes the entries by its clock; another reads them by its own."""
    past: tuple[PastRestart, ...] = ()
    entries, now_ns = [], 0
    for gap_s in gaps_s:
        now_ns += gap_s * SECOND
        entries.append(entry_of(FailureCause(key="a"), past, now_ns, free=False))
        past = (*past, PastRestart(now_ns, "a"))
    there = by_clock(entries, now_ns + apart_ns)
    assert [restart.at_ns - apart_ns for restart in there] == [restart.at_ns for restart in past]
    assert [restart.cause for restart in there] == ["a"] * len(past)
