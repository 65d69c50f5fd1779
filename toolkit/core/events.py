"""The typed events and their codec: what both worlds say and every view reads.

One JSON object a line. `type` tells the kind. The first fields are the same in all of them (`Event`). Within
version 1 fields are only added, each with a default, so that old recordings stay readable; a line of an unknown
type decodes to None and is counted by the reader. Times: `mono_ns` is the node's own monotonic clock, which
orders the events of one node and is never compared between nodes; `wall_ns` is for people.
"""

from __future__ import annotations

from typing import Any

import msgspec

from toolkit.core.job_report import FailureRecord
from toolkit.core.usage import GpuReading as GpuReading
from toolkit.core.usage import WorkerReading as WorkerReading

VERSION = 1


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every event carries.

    Args:
        v: version of the format.
        run_id: the job.
        node: the agent that says it; unique in the job.
        seq: counts the events of this node, from 1, without gaps save for dropped ones.
        mono_ns: nanoseconds of the node's monotonic clock.
        wall_ns: nanoseconds since the Unix epoch of the node's wall clock.
        round: rendezvous rounds this agent has been part of; 0 before the first.
        epoch: coordinator epoch; 0 where the rendezvous has none.
        restart_count: restarts that spent the budget so far.
    """

    v: int = VERSION
    run_id: str = ""
    node: str = ""
    seq: int = 0
    mono_ns: int = 0
    wall_ns: int = 0
    round: int = 0
    epoch: int = 0
    restart_count: int = 0


class AgentStarted(Event, frozen=True, kw_only=True, tag="agent_started"):
    """An agent began to run."""

    pid: int
    hostname: str
    role: str
    local_world_size: int
    restarts_max: int
    backend: str
    entrypoint: str


class AgentFinished(Event, frozen=True, kw_only=True, tag="agent_finished"):
    """An agent ended. `result` is a WorkerState, or "ERROR", or "SIGNAL"; `reason` is in words."""

    result: str
    reason: str
    duration_s: float
    failed_ranks: list[int] = []


class RendezvousStarted(Event, frozen=True, kw_only=True, tag="rendezvous_started"):
    """The agent waits for its group to form."""

    backend: str


class RendezvousCompleted(Event, frozen=True, kw_only=True, tag="rendezvous_completed"):
    """The group has formed and ranks are assigned. `global_ranks` has the shape `[local_world_size]`.

    `seat` counts the nodes as they came, and `coordinator` is the one that decided; -1 and empty where the rendezvous
    has no such thing.
    """

    group_rank: int
    group_world_size: int
    world_size: int
    role_world_size: int
    master_addr: str
    master_port: int
    global_ranks: list[int]
    seat: int = -1
    coordinator: str = ""


class RendezvousFailed(Event, frozen=True, kw_only=True, tag="rendezvous_failed"):
    """The group did not form."""

    error: str


class SeatTaken(Event, frozen=True, kw_only=True, tag="seat_taken"):
    """The agent has asked for a seat in round `gathering`, and waits for what the coordinator says."""

    gathering: int
    seat: int
    store: str


class Parked(Event, frozen=True, kw_only=True, tag="parked"):
    """A round has formed without this agent; it waits beside it."""

    beside: int
    reason: str


class RoundFormed(Event, frozen=True, kw_only=True, tag="round_formed"):
    """Said by the coordinator: who is in round `formed`, by group rank, and who waits beside it."""

    formed: int
    members: list[str]
    parked: list[str] = []


class RoundEnded(Event, frozen=True, kw_only=True, tag="round_ended"):
    """The bell: round `ended` is over before its time.

    Args:
        action: "restart" after a failure, "membership" because nodes came or went.
        reason: in words.
        by: the node that decided it for all.
        spends_budget: whether it counts against the budget.
        restarts: of the job that spent the budget, this one included.
    """

    ended: int
    action: str
    reason: str
    by: str
    spends_budget: bool
    restarts: int


class Evicted(Event, frozen=True, kw_only=True, tag="evicted"):
    """The job went on without this agent, which was silent for too long. It stops its workers and asks anew."""

    left: int
    reason: str


class LeaseLost(Event, frozen=True, kw_only=True, tag="lease_lost"):
    """Said by the coordinator that noticed it: `lost` left, or its counter stood for `stood_s` seconds."""

    lost: str
    reason: str
    stood_s: float


class StoreSilent(Event, frozen=True, kw_only=True, tag="store_silent"):
    """The store of the job at `where` has not answered this agent for `silent_s` seconds; after `limit_s` it ends."""

    where: str
    silent_s: float
    limit_s: float


class StoreAnswers(Event, frozen=True, kw_only=True, tag="store_answers"):
    """The store of the job answers again."""

    where: str
    silent_s: float


class CoordinatorChanged(Event, frozen=True, kw_only=True, tag="coordinator_changed"):
    """`coordinator` decides from now on, in epoch `began`; `before` did until then. Said by each agent."""

    began: int
    coordinator: str
    before: str
    reason: str = ""


class JoinHeld(Event, frozen=True, kw_only=True, tag="join_held"):
    """Said by the coordinator: `joiner` has to wait for `for_s` seconds before a round is restarted for it."""

    joiner: str
    reason: str
    for_s: float


class JoinRefused(Event, frozen=True, kw_only=True, tag="join_refused"):
    """`joiner` may not take part. Said by the coordinator and by the joiner."""

    joiner: str
    reason: str


class JobEnded(Event, frozen=True, kw_only=True, tag="job_ended"):
    """How the whole job ended; the same from all of its agents.

    Args:
        outcome: "succeeded" or "failed".
        why: in words.
        failures: of the last round, who failed first at the top (`core/job_report.py`).
    """

    outcome: str
    why: str = ""
    failures: list[FailureRecord] = []


class WorkersStarting(Event, frozen=True, kw_only=True, tag="workers_starting"):
    """The agent begins to start its workers. `incarnation` counts such starts on this node, from 0."""

    incarnation: int
    count: int


class WorkerStarted(Event, frozen=True, kw_only=True, tag="worker_started"):
    """One worker runs. `pid` is 0 for workers that are no local processes; paths are empty for the console."""

    incarnation: int
    local_rank: int
    global_rank: int
    role_rank: int
    world_size: int
    worker_id: str
    pid: int = 0
    stdout: str = ""
    stderr: str = ""


class WorkersStarted(Event, frozen=True, kw_only=True, tag="workers_started"):
    """All workers of this node have been started."""

    incarnation: int


class WorkerExited(Event, frozen=True, kw_only=True, tag="worker_exited"):
    """One worker ended.

    Args:
        exit_code: its exit code, or None when a signal ended it.
        signal: name of the signal that ended it, or empty.
        stopped_by_agent: whether the agent had told it to stop before.
        consequence: of what other worker's death it spoke before it was stopped, in words; or empty.
    """

    incarnation: int
    local_rank: int
    global_rank: int
    pid: int
    exit_code: int | None
    signal: str = ""
    stopped_by_agent: bool = False
    consequence: str = ""


class FailureRecorded(Event, frozen=True, kw_only=True, tag="failure_recorded"):
    """One worker failed by itself. `first` marks the one that made the others fail, as far as this agent can tell.

    Args:
        what: what it died of, in words, where that is known to be more than its exit code (`core/diagnosing`).
        error_class: what that is about: "own", "gpu", "memory", "peer", "stopped", "unknown".
        hand: "first" if it died of itself, "second" of another's death, "unclear".
        remedy: what helps, or empty.
    """

    incarnation: int
    local_rank: int
    global_rank: int
    pid: int
    hostname: str
    exit_code: int | None
    signal: str
    message: str
    traceback: str = ""
    error_file: str = ""
    first: bool = False
    what: str = ""
    error_class: str = "unknown"
    hand: str = "unclear"
    remedy: str = ""


class GroupStateChanged(Event, frozen=True, kw_only=True, tag="group_state_changed"):
    """The state of the worker group changed; both are WorkerState values."""

    before: str
    after: str


class MembershipChanged(Event, frozen=True, kw_only=True, tag="membership_changed"):
    """Nodes wait to join the job."""

    nodes_waiting: int


class DecisionMade(Event, frozen=True, kw_only=True, tag="decision_made"):
    """What the agent does next and why. `action` is "finish", "restart", "fail" or "abort".

    After a failure `policy` is the restart policy that decided, as in `--restart-policy` (empty is the plain budget),
    and `verdict` what it said; a `free` restart is one that it demanded at no cost to the budget.
    """

    action: str
    reason: str
    spends_budget: bool = False
    delay_s: float = 0.0
    restarts_left: int = 0
    policy: str = ""
    verdict: str = ""
    free: bool = False


class WorkersStopping(Event, frozen=True, kw_only=True, tag="workers_stopping"):
    """The agent stops the workers that still run: `signal`, then SIGKILL after `grace_s` seconds."""

    signal: str
    grace_s: float
    local_ranks: list[int]


class GraceShortened(Event, frozen=True, kw_only=True, tag="grace_shortened"):
    """A death signal came while the workers are stopped: SIGKILL follows after `left_s` seconds.

    The first one, of a stop that was for another reason, shortens nothing.
    """

    signals: int
    left_s: float


class WorkersStopped(Event, frozen=True, kw_only=True, tag="workers_stopped"):
    """No worker runs any more, save those in `unkillable`. `killed` are the local ranks that needed SIGKILL.

    `escaped` are processes that workers had started in sessions of their own, and that were ended, too: "NAME (pid N)".
    """

    killed: list[int] = []
    unkillable: list[int] = []
    escaped: list[str] = []


class SupervisionChanged(Event, frozen=True, kw_only=True, tag="supervision_changed"):
    """What became of what keeps this agent's workers from outliving it, such as its supervisor, in a sentence."""

    incarnation: int
    what: str


