"""The one task that talks to the store for an agent: beats, looks, requests of the agent's loop, and the coordinator.

Each task has a connection of its own, because one that waits for an answer is locked for everybody else. The
**heart** beats and does nothing else, so that neither a slow store nor a long look stops it. The **watcher** waits for
the next version of the head, and a coordinator's **reader** for the next card; they hand over what came and ring the
keeper's bell. If a ring is lost (its sender died), the look of the next beat sees the same: bells make it fast, not
right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from toolkit.agent.rendezvous.application import Application
from toolkit.agent.rendezvous.coordinator import Coordinator
from toolkit.agent.rendezvous.desk import Desk, Say
from toolkit.agent.rendezvous.heart import LEFT, Heart, Slept
from toolkit.agent.rendezvous.keys import Keys
from toolkit.agent.rendezvous.lingering import linger
from toolkit.agent.rendezvous.link import Ambiguous, Birth, Link
from toolkit.agent.rendezvous.requests import Request, Requests
from toolkit.agent.rendezvous.succession import Succession
from toolkit.core import events, job_report, rounds
from toolkit.core.errors import RendezvousStateError, StoreLostError
from toolkit.core.job_report import FailureRecord, Hand, JobReport
from toolkit.core.liveness import Standstill, gap_max_ns
from toolkit.core.rounds import Head, Malformed, Ring, Settings
from toolkit.core.seats import Card
from toolkit.ports import Ports, StoreConnector

#: how long beats are faster after a round has ended, in seconds; later a missing node is missed as usual
ALERT_S = 5.0
#: between two looks whether somebody has begun the job, for the report of a job that has failed, and whether all have
#: left, in seconds
_AGAIN_S = 0.05
#: the shortest pause between two turns, in seconds
_PAUSE_MIN_S = 0.001
#: how long an agent that leaves may take to say so, in seconds
_LAST_WORD_S = 2.0


class Pace(NamedTuple):
    """How fast an agent lives now.

    Args:
        beat_s: from one beat to the next.
        gap_ns: what a gap between two looks counts for at the most.
        lease_ns: how long something may stand still before somebody is missed.
    """

    beat_s: float
    gap_ns: int
    lease_ns: int


class Keeper:
    """Of one agent.

    Args:
        node: the agent's name, unique in the job.
        settings: what it was started with.
        keys: of the job.
        connector: to the store.
        ports: of the agent; its bell is rung when there is something to see.
        say: emits events.
    """

    def __init__(
        self, node: str, settings: Settings, keys: Keys, connector: StoreConnector, ports: Ports, say: Say
    ) -> None:
        self.node = node
        self._settings = settings
        self._connector = connector
        self._ports = ports
        self._bell = ports.tasks.new_bell()
        self._pause = ports.tasks.new_bell()
        self._closing = False
        self._birth = Birth()
        self._link = self._new_link()
        self.desk = Desk(node, settings, keys, self._link, ports.clock, say)
        self._requests = Requests(ports.bell)
        self._news = False
        self._turns = 0
        self._next_beat_ns = 0
        self._wake_ns: int | None = None
        self._succession = Succession()
        self._alert_since_ns: int | None = None
        self._coordinator: Coordinator | None = None
        #: heads that came with bells, the version that the watcher waits for, and the one it waited for a beat ago
        self._heard: deque[bytes] = deque()
        self._listening = 0
        self._listened = -1
        self._left = False
        self._heart = Heart(
            self._new_link(ports.bell.ring),
            ports.tasks.new_bell(),
            keys.beat(node),
            self._beat_s,
            self._pulse_to_write,
            self._lost,
            ports.clock,
            lambda: self._settings.lease_s,
            lambda: self.looked_ns,
            lambda: self._link.answers,
            ports.bell,
        )
        self._why_taken = ""
        self._followed = ""
        self._known_beats: dict[str, Standstill] = {}
        #: its card, and what comes of it
        self.application = Application(self.desk, self._heart.next_beat, connector.where, ports.bell.ring)
        # What the agent's loop reads. Each is set once it is whole.
        #: the head as seen last; None before the first look
        self.head: Head | None = None
        #: of a job that has failed
        self.report: JobReport | None = None
        #: why the keeper has ended
        self.error: Exception | None = None
        #: when it last saw the head, by the own clock
        self.looked_ns = 0

    def _new_link(self, on_broken: Callable[[], None] = lambda: None) -> Link:
        return Link(
            self._connector,
            self._ports.clock,
            self._ports.tasks.new_bell(),
            self._settings.store_timeout_s,
            self._birth,
            lambda: self._closing,
            on_broken,
        )

    # -- what the agent's loop calls ------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work."""
        self._ports.tasks.spawn(self._run, "rally-keeper")

    def ask(self, run: Callable[[], Any]) -> Request:
        """Have something done in the keeper's task; rings the agent's bell when it is."""
        request = self._requests.put(run)
        if self.error is not None:
            self._refuse_requests()
        self._bell.ring()
        return request

    @property
    def where(self) -> str:
        """The store in words."""
        return self._connector.where

    @property
    def slept(self) -> Slept | None:
        """A time for which this agent stood still; None once the store has been seen since."""
        return self._heart.slept

    @property
    def answers(self) -> int:
        """Counts what the store has answered; who sees it stand knows that the store is silent."""
        return self._link.answers

    @property
    def silent_ns(self) -> int:
        """For how long the store had answered nothing when the heart beat last."""
        return self._heart.silent_ns

    @property
    def watched(self) -> bool:
        """Whether the agent's bell is rung when the store falls silent."""
        return self._heart.watching

    # -- requests; they run in the keeper's task ------------------------------------------------------------

    def join(self, make: Callable[[], Card]) -> None:
        """Ask for a seat in the next round."""
        if self.desk.head.ended or self.desk.head.phase == "finishing":
            return
        self.application.make(make(), self._coordinator)
        self._act()
        if not self._heart.beats_on:
            self._heart.beats_on = True
            self._ports.tasks.spawn(self._heart.run, "rally-heart")

    def tell_failures(self, number: int, records: list[FailureRecord]) -> None:
        """Write down who failed here, behind what others have written."""
        lines = b"".join(job_report.encoded(record) + b"\n" for record in records)
        if lines:
            key = self.desk.keys.failures(number)
            self.desk.link.tell(lambda store: store.append(key, lines))

    def end_round(self, number: int, ring: Ring) -> None:
        """Have the round end and the next one gather, unless something was decided before."""
        self._change(lambda head: rounds.rung(head, self.node, number, ring))

    def hurry(self, number: int) -> None:
        """Have all nodes end the back-off before the next start."""
        self._change(lambda head: rounds.hurried(head, self.node, number))

    def fail(self, number: int, why: str, hand: Hand = "first") -> None:
        """Have the job end as failed; `hand` is that of who failed."""
        self._change(lambda head: rounds.failed(head, self.node, number, why, hand))

    def stop(self, why: str) -> None:
        """Have the job end as failed, whatever it does."""
        self._change(lambda head: rounds.failed(head, self.node, head.round, why))

    def claim(self, number: int) -> bool:
        """Say that this node has succeeded, after which nothing is started again. False if the round ended before."""
        self._change(lambda head: rounds.finishing(head, self.node, number))
        return (self.desk.head.round, self.desk.head.phase) == (number, "finishing")

    def arrive(self, number: int, group_rank: int, size: int) -> None:
        """Count this node among those that have succeeded; the last one ends the job."""
        desk = self.desk
        desk.link.tell(lambda store: store.set(desk.keys.done(number, group_rank), b"1"))
        try:
            done = desk.link.call(lambda store: store.add(desk.keys.finished(number), 1), once=True)
        except Ambiguous:
            # The coordinator looks for itself. What was told before must be there for that: a new connection tells it.
            desk.link.call(lambda store: store.check([desk.keys.head]))
            return
        if done == size:
            self._change(lambda head: rounds.succeeded(head, self.node, number))

    def write_report(self) -> None:
        """Write how the job failed, where no coordinator lives who does: the first to do so writes it for all."""
        desk = self.desk
        raw = job_report.encoded(desk.gathered_report())
        found = desk.link.call(lambda store: store.compare_set(desk.keys.report, b"", raw))
        self.report = job_report.report_of(found)

    def look(self) -> None:
        """See what there is now."""
        self._look()

    def leave(self, number: int, reason: str, stay: bool) -> None:
        """Leave the job: nobody waits for this agent any more.

        Args:
            number: the round that it leaves, if that goes on.
            reason: in words.
            stay: whether a host of the store stays until nobody uses it any more.
        """
        desk = self.desk
        if self._left or self.head is None:
            return
        self._left, before = True, desk.head.version
        if reason and number:
            ring = Ring(action="membership", reason=f"node {self.node} leaves: {reason}", by=self.node)
            self._change(lambda head: rounds.rung(head, self.node, number, ring))
        coordinator = self._coordinator
        nodes = coordinator.nodes() if coordinator is not None else []
        self._change(lambda head: rounds.vacated(head, self.node))
        # The waits of the watcher and the reader are answered: torch's client complains of one that is cut off.
        if desk.head.version == before:
            self._change(lambda head: rounds.touched(head, self.node))
        if coordinator is not None:
            seat = desk.link.call(lambda store: store.add(desk.keys.joins, 1)) - 1
            desk.link.tell(lambda store: store.set(desk.keys.card(seat), b""))
        # Answered only when all that was written before is there. After the last word nobody waits for this agent, and
        # the store may be gone.
        desk.link.call(lambda store: store.check([desk.keys.head]))
        self._say_last_word()
        if self._connector.hosting and stay:
            linger(desk, self._pause, nodes, lambda: self._closing)

    def _say_last_word(self) -> None:
        until_ns = self.desk.clock.now_ns() + int(_LAST_WORD_S * 1e9)
        if not self._heart.beats_on:
            self.desk.link.tell(lambda store: store.set(self.desk.keys.beat(self.node), LEFT))
        self._heart.say_last_word()
        while self._heart.beats_on and self.desk.clock.now_ns() < until_ns:
            self._pause.wait(_AGAIN_S)

    def close(self) -> None:
        """End the tasks. From any task."""
        self._closing = True
        self._pause.ring()
        self._bell.ring()
        self._heart.stop()

    def _change(self, make: Callable[[Head], Head | None]) -> None:
        self.desk.change(make)
        self._head_seen()
        if self._coordinator is not None:
            self._act()

    def _act(self) -> None:
        """Let the coordinator act on what is known, without a look."""
        if self._coordinator is not None:
            self._wake_ns = self._coordinator.act()
            self._head_seen()
            self.application.heed_own(self._coordinator)

    # -- the task -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._come_in()
            self._ports.tasks.spawn(self._listen, "rally-watcher")
            while not self._closing:
                self._requests.serve()
                self._work()
        except Exception as error:  # noqa: BLE001 - the edge of a task: the agent's loop raises it
            self.error = error
        self._refuse_requests()
        self._ports.bell.ring()

    def _come_in(self) -> None:
        """Find the head of the job, or begin the job: the host of the store does, others only when it doesn't."""
        desk, link = self.desk, self._link
        pause_s = _AGAIN_S
        while not link.call(lambda store: store.check([desk.keys.head])):
            if self._connector.hosting or pause_s > self._settings.beat_s:
                self._begin()
                break
            self._pause.wait(pause_s)
            pause_s *= 4
        token = link.call(lambda store: store.get(desk.keys.born))
        self._birth.mark = desk.keys.mark(token.decode("ascii", "replace"))
        self._look()

    def _begin(self) -> None:
        desk = self.desk
        fresh = self._ports.entropy.token().encode()
        token = desk.link.call(lambda store: store.compare_set(desk.keys.born, b"", fresh))
        desk.link.call(lambda store: store.add(desk.keys.joins, 0))
        mark = desk.keys.mark(token.decode("ascii", "replace"))
        begun = {mark: b"1", desk.keys.pulse: b"0 0", desk.keys.beat(self.node): self._heart.next_beat()}
        desk.link.write(begun)
        desk.create(rounds.opened(self.node, self._settings))

    def _refuse_requests(self) -> None:
        self._requests.refuse(
            self.error or StoreLostError(f"the store at {self._connector.where} was given up")
        )

    def _work(self) -> None:
        """Beat and look where that is due, take up what came, then wait."""
        now_ns = self.desk.clock.now_ns()
        heard = self._take_heard()
        if now_ns >= self._next_beat_ns:
            self._next_beat_ns = now_ns + int(self._beat_s() * 1e9)
            if not self._left:
                self._keep_house()
            self._news = True
        if self._news or (heard and self.application.awaited):
            self._news = False
            self._look()
        elif self._coordinator is not None:
            self._act()
        if self._requests or self._news or self._heard or self._closing:
            return
        until_ns = self._next_beat_ns if self._wake_ns is None else min(self._next_beat_ns, self._wake_ns)
        # Never in a circle without a pause, whatever the coordinator asks for.
        self._bell.wait(max((until_ns - self.desk.clock.now_ns()) / 1e9, _PAUSE_MIN_S))

    def _take_heard(self) -> bool:
        """Take the heads that came with bells. Returns whether one was newer than what was known."""
        newer = False
        while self._heard:
            raw = self._heard.popleft()
            if rounds.head_of(raw).version > self.desk.head.version:
                self.desk.take(raw)
                self._head_seen()
                newer = True
        return newer

    # -- beats ----------------------------------------------------------------------------------------------

    def _alert(self) -> bool:
        """Whether a round has just ended, so that who is missing now is to be missed soon."""
        since_ns = self._alert_since_ns
        return since_ns is not None and self.desk.clock.now_ns() - since_ns < int(ALERT_S * 1e9)

    def _beat_s(self) -> float:
        settings = self.desk.head.settings
        return settings.alert_beat_s if self._alert() else settings.beat_s

    def _pace(self) -> Pace:
        settings = self.desk.head.settings
        alert = self._alert()
        beat_s = settings.alert_beat_s if alert else settings.beat_s
        lease_s = settings.alert_lease_s if alert else settings.lease_s
        # A look comes some milliseconds early or late; a lease of four beats must not take five looks because of that.
        return Pace(beat_s, gap_max_ns(beat_s), int((lease_s - beat_s / 4) * 1e9))

    def _lost(self, error: StoreLostError) -> None:
        """The heart has found the store gone; the keeper may wait for an answer that will never come."""
        self.error = self.error or error
        self._ports.bell.ring()

    def _pulse_to_write(self) -> dict[str, bytes]:
        """What the heart of a coordinator carries besides. It moves only when the keeper does."""
        desk = self.desk
        if self._coordinator is None or not desk.coordinating or desk.head.ended:
            return {}
        return {desk.keys.pulse: b"%d %d" % (desk.head.epoch, self._turns)}

    def _keep_house(self) -> None:
        """With each look: a bell that nobody rang, a key that nobody needs."""
        desk = self.desk
        self._turns += 1
        if self._listening == self._listened and self._listening <= desk.head.version:
            # The watcher waits for a bell that nobody rang, or that it has slept through.
            key, raw = desk.keys.bell(self._listening), desk.raw
            desk.link.tell(lambda store: store.set(key, raw))
        self._listened = self._listening
        if self.application.stale:
            key = self.application.stale.popleft()
            desk.link.call(lambda store: store.delete_key(key))

    # -- looks ----------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """See the head, the coordinator's pulse, the own seat, and what the coordinator needs, in one operation."""
        desk = self.desk
        keys = [desk.keys.head, desk.keys.pulse]
        other = desk.head.coordinator if self.head is not None and not desk.coordinating else ""
        if other:
            keys.append(desk.keys.beat(other))
        awaiting = self.application.is_in_store
        if awaiting:
            keys.append(desk.keys.seat(self.node))
        coordinator = self._coordinator
        first_of_its = len(keys)
        if coordinator is not None:
            keys += coordinator.keys()
        asked_ns = desk.clock.now_ns()
        values = self._link.call(lambda store: store.multi_get(keys))
        # What is seen is as old as the question: an agent that was stopped in between takes up an old answer.
        self.looked_ns = asked_ns
        try:
            desk.take(values[0])
        except Malformed as error:
            raise RendezvousStateError(
                f"{error}; something else uses this run id at {self._connector.where}; give another --rdzv-id"
            ) from error
        self._head_seen()
        pace = self._pace()
        self._heed_pulse(values[1], values[2] if other and other == desk.head.coordinator else None, pace)
        if awaiting:
            self.application.heed(values[first_of_its - 1], pace.beat_s, self._coordinator)
        self._wake_ns = None
        if coordinator is not None and coordinator is self._coordinator:
            self._wake_ns = coordinator.see(values[first_of_its:], pace.gap_ns, pace.lease_ns)
            self._head_seen()
            self.application.heed_own(self._coordinator)
        elif self._coordinator is not None:
            self._news = True  # it has just begun: let it look
        self._heed_report()

    def _head_seen(self) -> None:
        """Take in what the head says now; ring the agent's bell if that is news."""
        head, before = self.desk.head, self.head
        if head is before:
            return
        self.head = head
        if before is None or (head.epoch, head.coordinator) != (before.epoch, before.coordinator):
            self._new_epoch(head)
        if head.phase == "gathering" and head.round > 0:
            if before is None or before.phase != "gathering" or before.round != head.round:
                now_ns = self._alert_since_ns = self.desk.clock.now_ns()
                self._next_beat_ns = min(self._next_beat_ns, now_ns + int(self._beat_s() * 1e9))
        else:
            self._alert_since_ns = None
        self._ports.bell.ring()

    def _new_epoch(self, head: Head) -> None:
        if self.desk.coordinating and not self._left:
            self._begin_to_coordinate()
        elif self._coordinator is not None:
            self._coordinator = self._wake_ns = None
            if self.application.awaited and not self.application.is_in_store and not head.ended:
                self.application.send(None)  # it was nowhere but with the coordinator that this agent was
        if not head.coordinator:
            return  # it left, and who takes over is said next
        self.desk.say(
            events.CoordinatorChanged,
            began=head.epoch,
            coordinator=head.coordinator,
            before=self._followed,
            reason=self._why_taken if self.desk.coordinating else "",
        )
        self._followed = head.coordinator

    def _begin_to_coordinate(self) -> None:
        coordinator = self._coordinator = Coordinator(self.desk, self._known_beats)
        coordinator.begin()
        link = self._new_link()

        def read() -> None:
            coordinator.read_cards(
                link,
                self._bell.ring,
                lambda: self._closing or self._left or self._coordinator is not coordinator,
            )

        self._ports.tasks.spawn(read, "rally-reader")
        self._next_beat_ns = 0
        self._heart.hurry()  # the others want to see its pulse

    def _heed_pulse(self, pulse: bytes, beat: bytes | None, pace: Pace) -> None:
        """Take over from a coordinator that has left or gives no sign of life."""
        head = self.desk.head
        if self.desk.coordinating or head.ended or not self.application.made or self._left:
            self._succession.forget()
            return
        now_ns = self.desk.clock.now_ns()
        why = self._succession.look(head, pulse, beat, now_ns, pace.gap_ns, pace.lease_ns)
        if why:
            self._why_taken, self._known_beats = why, self._succession.known(head)
            self.desk.change(
                lambda now: rounds.taken_over(now, self.node) if now.epoch == head.epoch else None
            )
            self._head_seen()
            self._news = True

    def _heed_report(self) -> None:
        desk = self.desk
        if desk.head.phase != "failed" or self.report is not None:
            return
        raw = self._link.find(desk.keys.report)
        if raw is not None:
            self.report = job_report.report_of(raw)
            self._ports.bell.ring()
        elif not self._left:
            again_ns = desk.clock.now_ns() + int(_AGAIN_S * 4e9)
            self._next_beat_ns = min(self._next_beat_ns, again_ns)

    # -- the watcher ----------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Wait for the next version of the head, again and again."""
        link = self._new_link()
        while not (self._closing or self._left or self.desk.head.ended):
            self._listening = max(self.desk.head.version, self._listening) + 1
            key = self.desk.keys.bell(self._listening)
            try:
                raw = link.call(lambda store, key=key: store.get(key))  # type: ignore[misc]
            except StoreLostError:
                return  # the keeper sees that for itself
            self._heard.append(raw)
            self._bell.ring()
