"""What an agent does together with the others of its job, where the rendezvous lets it: decide, end, and report.

The part of `SimpleElasticAgent` for `toolkit.ports.JobRendezvous`. One decision is made for all nodes: an agent says
what it is for, and does what was decided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from toolkit.agent.restarting import Restarting
from toolkit.core import events
from toolkit.core.decisions import Decision, Fail, Restart, after_monitor, after_round
from toolkit.core.errors import RendezvousClosedError
from toolkit.core.failures import failure_record, process_failure
from toolkit.core.job_report import FailureRecord, culprit, in_order
from toolkit.core.model import RunResult, WorkerGroup, WorkerState
from toolkit.core.rounds import Over, Ring
from toolkit.ports import JobRendezvous


class Together(Restarting):
    """The part of `SimpleElasticAgent` that decides and ends with the others."""

    _job_failed_of: str
    #: what the restart policy said of a failure here that it would not restart
    _verdict_here = ""

    def _enter(self, state: WorkerState) -> None:
        raise NotImplementedError

    def _at_barrier(self, timeout_s: float, wait: Callable[[int], tuple[str, str]]) -> str:
        raise NotImplementedError

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        raise NotImplementedError

    @property
    def _job(self) -> JobRendezvous | None:
        """The rendezvous, if it is one that shares more than ranks."""
        handler: Any = self._worker_group.spec.rdzv_handler
        return handler if hasattr(handler, "wait_for_end") else None

    def _decide_together(self, job: JobRendezvous, result: RunResult) -> Decision:
        """What follows for this node, where one decision is made for all nodes of the job."""
        self._over, self._verdict_here = None, ""
        match result.state:
            case WorkerState.HEALTHY:
                self._over = job.over()
            case WorkerState.SUCCEEDED:
                self._over = job.succeed()
            case WorkerState.UNHEALTHY | WorkerState.FAILED:
                self._enter(result.state)
                self._over = self._propose(job, result)
        if self._over is None:
            self._enter(result.state)
            return after_monitor(result.state, None)
        if result.state == WorkerState.HEALTHY:
            self._enter(result.state)
        self._say_over(self._over)
        decision = after_round(self._over)
        return replace(decision, verdict=self._verdict_here) if isinstance(decision, Fail) else decision

    def _propose(self, job: JobRendezvous, result: RunResult) -> Over:
        proposed = after_monitor(result.state, self._restart_verdict(result))
        records = self._failure_records(result)
        if isinstance(proposed, Restart):
            what = f"{records[0].words()}; {proposed.reason}" if records else proposed.reason
            cause = self._cause_of(result)
            entry = self._entry(cause, free=proposed.free)
            ring = Ring(
                action="restart",
                reason=what,
                by=self._reporter.node,
                cause=cause.key,
                spends=proposed.spends_budget,
                delay_s=proposed.delay_s,
                free=proposed.free,
                verdict="" if entry is None else proposed.verdict,
                hand="unclear" if entry is None else cause.hand,
                entry=entry,
            )
            return job.fail(records, ring, what)
        assert isinstance(proposed, Fail), "a failed group is started again, or the job has failed"
        self._verdict_here = proposed.verdict
        what = f"{records[0].words()}; {proposed.reason}" if records else proposed.reason
        return job.fail(records, None, what)

    def _failure_records(self, result: RunResult) -> list[FailureRecord]:
        """Who failed on this node, in that order, as the other nodes are told."""
        local = {worker.global_rank: worker.local_rank for worker in self._worker_group.workers}
        role, host = self._worker_group.spec.role, self._ports.host.hostname()
        return [
            failure_record(failure, rank, local.get(rank, -1), role, self._reporter.node, host)
            for rank, failure in result.failures.items()
        ]

    def _restart_or_end(self, result: RunResult) -> bool:
        """Restart the workers. Returns whether the job has failed meanwhile, and the run with it."""
        try:
            self._restart_workers(self._worker_group)
        except RendezvousClosedError:
            if self._job is None:
                raise
            self._enter(WorkerState.FAILED)
            result.state = WorkerState.FAILED
            self._tell_of_job(self._job, result)
            return True
        return False

    def _end_together(self, job: JobRendezvous, result: RunResult) -> None:
        """Wait until all nodes have ended, as long as they live; a failure elsewhere is this node's result, too."""

        def wait(_members: int) -> tuple[str, str]:
            over = job.wait_for_end()
            return ("complete", "") if over.kind == "succeeded" else ("failed", over.reason)

        if self._at_barrier(0.0, wait) != "complete":
            result.state = WorkerState.FAILED
        self._tell_of_job(job, result)

    def _tell_of_job(self, job: JobRendezvous, result: RunResult) -> None:
        """Say how the job ended, as all its nodes do; who failed first comes first in the result, too."""
        report = job.report()
        failures = list(report.failures) or in_order(self._failure_records(result))
        self._job_failed_of = report.why
        self._reporter.say(events.JobEnded, outcome=report.outcome, why=report.why, failures=failures)
        first = culprit(failures)
        if result.is_failed() and first is not None:
            own = result.failures.pop(first.global_rank, None)
            result.failures = {first.global_rank: own or process_failure(first), **result.failures}

    def _say_over(self, over: Over) -> None:
        if over.kind in ("restart", "membership"):
            self._reporter.say(
                events.RoundEnded,
                ended=self._reporter.round,
                action=over.kind,
                reason=over.reason,
                by=over.by,
                spends_budget=over.spends,
                restarts=over.restarts,
            )
        elif over.kind == "evicted":
            self._reporter.say(events.Evicted, left=self._reporter.round, reason=over.reason)