class LogsLost(Event, frozen=True, kw_only=True, tag="logs_lost"):
    """Output of workers that did not reach a log or the console.

    Args:
        problem: why, in a sentence.
        path: of the log; empty where it is not about one.
        lost_bytes: of this log in this incarnation so far; a later event of the same log has more.
        lost_lines: ends of lines among them.
    """

    incarnation: int
    problem: str
    path: str = ""
    lost_bytes: int = 0
    lost_lines: int = 0


class BarrierEntered(Event, frozen=True, kw_only=True, tag="barrier_entered"):
    """The agent waits at the exit barrier for `members` agents, itself included."""

    members: int
    timeout_s: float


class BarrierLeft(Event, frozen=True, kw_only=True, tag="barrier_left"):
    """`outcome` is "complete", "timeout", "interrupted" or "error"."""

    outcome: str
    waited_s: float
    detail: str = ""


class SignalReceived(Event, frozen=True, kw_only=True, tag="signal_received"):
    """The agent received a death signal; `count` counts them."""

    signal: str
    count: int


class SignalForwarded(Event, frozen=True, kw_only=True, tag="signal_forwarded"):
    """A signal to the agent went on to its workers (`--forward-signals`).

    Args:
        incarnation: of the workers.
        signal: its name.
        local_ranks: who got it now.
        waiting: local ranks that have not got it: they would die of it, having no handler for it. They get it as soon
            as they have one.
    """

    incarnation: int
    signal: str
    local_ranks: list[int] = []
    waiting: list[int] = []


