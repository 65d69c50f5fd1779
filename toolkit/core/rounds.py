"""Rendezvous as values: the head of a job and its transitions, cards, who sits where, when a round closes. Pure.

One small register, the **head**, says everything that all nodes must agree on: which round there is, whether it runs,
why it ended, how many restarts were spent, who coordinates. It changes by compare-and-set only, so of two transitions
that are tried at one time one wins and the other is seen to have lost. `STEPS` is the table of what may follow what;
the functions below it make the next head, or say with None that this is no longer to be had.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from toolkit.core.errors import ConfigurationError
from toolkit.core.model import _RoleInstanceInfo
from toolkit.core.ranks import RankBase, rank_bases
from toolkit.core.words import plural

#: version of what is in the store; nodes of different versions refuse each other
PROTOCOL = 1
#: what one node may write about itself, in bytes
CARD_MAX = 16_384
#: the first wait of a host that comes back after its second loss, in seconds; it doubles up to the second number
HOLD_S, HOLD_MAX_S = 30.0, 600.0
#: hosts whose losses are remembered; a bound, not a limit that anybody meets
_LOSSES_MAX = 1000

Phase = Literal["gathering", "running", "finishing", "succeeded", "failed"]

#: which phase of a job may follow which; "gathering" forms round N + 1 while N is the number in the head
STEPS: Mapping[Phase, frozenset[Phase]] = {
    "gathering": frozenset({"gathering", "running", "failed"}),
    "running": frozenset({"gathering", "finishing", "failed"}),
    "finishing": frozenset({"succeeded", "failed"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
}
ENDED: tuple[Phase, ...] = ("succeeded", "failed")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What all nodes of a job must have in common.

    Args:
        min_nodes: nodes without which no round starts.
        max_nodes: nodes that a round admits.
        max_restarts: the job's budget; None where nobody said (torch's agent counts for itself).
        spares: nodes that may wait beside a full round; None means any number.
        beat_s: seconds between two signs of life.
        lease_s: a node whose counter has stood for so many seconds is lost.
        last_call_s: how long the first round waits for more nodes once it has min_nodes.
        join_timeout_s: how long a round may take to form.
        join_window_s: how long joins are gathered before a running round is restarted for them.
        store_timeout_s: how long the store may not answer.

    Raises:
        ConfigurationError: a value that can't be.
    """

    min_nodes: int
    max_nodes: int
    max_restarts: int | None = None
    spares: int | None = None
    beat_s: float = 1.0
    lease_s: float = 4.0
    last_call_s: float = 30.0
    join_timeout_s: float = 600.0
    join_window_s: float = 5.0
    store_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if not 1 <= self.min_nodes <= self.max_nodes:
            raise ConfigurationError(
                f"a round of {self.min_nodes} to {self.max_nodes} nodes can't be; give 1 <= min <= max"
            )
        if self.spares is not None and self.spares < 0:
            raise ConfigurationError(f"spares is {self.spares}; give 0 or more nodes that wait")
        for name in ("beat_s", "lease_s", "join_timeout_s", "store_timeout_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; give more than 0 seconds")
        for name in ("last_call_s", "join_window_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; give 0 or more seconds")
        if self.lease_s < 2 * self.beat_s:
            raise ConfigurationError(
                f"a lease of {self.lease_s:g} s is too short for a beat each {self.beat_s:g} s; "
                f"give a lease of at least {2 * self.beat_s:g} s"
            )
        if self.store_timeout_s <= self.lease_s:
            raise ConfigurationError(
                f"a store timeout of {self.store_timeout_s:g} s is not longer than the lease of {self.lease_s:g} s; "
                "give a longer one"
            )

    @property
    def alert_beat_s(self) -> float:
        """Between two beats while a round forms anew: then a node that is gone is to be missed sooner."""
        return self.beat_s / 2

    @property
    def alert_lease_s(self) -> float:
        """The lease while a round forms anew."""
        return 3 * self.lease_s / 8


def differences(mine: Settings, theirs: Settings) -> list[str]:
    """Settings in which two nodes differ, each with both values; what one of them leaves open is no difference."""
    found = []
    for name in Settings.__struct_fields__:
        here, there = getattr(mine, name), getattr(theirs, name)
        if here != there and not (name == "max_restarts" and None in (here, there)):
            found.append(f"{name} is {there} there and {here} here")
    return found


