"""The agent whose workers come from a Launcher: the four hooks of `SimpleElasticAgent`.

It is the agent of production (`toolkit.wiring.LocalElasticAgent`) and of the simulator; only the ports differ.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

import msgspec

from toolkit.agent.base import SimpleElasticAgent
from toolkit.agent.blame import Blame
from toolkit.agent.forwarding import LOOK_AGAIN_S, Forwarding
from toolkit.agent.hung import EndsHangs, LeftBehind
from toolkit.agent.reporting import profiled
from toolkit.agent.stopping import stop, stop_signal_name
from toolkit.core import events
from toolkit.core.actions import Action
from toolkit.core.diagnosing.diagnosis import Diagnosis, consequence
from toolkit.core.errors import LaunchError
from toolkit.core.failures import failure_of, failures_of, in_utf8, result_of
from toolkit.core.job_report import MESSAGE_MAX, TRACEBACK_MAX, FailureRecord
from toolkit.core.launch_plan import (
    IncarnationLogs,
    LaunchPlan,
    LaunchSettings,
    LogsSpecs,
    WorkerExit,
    plan_launch,
)
from toolkit.core.lost_output import LostOutput
from toolkit.core.model import RunResult, WorkerGroup, WorkerSpec, WorkerState
from toolkit.core.words import ranks, signal_name
from toolkit.ports import Ports, Workers

#: processes that had escaped, named in one event
ESCAPED_TOLD_MAX = 20


class LaunchedAgent(EndsHangs, SimpleElasticAgent):
    """Runs the workers that its launcher starts.

    Args:
        spec: what to run.
        logs_specs: where the workers' streams go: ours, or any of torch's `LogsSpecs`.
        start_method: of multiprocessing, for function entrypoints.
        exit_barrier_timeout: seconds that finished workers wait for those of other nodes.
        log_line_prefix_template: `string.Template` with role_name, rank and local_rank; None is "[role rank]:".
        shutdown_timeout: seconds between a death signal to the workers and SIGKILL.
        ports: the outside world.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        logs_specs: LogsSpecs | IncarnationLogs,
        start_method: str = "spawn",
        exit_barrier_timeout: float = 300,
        log_line_prefix_template: str | None = None,
        shutdown_timeout: float = 30,
        *,
        ports: Ports,
    ) -> None:
        super().__init__(spec, exit_barrier_timeout, shutdown_timeout, ports=ports)
        self._logs_specs = logs_specs
        self._start_method = start_method
        self._log_line_prefix_template = log_line_prefix_template
        self._incarnation = -1
        self._workers: Workers | None = None
        #: local ranks whose end was told, and whether their process was there all the same
        self._exits_told: set[tuple[int, bool]] = set()
        self._stopping = False
        self._forwarding = Forwarding(ports, self._reporter)
        self._blame = Blame(ports)
        self._result: RunResult | None = None
        #: those that failed by themselves, as they ended, and the local ranks of those that were told of
        self._failed: list[WorkerExit] = []
        self._failures_told: set[int] = set()

    _is_woken = True

    def _heed_signals(self) -> None:
        super()._heed_signals()
        self._forwarding.hand_on(self._workers, self._incarnation)

    def _patience_s(self) -> float | None:
        patience_s = self._patience_of_loop_s()
        if not self._forwarding.looks_again:
            return patience_s
        return LOOK_AGAIN_S if patience_s is None else min(LOOK_AGAIN_S, patience_s)

    def _patience_of_loop_s(self) -> float | None:
        handler = self._worker_group.spec.rdzv_handler
        if self._job is not None:
            return self._job.patience_s()
        # Exits, signals and, where the rendezvous can, arrivals ring the bell: then there is nothing to poll for.
        return None if getattr(handler, "rings_bell", False) is True else super()._patience_s()

    def _initialize_workers(self, worker_group: WorkerGroup) -> None:
        """Form the group and start its workers, if those of before are gone."""
        self._refuse_beside_unkillable()
        super()._initialize_workers(worker_group)

    def _restart_or_end(self, result: RunResult) -> bool:
        try:
            return super()._restart_or_end(result)
        except LeftBehind:
            self._enter(WorkerState.FAILED)
            result.state = WorkerState.FAILED
            return True

    @profiled("LocalElasticAgent._start_workers")
    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        """Start the workers; return their pids by local rank.

        Raises:
            LaunchError: one could not be started; the others are gone again.
            ConfigurationError: the plan can't be made.
        """
        assert self._workers is None, "workers of the last incarnation must be stopped before new ones start"
        self._incarnation += 1
        plan = self._plan(worker_group)
        self._reporter.say(events.WorkersStarting, incarnation=self._incarnation, count=len(plan.workers))
        self._workers = self._launch(plan)
        self._exits_told, self._stopping = set(), False
        self._blame, self._result = Blame(self._ports), None
        self._failed, self._failures_told = [], set()
        ids = dict(self._workers.ids())
        self._say_workers_started(worker_group, plan, ids)
        self._begin_watch(worker_group, plan, ids)
        self._say_notices(self._workers)
        return ids

    def _launch(self, plan: LaunchPlan) -> Workers:
        # In this order: who comes before the count is heeded now, who comes after it ends the start.
        signals = self._ports.interrupts.count()
        self._heed_signals()
        try:
            return self._ports.launcher.start(
                plan, self._ports.bell, lambda: self._ports.interrupts.count() > signals
            )
        except LaunchError:
            self._heed_signals()  # if that is why, it is what has to be told
            raise

    def _plan(self, worker_group: WorkerGroup) -> LaunchPlan:
        spec = worker_group.spec
        settings = LaunchSettings(
            run_id=spec.rdzv_handler.get_run_id(),
            restart_count=self.restarts,
            incarnation=self._incarnation,
            use_agent_store=bool(spec.rdzv_handler.use_agent_store),
            start_method=self._start_method,
            prefix_template=self._log_line_prefix_template,
            variables=self._ports.watch.prepare(spec.local_world_size),
        )
        return plan_launch(worker_group, settings, self._logs_specs, self._ports.host.environment())

    def _signal_workers(self, action: Action) -> str:
        running = [] if self._workers is None else self._workers.running()
        missing = [rank for rank in action.local_ranks if rank not in running]
        if self._workers is None or missing:
            run = "does not run" if len(missing) == 1 else "do not run"
            return f"local {ranks(missing)} {run} now; nobody got the signal"
        self._blame.asked_for(action)
        self._workers.signal(action.signum, action.local_ranks)
        return ""

    @profiled("LocalElasticAgent._monitor_workers")
    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """HEALTHY while all run, FAILED as soon as one failed, SUCCEEDED when all ended well.

        UNKNOWN if the group's ids are not those of the processes: somebody replaced the group.
        """
        if self._workers is None:
            return RunResult(WorkerState.UNKNOWN)
        if {worker.id for worker in worker_group.workers} != set(self._workers.ids().values()):
            return RunResult(WorkerState.UNKNOWN)
        self._kill_condemned()
        known = len(self._exits_told)
        self._say_exits(worker_group, self._ends())
        if known < len(self._exits_told):
            job = self._job
            elsewhere = job is not None and (worker_group.group_world_size or 1) > 1
            self._blame.settle(self._workers, self._ends, elsewhere, lambda: job is not None and job.over())
        ends = self._ends()
        self._say_notices(self._workers)
        self._say_exits(worker_group, ends)
        self._say_failures(worker_group)
        self._result = result_of(worker_group.workers, ends, self._blame.diagnosis)
        self._say_losses(self._workers.losses())
        return self._result

    def _failure_records(self, result: RunResult) -> list[FailureRecord]:
        now_ns = self._ports.clock.now_ns()
        ends = {end.local_rank: end for end in self._ends()}
        return [
            msgspec.structs.replace(
                record,
                age_s=(now_ns - ends[record.local_rank].at_ns) / 1e9 if record.local_rank in ends else 0.0,
            )
            for record in super()._failure_records(result)
        ]

    @profiled("LocalElasticAgent._stop_workers")
    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        """Stop the workers with SIGTERM, and SIGKILL after the shutdown timeout. Nothing to do without workers."""
        self._shutdown(signal.SIGTERM, self._shutdown_timeout)  # type: ignore[arg-type]

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        """Stop the workers and release what they held. Does nothing the second time."""
        workers = self._workers
        heard = self._ports.interrupts.count()  # before anything is told of the stop
        self._ports.watch.end()
        if workers is None:
            return
        self._say_exits(self._worker_group, self._ends())
        self._say_failures(self._worker_group)
        self._stopping = True
        self._blame.stopping(death_sig)
        running = list(workers.running())
        if running:
            self._reporter.say(
                events.WorkersStopping,
                signal=stop_signal_name(death_sig),
                grace_s=timeout,
                local_ranks=running,
            )
        try:
            stopped = stop(workers, self._ports, death_sig, timeout, self._say_shortened, heard)
            self._unkillable = stopped.unkillable
            self._blame.stopped(stopped.killed)
            self._say_exits(self._worker_group, self._ends())
            self._say_failures(self._worker_group)
            self._reporter.say(
                events.WorkersStopped,
                killed=list(stopped.killed),
                unkillable=list(stopped.unkillable),
                escaped=[str(each) for each in stopped.left if each.escaped][:ESCAPED_TOLD_MAX],
            )
        finally:
            self._workers = None
            self._forwarding.workers_are_gone()
            self._say_losses(workers.close())

    def _say_notices(self, workers: Workers) -> None:
        for what in workers.notices():
            self._reporter.say(events.SupervisionChanged, incarnation=self._incarnation, what=what)

    def _say_shortened(self, signals: int, left_s: float) -> None:
        self._reporter.say(events.GraceShortened, signals=signals, left_s=left_s)

    # -- events ---------------------------------------------------------------------------------------------

    def _say_finished(self, outcome: RunResult | BaseException | None, took_ns: int) -> None:
        self._fail_with_unkillable(outcome)
        super()._say_finished(outcome, took_ns)

    def _say_workers_started(self, group: WorkerGroup, plan: LaunchPlan, ids: dict[int, Any]) -> None:
        for planned in plan.workers:
            worker, worker_id = group.workers[planned.local_rank], ids[planned.local_rank]
            self._reporter.say(
                events.WorkerStarted,
                incarnation=self._incarnation,
                local_rank=worker.local_rank,
                global_rank=worker.global_rank,
                role_rank=worker.role_rank,
                world_size=worker.world_size,
                worker_id=str(worker_id),
                pid=worker_id if isinstance(worker_id, int) else 0,
                stdout=planned.stdout,
                stderr=planned.stderr,
            )
        self._reporter.say(events.WorkersStarted, incarnation=self._incarnation)

    def _say_losses(self, losses: Sequence[LostOutput]) -> None:
        for lost in losses:
            self._reporter.say(
                events.LogsLost,
                incarnation=self._incarnation,
                problem=lost.problem,
                path=lost.path,
                lost_bytes=lost.bytes,
                lost_lines=lost.lines,
            )

    def _say_exits(self, group: WorkerGroup, ends: Sequence[WorkerExit]) -> None:
        """Tell of the exits that were not told yet, in their order."""
        told = self._exits_told
        new = [end for end in ends if (end.local_rank, end.there) not in told]
        for end in new:
            meanwhile = self._stopping and self._blame.failed_meanwhile(end)
            if end.failed and (meanwhile or not self._stopping) and (end.local_rank, True) not in told:
                self._failed.append(end)
            if not end.there:
                self._say_exit(group, end, stopped=self._stopping and not meanwhile)
        told.update((end.local_rank, end.there) for end in new)

    def _say_failures(self, group: WorkerGroup) -> None:
        """Tell of the failures that were not told yet, who failed first at the top."""
        ordered = self._blame.in_order(self._failed)
        for at, (end, told) in enumerate(ordered):
            if end.local_rank not in self._failures_told:
                self._failures_told.add(end.local_rank)
                self._say_failure(group, end, told, first=at == 0)
        if self._stopping and self._result is not None and self._result.is_failed():
            # With a culprit that ended while the others were stopped. The result is the loop's already.
            self._result.failures = dict(failures_of(group.workers, ordered))

    def _say_exit(self, group: WorkerGroup, end: WorkerExit, *, stopped: bool) -> None:
        self._reporter.say(
            events.WorkerExited,
            incarnation=self._incarnation,
            local_rank=end.local_rank,
            global_rank=group.workers[end.local_rank].global_rank,
            pid=end.pid,
            exit_code=None if end.exit_code < 0 else end.exit_code,
            signal=signal_name(end.exit_code),
            stopped_by_agent=stopped,
            consequence=in_utf8(consequence(end)) if stopped else "",
        )

    def _say_failure(self, group: WorkerGroup, end: WorkerExit, told: Diagnosis, *, first: bool) -> None:
        global_rank = group.workers[end.local_rank].global_rank
        failure = failure_of(end, told)
        self._reporter.say(
            events.FailureRecorded,
            incarnation=self._incarnation,
            local_rank=end.local_rank,
            global_rank=global_rank,
            pid=end.pid,
            hostname=self._ports.host.hostname(),
            exit_code=None if end.exit_code < 0 else end.exit_code,
            signal=signal_name(end.exit_code),
            message=in_utf8(failure.summary()[:MESSAGE_MAX]),
            traceback=in_utf8(failure.traceback()[-TRACEBACK_MAX:]),
            error_file=failure.error_file if end.error_data is not None else "",
            first=first,
            what=in_utf8(told.what[:MESSAGE_MAX]),
            error_class=told.kind,
            hand=told.hand,
            remedy=told.remedy,
        )
