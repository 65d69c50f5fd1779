"""The values that a timeline is made of: the job, its nodes, ranks with incarnations, failures, restarts.

All are frozen; the mappings in them are read-only by agreement. Times of two nodes are never compared: every
duration comes from one node's own monotonic clock, and the wall clock is for people. What a recording does
not say is None or empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from toolkit.core import events
from toolkit.core.hanging.hang_story import Hang
from toolkit.core.job_story import JobStory
from toolkit.core.moment import Moment, seconds_between
from toolkit.core.readings import Readings

NodeState = Literal[
    "starting",
    "rendezvous",
    "parked",
    "launching",
    "running",
    "stopping",
    "stopped",
    "barrier",
    "ending",
    "finished",
]
RankState = Literal["running", "succeeded", "failed", "stopped", "unkillable"]
JobState = Literal[
    "unknown",
    "starting",
    "rendezvous",
    "running",
    "restarting",
    "ending",
    "succeeded",
    "failed",
    "stopped",
    "error",
]


class Incarnation(msgspec.Struct, frozen=True, kw_only=True):
    """One start of one local rank.

    Args:
        number: counts the starts on this node, from 0.
        pid: 0 where it is no local process.
        exit_code: None while it runs and when a signal ended it.
        started: None if the recording does not have its start.
        hangs: how it hangs now, as in `HungWorker.kind`; empty if it does not.
    """

    number: int
    local_rank: int
    global_rank: int = -1
    role_rank: int = -1
    world_size: int = -1
    pid: int = 0
    worker_id: str = ""
    stdout: str = ""
    stderr: str = ""
    state: RankState = "running"
    exit_code: int | None = None
    signal: str = ""
    stopped_by_agent: bool = False
    consequence: str = ""
    started: Moment | None = None
    ended: Moment | None = None
    hangs: str = ""


class Rank(msgspec.Struct, frozen=True):
    """One local rank with its incarnations; `past` is oldest first."""

    now: Incarnation
    past: tuple[Incarnation, ...] = ()


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One worker that failed by itself.

    Args:
        life: which start of the node's agent this belongs to, from 1.
        first: whether its agent saw it first in this incarnation: the likely cause of the others.
        told: whether the agent told of it as a failure; otherwise it is inferred from the exit.
        what, error_class, hand, remedy: what it died of, as `events.FailureRecorded` has it.
    """

    node: str
    life: int
    incarnation: int
    round: int
    local_rank: int
    global_rank: int
    pid: int
    hostname: str
    exit_code: int | None
    signal: str
    message: str = ""
    traceback: str = ""
    error_file: str = ""
    first: bool = False
    told: bool = False
    what: str = ""
    error_class: str = "unknown"
    hand: str = "unclear"
    remedy: str = ""
    at: Moment


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One rendezvous as one node saw it.

    Args:
        number: the job's count with our rendezvous, whose `epoch` is above 0; else the node's own.
        started: None if the recording does not have it, and for a node that waited parked.
        completed: None until the group has formed.
        seat: counts the nodes as they asked for one; -1 for the coordinator's own, and where there are none.
        coordinator: the node that formed it, with our rendezvous.
    """

    number: int
    epoch: int = 0
    seat: int = -1
    coordinator: str = ""
    started: Moment | None = None
    completed: Moment | None = None
    error: str = ""
    group_rank: int = -1
    group_world_size: int = 0
    world_size: int = 0
    master_addr: str = ""
    master_port: int = 0

    @property
    def took_s(self) -> float | None:
        """Seconds until the group had formed."""
        return seconds_between(self.started, self.completed)


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """One restart on one node, from what made it necessary until the workers ran again.

    Args:
        life: which start of the node's agent this belongs to, from 1.
        incarnation: the one that was given up.
        round: that was given up, by the count of `Round.number`.
        spends_budget: whether it counts against `max_restarts`; a change of membership does not.
        free: whether it follows a failure, and the restart policy made it cost nothing.
        noticed: the first failure, or the moment at which waiting nodes were seen.
        decided: when the agent decided on it.
    """

    node: str
    life: int
    incarnation: int
    round: int
    reason: str
    spends_budget: bool
    delay_s: float
    free: bool = False
    noticed: Moment | None
    decided: Moment
    stopped: Moment | None = None
    rendezvous_started: Moment | None = None
    rendezvous_completed: Moment | None = None
    starting: Moment | None = None
    started: Moment | None = None

    @property
    def after_failure(self) -> bool:
        """Whether it is because of a failure."""
        return self.spends_budget or self.free

    @property
    def detect_s(self) -> float | None:
        """Seconds from the first failure (or arrival) that the agent knew of to its decision."""
        return seconds_between(self.noticed, self.decided)

    @property
    def stop_s(self) -> float | None:
        """Seconds until no worker of before was left."""
        return seconds_between(self.decided, self.stopped)

    @property
    def wait_s(self) -> float | None:
        """Seconds between the stop and the rendezvous: the back-off of the restart policy."""
        return seconds_between(self.stopped, self.rendezvous_started)

    @property
    def rendezvous_s(self) -> float | None:
        """Seconds until the group had formed again."""
        return seconds_between(self.rendezvous_started, self.rendezvous_completed)

    @property
    def start_s(self) -> float | None:
        """Seconds until all workers of this node had been started."""
        return seconds_between(self.starting, self.started)

    @property
    def total_s(self) -> float | None:
        """Seconds without running workers: from the first failure that the agent knew of to the last start.

        A change of membership counts from its decision. None while it goes on, or if it never ended.
        What the workers then do over again is not in it.
        """
        begin = self.noticed if self.after_failure and self.noticed is not None else self.decided
        return seconds_between(begin, self.started)


class Barrier(msgspec.Struct, frozen=True, kw_only=True):
    """The exit barrier as one node saw it; `outcome` is empty while it waits.

    A timeout of 0 is no limit: with our rendezvous nodes wait for the others as long as those live.
    """

    members: int
    timeout_s: float
    entered: Moment
    outcome: str = ""
    waited_s: float = 0.0
    detail: str = ""


class Signal(msgspec.Struct, frozen=True):
    """A death signal to an agent."""

    name: str
    count: int
    at: Moment


class Forwarded(msgspec.Struct, frozen=True):
    """A signal that an agent handed on to these of its workers, and those that have no handler for it yet."""

    name: str
    local_ranks: tuple[int, ...]
    waiting: tuple[int, ...]
    at: Moment


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One agent and its workers.

    Args:
        life: which start of an agent of this name, from 1.
        state: what the agent does.
        group_state: the state of its worker group, a `WorkerState`.
        last_seq: number of its last event.
        missing: events that were never seen, by the gaps in their numbers.
        dropped: events that the agent itself says it could not write.
        repeated: events left out because their number had been seen.
        ranks: by local rank.
        evictions: how often the job went on without it, because it was silent for too long.
        restarts: the latest of them; `restarts_total` counts all.
        restarts_free: those after a failure that cost nothing.
        result: how it ended, as in `AgentFinished`; empty while it has not.
        readings: what its workers and GPUs used when that was read last; None if it was not.
        hangs: reports of workers that hang, the latest.
        lost_logs: output that logs have lost, with the latest counts of each log and incarnation.
    """

    name: str
    life: int = 1
    state: NodeState = "starting"
    group_state: str = "INIT"
    group_rank: int = -1
    host: str = ""
    pid: int = 0
    role: str = ""
    local_world_size: int = 0
    restarts_max: int = 0
    backend: str = ""
    entrypoint: str = ""
    round: int = 0
    epoch: int = 0
    restart_count: int = 0
    incarnation: int = -1
    nodes_waiting: int = 0
    first_event: Moment | None = None
    last_event: Moment | None = None
    started: Moment | None = None
    ended: Moment | None = None
    arrivals_seen: Moment | None = None
    events_seen: int = 0
    last_seq: int = 0
    missing: int = 0
    dropped: int = 0
    repeated: int = 0
    ranks: Mapping[int, Rank] = {}
    evictions: int = 0
    first_failed: int | None = None
    failed_at: Moment | None = None
    rounds: tuple[Round, ...] = ()
    restarts: tuple[Restart, ...] = ()
    restarts_total: int = 0
    restarts_free: int = 0
    restarting: bool = False
    time_lost_s: float = 0.0
    decision: events.DecisionMade | None = None
    barrier: Barrier | None = None
    signals: tuple[Signal, ...] = ()
    result: str = ""
    reason: str = ""
    duration_s: float = 0.0
    failed_ranks: tuple[int, ...] = ()
    readings: Readings | None = None
    hangs: tuple[Hang, ...] = ()
    forwarded: tuple[Forwarded, ...] = ()
    lost_logs: tuple[events.LogsLost, ...] = ()


