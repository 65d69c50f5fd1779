"""An agent's application for a seat: its card, and what comes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from toolkit.agent.rendezvous.coordinator import Coordinator
from toolkit.agent.rendezvous.desk import Desk
from toolkit.core import events, rounds, seats
from toolkit.core.errors import RendezvousStateError
from toolkit.core.rounds import Head, Malformed
from toolkit.core.seats import Card, Seat

#: a card that was not answered for so many leases is written once more
_PATIENCE_LEASES = 10


class Application:
    """Of one agent; belongs to its keeper's task.

    Args:
        desk: of this agent.
        next_beat: a sign of life, which goes with each card.
        where: the store, for events.
        answered: called when there is an answer.
    """

    def __init__(
        self, desk: Desk, next_beat: Callable[[], bytes], where: str, answered: Callable[[], None]
    ) -> None:
        self._desk = desk
        self._next_beat = next_beat
        self._where = where
        self._answered = answered
        self._card: Card | None = None
        #: the number under which it is in the store; a coordinator's own is in none
        self._number: int | None = None
        self._since_ns: int | None = None
        self._seen = b""
        self._plan_seen = (0, 0)
        #: what this agent was told about its card
        self.answer: Seat | None = None
        #: keys of this agent that nobody needs any more
        self.stale: deque[str] = deque()

    @property
    def made(self) -> bool:
        """Whether this agent takes part."""
        return self._card is not None

    @property
    def awaited(self) -> bool:
        """Whether an answer is to come."""
        return self._since_ns is not None

    @property
    def is_in_store(self) -> bool:
        """Whether the answer is to be read there."""
        return self.awaited and self._number is not None

    def make(self, card: Card, coordinator: Coordinator | None) -> None:
        """Apply."""
        self._card, self.answer = card, None
        self.send(coordinator)

    def send(self, coordinator: Coordinator | None) -> None:
        """Hand in the card: to the own coordinator, or with a number to the store."""
        desk, card = self._desk, self._card
        assert card is not None, "it was made before"
        self._retire()
        self._since_ns, self._seen = desk.clock.now_ns(), b""
        if coordinator is None:
            self._number = desk.link.call(lambda store: store.add(desk.keys.joins, 1)) - 1
        number = -1 if self._number is None else self._number
        desk.say(events.SeatTaken, gathering=desk.head.round + 1, seat=number, store=self._where)
        writes = {desk.keys.beat(desk.node): self._next_beat()}
        if coordinator is None:
            writes |= {desk.keys.seat(desk.node): b"", desk.keys.card(number): rounds.encoded(card)}
        desk.link.write(writes)
        if coordinator is not None:
            coordinator.join(card)

    def _retire(self) -> None:
        if self._number is not None:
            self.stale.append(self._desk.keys.card(self._number))
            self._number = None

    # -- answers --------------------------------------------------------------------------------------------

    def heed(self, value: bytes, beat_s: float, coordinator: Coordinator | None) -> None:
        """See what stands at the own seat.

        Args:
            value: empty until there is an answer.
            beat_s: how long a coordinator that lives takes to tell what it has decided.
            coordinator: the own one, if there is one.
        """
        head = self._desk.head
        if value and value != self._seen:
            try:
                seat = seats.seat_of(value)
            except Malformed as error:
                raise RendezvousStateError(str(error)) from error
            fresh = (seat.round, seat.epoch) == (head.round, head.sealed_epoch) and self._is_news(seat)
            if seat.verdict == "refused" or fresh:
                self._seen = value
                self._take(seat)
                return
        if self._waited_ns() > int(head.settings.lease_s * _PATIENCE_LEASES * 1e9) and self.answer is None:
            self.send(coordinator)
        elif self._waited_ns() >= int(beat_s * 1e9):
            self._look_into_plan(head)

    def heed_own(self, coordinator: Coordinator | None) -> None:
        """See what the own coordinator has decided on it."""
        seat = coordinator.own_seat() if coordinator is not None and self.awaited else None
        if seat is not None and self._is_news(seat):
            self._take(seat)

    def _waited_ns(self) -> int:
        assert self._since_ns is not None, "asked while it waits"
        return self._desk.clock.now_ns() - self._since_ns

    def _is_news(self, seat: Seat) -> bool:
        """Whether it is of a later round than what this agent knows of."""
        card, told = self._card, self.answer
        assert card is not None, "who is answered has asked"
        return seat.round > card.round and (told is None or told.round < seat.round)

    def _look_into_plan(self, head: Head) -> None:
        """A round has formed and this agent was not told: its coordinator died over it, or it was left out."""
        this = (head.round, head.sealed_epoch)
        told = self.answer is not None and self.answer.round >= head.round
        if told or head.phase not in ("running", "finishing") or self._plan_seen == this:
            return
        self._plan_seen = this
        raw = self._desk.link.find(self._desk.keys.plan(*this))
        if raw is None:
            return  # a newer one has formed meanwhile
        plan = seats.plan_of(raw)
        mine = next((place.seat for place in plan.members if place.node == self._desk.node), None)
        # Also if it answers an earlier writing of the same card.
        if mine is not None and self._is_news(mine):
            self._take(mine)

    def _take(self, seat: Seat) -> None:
        """What was decided; who is parked goes on waiting."""
        if seat.verdict == "parked":
            self._since_ns = self._desk.clock.now_ns()
        else:
            self._since_ns = None
            self._retire()
        self.answer = seat
        self._answered()
