"""How a node, and a rank of it, come from what they were to what they are next: what the folding of events needs."""

from __future__ import annotations

from typing import Any, TypeVar

from msgspec.structs import replace

from toolkit.core import events
from toolkit.core.history import Failure, Incarnation, Node, Rank
from toolkit.core.moment import Moment

#: of what can grow the latest are kept, on each node
HISTORY_MAX = 1_000

_T = TypeVar("_T")


def appended(history: tuple[_T, ...], item: _T, most: int = HISTORY_MAX) -> tuple[_T, ...]:
    """The latest of them, this one last."""
    return (*history[-(most - 1) :], item)


def back(node: Node, at: Moment) -> Node:
    """The workers run; a restart that goes on has come to its end."""
    if not node.restarting:
        return replace(node, state="running")
    done = advanced(node, started=at)
    lost_s = done["restarts"][-1].total_s or 0.0 if done else 0.0
    return replace(node, state="running", restarting=False, time_lost_s=node.time_lost_s + lost_s, **done)


def advanced(node: Node, **moments: Moment) -> dict[str, Any]:
    """The node's restart with one more phase begun or ended, if one goes on. What is known stays.

    The rendezvous is the exception: one that begins again while the restart goes on is the one that counts.
    """
    if not node.restarting or not node.restarts:
        return {}
    restart = node.restarts[-1]
    new: dict[str, Moment | None] = {n: at for n, at in moments.items() if getattr(restart, n) is None}
    if "rendezvous_started" in moments:
        new = {**moments, "rendezvous_completed": None}
    return {"restarts": (*node.restarts[:-1], replace(restart, **new))}


def at_incarnation(node: Node, number: int) -> Node:
    """The node in this start of its workers."""
    if number == node.incarnation:
        return node
    return replace(node, incarnation=number, first_failed=None, failed_at=None)


def incarnation_of(node: Node, number: int, local_rank: int) -> Incarnation:
    """What is known of this start of this rank: nothing yet if its start is missing."""
    rank = node.ranks.get(local_rank)
    if rank is not None:
        for known in (rank.now, *reversed(rank.past)):
            if known.number == number:
                return known
    return Incarnation(number=number, local_rank=local_rank)


def with_latest(rank: Rank | None, changed: Incarnation) -> Rank:
    """The rank with this start of it among the others."""
    if rank is None or rank.now.number == changed.number:
        return Rank(changed, rank.past if rank else ())
    if changed.number > rank.now.number:
        return Rank(changed, appended(rank.past, rank.now))
    past = tuple(changed if known.number == changed.number else known for known in rank.past)
    return Rank(rank.now, past)


def failure_at(node: Node, event: events.WorkerExited | events.FailureRecorded, at: Moment) -> Failure:
    """Who failed and how; all that an exit tells where no record of its failure is there."""
    return Failure(
        node=node.name,
        life=node.life,
        incarnation=event.incarnation,
        round=event.round,
        local_rank=event.local_rank,
        global_rank=event.global_rank,
        pid=event.pid,
        hostname=node.host,
        exit_code=event.exit_code,
        signal=event.signal,
        at=at,
    )