#: node, life, incarnation, local rank
FailureKey: TypeAlias = tuple[str, int, int, int]

#: worst first: the result of the job is the worst of its nodes, save that a node that left says nothing
_RESULTS_BY_WEIGHT = ("FAILED", "ERROR", "UNKNOWN", "SIGNAL", "SUCCEEDED", "STOPPED")
_RESULT_OF_OUTCOME = {"succeeded": "SUCCEEDED", "failed": "FAILED"}
#: a result of `AgentFinished` in a word; those that are not here are errors
STATE_OF_RESULT: dict[str, JobState] = {
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "SIGNAL": "stopped",
    "STOPPED": "stopped",
}


def same_start(node: Node, event: events.AgentStarted) -> bool:
    """Whether it is the start that is known of the node's agent, and not that of another one."""
    started = node.started
    if started is None:
        # Events of before its start, or the start itself was torn.
        return event.seq > node.last_seq or event.seq <= 0
    return event.pid == node.pid and event.mono_ns == started.mono_ns


def with_header(node: Node, event: events.Event) -> Node:
    """The node with what each event says taken in: number, time, round, epoch, restarts."""
    at = Moment(event.mono_ns, event.wall_ns)
    numbered = event.seq > 0
    return replace(
        node,
        events_seen=node.events_seen + 1,
        last_seq=event.seq if numbered else node.last_seq,
        missing=node.missing + (event.seq - node.last_seq - 1 if numbered else 0),
        round=event.round,
        epoch=event.epoch,
        restart_count=event.restart_count,
        first_event=node.first_event or at,
        last_event=at,
    )


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """A job as its events tell it.

    Args:
        nodes: by name, in the order of their first event.
        failures: in the order of their events; between nodes that is only as good as their wall clocks.
        job: what the nodes decided together, with our rendezvous.
        stopped_by: who had it ended, if somebody did.
        sessions: jobs that ran one after another into this recording; only the last one is told.
        ignored: events that a bound kept out.
    """

    run_id: str = ""
    nodes: Mapping[str, Node] = {}
    failures: Mapping[FailureKey, Failure] = {}
    job: JobStory = JobStory()
    stopped_by: str = ""
    sessions: int = 1
    ignored: int = 0

    @property
    def result(self) -> str:
        """The job's own, if its nodes told it, else the worst of the nodes; empty while one has not finished.

        A node that the others know to be lost keeps nobody waiting.
        """
        lost = {lost.node for lost in self.job.lost}
        nodes = [node for node in self.nodes.values() if node.result or node.name not in lost]
        if not nodes or not all(node.result for node in nodes):
            return ""
        outcome = self.job.outcome
        return _RESULT_OF_OUTCOME.get(outcome.outcome if outcome else "", "") or worst_result(nodes)

    @property
    def state(self) -> JobState:
        """What the job does, or how it ended."""
        if not self.nodes:
            return "unknown"
        if self.result == "FAILED" and self.stopped_by:
            return "stopped"  # by somebody who said so: nothing went wrong
        if self.result:
            return STATE_OF_RESULT.get(self.result, "error")
        return _state_while_running(self.nodes.values())

    @property
    def reason(self) -> str:
        """Why it ended, in the words of the job or else the first node with its result; empty while it has not."""
        result, outcome = self.result, self.job.outcome
        if result and outcome is not None and outcome.why:
            return outcome.why
        return next((node.reason for node in self.nodes.values() if result and node.result == result), "")

    @property
    def started(self) -> Moment | None:
        """The first event."""
        return min(
            (n.first_event for n in self.nodes.values() if n.first_event),
            key=lambda at: at.wall_ns,
            default=None,
        )

    @property
    def last(self) -> Moment | None:
        """The last event by the wall clocks."""
        return max(
            (n.last_event for n in self.nodes.values() if n.last_event),
            key=lambda at: at.wall_ns,
            default=None,
        )

    @property
    def ended(self) -> Moment | None:
        """The end of the last agent by the wall clocks; None while one has not finished."""
        if not self.result:
            return None
        return max((n.ended for n in self.nodes.values() if n.ended), key=lambda at: at.wall_ns, default=None)

    @property
    def duration_s(self) -> float | None:
        """Seconds that the longest agent took; None while one has not finished."""
        return max(node.duration_s for node in self.nodes.values()) if self.result else None

    @property
    def rounds(self) -> int:
        """Rendezvous rounds: the job's number with our rendezvous, else of the node that saw most of them."""
        return max((node.round for node in self.nodes.values()), default=0)

    @property
    def restarts_total(self) -> int:
        """Restarts whatever the reason: of the job where rounds are its own, else of the node that had most."""
        of_nodes = max((node.restarts_total for node in self.nodes.values()), default=0)
        # A node that came late has seen less than the number of its round tells.
        of_job = max((node.round - 1 for node in self.nodes.values() if node.epoch > 0), default=0)
        return max(of_nodes, of_job, 0)

    @property
    def restarts(self) -> list[Restart]:
        """The restarts of all nodes, by the wall clocks."""
        of_all = (restart for node in self.nodes.values() for restart in node.restarts)
        return sorted(of_all, key=lambda restart: restart.decided.wall_ns)

    @property
    def restarts_used(self) -> int:
        """Restarts that spent the budget, on the node that spent most."""
        return max((node.restart_count for node in self.nodes.values()), default=0)

    @property
    def restarts_free(self) -> int:
        """Restarts after a failure that the restart policy made free, on the node that had most."""
        return max((node.restarts_free for node in self.nodes.values()), default=0)

    @property
    def restarts_max(self) -> int:
        """The largest budget of all nodes."""
        return max((node.restarts_max for node in self.nodes.values()), default=0)

    @property
    def time_lost_s(self) -> float:
        """Seconds lost in restarts, on the node that lost most: the nodes restart at the same time."""
        return max((node.time_lost_s for node in self.nodes.values()), default=0.0)


def worst_result(nodes: Iterable[Node]) -> str:
    """The result that stands for all of `nodes` that have one, or an empty string."""
    results = {node.result for node in nodes if node.result}
    known = next((result for result in _RESULTS_BY_WEIGHT if result in results), "")
    return "ERROR" if not results <= set(_RESULTS_BY_WEIGHT) and known != "FAILED" else known


def _state_while_running(nodes: Iterable[Node]) -> JobState:
    states = {node.state for node in nodes}
    if states & {"finished", "ending", "barrier"}:
        return "ending"
    if any(node.restarting for node in nodes):
        return "restarting"
    if "running" in states:
        return "running"
    if states & {"rendezvous", "parked"}:
        return "rendezvous"
    return "ending" if states & {"stopping", "stopped"} else "starting"
