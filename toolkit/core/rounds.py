"""Rounds as values: the head of a job, and what may follow what. Pure.

One small register, the **head**, says everything that all nodes must agree on: which round there is, whether it runs,
why it ended, how many restarts were spent, who coordinates. It changes by compare-and-set only, so of two transitions
that are tried at one time one wins and the other is seen to have lost. `STEPS` is the table of what may follow what;
the functions below it make the next head, or say with None that this is no longer to be had.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from toolkit.core.errors import ConfigurationError
from toolkit.core.job_report import Hand
from toolkit.core.job_restarts import KEPT_MAX, Entry

#: version of what is in the store; nodes of different versions refuse each other. Values that are defaults are not
#: written, since a head goes to every node: another default is another version.
PROTOCOL = 1
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


class Settings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
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


class Ring(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a round ended before its time, as it was decided for all.

    Args:
        action: "restart" after a failure, "membership" because nodes came or went.
        reason: in words.
        by: the node that decided it.
        cause: equal for failures that look the same; see `FailureCause.key`.
        spends: whether it counts against the budget.
        delay_s: how long to wait before the next start.
        free: whether a failure is paid by nobody, because the restart policy says so.
        verdict: what the restart policy said; empty where that is the plain budget.
        hand: whether who failed died of itself; see `FailureRecord.hand`.
        entry: of this failure in the job's history; None where the policy is the plain budget, which needs none.
    """

    action: Literal["restart", "membership"]
    reason: str
    by: str
    cause: str = ""
    spends: bool = False
    delay_s: float = 0.0
    free: bool = False
    verdict: str = ""
    hand: Hand = "unclear"
    entry: Entry | None = None


class Head(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
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
        past: restarts after failures, oldest first, where the restart policy needs to know them.
        since_s: how long ago the last of them was when the latest round was formed.
    """

    v: int = msgspec.field(default_factory=lambda: PROTOCOL)  # so that it is always written
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
    past: tuple[Entry, ...] = ()
    since_s: float = 0.0

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


def touched(head: Head, node: str) -> Head | None:
    """Nothing has changed but the version, so that whoever waits for news wakes."""
    return None if head.ended else _next(head, node)


def sealed(head: Head, node: str, size: int, since_s: float = 0.0) -> Head | None:
    """The next round has formed. Only the coordinator of this epoch may say so.

    Args:
        since_s: how long ago the last restart after a failure was.
    """
    if head.phase != "gathering" or head.coordinator != node:
        return None
    return _next(
        head,
        node,
        round=head.round + 1,
        phase="running",
        sealed_epoch=head.epoch,
        size=size,
        ring=None,
        since_s=since_s if head.past else 0.0,
    )


def rung(head: Head, node: str, of_round: int, ring: Ring, lost_hosts: Iterable[str] = ()) -> Head | None:
    """The round is over and the next one gathers.

    A failure in a round that already ended because nodes came or went is still counted: once for each round. A
    first-hand one takes the place of a second-hand one that was told before: then its verdict counts.

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
            moves=head.moves + (not _failure(ring)),
            losses=_lost_again(head.losses, lost_hosts),
            past=_longer(head.past, ring),
        )
    before = head.ring
    if head.phase != "gathering" or before is None or of_round == 0 or not _failure(ring):
        return None
    if not _failure(before):
        return _next(
            head,
            node,
            ring=ring,
            restarts=head.restarts + ring.spends,
            moves=head.moves - 1,
            past=_longer(head.past, ring),
        )
    if ring.hand == "first" and before.hand == "second":
        past = head.past if before.entry is None else head.past[:-1]
        restarts = head.restarts - before.spends + ring.spends
        return _next(head, node, ring=ring, restarts=restarts, past=_longer(past, ring))
    return None


def _failure(ring: Ring) -> bool:
    """Whether it is because of a failure, and not because nodes came or went or somebody asked."""
    return ring.spends or ring.free


def _longer(past: tuple[Entry, ...], ring: Ring) -> tuple[Entry, ...]:
    return past if ring.entry is None else (*past, ring.entry)[-KEPT_MAX:]


def hurried(head: Head, node: str, of_round: int) -> Head | None:
    """Nobody waits any longer before the next start."""
    ring = head.ring
    if head.round != of_round or head.phase != "gathering" or ring is None or ring.delay_s <= 0:
        return None
    return _next(head, node, ring=msgspec.structs.replace(ring, delay_s=0.0))


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


def failed(head: Head, node: str, of_round: int, why: str, hand: Hand = "first") -> Head | None:
    """The job has failed for good, also where a restart was decided at the same time because of a failure elsewhere.

    Only who died of somebody else's death has no say about those who did not.

    Args:
        hand: of who failed.
    """
    if head.round != of_round or head.ended:
        return None
    before = head.ring if head.phase == "gathering" else None
    if hand == "second" and before is not None and _failure(before) and before.hand != "second":
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
        free: whether it follows a failure that nobody pays for.
        verdict: what the restart policy said, if it is more than the plain budget.
        hand: of who failed.
    """

    kind: Literal["restart", "membership", "evicted", "succeeded", "failed"]
    reason: str
    by: str = ""
    cause: str = ""
    spends: bool = False
    delay_s: float = 0.0
    restarts: int = 0
    free: bool = False
    verdict: str = ""
    hand: Hand = "unclear"


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
    return Over(
        ring.action,
        ring.reason,
        ring.by,
        ring.cause,
        ring.spends,
        ring.delay_s,
        head.restarts,
        ring.free,
        ring.verdict,
        ring.hand,
    )


# -- codec ----------------------------------------------------------------------------------------------------

_encode = msgspec.json.Encoder().encode


def encoded(value: msgspec.Struct) -> bytes:
    """As it stands in the store."""
    return _encode(value)


_heads = msgspec.json.Decoder(Head)


class Malformed(ValueError):
    """Something in the store is not what it should be."""


def decoded(decoder: msgspec.json.Decoder[Any], data: bytes, what: str) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ConfigurationError) as error:
        raise Malformed(f"{what} is malformed: {error}") from error


def head_of(data: bytes) -> Head:
    """The head in the store. Raises Malformed."""
    head: Head = decoded(_heads, data, "the head of the job")
    return head
