"""What happened in a run, as the value that `rally show --json` prints; its schema is `show.schema.json`.

Fields are only added. Times of day are RFC 3339 in UTC; durations are seconds of one node's monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from toolkit.adapters.recording.catalog import agent_is_alive
from toolkit.adapters.recording.reader import Recording
from toolkit.core import timeline as tl
from toolkit.core.events import DecisionMade
from toolkit.core.words import without_tokens
from toolkit.fronts.failure_summary import FailureSummary, failure_summary
from toolkit.fronts.forwarded import ForwardedSummary, forwarded_summary
from toolkit.fronts.hang_summary import HangSummary, hang_summaries
from toolkit.fronts.job_summary import JobSummary, job_summary
from toolkit.fronts.lost_logs import LostLogSummary, lost_logs
from toolkit.views.wording import moment_text

RunState = Literal[
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
    "vanished",
]

#: whether the agent with this host, pid and wall time of its start still runs; None: it can't be told from here
IsAlive = Callable[[str, int, int], bool | None]


class RestartSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One restart on one node. `total_s` is None if it did not come to its end; `wait_s` is the back-off."""

    node: str
    kind: Literal["failure", "membership"]
    reason: str
    incarnation: int
    round: int
    at: str
    after_s: float | None
    detect_s: float | None
    stop_s: float | None
    wait_s: float | None
    rendezvous_s: float | None
    start_s: float | None
    total_s: float | None


class RestartsSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The restarts.

    `total` and `time_lost_s` are of the node that had most; `used` spent the budget of `max`, `free` followed a failure
    at no cost, and `membership` is the rest: restarts because the set of nodes changed.
    """

    total: int
    used: int
    max: int
    left: int
    membership: int
    free: int
    time_lost_s: float
    each: list[RestartSummary]


class RankSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One worker in its latest incarnation. `consequence`: of what death it spoke before the agent stopped it."""

    node: str
    local_rank: int
    global_rank: int
    incarnation: int
    state: str
    pid: int
    exit_code: int | None
    signal: str
    stdout: str
    stderr: str
    consequence: str = ""


class RoundSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One rendezvous as one node saw it. `took_s` is None if the group did not form.

    `number` is the job's own, and `epoch` above 0, with our rendezvous; else each node counts for itself.
    """

    node: str
    number: int
    started: str
    took_s: float | None
    group_rank: int
    group_world_size: int
    world_size: int
    master_addr: str
    master_port: int
    error: str
    epoch: int = 0
    seat: int = -1
    coordinator: str = ""


class SignalSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A death signal to an agent."""

    node: str
    signal: str
    at: str


class BarrierSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The exit barrier as one node saw it. `outcome` is empty while it waits."""

    node: str
    members: int
    outcome: str
    waited_s: float
    detail: str


class DecisionSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a node decided last: `action` is "finish", "restart", "fail" or "abort"."""

    node: str
    action: str
    reason: str
    restarts_left: int
    policy: str


class NodeSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One agent. `alive` is null where it can't be told from here.

    `state` "vanished" means dead without a word, "lost" that the others noticed. `evictions` counts how often they
    went on without it. `own_workers` is "succeeded" or "failed" once they ended so, whatever became of the job.
    """

    node: str
    host: str
    pid: int
    role: str
    state: str
    group_state: str
    alive: bool | None
    result: str
    reason: str
    group_rank: int
    local_world_size: int
    lives: int
    started: str
    last_event: str
    evictions: int = 0
    own_workers: str = ""


class ReadingSummary(msgspec.Struct, frozen=True, kw_only=True):
    """How complete the recording is.

    `missing` events are known by gaps in the numbering, `dropped` ones the agent told of; the rest counts lines.
    """

    events: int
    missing: int
    dropped: int
    torn: int
    unknown: int
    invalid: int
    foreign: int
    oversized: int


class SimulatedSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Of a run in the simulator: what was run, whose agent, and the seed that gives the same run again."""

    scenario: str = ""
    subject: str = ""
    seed: int = 0


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in a run.

    `state` "vanished" means that the recording ends without an end and that its agents are gone. `simulated` is null
    for runs of real agents. `job` is what the nodes decided together; null where their rendezvous is not ours.
    `world_size` and `group_world_size` count workers and nodes of the last round.
    """

    schema_version: Literal[1] = 1
    run_id: str
    name: str
    path: str
    state: RunState
    result: str
    reason: str
    entrypoint: str
    started: str
    ended: str
    last_event: str
    duration_s: float
    world_size: int
    rounds: int
    sessions: int
    restarts: RestartsSummary
    failures: list[FailureSummary]
    nodes: list[NodeSummary]
    ranks: list[RankSummary]
    each_round: list[RoundSummary]
    signals: list[SignalSummary]
    barriers: list[BarrierSummary]
    last_decisions: list[DecisionSummary]
    recording: ReadingSummary
    simulated: SimulatedSummary | None = None
    group_world_size: int = 0
    job: JobSummary | None = None
    hangs: list[HangSummary] = []
    forwarded: list[ForwardedSummary] = []
    lost_logs: list[LostLogSummary] = []


def summary(timeline: tl.Timeline, recording: Recording, is_alive: IsAlive = agent_is_alive) -> RunSummary:
    """What happened in the run that `timeline` was folded of.

    Args:
        recording: read to its end.
        is_alive: asked for agents that did not say that they ended.
    """
    nodes = list(timeline.nodes.values())
    simulated = _simulated(recording)
    if simulated is not None:
        is_alive = _never_alive
    alive = {node.name: None if node.result else _ask(node, is_alive) for node in nodes}
    state = state_of(timeline, alive)
    lost = {lost.node for lost in timeline.job.lost}
    world_size, group_world_size = _size(nodes)
    return RunSummary(
        run_id=recording.run_id or timeline.run_id,
        name=recording.name,
        path=str(recording.path.absolute()),
        state=state,
        result=timeline.result or (tl.worst_result(nodes) if state not in GOING_ON else ""),
        reason=_reason(timeline),
        entrypoint=next((node.entrypoint for node in nodes if node.entrypoint), ""),
        started=moment_text(timeline.started),
        ended=moment_text(timeline.ended),
        last_event=moment_text(timeline.last),
        duration_s=duration_s(timeline),
        world_size=world_size,
        group_world_size=group_world_size,
        rounds=timeline.rounds,
        sessions=timeline.sessions,
        restarts=_restarts(timeline),
        failures=[failure_summary(failure, timeline) for failure in timeline.failures.values()],
        nodes=[_node(node, alive[node.name], node.name in lost) for node in nodes],
        ranks=sorted(_ranks(nodes), key=lambda rank: (rank.global_rank, rank.node, rank.local_rank)),
        each_round=[_round(node, number) for node in nodes for number in node.rounds],
        signals=[
            SignalSummary(node=node.name, signal=signal.name, at=moment_text(signal.at))
            for node in nodes
            for signal in node.signals
        ],
        barriers=[_barrier(node, node.barrier) for node in nodes if node.barrier],
        last_decisions=[_decision(node.name, node.decision) for node in nodes if node.decision],
        recording=_reading(timeline, recording),
        simulated=simulated,
        job=job_summary(timeline.job),
        hangs=hang_summaries(timeline),
        forwarded=forwarded_summary(nodes),
        lost_logs=lost_logs(nodes),
    )


def _size(nodes: list[tl.Node]) -> tuple[int, int]:
    """Workers and nodes of the last round; without rounds of the job's own, of the largest that a node saw last."""
    last = [formed for node in nodes for formed in node.rounds if formed.epoch > 0 and formed.completed]
    if last:
        formed = max(last, key=lambda formed: formed.number)
        return formed.world_size, formed.group_world_size
    return max(
        ((formed.world_size, formed.group_world_size) for node in nodes for formed in node.rounds[-1:]),
        default=(0, 0),
    )


def _simulated(recording: Recording) -> SimulatedSummary | None:
    said = recording.run.get("simulated")
    try:
        return None if said is None else msgspec.convert(said, SimulatedSummary)
    except msgspec.ValidationError:
        return SimulatedSummary()  # a recording may say anything; this one says that it is simulated


def _never_alive(host: str, pid: int, started_wall_ns: int) -> bool:
    """Simulated agents are gone with their simulation."""
    return False


#: states of runs that have not ended
GOING_ON = frozenset({"unknown", "starting", "rendezvous", "running", "restarting", "ending"})


def _ask(node: tl.Node, is_alive: IsAlive) -> bool | None:
    begun = node.started or node.first_event
    return is_alive(node.host, node.pid, begun.wall_ns if begun else 0)


def state_with(timeline: tl.Timeline, is_alive: IsAlive = agent_is_alive) -> RunState:
    """The state of a run, where agents may have died without a word."""
    nodes = timeline.nodes.values()
    return state_of(timeline, {node.name: None if node.result else _ask(node, is_alive) for node in nodes})


def state_of(timeline: tl.Timeline, alive: dict[str, bool | None]) -> RunState:
    """The state of a run.

    Args:
        alive: by node, for those without a result.
    """
    unfinished = [node for node in timeline.nodes.values() if not node.result]
    if not unfinished or any(alive[node.name] is not False for node in unfinished):
        return timeline.state
    # Those that could tell have told, and the others never will.
    finished = {name: node for name, node in timeline.nodes.items() if node.result}
    return tl.Timeline(nodes=finished, job=timeline.job).state if finished else "vanished"


