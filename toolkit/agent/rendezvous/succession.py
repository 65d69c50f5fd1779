"""Whether the coordinator still coordinates, as one agent sees it."""

from __future__ import annotations

from toolkit.core.liveness import Standstill
from toolkit.core.rounds import Head


class Succession:
    """Watches the coordinator of one epoch, by its pulse, and by its beat, which goes on if only its keeper hangs."""

    def __init__(self) -> None:
        self._epoch = 0
        self._pulse: Standstill | None = None
        self._beat: Standstill | None = None

    def forget(self) -> None:
        """Begin anew with whoever coordinates next."""
        self._pulse = self._beat = None

    def look(
        self, head: Head, pulse: bytes, beat: bytes | None, now_ns: int, gap_max_ns: int, lease_ns: int
    ) -> str:
        """See it once more.

        Args:
            pulse: epoch and turn, as the coordinator wrote them last.
            beat: of the coordinator's agent, if it was looked at.
            now_ns: by the own clock.
            gap_max_ns: what a gap between two looks counts for, at the most.
            lease_ns: how long it may stand.

        Returns:
            Why somebody has to take over, or an empty string.
        """
        if head.epoch != self._epoch:
            self._epoch = head.epoch
            self.forget()
        epoch, _, turn = pulse.partition(b" ")
        seen = turn if epoch == b"%d" % head.epoch else b""
        if self._pulse is None:
            self._pulse = Standstill(seen, now_ns)
        else:
            # Without its own pulse in it: a former coordinator's, or the new one has not beaten yet.
            self._pulse.look(seen or self._pulse.value, now_ns, gap_max_ns)
        if beat is not None:
            if self._beat is None:
                self._beat = Standstill(beat, now_ns)
            self._beat.look(beat, now_ns, gap_max_ns)
        if not head.coordinator:
            return "it left"
        if self._pulse.stood_ns >= lease_ns:
            return f"it gave no sign of life for {self._pulse.stood_ns / 1e9:.1f} s"
        return ""

    def known(self, head: Head) -> dict[str, Standstill]:
        """How long the coordinator's agent has been silent, by its name: its successor need not find out anew."""
        return {head.coordinator: self._beat} if self._beat is not None and head.coordinator else {}
