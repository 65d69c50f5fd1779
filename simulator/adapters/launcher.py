"""Workers as simulated processes that follow a workload."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence

from simulator.adapters.clock import NodeClock
from simulator.workloads import Jobs, Workload, work
from simulator.world import Process
from toolkit.core.errors import LaunchError
from toolkit.core.launch_plan import LaunchPlan, WorkerExit, WorkerPlan
from toolkit.ports import Bell

#: what starting one process costs the agent
START_NS = 2_000_000


class SimWorkers:
    """Implements `toolkit.ports.Workers`."""

    def __init__(self, clock: NodeClock, bell: Bell) -> None:
        self._clock = clock
        self._bell = bell
        self._groups: dict[int, list[Process]] = {}
        self._exits: list[WorkerExit] = []

    def add(self, plan: WorkerPlan, process: Process) -> None:
        """Take charge of a process."""
        self._groups[plan.local_rank] = [process]
        process.on_exit.append(lambda code: self._ended(plan, process, code))

    def leak(self, local_rank: int, process: Process) -> None:
        """A process that the worker left in its group."""
        self._groups[local_rank].append(process)

    def _ended(self, plan: WorkerPlan, process: Process, code: int) -> None:
        self._exits.append(
            WorkerExit(
                local_rank=plan.local_rank,
                pid=process.pid,
                exit_code=code,
                at_ns=self._clock.now_ns(),
                wall_s=self._clock.wall_ns() // 1_000_000_000,
            )
        )
        self._bell.ring()

    def ids(self) -> Mapping[int, int]:
        """Process ids by local rank."""
        return {rank: group[0].pid for rank, group in self._groups.items()}

    def exits(self) -> Sequence[WorkerExit]:
        """Those that have ended, in that order."""
        return list(self._exits)

    def running(self) -> Sequence[int]:
        """Local ranks of the others."""
        return [rank for rank, group in self._groups.items() if group[0].alive]

    def signal(self, signum: int) -> None:
        """To the groups of those that run."""
        for rank in self.running():
            for process in list(self._groups[rank]):
                process.receive(signum)

    def kill(self) -> None:
        """SIGKILL to all groups."""
        for group in self._groups.values():
            for process in list(group):
                process.receive(signal.SIGKILL)

    def close(self) -> Sequence[str]:
        """Nothing is held."""
        return ()


class SimLauncher:
    """Implements `toolkit.ports.Launcher`.

    Args:
        agent: the process that starts workers; they die with it.
        clock: of its node.
        workload: what they do.
        jobs: what they share.
    """

    def __init__(self, agent: Process, clock: NodeClock, workload: Workload, jobs: Jobs) -> None:
        self._agent = agent
        self._clock = clock
        self._workload = workload
        self._jobs = jobs
        #: local ranks whose next start fails, as a full process table would make it
        self.failing: list[int] = []

    def start(self, plan: LaunchPlan, bell: Bell) -> SimWorkers:
        """Start all workers of the plan.

        Raises:
            LaunchError: one could not be started; the others are gone again.
        """
        workers = SimWorkers(self._clock, bell)
        for worker in plan.workers:
            self._agent.node.world.kernel.sleep(START_NS, "a process to start")
            if worker.local_rank in self.failing:
                self.failing.remove(worker.local_rank)
                workers.kill()
                raise LaunchError(f"local rank {worker.local_rank} can't be started: no more processes")
            self._start_one(worker, workers)
        return workers

    def _start_one(self, plan: WorkerPlan, workers: SimWorkers) -> None:
        process = self._agent.node.start_process(f"rank{plan.global_rank}", parent=self._agent)
        process.on_signal = lambda signum: self._told_to_end(process, signum)
        workers.add(plan, process)
        self._dies_with_agent(process)
        if self._workload.leaks_child:
            child = self._agent.node.start_process(f"child-of-rank{plan.global_rank}", parent=process)
            child.on_signal = lambda signum: None
            workers.leak(plan.local_rank, child)
            self._dies_with_agent(child)
        process.spawn(work(process, plan.env, self._workload, self._jobs), "main")

    def _dies_with_agent(self, process: Process) -> None:
        self._agent.on_gone.append(lambda: process.receive(signal.SIGKILL) if process.node.up else None)

    def _told_to_end(self, process: Process, signum: int) -> None:
        if self._workload.term_s is not None:
            delay_ns = int(self._workload.term_s * process.node.slowness * 1e9)
            process.node.world.kernel.call_after(
                delay_ns, f"{process.name} ends", lambda: process.end(-signum)
            )
