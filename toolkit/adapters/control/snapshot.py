"""What an agent says of its job in short, from its timeline."""

from __future__ import annotations

from typing import Any

from toolkit.core.timeline import Node, Timeline


def snapshot_of(timeline: Timeline) -> dict[str, Any]:
    """The job, its nodes and their ranks, as plain values. `seq` numbers the last event of this agent in it."""
    return {
        "run_id": timeline.run_id,
        "node": next(iter(timeline.nodes), ""),
        "seq": max((node.last_seq for node in timeline.nodes.values()), default=0),
        "state": timeline.state,
        "reason": timeline.reason,
        "round": timeline.rounds,
        "restarts_used": timeline.restarts_used,
        "restarts_max": timeline.restarts_max,
        "restarts_left": max(0, timeline.restarts_max - timeline.restarts_used),
        "nodes": [_node(node) for node in timeline.nodes.values()],
    }


def _node(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "host": node.host,
        "pid": node.pid,
        "state": node.state,
        "group_state": node.group_state,
        "group_rank": node.group_rank,
        "incarnation": node.incarnation,
        "ranks": [
            {
                "local_rank": local_rank,
                "global_rank": rank.now.global_rank,
                "incarnation": rank.now.number,
                "pid": rank.now.pid,
                "state": rank.now.state,
                "exit_code": rank.now.exit_code,
                "signal": rank.now.signal,
            }
            for local_rank, rank in sorted(node.ranks.items())
        ],
    }