class EventsDropped(Event, frozen=True, kw_only=True, tag="events_dropped"):
    """Events that could not be written, since the last one that was."""

    count: int
    reason: str


class ReadingsTaken(Event, frozen=True, kw_only=True, tag="readings_taken"):
    """What the workers of this node and its GPUs used in the last second or so."""

    incarnation: int
    workers: list[WorkerReading] = []
    gpus: list[GpuReading] = []


class ActionTaken(Event, frozen=True, kw_only=True, tag="action_taken"):
    """Somebody told this agent to do something, and what became of it.

    Args:
        action: "signal", "restart", "drain" or "stop".
        by: who, as user@host and process id.
        why: in their words; may be empty.
        local_ranks: to whom a signal went.
        signal: its name.
        outcome: "done" or "refused".
        detail: why it was refused.
    """

    action: str
    by: str
    why: str = ""
    local_ranks: list[int] = []
    signal: str = ""
    outcome: str = "done"
    detail: str = ""


class HungWorker(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One worker that hangs (`core/hanging/hangs.py`).

    Args:
        pid: of the process that is stopped, held or stuck; of the worker otherwise.
        kind: "stopped", "traced", "stuck", "standing", "silent" or "timer".
        for_s: how long already.
        step: that it told last, if it ever did.
        culprit: whether it is to blame, as far as its agent can tell; the others wait for somebody.
        detail: where in the kernel it is, or the name of a debugger.
        timer: name of a timer of torch's that expired.
    """

    local_rank: int
    global_rank: int
    pid: int
    kind: str
    for_s: float
    step: int | None = None
    culprit: bool = False
    detail: str = ""
    timer: str = ""


class WorkersHung(Event, frozen=True, kw_only=True, tag="workers_hung"):
    """Workers of this node hang.

    Args:
        workers: culprits first.
        why: in one sentence.
        stacks: where they are, those in the same place together, the odd ones out first; several lines, bounded.
        odd: global ranks that are elsewhere in their code than most.
        kills: local ranks that the agent kills because of it; the restart policy then decides.
    """

    incarnation: int
    workers: list[HungWorker]
    why: str
    stacks: str = ""
    odd: list[int] = []
    kills: list[int] = []


class WorkersRecovered(Event, frozen=True, kw_only=True, tag="workers_recovered"):
    """Workers that hung, or seemed to, move again."""

    incarnation: int
    global_ranks: list[int]


AnyEvent = (
    AgentStarted
    | AgentFinished
    | RendezvousStarted
    | RendezvousCompleted
    | RendezvousFailed
    | SeatTaken
    | Parked
    | RoundFormed
    | RoundEnded
    | Evicted
    | LeaseLost
    | StoreSilent
    | StoreAnswers
    | CoordinatorChanged
    | JoinHeld
    | JoinRefused
    | JobEnded
    | WorkersStarting
    | WorkerStarted
    | WorkersStarted
    | WorkerExited
    | FailureRecorded
    | GroupStateChanged
    | MembershipChanged
    | DecisionMade
    | WorkersStopping
    | GraceShortened
    | WorkersStopped
    | SupervisionChanged
    | LogsLost
    | BarrierEntered
    | BarrierLeft
    | SignalReceived
    | SignalForwarded
    | EventsDropped
    | ReadingsTaken
    | ActionTaken
    | WorkersHung
    | WorkersRecovered
)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(AnyEvent)


def encode(event: Event) -> bytes:
    """One line without its newline."""
    return _encoder.encode(event)


def decode(line: bytes) -> AnyEvent | None:
    """The event in `line`, or None if it is torn, of an unknown type, or breaks the schema."""
    try:
        event: AnyEvent = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return event
