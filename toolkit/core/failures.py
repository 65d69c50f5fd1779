"""From how workers ended to what is said of it: failures, results, exit codes, in words. Pure."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from toolkit.core.launch_plan import WorkerExit
from toolkit.core.model import NOT_AVAILABLE, ProcessFailure, RunResult, Worker, WorkerState
from toolkit.core.restarts import FailureCause


def signal_name(exit_code: int) -> str:
    """The signal behind an exit code as `subprocess` counts, or an empty string."""
    if exit_code >= 0:
        return ""
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"


def failure_of(end: WorkerExit) -> ProcessFailure:
    """How a worker failed, in torch's shape.

    The message is the one of the worker's error file if there is one, else a sentence.
    """
    data = dict(end.error_data) if end.error_data is not None else {"message": "<NONE>"}
    message = data["message"] if end.error_data is not None and data.get("message") else _sentence(end)
    return ProcessFailure(
        local_rank=end.local_rank,
        pid=end.pid,
        exitcode=end.exit_code,
        error_file=end.error_file if end.error_data is not None else NOT_AVAILABLE,
        error_file_data=data,
        message=message,
        timestamp=_timestamp(data, end.wall_s),
    )


def _sentence(end: WorkerExit) -> str:
    if end.problem:
        return end.problem
    if end.exit_code < 0:
        return f"Signal {-end.exit_code} ({signal_name(end.exit_code)}) received by PID {end.pid}"
    return f"exited with code {end.exit_code}"


def _timestamp(data: Mapping[str, Any], otherwise: int) -> int:
    """When it failed: torch's `@record` writes that beside the traceback, others beside their message."""
    message = data.get("message")
    holder = message.get("extraInfo") if isinstance(message, dict) else data
    try:
        return int(holder["timestamp"]) if isinstance(holder, Mapping) else otherwise
    except (KeyError, TypeError, ValueError):
        return otherwise


def result_of(workers: Sequence[Worker], ends: Iterable[WorkerExit]) -> RunResult:
    """The state of a group whose workers in `ends` have ended: all-or-nothing.

    Args:
        workers: `[local_world_size]`, by local rank.
        ends: in the order in which the workers ended; failures keep that order.
    """
    ended = list(ends)
    failed = [end for end in ended if end.failed]
    if failed:
        failures = {workers[end.local_rank].global_rank: failure_of(end) for end in failed}
        return RunResult(WorkerState.FAILED, failures=failures)
    if len(ended) < len(workers):
        return RunResult(WorkerState.HEALTHY)
    values = {workers[end.local_rank].global_rank: end.return_value for end in ended}
    return RunResult(WorkerState.SUCCEEDED, return_values=dict(sorted(values.items())))


def cause_of(failures: Mapping[int, ProcessFailure]) -> FailureCause:
    """What a restart policy needs to know of these failures, which are in the order of their happening."""
    codes = tuple(failure.exitcode for failure in failures.values())
    first = next(iter(failures.values()), None)
    if first is None:
        return FailureCause(codes, "unknown")
    how = signal_name(first.exitcode) or f"exit code {first.exitcode}"
    # Called so because a subclass of the agent may bring torch's failures, which have no such method.
    summary = ProcessFailure.summary(first) if first.error_file != NOT_AVAILABLE else ""
    return FailureCause(codes, f"{how}: {summary}" if summary else how)


def exit_code_of(result: RunResult) -> int:
    """The exit code of the agent's process: 0, the first failed worker's code, or 128 + its signal."""
    if not result.is_failed():
        return 0
    first = next(iter(result.failures.values()), None)
    code = 1 if first is None else first.exitcode
    # An exit with code 0 can be a failure (a function that never returned); the run still failed.
    return 128 - code if code < 0 else code or 1
