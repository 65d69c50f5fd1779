"""Workers that hung, folded: each report of an agent, and when they moved again. Pure; never raises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from toolkit.core.events import HungWorker, WorkersHung, WorkersRecovered
from toolkit.core.moment import Moment

if TYPE_CHECKING:
    from toolkit.core.history import Node, Rank

#: characters of the stacks of one report; twice what agents tell
STACKS_MAX = 16_000
#: reports of one node that are kept, the latest, and workers in one: bounds for hostile recordings
HANGS_MAX, WORKERS_MAX = 100, 4_096


class Hang(msgspec.Struct, frozen=True, kw_only=True):
    """One report of workers that hang.

    Args:
        workers: culprits first.
        why: in one sentence.
        stacks: where the workers were, in lines.
        odd: global ranks that were elsewhere in their code than most.
        kills: local ranks that the agent killed because of it.
        recovered: global ranks that moved again.
        ended: when all had moved again, or been reported anew, or had been stopped; None while they hang.
    """

    incarnation: int
    at: Moment
    workers: tuple[HungWorker, ...]
    why: str
    stacks: str = ""
    odd: tuple[int, ...] = ()
    kills: tuple[int, ...] = ()
    recovered: tuple[int, ...] = ()
    ended: Moment | None = None


def hung(_draft: Any, node: Node, event: WorkersHung, at: Moment) -> Node:
    """The node after a report."""
    hang = Hang(
        incarnation=event.incarnation,
        at=at,
        workers=tuple(event.workers[:WORKERS_MAX]),
        why=event.why,
        stacks=event.stacks[:STACKS_MAX],
        odd=tuple(event.odd[:WORKERS_MAX]),
        kills=tuple(event.kills[:WORKERS_MAX]),
    )
    kinds = {worker.local_rank: worker.kind for worker in hang.workers}
    before = _over(node, at).hangs[-(HANGS_MAX - 1) :]
    return _marked(replace(node, hangs=(*before, hang)), kinds)


def recovered(_draft: Any, node: Node, event: WorkersRecovered, at: Moment) -> Node:
    """The node after workers have moved again."""
    if not node.hangs:
        return node
    last = node.hangs[-1]
    moved = {*last.recovered, *event.global_ranks[:WORKERS_MAX]}
    left = {worker.local_rank: worker.kind for worker in last.workers if worker.global_rank not in moved}
    changed = replace(last, recovered=tuple(sorted(moved)), ended=last.ended if left else last.ended or at)
    return _marked(replace(node, hangs=(*node.hangs[:-1], changed)), left)


def ended(node: Node, at: Moment) -> Node:
    """The node after its workers have been stopped."""
    return _marked(_over(node, at), {})


def _over(node: Node, at: Moment) -> Node:
    if not node.hangs or node.hangs[-1].ended is not None:
        return node
    return replace(node, hangs=(*node.hangs[:-1], replace(node.hangs[-1], ended=at)))


def _marked(node: Node, kinds: dict[int, str]) -> Node:
    """Each rank says itself whether it hangs now."""
    ranks = {
        local_rank: _with_kind(rank, kinds.get(local_rank, "")) for local_rank, rank in node.ranks.items()
    }
    unchanged = all(ranks[local_rank] is rank for local_rank, rank in node.ranks.items())
    return node if unchanged else replace(node, ranks=ranks)


def _with_kind(rank: Rank, kind: str) -> Rank:
    return rank if rank.now.hangs == kind else replace(rank, now=replace(rank.now, hangs=kind))
