"""What happened as a line for a scenario or a notebook, to try it again where it costs nothing. Pure."""

from __future__ import annotations

import signal

from toolkit.core.history import Failure, Timeline
from toolkit.views.rows import NodeRow, RankRow, failure_of


def rank_as_code(row: RankRow, timeline: Timeline) -> str:
    """The failure of a rank's latest incarnation as a planned one of a simulated worker; else a way to break it."""
    failure = failure_of(timeline, timeline.nodes[row.key[0]], row.now)
    if failure is None:
        return f'faults.KillWorker("{_nth_node(timeline, row.key[0])}", at_s=60.0, local_rank={row.key[1]})'
    return _failure(failure, row)


def _failure(failure: Failure, row: RankRow) -> str:
    code = failure.exit_code if failure.exit_code is not None else -_number(failure.signal)
    started = row.now.started
    after_s = max(failure.at.mono_ns - started.mono_ns, 0) / 1e9 if started is not None else 60.0
    return f"Fail(rank={failure.global_rank}, at_s={after_s:.1f}, exit_code={code})"


def _number(name: str) -> int:
    try:
        return int(signal.Signals[name])
    except KeyError:
        return int(signal.SIGKILL)


def node_as_code(row: NodeRow, timeline: Timeline) -> str:
    """The loss of a node as a fault; also of one that is well, to see what would happen."""
    at_s = 60.0
    lost = [lost for lost in timeline.job.lost if lost.node == row.key]
    started = timeline.started
    if lost and started is not None:
        at_s = max(lost[-1].at.wall_ns - started.wall_ns, 0) / 1e9
    return f'faults.CrashNode("{_nth_node(timeline, row.key)}", at_s={at_s:.1f})'


def _nth_node(timeline: Timeline, name: str) -> str:
    """Its name in a scenario: nodes are node0, node1 and so on there, by group rank."""
    order = sorted(
        timeline.nodes.values(), key=lambda node: (node.group_rank < 0, node.group_rank, node.name)
    )
    return f"node{[node.name for node in order].index(name)}"