class Ring(msgspec.Struct, frozen=True, kw_only=True):
    """Why a round ended before its time, as it was decided for all.

    Args:
        action: "restart" after a failure, "membership" because nodes came or went.
        reason: in words.
        by: the node that decided it.
        cause: equal for failures that look the same; see `FailureCause.key`.
        spends: whether it counts against the budget.
        delay_s: how long to wait before the next start.
    """

    action: Literal["restart", "membership"]
    reason: str
    by: str
    cause: str = ""
    spends: bool = False
    delay_s: float = 0.0


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What all nodes of a job agree on.

    Args:
        v: version of the protocol.
        version: counts the changes of this value; with `writer` it makes each of them one of a kind.
        writer: the node that made the last change.
        epoch: counts the coordinators.
        coordinator: the node that decides who sits where.
        round: the latest round that has formed; 0 before the first.
        phase: what that round does; see `STEPS`.
        sealed_epoch: the epoch in which it was formed.
        size: its nodes.
        restarts: restarts of the job that spent the budget.
        moves: restarts because nodes came or went.
        settings: of the job.
        ring: why the latest round ended, while the next one gathers.
        why: of a job that has failed.
        losses: how often hosts were lost, by host.
    """

    v: int = PROTOCOL
    version: int = 1
    writer: str = ""
    epoch: int = 1
    coordinator: str = ""
    round: int = 0
    phase: Phase = "gathering"
    sealed_epoch: int = 0
    size: int = 0
    restarts: int = 0
    moves: int = 0
    settings: Settings
    ring: Ring | None = None
    why: str = ""
    losses: dict[str, int] = {}

    @property
    def ended(self) -> bool:
        """Whether the job is over."""
        return self.phase in ENDED


def _next(head: Head, writer: str, **changes: Any) -> Head:
    assert changes.get("phase", head.phase) in STEPS[head.phase] | {head.phase}, (
        f"a job that is {head.phase} can't become {changes.get('phase')}"
    )
    return msgspec.structs.replace(head, version=head.version + 1, writer=writer, **changes)


def opened(node: str, settings: Settings) -> Head:
    """The head of a job that nobody has begun; `node` coordinates it."""
    return Head(writer=node, coordinator=node, settings=settings)


def taken_over(head: Head, node: str) -> Head | None:
    """`node` coordinates from now on: the next epoch."""
    return None if head.ended else _next(head, node, epoch=head.epoch + 1, coordinator=node)


def vacated(head: Head, node: str) -> Head | None:
    """The coordinator leaves: whoever sees it first takes over."""
    return None if head.ended or head.coordinator != node else _next(head, node, coordinator="")


def sealed(head: Head, node: str, size: int) -> Head | None:
    """The next round has formed. Only the coordinator of this epoch may say so."""
    if head.phase != "gathering" or head.coordinator != node:
        return None
    return _next(
        head, node, round=head.round + 1, phase="running", sealed_epoch=head.epoch, size=size, ring=None
    )


def rung(head: Head, node: str, of_round: int, ring: Ring, lost_hosts: Iterable[str] = ()) -> Head | None:
    """The round is over and the next one gathers.

    A failure in a round that already ended because nodes came or went is still counted: once for each round.

    Args:
        lost_hosts: machines whose nodes were lost with it.
    """
    if head.round != of_round:
        return None
    if head.phase == "running":
        return _next(
            head,
            node,
            phase="gathering",
            ring=ring,
            restarts=head.restarts + ring.spends,
            moves=head.moves + (not ring.spends),
            losses=_lost_again(head.losses, lost_hosts),
        )
    late = head.phase == "gathering" and head.ring is not None and not head.ring.spends
    if late and ring.spends and of_round > 0:
        return _next(head, node, ring=ring, restarts=head.restarts + 1, moves=head.moves - 1)
    return None


def finishing(head: Head, node: str, of_round: int) -> Head | None:
    """A first member has succeeded: from now on nothing is started again."""
    if head.round != of_round or head.phase != "running":
        return None
    return _next(head, node, phase="finishing")


def succeeded(head: Head, node: str, of_round: int) -> Head | None:
    """All members have succeeded."""
    if head.round != of_round or head.phase != "finishing":
        return None
    return _next(head, node, phase="succeeded")


def failed(head: Head, node: str, of_round: int, why: str) -> Head | None:
    """The job has failed for good."""
    if head.round != of_round or head.ended:
        return None
    return _next(head, node, phase="failed", why=why)


def _lost_again(losses: Mapping[str, int], hosts: Iterable[str]) -> dict[str, int]:
    counted = dict(losses)
    for host in hosts:
        if host in counted or len(counted) < _LOSSES_MAX:
            counted[host] = counted.get(host, 0) + 1
    return counted


def hold_s(losses: int) -> float:
    """How long a host that was lost so often waits before a running round is restarted for it.

    The first return is free: machines are rebooted. From the second loss on it grows.
    """
    return 0.0 if losses < 2 else min(HOLD_S * 2.0 ** min(losses - 2, 32), HOLD_MAX_S)


@dataclass(frozen=True, slots=True)
class Over:
    """What became of a round, as a member of it has to take it.

    Args:
        kind: "restart" after a failure, "membership" because nodes came or went, "evicted" if the job went on without
            this member, or how the job ended: "succeeded", "failed".
        reason: in words.
        by: the node that decided it.
        cause: of a restart; see `FailureCause.key`.
        spends: whether it counts against the budget.
        delay_s: how long to wait before the next start.
        restarts: of the job that spent the budget so far.
    """

    kind: Literal["restart", "membership", "evicted", "succeeded", "failed"]
    reason: str
    by: str = ""
    cause: str = ""
    spends: bool = False
    delay_s: float = 0.0
    restarts: int = 0


def over(head: Head, of_round: int) -> Over | None:
    """What became of a round; None while it runs or finishes."""
    if head.round < of_round:
        return None  # not seen yet
    if head.phase == "failed":
        return Over("failed", head.why, head.writer, restarts=head.restarts)
    if head.round > of_round:
        reason = f"the job went on without this node: round {head.round} has formed since round {of_round}"
        return Over("evicted", reason, head.coordinator, restarts=head.restarts)
    if head.phase == "succeeded":
        return Over("succeeded", "all nodes succeeded", head.writer, restarts=head.restarts)
    if head.phase != "gathering":
        return None
    ring = head.ring
    if ring is None:
        return None  # the first round gathers
    return Over(ring.action, ring.reason, ring.by, ring.cause, ring.spends, ring.delay_s, head.restarts)


# -- cards and seats ------------------------------------------------------------------------------------------


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says of itself when it asks for a seat.

    Args:
        v: version of the protocol.
        node: the agent, unique in the job.
        host: name of its machine.
        address: where the others reach that machine.
        port: kept there for the store of the workers.
        role: of its workers.
        local_world_size: their number.
        topology: a label; nodes with one label get ranks beside each other.
        node_rank: the group rank that it wants; None leaves it open.
        spare: whether it would rather wait until somebody is to be replaced.
        round: the latest round that it was part of.
        group_rank: the rank that it had there; -1 if none.
        settings: what it was started with.
    """

    v: int = PROTOCOL
    node: str
    host: str
    address: str
    port: int
    role: str
    local_world_size: int
    topology: str = ""
    node_rank: int | None = None
    spare: bool = False
    round: int = 0
    group_rank: int = -1
    settings: Settings


