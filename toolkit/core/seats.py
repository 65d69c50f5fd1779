"""Who sits where in a round, as values: what a node says of itself, what it is told, and how ranks are given. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from toolkit.core.model import _RoleInstanceInfo
from toolkit.core.ranks import RankBase, rank_bases
from toolkit.core.rounds import PROTOCOL, Head, Malformed, Settings, decoded, differences, hold_s
from toolkit.core.words import plural

#: what one node may write about itself, in bytes
CARD_MAX = 16_384


class Card(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
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

    v: int = msgspec.field(default_factory=lambda: PROTOCOL)  # so that it is always written
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


class Seat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
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


class Place(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node of a plan."""

    node: str
    host: str
    node_rank: int | None = None
    seat: Seat


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
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
    seated: set[int] = set()
    for wish in (lambda c: c.card.node_rank, lambda c: _old_rank(c, head)):
        for candidate in members:
            rank = wish(candidate)
            if rank is None or candidate.seat in seated or rank in taken or not 0 <= rank < len(members):
                continue
            taken[rank] = candidate
            seated.add(candidate.seat)
    others = sorted((c for c in members if c.seat not in seated), key=_by_place)
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


def waiting(head: Head, candidate: Candidate) -> Seat:
    """What a node is told that came while a round runs."""
    full = head.size >= head.settings.max_nodes
    how = "is full; it waits as a spare" if full else "runs; it waits to be let in"
    return Seat(
        verdict="parked",
        reason=f"round {head.round} {how}",
        round=head.round,
        epoch=head.sealed_epoch,
        coordinator=head.coordinator,
        restarts=head.restarts,
        seat=candidate.seat,
    )


def _place(candidate: Candidate, seat: Seat) -> Place:
    card = candidate.card
    return Place(node=card.node, host=card.host, node_rank=card.node_rank, seat=seat)


def too_many(head: Head, others: int, *, full: bool | None = None) -> str:
    """Why a node may not wait beside a round, or an empty string.

    Args:
        others: that wait already.
        full: whether the round has all its nodes; None looks at the latest one. Beside a round that is not full
            somebody waits who is held back or is to be let in, not a spare too many.
    """
    spares, most = head.settings.spares, head.settings.max_nodes
    full = head.size >= most if full is None else full
    if not full or spares is None or others < spares:
        return ""
    waiting = f"and {plural(spares, 'node')} may wait" if spares else "and none may wait"
    return f"the round has its {plural(most, 'node')} {waiting} (--spares {spares})"


def _parked(candidate: Candidate, at: int, head: Head, here: dict[str, Any], *, full: bool) -> Place:
    reason = too_many(head, at, full=full)
    if reason:
        return _place(candidate, Seat(verdict="refused", reason=reason, seat=candidate.seat, **here))
    reason = f"round {head.round + 1} has formed without it; it waits as a spare"
    return _place(candidate, Seat(verdict="parked", reason=reason, seat=candidate.seat, **here))


# -- codec ----------------------------------------------------------------------------------------------------

_cards = msgspec.json.Decoder(Card)
_seats = msgspec.json.Decoder(Seat)
_plans = msgspec.json.Decoder(Plan)


def card_of(data: bytes) -> Card:
    """A card in the store. Raises Malformed, also for one that is too large."""
    if len(data) > CARD_MAX:
        raise Malformed(f"a card has {len(data):,} bytes; {CARD_MAX:,} are allowed")
    try:
        card: Card = decoded(_cards, data, "a card")
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
    seat: Seat = decoded(_seats, data, "a seat")
    return seat


def plan_of(data: bytes) -> Plan:
    """A plan in the store. Raises Malformed."""
    plan: Plan = decoded(_plans, data, "the plan of a round")
    return plan
