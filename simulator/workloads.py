"""What simulated workers do, as values, and the task that does it.

A worker reads the environment that its agent planned, meets its peers at MASTER_ADDR:MASTER_PORT, trains in lockstep
with them, saves and resumes checkpoints, and fails where its script says so.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from simulator.kernel import SECOND, Task
from simulator.named_fields import NamedFields
from simulator.progress import Progress
from simulator.world import Node, Process, World
from toolkit.core.errors import ConfigurationError

#: how a worker ends whose peer closed the connection, and one whose collective took too long (abort)
PEER_GONE_EXIT, COLLECTIVE_TIMEOUT_EXIT = 1, -int(signal.SIGABRT)
#: what a broken connection takes to reach a peer
_RESET_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class Fail:
    """One planned failure of a worker.

    Args:
        rank: global rank.
        at_s: seconds after the worker's start, or
        at_step: at the beginning of this training step.
        exit_code: with which it ends; -N for signal N.
        incarnations: in how many starts of that rank it happens; None means in each.
    """

    rank: int
    at_s: float | None = None
    at_step: int | None = None
    exit_code: int = 1
    incarnations: int | None = 1

    def __post_init__(self) -> None:
        if (self.at_s is None) == (self.at_step is None):
            raise ConfigurationError(f"a failure of rank {self.rank} needs either at_s or at_step")
        if self.at_s is not None and self.at_s < 0:
            raise ConfigurationError(f"rank {self.rank} fails at {self.at_s} s; a time can't be negative")


@dataclass(frozen=True, slots=True)
class Workload(NamedFields):
    """What every worker of a job does.

    Args:
        steps: training steps.
        step_s: seconds each takes.
        checkpoint_every: steps between checkpoints; 0 saves none.
        checkpoint_s: seconds that saving one takes, while nobody trains.
        start_s: seconds from the start of the process to user code.
        collective: whether each step ends in a collective; without one the workers run independently.
        collective_timeout_s: how long a collective waits for a peer that is silent.
        term_s: how long it takes to end after SIGTERM; None ignores it.
        spread_s: rank r works r times this longer at the end, so that finish times differ.
        leaks_child: whether each worker leaves a process in its group that ends only when killed.
        failures: planned ones.
    """

    steps: int = 60
    step_s: float = 1.0
    checkpoint_every: int = 10
    checkpoint_s: float = 0.0
    start_s: float = 2.0
    collective: bool = True
    collective_timeout_s: float = 600.0
    term_s: float | None = 0.1
    spread_s: float = 0.0
    leaks_child: bool = False
    failures: tuple[Fail, ...] = ()

    def __post_init__(self) -> None:
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ConfigurationError(f"workload {name} is {getattr(self, name)}; it can't be negative")


_NOT_NEGATIVE = (
    "steps",
    "step_s",
    "checkpoint_every",
    "checkpoint_s",
    "start_s",
    "collective_timeout_s",
    "spread_s",
)


@dataclass(slots=True)
class _Member:
    process: Process
    task: Task
    arrived: int = -1
    #: whether it waits in a collective; nothing wakes it from its work
    waits: bool = False


@dataclass(slots=True)
class Gathering:
    """Workers that meet at one address: their collectives."""

    world: World
    size: int
    members: dict[int, _Member] = field(default_factory=dict)
    broken: bool = False
    #: step -> members that have come so far and no further; few steps, however many members
    _at: dict[int, int] = field(default_factory=dict)

    def meet(self, rank: int, process: Process, step: int, timeout_s: float) -> int | None:
        """Wait until all have come to `step`. Returns None, or the exit code with which this worker has to end."""
        kernel = self.world.kernel
        task = kernel.current
        assert task is not None, "workers are tasks"
        member = self.members.get(rank)
        if member is None or member.process is not process:
            if member is not None:
                self._leave_step(member.arrived)
            member = self.members[rank] = _Member(process, task)
            self._at[member.arrived] = self._at.get(member.arrived, 0) + 1
            process.connections.append(self)
            process.on_exit.append(lambda _code: self._broke(rank))
        self._come_to(member, step)
        self._release(step)
        deadline_ns = kernel.now_ns + int(timeout_s * SECOND)
        while not (self._complete(step) and self._connected()):
            if self.broken:
                return PEER_GONE_EXIT
            left_ns = deadline_ns - kernel.now_ns
            member.waits = True
            woken = left_ns > 0 and kernel.park(f"its peers in step {step}", left_ns)
            member.waits = False
            if not woken:
                return COLLECTIVE_TIMEOUT_EXIT
        return None

    def _complete(self, step: int) -> bool:
        return len(self.members) == self.size and min(self._at) >= step

    def _come_to(self, member: _Member, step: int) -> None:
        self._leave_step(member.arrived)
        member.arrived = step
        self._at[step] = self._at.get(step, 0) + 1

    def _leave_step(self, step: int) -> None:
        self._at[step] -= 1
        if not self._at[step]:
            del self._at[step]

    def _release(self, step: int) -> None:
        if self._complete(step) and self._connected():
            self._wake_all()

    def _connected(self) -> bool:
        if not self.world.network.cuts:
            return True
        nodes = {member.process.node.name: member.process.node for member in self.members.values()}
        return all(
            a is b or not self.world.network.link(a, b).cut for a in nodes.values() for b in nodes.values()
        )

    def _broke(self, rank: int) -> None:
        if self.members[rank].arrived != _DONE:
            self.world.kernel.call_after(_RESET_NS, "a worker's connections are reset", self._reset)

    def _reset(self) -> None:
        self.reset("a peer is gone")

    @property
    def busy(self) -> bool:
        """Collectives are no operations of an agent."""
        return False

    def reaches(self, node: Node) -> bool:
        """Whether a worker of that node is in it."""
        return any(member.process.node is node for member in self.members.values())

    def reset(self, why: str) -> None:
        """Its connections break: whoever waits for a peer fails."""
        self.broken = True
        self._wake_all()

    def _wake_all(self) -> None:
        for member in self.members.values():
            if member.waits:
                # Once is enough, however many leave before it runs: it looks for itself then.
                member.waits = False
                self.world.kernel.wake(member.task)

    def leave(self, rank: int) -> None:
        """This worker is done with all steps; its end breaks nothing."""
        if rank in self.members:
            self._come_to(self.members[rank], _DONE)
            self._wake_all()


_DONE = 1 << 62


class Jobs:
    """What workers share beyond their processes: gatherings by address, checkpoints on a shared disk."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._gatherings: dict[tuple[str, str], Gathering] = {}
        self.checkpoints: dict[str, int] = {}
        #: starts of each rank of each job, for failures that happen once
        self.starts: dict[tuple[str, int], int] = {}
        #: training steps that were finished, also those done again, per rank
        self.steps_done = 0
        #: how far the job has come
        self.progress = Progress()
        #: what each worker was started with, in the order of the world
        self.environments: list[dict[str, str]] = []

    def gathering(self, env: Mapping[str, str]) -> Gathering:
        """Where the workers with this environment meet."""
        place = (env["MASTER_ADDR"], env["MASTER_PORT"])
        found = self._gatherings.get(place)
        if found is None or found.broken:
            found = self._gatherings[place] = Gathering(self._world, int(env["WORLD_SIZE"]))
            self._world.network.on_mend.append(found._wake_all)
        return found