Verdict = Literal["member", "parked", "refused"]


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """What a node is told.

    Args:
        verdict: "member" of the round, "parked" until the next one, or "refused".
        reason: in words, for those that are no members.
        round: that it is part of, or that has formed without it.
        epoch: of the coordinator that says it.
        coordinator: that one.
        group_rank: of this node.
        group_world_size: nodes of the round.
        base: of its workers' ranks: global rank, world size, role rank, role world size.
        master_addr: where the workers' store is to be.
        master_port: and its port.
        restarts: of the job so far.
        seat: the number of the card that this answers; -1 for the coordinator's own.
    """

    verdict: Verdict
    reason: str = ""
    round: int = 0
    epoch: int = 0
    coordinator: str = ""
    group_rank: int = -1
    group_world_size: int = 0
    base: tuple[int, int, int, int] = (0, 0, 0, 0)
    master_addr: str = ""
    master_port: int = 0
    restarts: int = 0
    seat: int = -1


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One node of a plan."""

    node: str
    host: str
    node_rank: int | None = None
    seat: Seat


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A round as it was decided: its members by group rank, and those that wait beside it.

    Cards from `read_to` on are of nodes that came later. Those before are used up, save those of the parked ones.
    """

    round: int
    epoch: int
    members: list[Place]
    parked: list[Place] = []
    read_to: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that waits for a seat.

    Args:
        seat: counts the cards of the job; -1 for the coordinator's own, which is in no store.
        card: what it said.
        since_ns: when the coordinator first saw it, by its own clock.
    """

    seat: int
    card: Card
    since_ns: int

    @property
    def node(self) -> str:
        """The agent."""
        return self.card.node


def refusal(card: Card, others: Sequence[Card | Place], settings: Settings) -> str:
    """Why a node can't take part, or an empty string.

    Args:
        card: what it said.
        others: of the nodes that have been admitted, members and candidates.
        settings: of the job.
    """
    if card.v != PROTOCOL:
        return _other_version(card.v)
    found = differences(card.settings, settings)
    if found:
        # From its point of view: "here" is the node that is refused.
        return f"it was started with other settings than the job: {'; '.join(found)}; start it with the same ones"
    if card.local_world_size < 1 or not 0 <= card.port < 65536:
        return f"its card makes no sense: {card.local_world_size} workers, port {card.port}"
    if card.node_rank is None:
        return ""
    if not 0 <= card.node_rank < settings.max_nodes:
        return f"it has node rank {card.node_rank}; ranks of this job are 0 to {settings.max_nodes - 1}"
    twin = next((c for c in others if c.node_rank == card.node_rank and c.node != card.node), None)
    if twin is None:
        return ""
    return f"it has node rank {card.node_rank}, and so has {twin.node}; give each node a rank of its own, or none"


# -- who sits where -------------------------------------------------------------------------------------------


def chosen(head: Head, candidates: Sequence[Candidate], now_ns: int) -> list[Candidate]:
    """Those that the next round would have, at most max_nodes: who was in the last one first, then by their coming.

    Who would rather wait, or is held back, is taken only where too few are there otherwise: a spare to keep the size
    that the last round had, a host that is held back to reach min_nodes.
    """
    settings = head.settings
    old = [c for c in candidates if was_member(c.card, head)]
    new = [c for c in candidates if not was_member(c.card, head)]
    held = [c for c in new if held_ns(c, head) > now_ns]
    spares = [c for c in new if c.card.spare and c not in held]
    eager = [c for c in new if c not in held and c not in spares]
    members = [*sorted(old, key=lambda c: c.card.group_rank), *eager][: settings.max_nodes]
    members += spares[: max(0, max(settings.min_nodes, head.size) - len(members))]
    members += held[: max(0, settings.min_nodes - len(members))]
    return members[: settings.max_nodes]


def was_member(card: Card, head: Head) -> bool:
    """Whether the node was in the latest round."""
    return head.round > 0 and card.round == head.round and card.group_rank >= 0


def held_ns(candidate: Candidate, head: Head) -> int:
    """Until when a node is held back, by the coordinator's clock."""
    losses = head.losses.get(candidate.card.host, 0)
    return candidate.since_ns + int(hold_s(losses) * 1e9)


