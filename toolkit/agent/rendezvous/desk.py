"""The head of the job as this agent knows it, and the one way to change it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from toolkit.agent.rendezvous.keys import Keys
from toolkit.agent.rendezvous.link import Link
from toolkit.core import job_report, rounds
from toolkit.core.events import Event
from toolkit.core.job_report import JobReport
from toolkit.core.job_restarts import by_clock
from toolkit.core.restarts import PastRestart
from toolkit.core.rounds import Head, Settings
from toolkit.ports import Clock

#: attempts at one change of the head; each that fails has been beaten by a change of somebody else
_ATTEMPTS = 1000


class Say(Protocol):
    """Emits an event of this agent."""

    def __call__(self, kind: type[Event], **fields: Any) -> None: ...


class Desk:
    """What the keeper and the coordinator of one agent work on. Belongs to the keeper's task.

    Args:
        node: this agent.
        settings: what it was started with.
        keys: of the job.
        link: to the store.
        clock: of this node.
        say: emits events.
    """

    def __init__(self, node: str, settings: Settings, keys: Keys, link: Link, clock: Clock, say: Say) -> None:
        self.node = node
        self.settings = settings
        self.keys = keys
        self.link = link
        self.clock = clock
        self.say = say
        #: when the job was last restarted after a failure that its policy remembers, by the own clock
        self.restarted_ns = 0
        self._raw = b""

    #: as it was seen last; nobody works at the desk before it is there
    head: Head

    @property
    def coordinating(self) -> bool:
        """Whether this agent decides."""
        return self.head.coordinator == self.node

    def take(self, raw: bytes) -> bool:
        """See the head. Returns whether it is another than before.

        Raises:
            Malformed: it is none.
        """
        if raw == self._raw:
            return False
        before = self.head if self._raw else None
        self.head, self._raw = rounds.head_of(raw), raw
        self._note_restart(before)
        return True

    def _note_restart(self, before: Head | None) -> None:
        head = self.head
        if before is None or head.round != before.round:
            # Whoever formed the round has said how long ago it was.
            self.restarted_ns = self.clock.now_ns() - int(head.since_s * 1e9)
        elif head.past != before.past:
            self.restarted_ns = self.clock.now_ns()

    @property
    def since_restart_s(self) -> float:
        """How long ago that was."""
        return max(0.0, (self.clock.now_ns() - self.restarted_ns) / 1e9)

    @property
    def past(self) -> tuple[PastRestart, ...]:
        """The job's restarts after failures, by the own clock; those that its policy remembers."""
        return by_clock(self.head.past, self.restarted_ns)

    def create(self, head: Head) -> None:
        """Make this the head, if there is none yet; then see what there is."""
        new = rounds.encoded(head)
        self.take(self.link.call(lambda store: store.compare_set(self.keys.head, b"", new)))

    def change(self, make: Callable[[Head], Head | None], *, ring: bool = True) -> bool:
        """Change the head to what `make` makes of it; None from it means that this is not to be had.

        Args:
            make: pure; called again for each head that somebody else was quicker to make.
            ring: whether to ring the bell; who doesn't has to do so itself.

        Returns:
            Whether it was changed. What it is now is in `head` either way.
        """
        for _ in range(_ATTEMPTS):
            head = make(self.head)
            if head is None:
                return False
            new = rounds.encoded(head)
            found = self._exchange(self._raw, new)
            self.take(found)
            if found == new:
                if ring:
                    self.ring(head.version)
                return True
        raise AssertionError(f"the head was changed {_ATTEMPTS} times under one attempt to change it")

    def _exchange(self, before: bytes, new: bytes) -> bytes:
        return self.link.call(lambda store: store.compare_set(self.keys.head, before, new))

    def gathered_report(self) -> JobReport:
        """How the job failed, with what was written of its latest round."""
        lines = self.link.find(self.keys.failures(self.head.round)) or b""
        return JobReport(outcome="failed", why=self.head.why, failures=job_report.records_of(lines))

    def ring(self, version: int) -> None:
        """Wake all who wait for this version, with the head as it is now."""
        key, raw = self.keys.bell(version), self._raw
        self.link.tell(lambda store: store.set(key, raw))

    @property
    def raw(self) -> bytes:
        """The head as it stands in the store."""
        return self._raw
