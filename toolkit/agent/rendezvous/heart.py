"""The heart of an agent: it beats and does nothing else, so that neither a slow store nor a long look stops it."""

from __future__ import annotations

from collections.abc import Callable

from toolkit.agent.rendezvous.link import Link
from toolkit.core.errors import StoreLostError
from toolkit.ports import Bell

#: what a beat says at last
LEFT = b"left"


class Heart:
    """Of one agent.

    Args:
        link: a connection of its own.
        bell: rung when there is reason to hurry.
        key: of the beat.
        beat_s: how long from one beat to the next, in seconds.
        carried: what is written along with each beat: a coordinator's pulse.
        on_lost: told when the store is gone.
    """

    def __init__(
        self,
        link: Link,
        bell: Bell,
        key: str,
        beat_s: Callable[[], float],
        carried: Callable[[], dict[str, bytes]],
        on_lost: Callable[[StoreLostError], None],
    ) -> None:
        self._link = link
        self._bell = bell
        self._key = key
        self._beat_s = beat_s
        self._carried = carried
        self._on_lost = on_lost
        self._beats = 0
        self._stopping = False
        self._leaving = False
        #: whether it beats or is about to
        self.beats_on = False

    def next_beat(self) -> bytes:
        """A number that this agent has not said before."""
        self._beats += 1
        return b"%d" % self._beats

    def hurry(self) -> None:
        """Beat now."""
        self._bell.ring()

    def say_last_word(self) -> None:
        """Say that this agent has left: on one connection that comes behind its last beat. Does not wait for it."""
        self._leaving = True
        self._bell.ring()

    def stop(self) -> None:
        """Beat no more."""
        self._stopping = True
        self._bell.ring()

    def run(self) -> None:
        """Beat on; a task of its own runs this."""
        self.beats_on = True
        try:
            while not (self._stopping or self._leaving):
                self._bell.wait(self._beat_s())
                if not self._leaving:
                    self._write({self._key: self.next_beat(), **self._carried()})
            if self._leaving:
                self._write({self._key: LEFT})
        except StoreLostError as error:
            if not (self._stopping or self._leaving):
                self._on_lost(error)
        self.beats_on = False

    def _write(self, writes: dict[str, bytes]) -> None:
        # The next beat says more than one that was lost.
        self._link.write(writes, lasting=False)