def group_ranks(members: Sequence[Candidate], head: Head) -> dict[int, Candidate]:
    """Group ranks, `[members]`, in their order.

    A rank that was asked for comes first, then the rank that a node had; the others fill what is free, so that a
    spare gets the seat of whom it replaces. These are sorted by topology label, then by address.
    """
    taken: dict[int, Candidate] = {}
    for wish in (lambda c: c.card.node_rank, lambda c: _old_rank(c, head)):
        for candidate in members:
            rank = wish(candidate)
            seated = any(candidate is other for other in taken.values())
            if rank is not None and 0 <= rank < len(members) and rank not in taken and not seated:
                taken[rank] = candidate
    seats = {candidate.seat for candidate in taken.values()}
    others = sorted((c for c in members if c.seat not in seats), key=_by_place)
    free = [rank for rank in range(len(members)) if rank not in taken]
    taken.update(zip(free, others, strict=True))
    return dict(sorted(taken.items()))


def _old_rank(candidate: Candidate, head: Head) -> int | None:
    return candidate.card.group_rank if was_member(candidate.card, head) else None


def _by_place(candidate: Candidate) -> tuple[Any, ...]:
    card = candidate.card
    rank = card.node_rank if card.node_rank is not None else 1 << 62
    # The label itself, too: rack1 and rack01 are two.
    return (
        rank,
        _natural(card.topology),
        card.topology,
        _natural(card.address),
        _natural(card.host),
        candidate.seat,
    )


