"""Means with their uncertainty: what a few runs say of all. Pure arithmetic, no randomness: the same values, the same
interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

from toolkit.views.table import figure

#: how sure an interval is
CONFIDENCE = 0.95
#: from here on Student's t is the normal distribution, to three digits
_NORMAL_FROM = 400


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean.

    Args:
        mean: nan if there was nothing to average.
        low: lower end of its 95 % confidence interval; nan if there were too few values.
        high: upper end.
        n: values.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if math.isnan(self.low):
            return figure(self.mean)
        return f"{figure(self.mean)} [{figure(self.low)}, {figure(self.high)}]"


def mean_of(values: Sequence[float], bounds: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """The mean with Student's t interval.

    Args:
        values: independent ones.
        bounds: what the quantity can't exceed; the interval is cut there.
    """
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = student_t(n - 1) * math.sqrt(variance / n)
    return Estimate(mean, max(mean - half, bounds[0]), min(mean + half, bounds[1]), n)


def share_of(yes: int, n: int) -> Estimate:
    """A share with Wilson's score interval, which is right near 0 and 1, where the usual one has no width.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).

    Args:
        yes: how often it was so.
        n: of so many.
    """
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    assert 0 <= yes <= n, f"{yes} of {n} is no share"
    share, z = yes / n, NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and 1 the interval ends there; sums of fractions may miss that by a hair.
    return Estimate(share, min(max(middle - half, 0.0), share), max(min(middle + half, 1.0), share), n)


@cache
def student_t(freedom: int) -> float:
    """How many standard errors a 95 % interval reaches to either side, for so many degrees of freedom."""
    assert freedom >= 1, f"{freedom} degrees of freedom leave nothing to estimate with"
    if freedom >= _NORMAL_FROM:
        return NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    low, high = 0.0, 100.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < CONFIDENCE else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """P(|T| < t) by the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    if freedom % 2:
        term, total = cosine, cosine if freedom > 1 else 0.0
        for number in range(3, freedom - 1, 2):
            term *= cosine * cosine * (number - 1) / number
            total += term
        return 2 / math.pi * (angle + sine * total)
    term = total = 1.0
    for number in range(2, freedom - 1, 2):
        term *= cosine * cosine * (number - 1) / number
        total += term
    return sine * total
