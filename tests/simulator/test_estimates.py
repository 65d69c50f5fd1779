"""Means and shares with their intervals, against what the books have."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.estimates import mean_of, share_of, student_t


@pytest.mark.parametrize(
    ("freedom", "t"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (10, 2.228), (19, 2.093), (120, 1.980)],
)
def test_students_t_is_that_of_the_tables(freedom: int, t: float) -> None:
    assert student_t(freedom) == pytest.approx(t, abs=6e-4)


def test_students_t_goes_over_into_the_normal_distribution() -> None:
    assert student_t(399) == pytest.approx(student_t(400), abs=0.007)
    assert student_t(10**6) == pytest.approx(1.95996, abs=1e-4)


def test_a_mean_with_its_interval() -> None:
    found = mean_of([1, 2, 3, 4, 5])
    half = 2.7764 * math.sqrt(2.5 / 5)
    assert (found.mean, found.n) == (3, 5)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), abs=1e-3)


def test_an_interval_ends_at_the_bounds_of_the_quantity() -> None:
    assert mean_of([0.9, 1.0, 1.0], (0.0, 1.0)).high == 1.0


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    assert mean_of([4.0]).mean == 4 and math.isnan(mean_of([4.0]).low)
    assert math.isnan(mean_of([]).mean) and mean_of([]).n == 0
    assert math.isnan(share_of(0, 0).mean)


@pytest.mark.parametrize(
    ("yes", "n", "low", "high"),
    [(20, 20, 0.839, 1.0), (0, 10, 0.0, 0.278), (9, 10, 0.596, 0.982), (1, 1, 0.207, 1)],
)
def test_shares_have_wilsons_interval(yes: int, n: int, low: float, high: float) -> None:
    found = share_of(yes, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-4)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_a_share_lies_in_its_interval(values: list[bool]) -> None:
    found = share_of(sum(values), len(values))
    assert 0 <= found.low <= found.mean <= found.high <= 1


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40))
def test_a_mean_lies_in_its_interval(values: list[float]) -> None:
    found = mean_of(values)
    slack = 1e-9 * max(map(abs, values))
    assert found.low - slack <= found.mean <= found.high + slack


def test_it_is_written_as_one_reads_it() -> None:
    assert str(share_of(20, 20)) == "1 [0.839, 1]"
    assert str(mean_of([4.0])) == "4"
