"""Who gets which rank. Pure arithmetic over what the nodes said of themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.core.model import Worker, _RoleInstanceInfo


@dataclass(frozen=True, slots=True)
class RankBase:
    """Where the ranks of one node begin.

    Args:
        global_rank: global rank of the node's local rank 0.
        world_size: workers of the job.
        role_rank: role rank of the node's local rank 0.
        role_world_size: workers of the job with the node's role.
    """

    global_rank: int
    world_size: int
    role_rank: int
    role_world_size: int


def rank_bases(nodes: Sequence[_RoleInstanceInfo]) -> list[RankBase]:
    """Rank bases of all nodes, `[nodes]`, given in order of group rank.

    Global ranks run on over the nodes in order of group rank; role ranks do so within each role.
    """
    role_sizes: Counter[str] = Counter()
    for node in nodes:
        role_sizes[node.role] += node.local_world_size
    world_size = sum(role_sizes.values())
    bases, global_rank = [], 0
    role_ranks: Counter[str] = Counter()
    for node in nodes:
        bases.append(RankBase(global_rank, world_size, role_ranks[node.role], role_sizes[node.role]))
        global_rank += node.local_world_size
        role_ranks[node.role] += node.local_world_size
    return bases


def identical_nodes(group_rank: int, group_world_size: int, local_world_size: int) -> RankBase:
    """The rank base where all nodes have one role and one size; needs no exchange.

    Source: torch's fast path behind `TORCH_ELASTIC_WORKER_IDENTICAL=1`. Its docstring says
    group_rank * group_world_size; its code and this one multiply by local_world_size.
    """
    first, total = group_rank * local_world_size, group_world_size * local_world_size
    return RankBase(first, total, first, total)


def workers_of(base: RankBase, local_world_size: int) -> list[Worker]:
    """The workers of one node, `[local_world_size]`."""
    return [
        Worker(
            local_rank=i,
            global_rank=base.global_rank + i,
            role_rank=base.role_rank + i,
            world_size=base.world_size,
            role_world_size=base.role_world_size,
        )
        for i in range(local_world_size)
    ]
