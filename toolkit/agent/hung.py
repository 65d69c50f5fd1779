"""What an agent does about workers that hang, or that nothing ends: kills whom its watch condemns, and says why.

The part of `LaunchedAgent` for `toolkit.ports.Watch`. A worker that is killed for hanging has failed as any other has,
and the restart policy decides. One that even SIGKILL does not end has failed, too; what is left of it keeps its GPU and
its memory, so that nothing is started beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from toolkit.agent.directed import ToldToEnd
from toolkit.agent.reporting import Reporter
from toolkit.agent.stopping import KILL_WAIT_S
from toolkit.core.hanging.watched import Condemned, WatchedWorker
from toolkit.core.launch_plan import LaunchPlan, WorkerExit
from toolkit.core.model import RunResult, WorkerGroup, WorkerState
from toolkit.core.words import ranks
from toolkit.ports import Ports, Workers

_SIGKILL = 9


class LeftBehind(ToldToEnd):
    """A worker of before can't be killed."""


class EndsHangs:
    """The part of `LaunchedAgent` that ends workers that hang."""

    _worker_group: WorkerGroup
    _ports: Ports
    _reporter: Reporter
    _incarnation: int
    _workers: Workers | None
    _job_failed_of: str
    #: whom the watch has condemned, and when that was carried out
    _doomed: Mapping[int, tuple[Condemned, int]] = {}
    #: local ranks that are there in spite of SIGKILL, after a stop
    _unkillable: Sequence[int] = ()

    def _begin_watch(self, group: WorkerGroup, plan: LaunchPlan, ids: Mapping[int, object]) -> None:
        """Have the workers watched that were just started."""
        self._doomed = {}
        workers = [
            WatchedWorker(
                planned.local_rank,
                planned.global_rank,
                worker_id if isinstance(worker_id := ids[planned.local_rank], int) else 0,
                tuple(dict.fromkeys(path for path in (planned.stdout, planned.stderr) if path)),
            )
            for planned in plan.workers
        ]
        alone = int(group.group_world_size or 1) == 1
        self._ports.watch.begin(
            self._incarnation, workers, alone=alone, say=self._reporter.say_while, bell=self._ports.bell
        )

    def _kill_condemned(self) -> None:
        """Carry out what the watch says."""
        condemned = self._ports.watch.condemned()
        if not condemned or self._workers is None:
            return
        running = self._workers.running()
        now_ns = self._ports.clock.now_ns()
        for one in condemned:
            if one.local_rank in running and one.local_rank not in self._doomed:
                self._doomed = {**self._doomed, one.local_rank: (one, now_ns)}
                self._workers.signal(one.signum, [one.local_rank])

    def _ends(self) -> list[WorkerExit]:
        """How workers ended so far, with what is known of why; those that nothing ends come last, as killed."""
        if self._workers is None:
            return []
        steps = self._ports.watch.steps()
        ends = [self._explained(end, steps) for end in self._workers.exits()]
        return ends + self._undead({end.local_rank for end in ends}, steps)

    def _explained(self, end: WorkerExit, steps: Mapping[int, int]) -> WorkerExit:
        doomed = self._doomed.get(end.local_rank)
        why = end.problem if doomed is None else doomed[0].why
        return replace(end, problem=why, step=steps.get(end.local_rank))

    def _undead(self, gone: set[int], steps: Mapping[int, int]) -> list[WorkerExit]:
        now_ns, wall_s = self._ports.clock.now_ns(), self._ports.clock.wall_ns() // 1_000_000_000
        ids = {} if self._workers is None else self._workers.ids()
        return [
            WorkerExit(
                local_rank=rank,
                pid=ids.get(rank, 0),
                exit_code=-_SIGKILL,
                at_ns=killed_ns,
                wall_s=wall_s,
                problem=f"{one.why}; it did not end of it",
                step=steps.get(rank),
                there=True,
            )
            for rank, (one, killed_ns) in self._doomed.items()
            if rank not in gone and now_ns - killed_ns >= KILL_WAIT_S * 1e9
        ]

    def _refuse_beside_unkillable(self) -> None:
        """That nothing is started beside workers of before that can't be killed.

        Raises:
            LeftBehind: some are there.
        """
        if self._unkillable:
            self._job_failed_of = (
                f"local {ranks(list(self._unkillable))} can't be killed (stuck in the kernel), and nothing is started "
                "beside that; this machine may need a reboot"
            )
            raise LeftBehind(WorkerState.FAILED, self._job_failed_of)

    def _fail_with_unkillable(self, outcome: RunResult | BaseException | None) -> None:
        """A run that leaves workers behind has failed, whatever else became of it."""
        if self._unkillable and isinstance(outcome, RunResult) and not outcome.is_failed():
            outcome.state = WorkerState.FAILED
