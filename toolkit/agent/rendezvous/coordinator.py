"""What the coordinator of a job does: it reads the cards, watches the beats, forms rounds and ends them.

It decides nothing by itself: `toolkit.core.rounds` says what follows from what it has seen. It writes nothing that
counts but through the head, which carries its epoch: one that was asleep can't write into its successor's round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from toolkit.agent.rendezvous.desk import Desk
from toolkit.agent.rendezvous.heart import LEFT
from toolkit.agent.rendezvous.link import Link
from toolkit.core import events, gathering, job_report, rounds, seats
from toolkit.core.errors import StoreLostError
from toolkit.core.gathering import Gathering, GiveUp, Seal, Wait
from toolkit.core.liveness import Standstill
from toolkit.core.rounds import Head, Malformed, Ring
from toolkit.core.seats import Candidate, Card, OtherVersion, Place, Plan, Seat

#: how long failures of a job that has failed are gathered before the report is written, in seconds
SETTLE_S = 0.5
#: cards that are looked for one by one in one look, when some of those that were announced are missing
_HOLES_MAX = 64
#: cards that are believed to have been announced since the last look; more is somebody's mistake
_ANNOUNCED_MAX = 100_000
#: bells that are kept behind the latest one, for who is slow to listen
_BELLS_KEPT = 8


class Coordinator:
    """The part of a keeper that works while its agent coordinates the job.

    Args:
        desk: of this agent.
        beats: what this agent has seen of others before, by node: how long the coordinator before has been silent.
    """

    def __init__(self, desk: Desk, beats: dict[str, Standstill]) -> None:
        self._desk = desk
        #: of the latest round; its members and this agent's seat in it are looked up with each card
        self._plan: Plan | None = None
        self._inside: dict[str, Place] = {}
        self._own_seat: Seat | None = None
        self._candidates: dict[str, Candidate] = {}
        #: members of the latest round that have asked for a seat in the next
        self._back: set[str] = set()
        #: cards below were read, save the holes; what was announced in the last look
        self._read_to = 0
        self._announced = 0
        self._holes: dict[int, int] = {}
        self._arrived: deque[tuple[int, bytes]] = deque()
        self._watched: list[str] = []
        self._beats: dict[str, Standstill] = dict(beats)
        self._lost: dict[str, str] = {}
        self._refused: set[str] = set()
        self._held: set[str] = set()
        self._phase: tuple[int, str] = (-1, "")
        self._since_ns = 0
        self._enough_ns: int | None = None
        self._all_done_asked_ns = 0
        self._reported = False
        #: keys that nobody needs any more; one is removed with each beat
        self._stale: deque[str] = deque()
        self._bells_from = max(0, desk.head.version - _BELLS_KEPT)

    # -- what it reads --------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Read what the coordinator before has left: the plan of the latest round, and the cards of who waits."""
        desk, head = self._desk, self._desk.head
        waiting: list[int] = []
        if head.round:
            key = desk.keys.plan(head.round, head.sealed_epoch)
            plan = seats.plan_of(desk.link.call(lambda store: store.get(key)))
            self._take_plan(plan)
            self._read_to = plan.read_to
            waiting = [place.seat.seat for place in plan.parked]
        self._announced = desk.link.call(lambda store: store.add(desk.keys.joins, 0))
        now_ns = desk.clock.now_ns()
        for seat in waiting:
            if seat >= 0:
                self._holes[seat] = now_ns
        self._read_announced(now_ns)

    def read_cards(self, link: Link, ring: Callable[[], None], given_up: Callable[[], bool]) -> None:
        """Wait for one card after the other, on a connection of its own; a task of its own runs this."""
        seat = self._read_to
        while not given_up():
            key = self._desk.keys.card(seat)
            try:
                data = link.call(lambda store, key=key: store.get(key))  # type: ignore[misc]
                if not data and not link.call(lambda store, key=key: store.check([key])):  # type: ignore[misc]
                    continue  # woken for nothing; see `Link.find`
            except StoreLostError:
                return  # the keeper sees that for itself
            self._arrived.append((seat, data))
            seat += 1
            ring()

    def keys(self) -> list[str]:
        """What it needs to see in the next look; all of it exists."""
        desk = self._desk
        nodes = [place.node for place in self._members()] + list(self._candidates)
        self._watched = [node for node in dict.fromkeys(nodes) if node != desk.node]
        return [desk.keys.joins, *(desk.keys.beat(node) for node in self._watched)]

    def see(self, values: Sequence[bytes], gap_max_ns: int, lease_ns: int) -> int | None:
        """Act on what was seen in a look.

        Args:
            values: of `keys()`.
            gap_max_ns: what a gap between two looks counts for, at the most.
            lease_ns: how long a counter may stand.

        Returns:
            When to act again, by the own clock, if nothing happens before; None for the next beat.
        """
        now_ns = self._desk.clock.now_ns()
        self._enter_phase(now_ns)
        self._watch(values[1:], now_ns, gap_max_ns, lease_ns)
        # What was announced in the look before and has not arrived since is looked for.
        self._read_announced(now_ns)
        self._announced = min(_counted(values[0]), self._read_to + _ANNOUNCED_MAX)
        self._remove_one()
        return self.act()

    def act(self) -> int | None:
        """Act on what is known. Returns when to do so again."""
        now_ns = self._desk.clock.now_ns()
        while self._arrived:
            seat, data = self._arrived.popleft()
            if seat >= self._read_to or seat in self._holes:
                self._read_to = max(self._read_to, seat + 1)
                self._holes.pop(seat, None)
                self._take_card(seat, data, now_ns)
        self._enter_phase(now_ns)
        match self._desk.head.phase:
            case "gathering":
                return self._gather(now_ns)
            case "running":
                return self._run(now_ns)
            case "finishing":
                return self._finish(now_ns)
            case _:
                return self._end(now_ns)

    def join(self, card: Card) -> None:
        """The own card; it needs no store, because it is worth nothing without this coordinator."""
        self._admit(Candidate(-1, card, self._desk.clock.now_ns()))

    def nodes(self) -> list[str]:
        """All others that take part or wait."""
        nodes = dict.fromkeys([*(place.node for place in self._members()), *self._candidates])
        return [node for node in nodes if node != self._desk.node]

    def _members(self) -> list[Place]:
        return [] if self._plan is None else self._plan.members

    def _take_plan(self, plan: Plan) -> None:
        self._plan, self._back = plan, set()
        self._inside = {place.node: place for place in plan.members}
        places = (*plan.members, *plan.parked)
        self._own_seat = next((place.seat for place in places if place.node == self._desk.node), None)

    def _enter_phase(self, now_ns: int) -> None:
        head = self._desk.head
        if self._phase == (head.round, head.phase):
            return
        if self._phase[0] != head.round:
            self._lost, self._held, self._enough_ns = {}, set(), None
        self._phase = (head.round, head.phase)
        self._since_ns = now_ns

    def _watch(self, values: Sequence[bytes], now_ns: int, gap_max_ns: int, lease_ns: int) -> None:
        beats = {}
        for node, value in zip(self._watched, values, strict=True):
            seen = self._beats.get(node)
            if seen is None:
                seen = Standstill(value, now_ns)
            else:
                seen.look(value, now_ns, gap_max_ns)
            beats[node] = seen
            self._judge(node, seen, lease_ns)
        self._beats = beats

    def _judge(self, node: str, seen: Standstill, lease_ns: int) -> None:
        """Whether a node is lost; one that moves again is not."""
        if seen.value == LEFT:
            why = "it left"
        elif seen.stood_ns >= lease_ns:
            why = f"it gave no sign of life for {seen.stood_ns / 1e9:.1f} s"
        else:
            self._lost.pop(node, None)
            return
        if node not in self._lost:
            self._lost[node] = why
            self._desk.say(events.LeaseLost, lost=node, reason=why, stood_s=seen.stood_ns / 1e9)

    def _read_announced(self, now_ns: int) -> None:
        """Cards that were announced and did not arrive by themselves, and holes: nodes that died before they wrote."""
        desk = self._desk
        for seat in range(self._read_to, self._announced):
            self._holes[seat] = now_ns
        self._read_to = max(self._read_to, self._announced)
        for seat in list(self._holes)[:_HOLES_MAX]:
            key = desk.keys.card(seat)
            data = desk.link.find(key)
            if data is not None:
                del self._holes[seat]
                self._take_card(seat, data, now_ns)
            elif now_ns - self._holes[seat] > int(desk.head.settings.lease_s * 1e9):
                # Nobody who lives takes so long. The reader has to get past it.
                del self._holes[seat]
                desk.link.tell(lambda store, key=key: store.set(key, b""))  # type: ignore[misc]
                self._stale.append(key)

    def _take_card(self, seat: int, data: bytes, now_ns: int) -> None:
        if not data:
            return
        try:
            card = seats.card_of(data)
        except OtherVersion as error:
            self._refuse(error.node, seat, str(error))
            return
        except Malformed as error:
            self._desk.say(events.JoinRefused, joiner=f"whoever took seat {seat}", reason=str(error))
            return
        self._admit(Candidate(seat, card, now_ns))

    def _admit(self, candidate: Candidate) -> None:
        card, head = candidate.card, self._desk.head
        inside = self._inside.get(card.node)
        if inside is not None and card.round != head.round:
            return  # an older card of a member
        # Others matter only to who asks for a rank of its own: n cards must not cost n * n.
        others = [] if card.node_rank is None else self._others()
        refusal = seats.refusal(card, others, head.settings)
        if refusal:
            self._refuse(card.node, candidate.seat, refusal)
            return
        if candidate.seat >= 0 and card.node not in self._beats:
            # A node writes its beat before its card. Of a card that something else wrote there may be none, and a look
            # waits for what is not there.
            key = self._desk.keys.beat(card.node)
            self._desk.link.call(lambda store: store.compare_set(key, b"", b"0"))
        before = self._candidates.pop(card.node, None)
        since_ns = candidate.since_ns if before is None else before.since_ns
        self._candidates[card.node] = Candidate(candidate.seat, card, since_ns)
        if seats.was_member(card, head):
            self._back.add(card.node)
        if head.phase == "running" and inside is None and candidate.seat >= 0:
            self._let_wait(self._candidates[card.node])
        self._beats.pop(card.node, None)

    def _others(self) -> list[Place | Card]:
        """Of nodes that live: members of the round, and who waits."""
        waiting = [c.card for c in self._candidates.values() if c.node not in self._lost]
        here = {c.node for c in waiting}
        members = [p for p in self._members() if p.node not in self._lost and p.node not in here]
        return [*members, *waiting]

    def _let_wait(self, candidate: Candidate) -> None:
        """Tell a node that came while a round runs that it was heard, or that enough wait already."""
        desk, head = self._desk, self._desk.head
        others = sum(c.node not in self._lost and c is not candidate for c in self._candidates.values())
        reason = seats.too_many(head, others)
        if reason:
            del self._candidates[candidate.node]
            self._refuse(candidate.node, candidate.seat, reason)
            return
        seat = seats.waiting(head, candidate)
        desk.link.tell(lambda store: store.set(desk.keys.seat(candidate.node), rounds.encoded(seat)))

    def _refuse(self, node: str, number: int, reason: str) -> None:
        desk, seat = self._desk, Seat(verdict="refused", reason=reason, seat=number)
        # It is told with its next look; nobody else is to be woken for that.
        desk.link.tell(lambda store: store.set(desk.keys.seat(node), rounds.encoded(seat)))
        if node not in self._refused:
            self._refused.add(node)
            desk.say(events.JoinRefused, joiner=node, reason=reason)

    # -- what it does, by phase -----------------------------------------------------------------------------

    def _gather(self, now_ns: int) -> int | None:
        head = self._desk.head
        if self._is_too_early(head):
            late_ns = gathering.late_ns(head, self._since_ns)
            if now_ns < late_ns:
                self._enough_ns = None
                return late_ns
        alive = tuple(c for c in self._candidates.values() if c.node not in self._lost)
        back = {c.node for c in alive if seats.was_member(c.card, head)}
        awaited = tuple(p.node for p in self._members() if p.node not in back and p.node not in self._lost)
        enough = len(alive) >= head.settings.min_nodes
        self._enough_ns = (self._enough_ns or now_ns) if enough else None
        match gathering.look(head, Gathering(alive, awaited, self._since_ns, self._enough_ns), now_ns):
            case Seal(members):
                self._seal(alive, members)
                return now_ns
            case GiveUp(why):
                self._desk.change(lambda h: rounds.failed(h, self._desk.node, head.round, why))
                return now_ns
            case Wait(_, until_ns):
                return until_ns

    def _is_too_early(self, head: Head) -> bool:
        """Whether somebody is missing for certain. Said at once, because it is asked with each card that comes."""
        if len(self._candidates) < head.settings.min_nodes:
            return True
        return head.round > 0 and len(self._back) + len(self._lost) < len(self._inside)

    def _seal(self, alive: Sequence[Candidate], members: Sequence[Candidate]) -> None:
        """Form the round: write the plan, commit by the head, then tell."""
        desk, head = self._desk, self._desk.head
        plan = seats.planned(head, alive, members, self._read_to)
        plan_key = desk.keys.plan(plan.round, plan.epoch)
        # The answer to the commit says that the plan is there, too: one connection keeps the order.
        desk.link.tell(lambda store: store.set(plan_key, rounds.encoded(plan)))

        def commit(now: Head) -> Head | None:
            # Whatever has changed meanwhile (a failure that counts, say) the plan does not know.
            if now.version != head.version:
                return None
            return rounds.sealed(now, desk.node, len(members), desk.since_restart_s)

        if not desk.change(commit, ring=False):
            return  # the next plan of this round and epoch has the same key
        self._publish(plan)
        self._take_plan(plan)
        parked = {place.node for place in plan.parked if place.seat.verdict == "parked"}
        self._candidates = {node: c for node, c in self._candidates.items() if node in parked}
        names = [place.node for place in plan.members]
        desk.say(events.RoundFormed, formed=plan.round, members=names, parked=list(parked))
        if head.round:
            self._stale.append(desk.keys.plan(head.round, head.sealed_epoch))
            if head.ring is not None and head.ring.action == "restart":
                self._stale.append(desk.keys.failures(head.round))

    def _publish(self, plan: Plan) -> None:
        """All seats, and the bell that tells of them, in one message."""
        desk, writes = self._desk, {}
        for place in (*plan.members, *plan.parked):
            writes[desk.keys.seat(place.node)] = rounds.encoded(place.seat)
            if place.seat.verdict == "refused":
                desk.say(events.JoinRefused, joiner=place.node, reason=place.seat.reason)
        writes[desk.keys.bell(desk.head.version)] = desk.raw
        desk.link.write(writes)

    def own_seat(self) -> Seat | None:
        """What the plan of the latest round has for this agent."""
        if self._plan is None or self._plan.round != self._desk.head.round:
            return None
        return self._own_seat

    def _remove_one(self) -> None:
        """House-keeping in small pieces, so that no round waits for it."""
        desk = self._desk
        if self._bells_from < desk.head.version - _BELLS_KEPT:
            self._stale.append(desk.keys.bell(self._bells_from))
            self._bells_from += 1
        if self._stale:
            key = self._stale.popleft()
            desk.link.call(lambda store: store.delete_key(key))

    def _run(self, now_ns: int) -> int | None:
        desk, head = self._desk, self._desk.head
        lost = [place for place in self._members() if place.node in self._lost]
        if lost:
            ring, hosts = self._because_of(lost), [place.host for place in lost]
            desk.change(lambda now: rounds.rung(now, desk.node, head.round, ring, hosts))
            return now_ns
        waiting = [
            c for c in self._candidates.values() if c.node not in self._lost and c.node not in self._inside
        ]
        self._tell_of_held(head, waiting, now_ns)
        match gathering.welcome(head, waiting, now_ns):
            case Ring() as ring:
                desk.change(lambda h: rounds.rung(h, desk.node, head.round, ring))
                return now_ns
            case Wait(_, until_ns):
                return until_ns
        return None

    def _because_of(self, lost: Sequence[Place]) -> Ring:
        first = f"node {lost[0].node} is lost: {self._lost[lost[0].node]}"
        more = f"; {len(lost) - 1} more with it" if len(lost) > 1 else ""
        return Ring(action="membership", reason=first + more, by=self._desk.node)

    def _tell_of_held(self, head: Head, waiting: Sequence[Candidate], now_ns: int) -> None:
        if head.size >= head.settings.max_nodes:
            return
        for candidate in waiting:
            left_s = (seats.held_ns(candidate, head) - now_ns) / 1e9
            if left_s > 0 and candidate.node not in self._held:
                self._held.add(candidate.node)
                lost = head.losses.get(candidate.card.host, 0)
                reason = f"host {candidate.card.host} was lost {lost} times in this job"
                self._desk.say(events.JoinHeld, joiner=candidate.node, reason=reason, for_s=left_s)

    def _finish(self, now_ns: int) -> int | None:
        """Nothing is started again any more: all members finish, or the job has failed."""
        desk, head = self._desk, self._desk.head
        for place in self._members():
            if place.node in self._lost and not self._is_done(head, [place.seat.group_rank]):
                why = f"{self._because_of([place]).reason}; others have finished, so that nothing can be started again"
                desk.change(lambda h, why=why: rounds.failed(h, desk.node, head.round, why))  # type: ignore[misc]
                return now_ns
        # Who was last has counted itself and ended the job; this is for a count that a broken connection took.
        if now_ns - self._all_done_asked_ns >= int(head.settings.beat_s * 1e9):
            self._all_done_asked_ns = now_ns
            if self._is_done(head, range(head.size)):
                desk.change(lambda h: rounds.succeeded(h, desk.node, head.round))
                return now_ns
        return None

    def _is_done(self, head: Head, ranks: Sequence[int]) -> bool:
        keys = [self._desk.keys.done(head.round, rank) for rank in ranks]
        return self._desk.link.call(lambda store: store.check(keys))

    def _end(self, now_ns: int) -> int | None:
        """Write who failed first, when those who know have had time to say so."""
        desk, head = self._desk, self._desk.head
        if head.phase != "failed" or self._reported:
            return None
        until_ns = self._since_ns + int(SETTLE_S * 1e9)
        if now_ns < until_ns:
            return until_ns
        report = job_report.encoded(desk.gathered_report())
        desk.link.tell(lambda store: store.set(desk.keys.report, report))
        self._reported = True
        return now_ns


def _counted(value: bytes) -> int:
    """The value of a counter; 0 if somebody has written something else there."""
    return int(value) if value.isdigit() and len(value) < 19 else 0
