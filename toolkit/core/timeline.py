"""Events folded into what a view needs. Pure; never raises.

A `Timeline` is a frozen value: folding makes a new one and shares what did not change, so a view may keep any
of them as a snapshot. Events may come out of a torn or hostile recording: an unknown rank comes into being
when something is said of it, what was seen before is left out, and everything that can grow has a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from toolkit.core import events, forwarded, job_story, lost_logs, readings
from toolkit.core.events import Event
from toolkit.core.hanging import hang_story
from toolkit.core.history import (
    Barrier,
    Failure,
    FailureKey,
    Incarnation,
    JobState,
    Node,
    NodeState,
    Rank,
    RankState,
    Restart,
    Round,
    Signal,
    Timeline,
    same_start,
    with_header,
    worst_result,
)
from toolkit.core.job_story import JobStory
from toolkit.core.moment import Moment, seconds_between
from toolkit.core.node_changes import (
    advanced,
    appended,
    at_incarnation,
    back,
    failure_at,
    incarnation_of,
    with_latest,
)
from toolkit.core.words import without_tokens

# fmt: off
__all__ = [
    "fold", "fold_all", "Barrier", "Failure", "FailureKey", "Incarnation", "JobState", "JobStory",
    "Moment", "Node", "NodeState", "Rank", "RankState", "Restart", "Round", "Signal", "Timeline",
    "seconds_between", "worst_result",
]
# fmt: on

#: bounds for hostile recordings; far above what jobs have
NODES_MAX = 100_000
RANKS_PER_NODE_MAX = 4_096
FAILURES_MAX = 100_000


def fold(timeline: Timeline, event: Event) -> Timeline:
    """The timeline after one more event. Never raises.

    Costs a copy of `timeline.nodes`; give many events to `fold_all`, which makes one copy for all of them.
    """
    return fold_all((event,), timeline)


def fold_all(of: Iterable[Event], onto: Timeline | None = None) -> Timeline:
    """The timeline after all events in `of`, the same in whatever portions they come. Never raises.

    Args:
        of: each node's events in their order; those of different nodes interleaved in any way.
        onto: the timeline so far; it is not changed.
    """
    draft = _Draft(onto if onto is not None else Timeline())
    for event in of:
        draft.take(event)
    return draft.timeline()


class _Draft:
    """A timeline in the making: owns its mappings, which nobody else has seen yet."""

    def __init__(self, start: Timeline) -> None:
        self.run_id = start.run_id
        self.nodes = dict(start.nodes)
        self.failures = dict(start.failures)
        self.job = start.job
        self.stopped_by = start.stopped_by
        self.sessions = start.sessions
        self.ignored = start.ignored

    def timeline(self) -> Timeline:
        return Timeline(
            run_id=self.run_id,
            nodes=self.nodes,
            failures=self.failures,
            job=self.job,
            stopped_by=self.stopped_by,
            sessions=self.sessions,
            ignored=self.ignored,
        )

    def take(self, event: Event) -> None:
        node = self._node_for(event)
        if node is None:
            return
        self.run_id = event.run_id or self.run_id
        at = Moment(event.mono_ns, event.wall_ns)
        step = _STEPS.get(type(event))
        self.nodes[event.node] = step(self, node, event, at) if step else node
        self.job = job_story.told(self.job, event, at)

    def _node_for(self, event: Event) -> Node | None:
        """The node with the header of `event` taken in, or None if the event is left out."""
        node = self.nodes.get(event.node)
        if node is None:
            return self._new_node(event)
        if isinstance(event, events.AgentStarted) and not same_start(node, event):
            return self._next_life(node, event)
        if 0 < event.seq <= node.last_seq:
            if node.last_event is None or event.mono_ns <= node.last_event.mono_ns:
                self.nodes[node.name] = replace(node, repeated=node.repeated + 1)
                return None
            # The count began anew while time went on: another agent of that name, whose start is missing.
            return self._next_life(node, event)
        return with_header(node, event)

    def _new_node(self, event: Event) -> Node | None:
        if len(self.nodes) >= NODES_MAX:
            self.ignored += 1
            return None
        return with_header(Node(name=event.node), event)

    def _next_life(self, node: Node, event: Event) -> Node:
        if all(other.result for other in self.nodes.values()):
            # The job had ended: what follows is another one.
            self.nodes.clear()
            self.failures.clear()
            self.job, self.stopped_by = JobStory(), ""
            self.sessions += 1
            return with_header(Node(name=node.name), event)
        reborn = Node(
            name=node.name,
            life=node.life + 1,
            first_event=node.first_event,
            events_seen=node.events_seen,
            missing=node.missing,
            dropped=node.dropped,
            repeated=node.repeated,
            restarts=node.restarts,
            restarts_total=node.restarts_total,
            restarts_free=node.restarts_free,
            time_lost_s=node.time_lost_s,
            evictions=node.evictions,
        )
        return with_header(reborn, event)

    def note_failure(self, node: Node, failure: Failure) -> Node:
        """Keep `failure`, or what it adds to what is known of it."""
        key = (node.name, node.life, failure.incarnation, failure.local_rank)
        known = self.failures.get(key)
        if known is None and len(self.failures) >= FAILURES_MAX:
            self.ignored += 1
            return node
        if known is not None:
            # What the agent told outlasts what was inferred, whichever came first.
            failure = replace(
                known if known.told else failure, at=known.at, first=known.first or failure.first
            )
        if failure.incarnation != node.incarnation:
            self.failures[key] = failure
            return node
        if node.first_failed is None:
            failure = replace(failure, first=True)
        elif failure.first and node.first_failed != failure.local_rank:
            self._unmark_first(node)
        self.failures[key] = failure
        first_failed = failure.local_rank if failure.first else node.first_failed
        return replace(node, first_failed=first_failed, failed_at=node.failed_at or failure.at)

    def _unmark_first(self, node: Node) -> None:
        assert node.first_failed is not None, "asked by the caller"
        key = (node.name, node.life, node.incarnation, node.first_failed)
        inferred = self.failures.get(key)
        if inferred is not None:
            self.failures[key] = replace(inferred, first=False)


# -- one step for each kind of event ------------------------------------------------------------------------


def _agent_started(draft: _Draft, node: Node, event: events.AgentStarted, at: Moment) -> Node:
    return replace(
        node,
        state="starting",
        host=event.hostname,
        pid=event.pid,
        role=event.role,
        local_world_size=event.local_world_size,
        restarts_max=event.restarts_max,
        backend=event.backend,
        entrypoint=event.entrypoint,
        started=at,
    )


def _action_taken(draft: _Draft, node: Node, event: events.ActionTaken, at: Moment) -> Node:
    if event.action == "stop" and event.outcome == "done":
        draft.stopped_by = event.by or "somebody"
    return node


def _agent_finished(draft: _Draft, node: Node, event: events.AgentFinished, at: Moment) -> Node:
    return replace(
        node,
        state="finished",
        restarting=False,
        result=event.result or "ERROR",
        reason=event.reason,
        duration_s=event.duration_s,
        failed_ranks=tuple(event.failed_ranks),
        ended=at,
    )


def _rendezvous_started(draft: _Draft, node: Node, event: events.RendezvousStarted, at: Moment) -> Node:
    return replace(
        node,
        state="rendezvous",
        rounds=appended(node.rounds, Round(number=event.round + 1, started=at)),
        **advanced(node, rendezvous_started=at),
    )


def _rendezvous_completed(draft: _Draft, node: Node, event: events.RendezvousCompleted, at: Moment) -> Node:
    earlier, begun = _round_begun(node, event.round)
    formed = replace(
        begun,
        number=event.round,
        epoch=event.epoch,
        seat=event.seat,
        coordinator=without_tokens(event.coordinator),
        completed=at,
        group_rank=event.group_rank,
        group_world_size=event.group_world_size,
        world_size=event.world_size,
        master_addr=event.master_addr,
        master_port=event.master_port,
    )
    return replace(
        node,
        state="launching",
        group_rank=event.group_rank,
        nodes_waiting=0,
        arrivals_seen=None,
        rounds=appended(earlier, formed),
        **advanced(node, rendezvous_completed=at),
    )


def _rendezvous_failed(draft: _Draft, node: Node, event: events.RendezvousFailed, at: Moment) -> Node:
    earlier, begun = _round_begun(node, event.round + 1)
    return replace(node, state="ending", rounds=appended(earlier, replace(begun, error=event.error)))


def _parked(draft: _Draft, node: Node, event: events.Parked, at: Moment) -> Node:
    # It may wait for hours: that is no time that the round takes, and none that a restart costs.
    earlier, begun = _round_begun(node, event.beside + 1)
    waiting = replace(begun, started=None)
    return replace(node, state="parked", restarting=False, rounds=appended(earlier, waiting))


def _evicted(draft: _Draft, node: Node, event: events.Evicted, at: Moment) -> Node:
    return replace(node, evictions=node.evictions + 1)


def _round_begun(node: Node, number: int) -> tuple[tuple[Round, ...], Round]:
    """The rounds that are over, and the one that is not: a new one if its start is missing."""
    if node.rounds and node.rounds[-1].completed is None and not node.rounds[-1].error:
        return node.rounds[:-1], node.rounds[-1]
    return node.rounds, Round(number=number)


def _workers_starting(draft: _Draft, node: Node, event: events.WorkersStarting, at: Moment) -> Node:
    return replace(at_incarnation(node, event.incarnation), state="launching", **advanced(node, starting=at))


def _worker_started(draft: _Draft, node: Node, event: events.WorkerStarted, at: Moment) -> Node:
    started = Incarnation(
        number=event.incarnation,
        local_rank=event.local_rank,
        global_rank=event.global_rank,
        role_rank=event.role_rank,
        world_size=event.world_size,
        pid=event.pid,
        worker_id=event.worker_id,
        stdout=event.stdout,
        stderr=event.stderr,
        started=at,
    )
    return _with_incarnation(draft, at_incarnation(node, event.incarnation), started)


def _workers_started(draft: _Draft, node: Node, event: events.WorkersStarted, at: Moment) -> Node:
    return back(at_incarnation(node, event.incarnation), at)


def _worker_exited(draft: _Draft, node: Node, event: events.WorkerExited, at: Moment) -> Node:
    known = incarnation_of(node, event.incarnation, event.local_rank)
    failed = not event.stopped_by_agent and (event.exit_code != 0 or bool(event.signal))
    state: RankState = "stopped" if event.stopped_by_agent else "failed" if failed else "succeeded"
    ended = replace(
        known,
        global_rank=event.global_rank,
        pid=event.pid or known.pid,
        # A failure that was told before its exit, of a worker that ended with code 0, stays one.
        state="failed" if known.state == "failed" else state,
        exit_code=event.exit_code,
        signal=event.signal,
        stopped_by_agent=event.stopped_by_agent,
        consequence=event.consequence,
        ended=at,
    )
    node = _with_incarnation(draft, node, ended)
    return draft.note_failure(node, failure_at(node, event, at)) if failed else node


def _failure_recorded(draft: _Draft, node: Node, event: events.FailureRecorded, at: Moment) -> Node:
    failure = replace(
        failure_at(node, event, at),
        hostname=event.hostname or node.host,
        message=event.message,
        traceback=event.traceback,
        error_file=event.error_file,
        first=event.first,
        told=True,
        what=event.what,
        error_class=event.error_class,
        hand=event.hand,
        remedy=event.remedy,
    )
    known = incarnation_of(node, event.incarnation, event.local_rank)
    node = _with_incarnation(draft, node, replace(known, state="failed"))
    return draft.note_failure(node, failure)


def _group_state_changed(draft: _Draft, node: Node, event: events.GroupStateChanged, at: Moment) -> Node:
    node = replace(node, group_state=event.after)
    # An agent with hooks of its own says nothing of its workers: then the group's state tells what they do.
    if event.after == "HEALTHY":
        return replace(back(node, at), failed_at=None)
    if event.after in ("FAILED", "UNHEALTHY"):
        return replace(node, failed_at=node.failed_at or at)
    if event.after == "STOPPED":
        return replace(node, **advanced(node, stopped=at))
    return node


def _membership_changed(draft: _Draft, node: Node, event: events.MembershipChanged, at: Moment) -> Node:
    return replace(node, nodes_waiting=event.nodes_waiting, arrivals_seen=node.arrivals_seen or at)


def _decision_made(draft: _Draft, node: Node, event: events.DecisionMade, at: Moment) -> Node:
    node = replace(node, decision=event)
    if event.action != "restart":
        return replace(node, state="ending") if event.action != "continue" else node
    restart = Restart(
        node=node.name,
        life=node.life,
        incarnation=node.incarnation,
        round=event.round,
        reason=without_tokens(event.reason),
        spends_budget=event.spends_budget,
        delay_s=event.delay_s,
        free=event.free,
        noticed=node.failed_at or node.arrivals_seen,
        decided=at,
    )
    return replace(
        node,
        state="stopping",
        restarting=True,
        restarts=appended(node.restarts, restart),
        restarts_total=node.restarts_total + 1,
        restarts_free=node.restarts_free + event.free,
    )


def _workers_stopping(draft: _Draft, node: Node, event: events.WorkersStopping, at: Moment) -> Node:
    return replace(node, state="stopping")


def _workers_stopped(draft: _Draft, node: Node, event: events.WorkersStopped, at: Moment) -> Node:
    unkillable = set(event.unkillable)
    ranks = dict(node.ranks)
    for local_rank, rank in ranks.items():
        if rank.now.state == "running":
            now = (
                replace(rank.now, state="unkillable")
                if local_rank in unkillable
                else replace(rank.now, state="stopped", stopped_by_agent=True, ended=at)
            )
            ranks[local_rank] = Rank(now, rank.past)
    return hang_story.ended(replace(node, state="stopped", ranks=ranks, **advanced(node, stopped=at)), at)


def _barrier_entered(draft: _Draft, node: Node, event: events.BarrierEntered, at: Moment) -> Node:
    barrier = Barrier(members=event.members, timeout_s=event.timeout_s, entered=at)
    return replace(node, state="barrier", barrier=barrier)


def _barrier_left(draft: _Draft, node: Node, event: events.BarrierLeft, at: Moment) -> Node:
    entered = node.barrier or Barrier(members=0, timeout_s=0.0, entered=at)
    left = replace(entered, outcome=event.outcome or "error", waited_s=event.waited_s, detail=event.detail)
    return replace(node, state="ending", barrier=left)


def _signal_received(draft: _Draft, node: Node, event: events.SignalReceived, at: Moment) -> Node:
    return replace(node, signals=appended(node.signals, Signal(event.signal, event.count, at)))


def _logs_lost(draft: _Draft, node: Node, event: events.LogsLost, at: Moment) -> Node:
    return replace(node, lost_logs=lost_logs.after(node.lost_logs, event))


def _readings_taken(draft: _Draft, node: Node, event: events.ReadingsTaken, at: Moment) -> Node:
    if event.incarnation > node.incarnation:
        # Whoever reads only the ends of a long recording misses starts.
        node = back(at_incarnation(node, event.incarnation), at)
    return replace(node, readings=readings.after(node.readings, event, at))


def _with_incarnation(draft: _Draft, node: Node, changed: Incarnation) -> Node:
    rank = node.ranks.get(changed.local_rank)
    if rank is None and len(node.ranks) >= RANKS_PER_NODE_MAX:
        draft.ignored += 1
        return node
    return replace(node, ranks={**node.ranks, changed.local_rank: with_latest(rank, changed)})


_STEPS: dict[type[Event], Callable[[_Draft, Node, Any, Moment], Node]] = {
    events.AgentStarted: _agent_started,
    events.ActionTaken: _action_taken,
    events.AgentFinished: _agent_finished,
    events.RendezvousStarted: _rendezvous_started,
    events.RendezvousCompleted: _rendezvous_completed,
    events.RendezvousFailed: _rendezvous_failed,
    events.Parked: _parked,
    events.Evicted: _evicted,
    events.WorkersStarting: _workers_starting,
    events.WorkerStarted: _worker_started,
    events.WorkersStarted: _workers_started,
    events.WorkerExited: _worker_exited,
    events.FailureRecorded: _failure_recorded,
    events.GroupStateChanged: _group_state_changed,
    events.MembershipChanged: _membership_changed,
    events.DecisionMade: _decision_made,
    events.WorkersStopping: _workers_stopping,
    events.WorkersStopped: _workers_stopped,
    events.BarrierEntered: _barrier_entered,
    events.BarrierLeft: _barrier_left,
    events.SignalReceived: _signal_received,
    events.SignalForwarded: forwarded.signal_forwarded,
    events.EventsDropped: lost_logs.events_dropped,
    events.LogsLost: _logs_lost,
    events.ReadingsTaken: _readings_taken,
    events.WorkersHung: hang_story.hung,
    events.WorkersRecovered: hang_story.recovered,
}
