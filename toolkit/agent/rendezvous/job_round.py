"""What our rendezvous gives an agent: its place in a round, and what it has to know of the job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolkit.agent.solo import StoreAddress
from toolkit.core.ranks import RankBase
from toolkit.core.restarts import PastRestart


@dataclass(frozen=True, slots=True)
class JobRound:
    """What a rendezvous gives. Has the fields of torch's `RendezvousInfo`, and more.

    Args:
        store: where the agents of this round can tell each other something.
        rank: group rank.
        world_size: nodes of the round.
        bootstrap_store_info: where the workers' store is to be.
        base: of the workers' ranks; no exchange is needed.
        round: number of the round in the job.
        epoch: of the coordinator that formed it.
        restarts: of the job that spent the budget so far.
        seat: the number of this node's card.
        coordinator: the node that formed it.
        past: restarts of the job after failures, by this node's clock; empty where the policy needs none.
    """

    store: Any
    rank: int
    world_size: int
    bootstrap_store_info: StoreAddress
    base: RankBase
    round: int
    epoch: int
    restarts: int
    seat: int
    coordinator: str
    past: tuple[PastRestart, ...] = ()
