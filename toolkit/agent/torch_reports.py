"""What torch's event and metric handlers receive of an agent: status events, run metrics, loop metrics.

Names and values are torch's (`torch/distributed/elastic/agent/server/api.py`, 2.13).
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from toolkit.agent.reporting import METRIC_GROUP
from toolkit.core.model import RunResult, Worker, WorkerGroup, WorkerState
from toolkit.core.status import AgentFacts, EventSource, StatusEvent, status_event
from toolkit.ports import Ports


class TorchReports:
    """The part of `SimpleElasticAgent` that reports to torch's handlers."""

    _worker_group: WorkerGroup
    _remaining_restarts: int
    _total_execution_time: int
    _ports: Ports

    def get_event_failed(self) -> StatusEvent:
        """The status event for an agent that failed, with the traceback of the error being handled."""
        return self._construct_event("FAILED", EventSource.AGENT, raw_error=traceback.format_exc())

    def get_event_succeeded(self) -> StatusEvent:
        """The status event for an agent that ended by itself."""
        return self._construct_event("SUCCEEDED", EventSource.AGENT)

    @contextmanager
    def record_duration(self, state: str) -> Iterator[None]:
        """Record a status event with the duration of the body, in milliseconds, also if it raises."""
        started_ns = self._ports.clock.now_ns()
        try:
            yield
        finally:
            duration_ms = (self._ports.clock.now_ns() - started_ns) / 1e6
            self._record(state, EventSource.AGENT, duration_ms=duration_ms)

    def _record(self, state: str, source: EventSource, worker: Worker | None = None, **details: Any) -> None:
        destination = self._worker_group.spec.event_log_handler
        if self._ports.telemetry.wanted(destination):
            self._ports.telemetry.record(self._construct_event(state, source, worker, **details), destination)

    def _construct_event(
        self,
        state: str,
        source: Any,
        worker: Worker | None = None,
        raw_error: str | None = None,
        duration_ms: float | None = None,
        exit_code: int | None = None,
        worker_pid: int | None = None,
    ) -> StatusEvent:
        facts = AgentFacts(
            hostname=self._ports.host.fq_hostname(),
            total_run_time_s=self._total_execution_time,
            restarts=self._worker_group.spec.max_restarts - self._remaining_restarts,
            wall_ms=self._ports.clock.wall_ns() // 1_000_000,
        )
        return status_event(
            self._worker_group, facts, state, source, worker, raw_error, duration_ms, exit_code, worker_pid
        )

    def _record_worker_events(self, result: RunResult) -> None:
        for worker in self._worker_group.workers:
            failure = result.failures.get(worker.global_rank)
            self._record(
                self._get_worker_state(worker, result),
                EventSource.WORKER,
                worker,
                raw_error=json.dumps(failure.error_file_data) if failure else None,
                exit_code=failure.exitcode if failure else None,
                worker_pid=failure.pid if failure else None,
            )

    def _get_worker_state(self, worker: Worker, result: RunResult) -> str:
        """How one worker ended: as the group did, or "TERMINATED" by the agent.

        Raises:
            ValueError: the result says nothing of this worker.
        """
        failure = result.failures.get(worker.global_rank)
        if failure is None and result.state in (WorkerState.UNHEALTHY, WorkerState.FAILED):
            return "TERMINATED"
        if failure is not None or worker.global_rank in result.return_values:
            return result.state.value
        raise ValueError(f"Unknown worker: {worker.global_rank}")

    def _put_metric(self, name: str, value: int) -> None:
        role = self._worker_group.spec.role
        self._ports.telemetry.put_metric(f"workers.{role}.{name}", value, METRIC_GROUP)

    def _put_loop_metrics(self, state: WorkerState) -> None:
        self._put_metric("remaining_restarts", self._remaining_restarts)
        self._put_metric(state.name.lower(), 1)

    def _record_metrics(self, group_results: RunResult) -> None:
        """How the run went, as torch counts it: four conditions of which one is 1, and the flakiness."""
        failed = group_results.is_failed()
        self._record_flakiness_metric(failed)
        restarted = self._remaining_restarts != self._worker_group.spec.max_restarts
        self._put_metric("run_total", 1)
        self._record_metric_with_condition("run_success_with_retries", not failed and restarted)
        self._record_metric_with_condition("run_success_no_retries", not failed and not restarted)
        self._record_metric_with_condition("run_failed_with_retries", failed and restarted)
        self._record_metric_with_condition("run_failed_no_retries", failed and not restarted)

    def _record_metric_with_condition(self, metric_name: str, condition: bool) -> None:
        self._put_metric(metric_name, 1 if condition else 0)

    def _record_flakiness_metric(self, is_failed: bool = False) -> None:
        """Share of the budget that was spent, in percent; 100 for a failed run."""
        # In torch's order: 100 * (11 / 20) is 55.00000000000001, and the value would be 44 instead of 45.
        percent_left = 100.0 * (self._remaining_restarts + 1) / (self._worker_group.spec.max_restarts + 1)
        self._put_metric("flakiness", 100 if is_failed else int(100.0 - percent_left))