def _reason(timeline: tl.Timeline) -> str:
    result = tl.worst_result(timeline.nodes.values())
    if timeline.reason:
        return timeline.reason
    return next((node.reason for node in timeline.nodes.values() if result and node.result == result), "")


def duration_s(timeline: tl.Timeline) -> float:
    """Seconds that the run took, or that it is recorded for so far; of the node with most of them."""
    if timeline.duration_s is not None:
        return timeline.duration_s
    return max(
        (tl.seconds_between(node.first_event, node.last_event) or 0.0 for node in timeline.nodes.values()),
        default=0.0,
    )


def _restarts(timeline: tl.Timeline) -> RestartsSummary:
    total = timeline.restarts_total
    return RestartsSummary(
        total=total,
        used=timeline.restarts_used,
        max=timeline.restarts_max,
        left=max(timeline.restarts_max - timeline.restarts_used, 0),
        membership=max(total - timeline.restarts_used - timeline.restarts_free, 0),
        free=timeline.restarts_free,
        time_lost_s=timeline.time_lost_s,
        each=[_restart(restart, timeline) for restart in timeline.restarts],
    )


def _restart(restart: tl.Restart, timeline: tl.Timeline) -> RestartSummary:
    return RestartSummary(
        node=restart.node,
        kind="failure" if restart.after_failure else "membership",
        reason=restart.reason,
        incarnation=restart.incarnation,
        round=restart.round,
        at=moment_text(restart.decided),
        after_s=tl.seconds_between(timeline.nodes[restart.node].first_event, restart.decided),
        detect_s=restart.detect_s,
        stop_s=restart.stop_s,
        wait_s=restart.wait_s,
        rendezvous_s=restart.rendezvous_s,
        start_s=restart.start_s,
        total_s=restart.total_s,
    )


def _node(node: tl.Node, alive: bool | None, lost: bool) -> NodeSummary:
    return NodeSummary(
        node=node.name,
        host=node.host,
        pid=node.pid,
        role=node.role,
        state="lost" if lost and not node.result else "vanished" if alive is False else node.state,
        group_state=node.group_state,
        alive=alive,
        result=node.result,
        reason=node.reason,
        group_rank=node.group_rank,
        local_world_size=node.local_world_size,
        lives=node.life,
        started=moment_text(node.started),
        last_event=moment_text(node.last_event),
        evictions=node.evictions,
        own_workers=_own_workers(node),
    )


def _own_workers(node: tl.Node) -> str:
    states = {rank.now.state for rank in node.ranks.values()}
    if "failed" in states:
        return "failed"
    return "succeeded" if states == {"succeeded"} else ""


def _ranks(nodes: Iterable[tl.Node]) -> Iterable[RankSummary]:
    for node in nodes:
        for rank in node.ranks.values():
            now = rank.now
            yield RankSummary(
                node=node.name,
                local_rank=now.local_rank,
                global_rank=now.global_rank,
                incarnation=now.number,
                state=now.state,
                pid=now.pid,
                exit_code=now.exit_code,
                signal=now.signal,
                stdout=now.stdout,
                stderr=now.stderr,
                consequence=now.consequence,
            )


def _round(node: tl.Node, seen: tl.Round) -> RoundSummary:
    return RoundSummary(
        node=node.name,
        number=seen.number,
        started=moment_text(seen.started),
        took_s=seen.took_s,
        group_rank=seen.group_rank,
        group_world_size=seen.group_world_size,
        world_size=seen.world_size,
        master_addr=seen.master_addr,
        master_port=seen.master_port,
        error=seen.error,
        epoch=seen.epoch,
        seat=seen.seat,
        coordinator=seen.coordinator,
    )


def _barrier(node: tl.Node, barrier: tl.Barrier) -> BarrierSummary:
    return BarrierSummary(
        node=node.name,
        members=barrier.members,
        outcome=barrier.outcome,
        waited_s=barrier.waited_s,
        detail=barrier.detail,
    )


def _decision(node: str, made: DecisionMade) -> DecisionSummary:
    return DecisionSummary(
        node=node,
        action=made.action,
        reason=without_tokens(made.reason),
        restarts_left=made.restarts_left,
        policy=made.policy,
    )


def _reading(timeline: tl.Timeline, recording: Recording) -> ReadingSummary:
    counted = recording.counters
    return ReadingSummary(
        events=counted.events,
        missing=sum(node.missing for node in timeline.nodes.values()),
        dropped=counted.dropped,
        torn=counted.torn,
        unknown=counted.unknown,
        invalid=counted.invalid,
        foreign=counted.foreign,
        oversized=counted.oversized,
    )


def json_schema() -> bytes:
    """The JSON schema of `RunSummary`, as `show.schema.json` has it."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(RunSummary)), indent=2) + b"\n"
