"""When something happened on one node, by its two clocks."""

from __future__ import annotations

import msgspec


class Moment(msgspec.Struct, frozen=True):
    """When something happened on one node.

    Args:
        mono_ns: the node's monotonic clock.
        wall_ns: the node's wall clock, nanoseconds since the Unix epoch.
    """

    mono_ns: int
    wall_ns: int


def seconds_between(start: Moment | None, end: Moment | None) -> float | None:
    """Seconds on the monotonic clock of the one node that both are from; None if either is missing.

    Never negative, and never more than some 30 years: a recording may say anything.
    """
    if start is None or end is None:
        return None
    return min(max(end.mono_ns - start.mono_ns, 0), 10**18) / 1e9
