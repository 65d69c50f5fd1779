"""Our rendezvous as an agent's loop sees it. All waits here are on the agent's own bell, which signals ring, too.

It has the methods of torch's `RendezvousHandler`, so that torch's own agent can use it, and those of
`toolkit.ports.JobRendezvous`, by which ours learns and says more: why a round ended, who failed, how the job ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from toolkit.agent.rendezvous.exchange import ExchangeStore
from toolkit.agent.rendezvous.job_round import JobRound
from toolkit.agent.rendezvous.keeper import Keeper
from toolkit.agent.rendezvous.keys import Keys
from toolkit.agent.rendezvous.link import CONNECT_S, lost
from toolkit.agent.rendezvous.requests import Request
from toolkit.agent.solo import StoreAddress
from toolkit.core import events, rounds
from toolkit.core.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousGracefulExitError,
    RendezvousRefusedError,
    RendezvousTimeoutError,
    SignalException,
    StoreLostError,
)
from toolkit.core.events import Event
from toolkit.core.job_report import FailureRecord, JobReport, in_order
from toolkit.core.liveness import Standstill
from toolkit.core.model import WorkerSpec
from toolkit.core.ranks import RankBase
from toolkit.core.rounds import Head, Over, Ring, Settings
from toolkit.core.seats import Card, Seat
from toolkit.ports import Ports, Reservation, StoreConnector

#: how often the loop looks whether the keeper still hears from the store, while the heart does not, and after which
#: silence it says so, as a share of the lease; no store operation
WATCH = SILENT = 3 / 4
#: how often it looks while the heart does, and would ring: only in case the heart has died
REST = 10.0
#: what is so many times longer than the wait for the next look is no silence of the store: this agent was stopped, or
#: had its hands full
LATE = 5 / 4
#: how long an agent waits for the report of a failed job, before it makes do with what it knows, in seconds
REPORT_S = 5.0
#: how long leaving may take, in seconds, where this agent does not stay to host the store for others
LEAVE_S = 6.0


@dataclass(frozen=True, slots=True)
class Offer:
    """What this node brings.

    Args:
        role: of its workers.
        local_world_size: their number.
        address: what the others call this machine; None takes this end of the connection to the store.
        topology: a label; nodes with one label get ranks beside each other.
        node_rank: the group rank that it wants; None leaves it open.
        spare: whether it would rather wait until somebody is to be replaced.
    """

    role: str
    local_world_size: int
    address: str | None = None
    topology: str = ""
    node_rank: int | None = None
    spare: bool = False


def _nothing() -> None:
    """What an agent heeds that is told nothing."""


def _silent(kind: type[Event], **fields: Any) -> None:
    """Events of an agent that takes none."""


class RallyRendezvous:
    """Forms the rounds of a job over any store.

    Args:
        run_id: the job.
        settings: what all nodes have in common.
        offer: what this node brings.
        connector: to the store.
        ports: of the agent.
    """

    #: news ring the agent's bell
    rings_bell = True
    #: rank 0 of the workers hosts their store, a fresh one each round
    use_agent_store = False

    def __init__(
        self, run_id: str, settings: Settings, offer: Offer, connector: StoreConnector, ports: Ports
    ) -> None:
        self._run_id = run_id
        self._settings = settings
        self._offer = offer
        self._connector = connector
        self._ports = ports
        self._keys = Keys(run_id)
        self._say: Callable[..., None] = _silent
        self._heed_orders: Callable[[], None] = _nothing
        self._keeper: Keeper | None = None
        self._seat: Seat | None = None
        self._reservation: Reservation | None = None
        self._silence: Standstill | None = None
        self._silent_s = 0.0
        self._lost = False
        self._closed = False

    # -- torch's interface ----------------------------------------------------------------------------------

    def get_backend(self) -> str:
        """The name of this rendezvous."""
        return "rally"

    def get_run_id(self) -> str:
        """The job."""
        return self._run_id

    def is_closed(self) -> bool:
        """Whether the job has ended."""
        head = self._head
        return self._closed or (head is not None and head.ended)

    def set_closed(self) -> None:
        """This agent takes no further part. The others go on: a job is not closed by one that leaves."""
        self._closed = True

    def num_nodes_waiting(self) -> int:
        """1 if this agent's round is over, so that it has to form the next one with the others; else 0."""
        if self._seat is None or self._keeper is None:
            return 0
        self._check_keeper()
        return 0 if self.over() is None else 1

    def shutdown(self) -> bool:
        """Leave the job; a host of the store stays until the others have left. Never raises."""
        self.leave()
        return True

    def next_rendezvous(self) -> JobRound:
        """Wait for a seat in the next round. Called while a round of this agent runs, it ends that for all.

        Raises:
            RendezvousRefusedError: this node may not take part.
            RendezvousGracefulExitError: the job is about to succeed, or has; nobody needs this node.
            RendezvousClosedError: the job has failed.
            RendezvousTimeoutError: the round did not form in time.
            StoreLostError: the store can't be reached any more.
            SignalException: a death signal came.
        """
        keeper = self._started()
        self._end_own_round(keeper)
        self._raise_if_over()
        self._do(lambda: keeper.join(self._card))
        before: Seat | None = None
        while True:
            seat = before = self._wait_for_answer(keeper, before)
            match seat.verdict:
                case "member":
                    return self._taken(seat)
                case "parked":
                    self._say(events.Parked, beside=seat.round, reason=seat.reason)
                case "refused":
                    self._say(events.JoinRefused, joiner=keeper.node, reason=seat.reason)
                    raise RendezvousRefusedError(
                        f"the job {self._run_id!r} at {self._connector.where} does not take this node: {seat.reason}"
                    )

    # -- what our agent asks besides ------------------------------------------------------------------------

    def attach(
        self, say: Callable[..., None], ports: Ports, spec: WorkerSpec, heed: Callable[[], None] = _nothing
    ) -> None:
        """An agent takes this rendezvous for its own: its bell, its signals, its spec.

        Args:
            say: takes events, also from the keeper's task.
            ports: of the agent.
            spec: says how many workers of which role there are, and, if nobody has said so yet, the budget.
            heed: called in each wait; what it raises ends the wait.
        """
        self._say, self._ports, self._heed_orders = say, ports, heed
        self._offer = replace(self._offer, role=spec.role, local_world_size=spec.local_world_size)
        if self._settings.max_restarts is None:
            self._settings = msgspec.structs.replace(self._settings, max_restarts=spec.max_restarts)

    def patience_s(self) -> float:
        """How long the agent's loop may wait before it calls `over` again, in seconds."""
        watched = self._keeper is not None and self._keeper.watched and self._silent_s == 0
        return (REST if watched else WATCH) * self._settings.lease_s

    def over(self) -> Over | None:
        """What became of this agent's round; None while it goes on. Never blocks.

        Raises:
            StoreLostError: the store can't be reached any more.
        """
        self._check_keeper()
        return self._seen_over() or self._doubted()

    def _seen_over(self) -> Over | None:
        seat, head = self._seat, self._head
        return None if seat is None or head is None else rounds.over(head, seat.round)

    def _doubted(self) -> Over | None:
        """A round that may have gone on without this node, which slept and has not been told anything since.

        The others miss a node after its lease and form a round without it. It would train beside them until the store
        answers or counts as lost; so it stops after one lease more.
        """
        keeper, lease_s = self._keeper, self._settings.lease_s
        slept = None if keeper is None or self._seat is None else keeper.slept
        if keeper is None or slept is None or slept.awake_s <= lease_s:
            return None
        why = (
            f"{keeper.node} stood still for {slept.slept_s:.1f} s, longer than its lease of {lease_s:g} s, and has "
            f"heard nothing from the store in {slept.awake_s:.1f} s since: the others may have gone on without it"
        )
        return Over("membership", why, keeper.node)

    def still_in(self) -> bool:
        """Whether this agent's round goes on, with a fresh look if the last one is old: who was stopped can't know."""
        keeper = self._started()
        old_ns = self._ports.clock.now_ns() - keeper.looked_ns
        if old_ns > 2e9 * self._settings.beat_s:
            self._do(keeper.look)
        return self._seen_over() is None

    def fail(self, records: Sequence[FailureRecord], ring: Ring | None, why: str) -> Over:
        """Say that workers of this node have failed, and what is to follow for all: a restart, or the end.

        Args:
            records: who failed here, in that order.
            ring: the restart that this agent is for; None is for the end.
            why: the job has failed, if there is no restart.

        Returns:
            What was decided: this, or what another node had decided before.
        """
        keeper, number = self._started(), self._round

        def say_it() -> None:
            keeper.tell_failures(number, list(records))
            if ring is not None:
                keeper.end_round(number, msgspec.structs.replace(ring, by=keeper.node))
            now = None if keeper.head is None else rounds.over(keeper.head, number)
            # What forbids a restart ends the job, also where nodes came or went, or a restart was decided, meanwhile.
            if now is None or (ring is None and now.kind in ("membership", "restart")):
                late = (
                    ""
                    if ring is None
                    else "; other nodes have finished, so that nothing can be started again"
                )
                # A restart that was proposed and is not to be had is not told of.
                said = records[0].words() if late and records else why
                hand = in_order(records)[0].hand if records and ring is None else "first"
                keeper.fail(number, f"{said}{late}", hand)

        self._do(say_it)
        decided = self._seen_over()
        assert decided is not None, "a failure ends the round"
        return decided

    def hurry(self) -> None:
        """End the back-off before the next start, for all nodes."""
        keeper, number = self._started(), self._round
        self._do(lambda: keeper.hurry(number))

    def restart(self, why: str) -> Over | None:
        """End this round for all, at no cost to the budget. None where nothing is started again any more."""
        keeper, number = self._started(), self._round
        ring = Ring(action="restart", reason=why, by=keeper.node)
        self._do(lambda: keeper.end_round(number, ring))
        return self._seen_over()

    def stop(self, why: str) -> bool:
        """End the job for all nodes, as failed. Returns whether it has ended."""
        keeper = self._started()
        self._do(lambda: keeper.stop(why))
        return keeper.head is not None and keeper.head.ended

    def succeed(self) -> Over | None:
        """Say that all workers of this node have succeeded. Returns what had ended the round before, if anything."""
        keeper, number = self._started(), self._round
        return None if self._do(lambda: keeper.claim(number)) else self._seen_over()

    def wait_for_end(self) -> Over:
        """The exit barrier: wait until all members have ended, as long as they live, or the job has failed."""
        keeper, seat = self._started(), self._seat
        assert seat is not None, "only members wait for the others"
        self._do(lambda: keeper.arrive(seat.round, seat.group_rank, seat.group_world_size))
        self._wait(lambda: self._seen_over() is not None)
        decided = self._seen_over()
        assert decided is not None, "it was waited for"
        return decided

    def report(self) -> JobReport:
        """How the job ended: the same on all its nodes. Without a coordinator to write it, what is known here."""
        head = self._head
        assert head is not None, "asked at the end"
        if head.phase == "succeeded":
            return JobReport(outcome="succeeded", why="all nodes succeeded")
        keeper = self._started()
        if not self._wait(lambda: keeper.report is not None, REPORT_S):
            with suppress(StoreLostError):
                self._do(keeper.write_report)
        return keeper.report or JobReport(outcome="failed", why=head.why, failures=in_order(()))

    def leave(self, reason: str = "") -> None:
        """Leave the job. Raises nothing; does nothing the second time.

        A host of the store stays as long as others use it, or until a signal comes: without the store they would end.

        Args:
            reason: why a round that goes on is left; the others are told at once. Empty leaves that to the coordinator.
        """
        keeper, self._keeper = self._keeper, None
        if keeper is not None and not self._lost:
            number = 0 if self._seat is None else self._seat.round
            # Who was told to end does not stay for others.
            linger = self._ports.interrupts.count() == 0
            request = keeper.ask(lambda: keeper.leave(number, reason, linger))
            self._wait_quietly(request, None if linger and self._connector.hosting else LEAVE_S)
        if keeper is not None:
            keeper.close()
        if self._reservation is not None:
            self._reservation.release()
            self._reservation = None
        self._connector.close()

    # -- inside ---------------------------------------------------------------------------------------------

    @property
    def _head(self) -> Head | None:
        return None if self._keeper is None else self._keeper.head

    @property
    def _round(self) -> int:
        assert self._seat is not None, "only members have a round"
        return self._seat.round

    def _started(self) -> Keeper:
        if self._closed:
            raise RendezvousClosedError(f"this node has left the job {self._run_id!r}")
        if self._keeper is None:
            host = self._ports.host
            node = f"{host.hostname()}_{host.pid()}_{self._ports.entropy.token()[:6]}"
            keeper = Keeper(node, self._settings, self._keys, self._connector, self._ports, self._told)
            self._keeper = keeper
            keeper.start()
            self._wait(lambda: keeper.head is not None)
        return self._keeper

    def _told(self, kind: type[Event], **fields: Any) -> None:
        self._say(kind, **fields)

    def _end_own_round(self, keeper: Keeper) -> None:
        """An agent that knows no more than torch's interface starts anew, after a failure of its own."""
        if self._seat is None or self._seen_over() is not None:
            return
        doubted = self._doubted()
        if doubted is not None:
            ring = Ring(action="membership", reason=doubted.reason, by=keeper.node)
        else:
            ring = Ring(
                action="restart", reason="a node starts its workers anew", by=keeper.node, spends=True
            )
        self._do(lambda: keeper.end_round(self._round, ring))

    def _raise_if_over(self) -> None:
        head = self._head
        if head is None or not (head.ended or head.phase == "finishing"):
            return
        if head.phase == "failed":
            if "(join_timeout)" in head.why:
                raise RendezvousTimeoutError(head.why)
            raise RendezvousClosedError(f"the job {self._run_id!r} has failed: {head.why}")
        raise RendezvousGracefulExitError(f"the job {self._run_id!r} has succeeded or is about to")

    def _card(self) -> Card:
        offer, seat = self._offer, self._seat
        fresh = self._ports.host.reserve_port()
        # The new port is taken before the old one is given back: they differ for certain.
        if self._reservation is not None:
            self._reservation.release()
        self._reservation = fresh
        return Card(
            node=self._started().node,
            host=self._ports.host.hostname(),
            address=offer.address or self._connector.local_address,
            port=fresh.port,
            role=offer.role,
            local_world_size=offer.local_world_size,
            topology=offer.topology,
            node_rank=offer.node_rank,
            spare=offer.spare,
            round=0 if seat is None else seat.round,
            group_rank=-1 if seat is None else seat.group_rank,
            settings=self._settings,
        )

    def _wait_for_answer(self, keeper: Keeper, before: Seat | None) -> Seat:
        """The next answer to the own card; who is parked gets several."""

        def there() -> bool:
            self._raise_if_over()
            return keeper.application.answer is not None and keeper.application.answer is not before

        self._wait(there)
        assert keeper.application.answer is not None, "it was waited for"
        return keeper.application.answer

    def _taken(self, seat: Seat) -> JobRound:
        self._seat = seat
        prefix = self._keys.exchange(seat.round)
        return JobRound(
            store=ExchangeStore(lambda: self._connector.connect(CONNECT_S), prefix),
            rank=seat.group_rank,
            world_size=seat.group_world_size,
            bootstrap_store_info=StoreAddress(seat.master_addr, seat.master_port),
            base=RankBase(*seat.base),
            round=seat.round,
            epoch=seat.epoch,
            restarts=seat.restarts,
            seat=seat.seat,
            coordinator=seat.coordinator,
            past=self._started().desk.past,
        )

    # -- waiting --------------------------------------------------------------------------------------------

    def _do(self, run: Callable[[], Any]) -> Any:
        """Have the keeper do something, and wait for it."""
        request = self._started().ask(run)
        self._wait(lambda: request.done)
        if request.error is not None:
            raise request.error
        return request.answer

    def _wait(self, there: Callable[[], bool], limit_s: float | None = None) -> bool:
        """Wait on the agent's bell. Returns whether `there` came true within `limit_s`."""
        clock = self._ports.clock
        until_ns = None if limit_s is None else clock.now_ns() + int(limit_s * 1e9)
        while not there():
            self._heed_signals()
            self._heed_orders()
            self._check_keeper()
            if there():
                return True  # it came true while an order was carried out
            left_s = self.patience_s()
            if until_ns is not None:
                left_s = min((until_ns - clock.now_ns()) / 1e9, left_s)
            if left_s <= 0:
                return False
            self._ports.bell.wait(left_s)
        return True

    def _wait_quietly(self, request: Request, limit_s: float | None) -> None:
        """Wait for the end of a request; a signal ends the wait, if it is not the one that brought us here."""
        clock, interrupts = self._ports.clock, self._ports.interrupts
        until_ns = None if limit_s is None else clock.now_ns() + int(limit_s * 1e9)
        signals = interrupts.count()
        while not request.done and interrupts.count() == signals:
            left_s = None if until_ns is None else (until_ns - clock.now_ns()) / 1e9
            if left_s is not None and left_s <= 0:
                return
            self._ports.bell.wait(left_s)

    def _heed_signals(self) -> None:
        signum = self._ports.interrupts.take()
        if signum is not None:
            raise SignalException.of(self._ports.host.pid(), signum)

    def _check_keeper(self) -> None:
        """That the keeper lives and hears from the store."""
        keeper = self._keeper
        if keeper is None:
            return
        if keeper.error is not None:
            raise _in_words(keeper, keeper.error)
        now_ns, seen = self._ports.clock.now_ns(), keeper.answers
        if self._silence is None:
            self._silence = Standstill(seen, now_ns)
        gap_ns = now_ns - self._silence.looked_ns
        counted_ns = gap_ns if gap_ns <= LATE * WATCH * self._settings.lease_s * 1e9 else 0
        silent_s = max(self._silence.look(seen, now_ns, counted_ns), keeper.silent_ns) / 1e9
        before_s, self._silent_s = self._silent_s, silent_s
        self._tell_of_silence(before_s, silent_s)
        if silent_s > self._settings.store_timeout_s:
            self._lost = True
            raise _in_words(
                keeper, StoreLostError(lost(self._connector.where, silent_s, "it does not answer"))
            )

    def _tell_of_silence(self, before_s: float, silent_s: float) -> None:
        limit_s, where = SILENT * self._settings.lease_s, self._connector.where
        if silent_s >= limit_s > before_s:
            self._say(
                events.StoreSilent, where=where, silent_s=silent_s, limit_s=self._settings.store_timeout_s
            )
        elif before_s >= limit_s > silent_s:
            self._say(events.StoreAnswers, where=where, silent_s=before_s)


def _in_words(keeper: Keeper, error: Exception) -> Exception:
    """What the agent's loop is told: a store that was never there is another thing than one that is lost."""
    if not isinstance(error, StoreLostError) or keeper.head is not None:
        return error
    why = error.__cause__ or "nothing there says a word"
    return RendezvousConnectionError(
        f"no store of a job answers at {keeper.where} ({why}); check the address and the port, and what listens there"
    )
