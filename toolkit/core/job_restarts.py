"""The restarts of a job of several nodes, as its head keeps them: without clock times, which no two nodes share. Pure.

Each entry says how long after the one before it came, by the clock of the node that made it and saw both. How long ago
the last one was is said anew with each round that forms, so that a node that comes late judges as the others do.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from toolkit.core.restarts import FailureCause, PastRestart

#: entries that are kept, and characters of a cause in each: each node reads them with each change of the head
KEPT_MAX, CAUSE_MAX = 200, 160


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One restart after a failure.

    Args:
        gap_s: seconds since the one before; 0 for the first.
        cause: see `FailureCause.key`.
        free: whether it did not spend the budget.
        progress: the step that was reached, if it was told.
        uptime_s: how long the workers had run.
    """

    gap_s: float = 0.0
    cause: str = ""
    free: bool = False
    progress: int | None = None
    uptime_s: float | None = None


def entry_of(cause: FailureCause, past: Sequence[PastRestart], now_ns: int, *, free: bool) -> Entry:
    """The next entry.

    Args:
        past: the restarts before, by the own clock.
        now_ns: now, by the same.
    """
    return Entry(
        gap_s=max(0.0, (now_ns - past[-1].at_ns) / 1e9) if past else 0.0,
        cause=shortened(cause.key),
        free=free,
        progress=cause.progress,
        uptime_s=cause.uptime_s,
    )


def shortened(cause: str) -> str:
    """A cause as entries have it; equal causes stay equal."""
    return cause[:CAUSE_MAX]


def by_clock(entries: Sequence[Entry], last_ns: int) -> tuple[PastRestart, ...]:
    """The restarts by the own clock, oldest first.

    Args:
        last_ns: when the last one was.
    """
    found, at_ns = [], last_ns
    for entry in reversed(entries):
        found.append(PastRestart(at_ns, entry.cause, entry.free, entry.progress, entry.uptime_s))
        at_ns -= int(entry.gap_s * 1e9)
    return tuple(reversed(found))
