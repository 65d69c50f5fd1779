"""The heart of an agent: it beats, so that neither a slow store nor a long look stops that.

With each beat it sees whether the store still answers the agent, which costs no operation. So the agent's loop need not
wake for that as long as the heart beats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from toolkit.agent.rendezvous.link import Link
from toolkit.core.errors import StoreLostError
from toolkit.core.liveness import gap_max_ns
from toolkit.ports import Bell, Clock

#: what a beat says at last
LEFT = b"left"


@dataclass(frozen=True, slots=True)
class Slept:
    """A time in which this agent stood still for longer than its lease, so that the others may have gone on without it.

    Args:
        slept_s: for how long.
        woke_ns: when it woke, by its own clock.
        awake_s: since then, as far as it stood not still again.
    """

    slept_s: float
    woke_ns: int
    awake_s: float = 0.0


class Heart:
    """Of one agent.

    Args:
        link: a connection of its own.
        bell: its own; rung when there is reason to hurry.
        key: of the beat.
        beat_s: how long from one beat to the next, in seconds.
        carried: what is written along with each beat: a coordinator's pulse.
        on_lost: told when the store is gone.
        clock: of this node.
        lease_s: how long a node may be silent, in seconds.
        looked_ns: when the store was seen last.
        answers: counts what the store has answered the agent.
        alarm: rung with each beat while the store is silent, or it is not known whether the others went on without this
            agent.
    """

    def __init__(
        self,
        link: Link,
        bell: Bell,
        key: str,
        beat_s: Callable[[], float],
        carried: Callable[[], dict[str, bytes]],
        on_lost: Callable[[StoreLostError], None],
        clock: Clock,
        lease_s: Callable[[], float],
        looked_ns: Callable[[], int],
        answers: Callable[[], int],
        alarm: Bell,
    ) -> None:
        self._link = link
        self._bell = bell
        self._key = key
        self._beat_s = beat_s
        self._carried = carried
        self._on_lost = on_lost
        self._clock = clock
        self._lease_s = lease_s
        self._looked_ns = looked_ns
        self._answers = answers
        self._alarm = alarm
        self._answered = 0
        #: for how long the store had answered nothing at the last beat, in nanoseconds
        self.silent_ns = 0
        self._slept: Slept | None = None
        self._beats = 0
        self._stopping = False
        self._leaving = False
        #: whether it beats or is about to
        self.beats_on = False

    @property
    def watching(self) -> bool:
        """Whether it beats and is not held up by a broken connection."""
        return self.beats_on and self._link.connected

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
                self._wait_for_beat()
                if not self._leaving:
                    self._write({self._key: self.next_beat(), **self._carried()})
            if self._leaving:
                self._write({self._key: LEFT})
        except StoreLostError as error:
            if not (self._stopping or self._leaving):
                self._on_lost(error)
        self.beats_on = False

    def _wait_for_beat(self) -> None:
        """Nothing but a wait, so that what it takes too long is time in which this process stood still."""
        beat_s, before_ns = self._beat_s(), self._clock.now_ns()
        self._bell.wait(beat_s)
        now_ns = self._clock.now_ns()
        waited_s = (now_ns - before_ns) / 1e9
        answered = self._answers()
        if answered != self._answered:
            self._answered, self.silent_ns = answered, 0
        else:
            self.silent_ns += min(now_ns - before_ns, gap_max_ns(beat_s))
            self._alarm.ring()
        if self._slept is None and waited_s <= self._lease_s():
            return  # as nearly always
        slept = self.slept
        if waited_s > self._lease_s():
            self._slept = Slept(waited_s, now_ns, slept.awake_s if slept is not None else 0.0)
        elif slept is not None:
            self._slept = replace(slept, awake_s=slept.awake_s + waited_s)
        else:
            self._slept = None
        if self._slept is not None:
            self._alarm.ring()

    @property
    def slept(self) -> Slept | None:
        """The time that it stood still, if the store has not been seen since."""
        slept = self._slept
        return None if slept is None or self._looked_ns() >= slept.woke_ns else slept

    def _write(self, writes: dict[str, bytes]) -> None:
        # The next beat says more than one that was lost.
        self._link.write(writes, lasting=False)