def work(process: Process, env: Mapping[str, str], workload: Workload, jobs: Jobs) -> Callable[[], None]:
    """The main task of one worker."""
    rank, run_id = int(env["RANK"]), env["TORCHELASTIC_RUN_ID"]
    kernel = process.node.world.kernel

    def spend(seconds: float, why: str) -> None:
        kernel.sleep(int(seconds * process.node.slowness * process.slowness * SECOND), why)

    def fails_at(step: int) -> int | None:
        return next((f.exit_code for f in due if f.at_step == step), None)

    jobs.environments.append(dict(env))
    start = jobs.starts.get((run_id, rank), 0)
    jobs.starts[run_id, rank] = start + 1
    due = [
        f for f in workload.failures if f.rank == rank and (f.incarnations is None or start < f.incarnations)
    ]
    for failure in due:
        if failure.at_s is not None:
            process.spawn(partial(process.end, failure.exit_code), "its failure", int(failure.at_s * SECOND))

    def run() -> None:
        spend(workload.start_s + process.node.start_delay_s, "its imports")
        gathering = jobs.gathering(env)
        step = jobs.checkpoints.get(run_id, 0) if workload.checkpoint_every else 0
        if (
            workload.collective
            and (code := gathering.meet(rank, process, 0, workload.collective_timeout_s)) is not None
        ):
            return process.end(code)
        if rank == 0:
            jobs.progress.begins(step, kernel.now_ns)
        while step < workload.steps:
            if (code := fails_at(step)) is not None:
                return process.end(code)
            spend(workload.step_s, f"training step {step}")
            step += 1
            jobs.steps_done += 1
            if workload.collective:
                code = gathering.meet(rank, process, step, workload.collective_timeout_s)
                if code is not None:
                    return process.end(code)
            if rank == 0:
                jobs.progress.stepped(step, kernel.now_ns)
            if workload.checkpoint_every and step % workload.checkpoint_every == 0:
                if workload.checkpoint_s:
                    spend(workload.checkpoint_s, "a checkpoint")
                if rank == 0:
                    jobs.checkpoints[run_id] = max(step, jobs.checkpoints.get(run_id, 0))
                    jobs.progress.saved(step, kernel.now_ns)
        if rank == 0:
            jobs.progress.done(kernel.now_ns)
        gathering.leave(rank)
        spend(rank * workload.spread_s, "the rest of its work")
        return process.end(0)

    return run