def _natural(text: str) -> list[tuple[int, str]]:
    """So that node10 sorts behind node9, and 10.0.0.10 behind 10.0.0.9."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d{1,18})", text)]


def planned(
    head: Head, candidates: Sequence[Candidate], members: Sequence[Candidate], read_to: int = 0
) -> Plan:
    """The next round as a value, with what each node is told.

    Args:
        candidates: that are alive, members among them.
        members: of the round.
        read_to: cards below have been read.
    """
    number, seated = head.round + 1, group_ranks(members, head)
    cards = [candidate.card for candidate in seated.values()]
    bases = rank_bases([_RoleInstanceInfo(c.role, i, c.local_world_size) for i, c in enumerate(cards)])
    master = cards[0]
    here: dict[str, Any] = {
        "round": number,
        "epoch": head.epoch,
        "coordinator": head.coordinator,
        "restarts": head.restarts,
    }

    def told(rank: int, candidate: Candidate, base: RankBase) -> Place:
        seat = Seat(
            verdict="member",
            group_rank=rank,
            group_world_size=len(cards),
            base=(base.global_rank, base.world_size, base.role_rank, base.role_world_size),
            master_addr=master.address,
            master_port=master.port,
            seat=candidate.seat,
            **here,
        )
        return _place(candidate, seat)

    inside = {candidate.seat for candidate in members}
    waiting = [c for c in candidates if c.seat not in inside]
    return Plan(
        round=number,
        epoch=head.epoch,
        members=[told(rank, *pair) for rank, pair in enumerate(zip(seated.values(), bases, strict=True))],
        parked=[
            _parked(c, at, head, here, full=len(cards) == head.settings.max_nodes)
            for at, c in enumerate(waiting)
        ],
        read_to=read_to,
    )


def _place(candidate: Candidate, seat: Seat) -> Place:
    card = candidate.card
    return Place(node=card.node, host=card.host, node_rank=card.node_rank, seat=seat)


def _parked(candidate: Candidate, at: int, head: Head, here: dict[str, Any], *, full: bool) -> Place:
    spares = head.settings.spares
    # Beside a round that is not full somebody waits who is held back, not a spare too many.
    if full and spares is not None and at >= spares:
        waiting = f"and {plural(spares, 'node')} may wait" if spares else "and none may wait"
        reason = f"the round has its {plural(head.settings.max_nodes, 'node')} {waiting} (--spares {spares})"
        return _place(candidate, Seat(verdict="refused", reason=reason, seat=candidate.seat, **here))
    reason = f"round {head.round + 1} has formed without it; it waits as a spare"
    return _place(candidate, Seat(verdict="parked", reason=reason, seat=candidate.seat, **here))


# -- when a round closes --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seal:
    """The round forms now, with these."""

    members: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet.

    Args:
        why: in words.
        until_ns: when to look again if nothing happens before; by the coordinator's clock.
    """

    why: str
    until_ns: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It won't form."""

    why: str


@dataclass(frozen=True, slots=True)
class Gathering:
    """What the coordinator knows while a round forms.

    Args:
        candidates: that are alive and not refused, by their coming.
        awaited: nodes of the last round that are alive and not back yet.
        since_ns: when the gathering began.
        enough_since_ns: since when there are min_nodes; None if there aren't.
    """

    candidates: tuple[Candidate, ...]
    awaited: tuple[str, ...]
    since_ns: int
    enough_since_ns: int | None


