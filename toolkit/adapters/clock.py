"""The clock of this machine."""

from __future__ import annotations

import time


class SystemClock:
    """Implements `toolkit.ports.Clock`."""

    def now_ns(self) -> int:
        """CLOCK_MONOTONIC; stands still while the machine is suspended."""
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        """CLOCK_REALTIME."""
        return time.time_ns()
