"""Workers as simulated processes that follow a workload."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence

from simulator.adapters.clock import NodeClock
from simulator.workloads import Jobs, Workload, work
from simulator.world import Process
from toolkit.core.errors import LaunchError
from toolkit.core.launch_plan import LaunchPlan, Leftover, WorkerExit, WorkerPlan
from toolkit.core.lost_output import LostOutput
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

    def add(self, plan: WorkerPlan, group: list[Process]) -> None:
        """Take charge of a worker and what is in its process group, `[1 + children]`."""
        self._groups[plan.local_rank] = group
        group[0].on_exit.append(lambda code: self._ended(plan, group[0], code))

    def _ended(self, plan: WorkerPlan, process: Process, code: int) -> None:
        self._exits.append(
            WorkerExit(
                local_rank=plan.local_rank,
                pid=process.pid,
                exit_code=code,
                at_ns=self._clock.now_ns(),
                wall_s=self._clock.wall_ns() // 1_000_000_000,
                error_file=plan.error_file if process.last_words else "",
                error_data=process.last_words,
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

    def signal(self, signum: int, local_ranks: Sequence[int] | None = None) -> None:
        """To the groups of those that run, or of those among `local_ranks`."""
        for rank in self.running():
            if local_ranks is None or rank in local_ranks:
                for process in list(self._groups[rank]):
                    process.receive(signum)

    def forward(self, signum: int, local_ranks: Sequence[int]) -> Sequence[int]:
        """Simulated workers have handlers for nothing, so nobody gets it."""
        return ()

    def kill(self) -> None:
        """SIGKILL to all groups."""
        for group in self._groups.values():
            for process in list(group):
                process.receive(signal.SIGKILL)

    def left_behind(self) -> Sequence[Leftover]:
        """What a simulated worker leaves is in its group, and waits for nothing but SIGKILL."""
        return ()

    def signal_left(self, signum: int) -> None:
        """So there is nobody to tell."""

    def notices(self) -> Sequence[str]:
        """Nothing can go wrong with it here."""
        return ()

    def losses(self) -> Sequence[LostOutput]:
        """Simulated workers say nothing that could be lost."""
        return ()

    def close(self) -> Sequence[LostOutput]:
        """Nothing is held."""
        return ()


class SimLauncher:
    """Implements `toolkit.ports.Launcher`.

    Args:
        agent: the process that starts workers.
        clock: of its node.
        workload: what they do.
        jobs: what they share.
        die_with_agent: whether workers die with the agent, as ours do; torchrun's programs live on.
    """

    def __init__(
        self,
        agent: Process,
        clock: NodeClock,
        workload: Workload,
        jobs: Jobs,
        *,
        die_with_agent: bool = True,
    ) -> None:
        self._die_with_agent = die_with_agent
        self._agent = agent
        self._clock = clock
        self._workload = workload
        self._jobs = jobs

    def start(self, plan: LaunchPlan, bell: Bell, give_up: Callable[[], bool] = lambda: False) -> SimWorkers:
        """Start all workers of the plan.

        Raises:
            LaunchError: one could not be started; the others are gone again.
        """
        workers = SimWorkers(self._clock, bell)
        for worker in plan.workers:
            try:
                if give_up():
                    raise LaunchError(f"the start was given up before local rank {worker.local_rank}")
                workers.add(worker, self.start_worker(worker))
            except LaunchError:
                workers.kill()
                raise
        return workers

    def start_worker(self, plan: WorkerPlan) -> list[Process]:
        """Start one worker.

        Returns:
            Its process group: itself, then the children that it leaves.

        Raises:
            LaunchError: it could not be started.
        """
        self._agent.node.world.kernel.sleep(START_NS, "a process to start")
        failing = self._agent.node.failing_starts
        if plan.local_rank in failing:
            failing.remove(plan.local_rank)
            raise LaunchError(f"local rank {plan.local_rank} can't be started: no more processes")
        process = self._agent.node.start_process(f"rank{plan.global_rank}", parent=self._agent)
        process.local_rank = plan.local_rank
        process.on_signal = lambda signum: self._told_to_end(process, signum)
        group = [process]
        if self._workload.leaks_child:
            child = self._agent.node.start_process(f"child-of-rank{plan.global_rank}", parent=process)
            child.on_signal = lambda signum: None
            group.append(child)
        if self._die_with_agent:
            self._agent.on_gone.append(lambda: self._kill(group))
        process.spawn(work(process, plan.env, self._workload, self._jobs), "main")
        return group

    def _kill(self, group: list[Process]) -> None:
        if self._agent.node.up:
            for process in group:
                process.receive(signal.SIGKILL)

    def _told_to_end(self, process: Process, signum: int) -> None:
        if self._workload.term_s is not None:
            # A task, and no happening: a worker that is paused meanwhile ends later.
            delay_ns = int(self._workload.term_s * process.node.slowness * 1e9)
            process.spawn(lambda: process.end(-signum), "its end", delay_ns)