def look(head: Head, gathering: Gathering, now_ns: int) -> Seal | Wait | GiveUp:
    """Whether the next round closes now.

    The first round does with max_nodes, or when enough are there and last_call_s has passed since. A later one does
    when everyone of the last round that lives is back, also those for whom others could step in, and they are enough;
    it never waits for the last call.
    """
    settings = head.settings
    members = chosen(head, gathering.candidates, now_ns)
    late_ns = gathering.since_ns + int(settings.join_timeout_s * 1e9)
    awaited = gathering.awaited if now_ns < late_ns else ()
    if awaited:
        return Wait(f"{plural(len(awaited), 'node')} of the last round to come back", late_ns)
    if len(members) < settings.min_nodes:
        missing = f"{len(members)} of the {settings.min_nodes} nodes that a round needs are there"
        if now_ns >= late_ns:
            return GiveUp(f"{missing} after {settings.join_timeout_s:g} s (join_timeout)")
        return Wait(missing, late_ns)
    if len(members) == settings.max_nodes or head.round > 0:
        return Seal(tuple(members))
    since_ns = now_ns if gathering.enough_since_ns is None else gathering.enough_since_ns
    called_ns = since_ns + int(settings.last_call_s * 1e9)
    if now_ns >= called_ns:
        return Seal(tuple(members))
    return Wait(f"more than {plural(len(members), 'node')} (last call)", called_ns)


def welcome(head: Head, candidates: Sequence[Candidate], now_ns: int) -> Ring | Wait | None:
    """Whether a running round is restarted for nodes that wait to join.

    A join that would only add a spare restarts nobody; joins are gathered for join_window_s; a host that was lost again
    and again is held back.

    Returns:
        Why the round ends, or when to look again, or None if nobody is to be let in.
    """
    settings = head.settings
    if head.phase != "running" or head.size >= settings.max_nodes:
        return None
    eager = [c for c in candidates if not c.card.spare]
    if not eager:
        return None
    ready = [max(c.since_ns + int(settings.join_window_s * 1e9), held_ns(c, head)) for c in eager]
    if min(ready) > now_ns:
        return Wait("joins are gathered", min(ready))
    let_in = [c for c in eager if held_ns(c, head) <= now_ns][: settings.max_nodes - head.size]
    names = ", ".join(c.node for c in let_in[:4]) + (
        f" and {len(let_in) - 4} more" if len(let_in) > 4 else ""
    )
    verb = "waits" if len(let_in) == 1 else "wait"
    return Ring(
        action="membership",
        reason=f"{plural(len(let_in), 'node')} {verb} to join: {names}",
        by=head.coordinator,
    )


# -- codec ----------------------------------------------------------------------------------------------------

_encode = msgspec.json.Encoder().encode


def encoded(value: msgspec.Struct) -> bytes:
    """As it stands in the store."""
    return _encode(value)


_heads = msgspec.json.Decoder(Head)
_cards = msgspec.json.Decoder(Card)
_seats = msgspec.json.Decoder(Seat)
_plans = msgspec.json.Decoder(Plan)


class Malformed(ValueError):
    """Something in the store is not what it should be."""


def _decoded(decoder: msgspec.json.Decoder[Any], data: bytes, what: str) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ConfigurationError) as error:
        raise Malformed(f"{what} is malformed: {error}") from error


def head_of(data: bytes) -> Head:
    """The head in the store. Raises Malformed."""
    head: Head = _decoded(_heads, data, "the head of the job")
    return head


def card_of(data: bytes) -> Card:
    """A card in the store. Raises Malformed, also for one that is too large."""
    if len(data) > CARD_MAX:
        raise Malformed(f"a card has {len(data):,} bytes; {CARD_MAX:,} are allowed")
    try:
        card: Card = _decoded(_cards, data, "a card")
    except Malformed:
        _raise_if_other_version(data)
        raise
    return card


class OtherVersion(Malformed):
    """A card of another version of the protocol, which can't be read any further.

    Args:
        node: whose it is.
        version: that it has.
    """

    def __init__(self, node: str, version: int) -> None:
        super().__init__(_other_version(version))
        self.node = node


def _other_version(version: int) -> str:
    return (
        f"it speaks version {version} of the rendezvous protocol and this job version {PROTOCOL}; "
        "install one version on all nodes"
    )


class _Versioned(msgspec.Struct):
    v: int
    node: str


_versioned = msgspec.json.Decoder(_Versioned)


def _raise_if_other_version(data: bytes) -> None:
    try:
        found = _versioned.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    if found.v != PROTOCOL:
        raise OtherVersion(found.node, found.v)


def seat_of(data: bytes) -> Seat:
    """A seat in the store. Raises Malformed."""
    seat: Seat = _decoded(_seats, data, "a seat")
    return seat


def plan_of(data: bytes) -> Plan:
    """A plan in the store. Raises Malformed."""
    plan: Plan = _decoded(_plans, data, "the plan of a round")
    return plan
