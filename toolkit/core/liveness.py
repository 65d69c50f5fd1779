"""How long something has stood still, as one observer saw it. Pure.

Only what was seen counts: a gap between two looks counts for so much at the most, because an observer that was held up
itself (stopped, starved, or waiting for a store that stalled) has seen nothing meanwhile. So nobody is declared dead
for a silence that was the observer's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: how much longer than a beat a gap between two looks may count for
_GAP = 1.5


def gap_max_ns(beat_s: float) -> int:
    """What a gap between two looks counts for at the most, in nanoseconds, where somebody looks each `beat_s`."""
    return int(beat_s * _GAP * 1e9)


@dataclass(slots=True)
class Standstill:
    """One counter under observation.

    Args:
        value: what was seen last.
        looked_ns: when, by the observer's clock.
        stood_ns: how long it has stood.
    """

    value: Any
    looked_ns: int
    stood_ns: int = 0

    def look(self, value: Any, now_ns: int, gap_max_ns: int) -> int:
        """See it once more. Returns for how many nanoseconds it has stood."""
        if value != self.value:
            self.value, self.stood_ns = value, 0
        else:
            self.stood_ns += min(now_ns - self.looked_ns, gap_max_ns)
        self.looked_ns = now_ns
        return self.stood_ns
