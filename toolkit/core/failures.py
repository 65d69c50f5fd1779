"""From how workers ended to what is said of it: failures, results, exit codes, in words. Pure."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from toolkit.core.diagnosing.diagnosis import Diagnosis, diagnose
from toolkit.core.hanging.watched import HUNG
from toolkit.core.job_report import MESSAGE_MAX, TRACEBACK_MAX, FailureRecord, Hand, hand_of
from toolkit.core.launch_plan import WorkerExit
from toolkit.core.model import NOT_AVAILABLE, ProcessFailure, RunResult, Worker, WorkerState
from toolkit.core.restarts import FailureCause, code_in_words
from toolkit.core.words import signal_name

#: of the year 9999
_LAST_SECOND = 253_402_300_799


def failure_of(end: WorkerExit, told: Diagnosis | None = None) -> ProcessFailure:
    """How a worker failed, in torch's shape.

    The message is the one of the worker's error file if there is one; else its traceback on stderr in the form that
    torch's `@record` gives it, or a sentence.

    Args:
        told: what it died of, if that is known already.
    """
    told = diagnose(end) if told is None else told
    data = dict(end.error_data) if end.error_data is not None else {"message": "<NONE>"}
    if end.problem.startswith(HUNG):
        message: Any = end.problem
    elif end.error_data is not None and data.get("message") and not end.error_unusable:
        message = data["message"]
    else:
        message = (
            _of_stderr(told, end) or data.get("message" if end.error_unusable else "", "") or _sentence(end)
        )
    return ProcessFailure(
        local_rank=end.local_rank,
        pid=end.pid,
        exitcode=end.exit_code,
        error_file=end.error_file if end.error_data is not None else NOT_AVAILABLE,
        error_file_data=data,
        message=message,
        timestamp=_timestamp(data, end.wall_s),
        diagnosis=told,
    )


def _of_stderr(told: Diagnosis, end: WorkerExit) -> dict[str, Any] | str:
    """What the worker said without an error file."""
    if not told.traceback:
        return told.message
    extra = {"py_callstack": told.traceback, "timestamp": str(end.wall_s)}
    return {"message": told.message or told.what, "extraInfo": extra}


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
        at = int(holder["timestamp"]) if isinstance(holder, Mapping) else otherwise
    except (KeyError, TypeError, ValueError, OverflowError):
        return otherwise
    # A date that no calendar has can't be told to anybody.
    return at if 0 <= at <= _LAST_SECOND else otherwise


def culprit_first(failed: Iterable[tuple[WorkerExit, Diagnosis]]) -> list[tuple[WorkerExit, Diagnosis]]:
    """Who failed first at the top: those that died of another's death come last, the rest stays as it is.

    Args:
        failed: in the order in which the workers ended.
    """
    return sorted(failed, key=lambda each: each[1].hand == "second")


def failures_of(
    workers: Sequence[Worker], failed: Iterable[tuple[WorkerExit, Diagnosis]]
) -> dict[int, ProcessFailure]:
    """Failures by global rank, as a `RunResult` has them.

    Args:
        failed: who failed first at the top.
    """
    failures = {workers[end.local_rank].global_rank: failure_of(end, told) for end, told in failed}
    first = next(iter(failures.values()), None)
    if first is not None:
        # torch's `ChildFailedError` takes the earliest for the first. Its times are seconds, and those of exits.
        first.timestamp = min(failure.timestamp for failure in failures.values())
    return failures


def result_of(
    workers: Sequence[Worker],
    ends: Iterable[WorkerExit],
    diagnosis_of: Callable[[WorkerExit], Diagnosis] = diagnose,
) -> RunResult:
    """The state of a group whose workers in `ends` have ended: all-or-nothing.

    Args:
        workers: `[local_world_size]`, by local rank.
        ends: in the order in which the workers ended; failures keep it, save that who died of another's death is last.
        diagnosis_of: says what a worker died of.
    """
    ended = list(ends)
    failed = [(end, diagnosis_of(end)) for end in ended if end.failed]
    if failed:
        return RunResult(WorkerState.FAILED, failures=failures_of(workers, culprit_first(failed)))
    if len(ended) < len(workers):
        return RunResult(WorkerState.HEALTHY)
    values = {workers[end.local_rank].global_rank: end.return_value for end in ended}
    return RunResult(WorkerState.SUCCEEDED, return_values=dict(sorted(values.items())))


def cause_of(failures: Mapping[int, ProcessFailure]) -> FailureCause:
    """What a restart policy needs to know of these failures, of which the first one is to blame.

    Those that died of another's death have no say where anybody else has failed.
    """
    hands = [_hand(failure) for failure in failures.values()]
    telling = [failure for failure, hand in zip(failures.values(), hands, strict=True) if hand != "second"]
    codes = tuple(failure.exitcode for failure in telling or failures.values())
    first = next(iter(telling or failures.values()), None)
    if first is None:
        return FailureCause(codes, "unknown")
    hand = _hand(first)
    if str(first.message).startswith(HUNG):
        return FailureCause(codes, "hung", hand)
    how = code_in_words(first.exitcode)
    # Called so because a subclass of the agent may bring torch's failures, which have no such method.
    spoke = first.error_file != NOT_AVAILABLE or isinstance(first.message, dict)
    summary = ProcessFailure.summary(first) if spoke else ""
    return FailureCause(codes, f"{how}: {summary}" if summary else how, hand)


def _hand(failure: ProcessFailure) -> Hand:
    told: Diagnosis | None = getattr(failure, "diagnosis", None)  # torch's failures have none
    if told is not None:
        return told.hand
    message, traceback = ProcessFailure.summary(failure), ProcessFailure.traceback(failure)
    return hand_of(signal_name(failure.exitcode), message, traceback)


def failure_record(
    failure: ProcessFailure, global_rank: int, local_rank: int, role: str, node: str, host: str
) -> FailureRecord:
    """What the other nodes are told of a failure here."""
    # Called so because a subclass of the agent may bring torch's failures.
    message = in_utf8(ProcessFailure.summary(failure)[:MESSAGE_MAX])
    traceback = in_utf8(ProcessFailure.traceback(failure)[-TRACEBACK_MAX:])
    died_of = signal_name(failure.exitcode)
    told = getattr(failure, "diagnosis", None)
    if told is None:
        told = Diagnosis(hand=hand_of(died_of, message, traceback))
    return FailureRecord(
        node=node,
        host=host,
        global_rank=global_rank,
        local_rank=local_rank,
        role=role,
        pid=failure.pid,
        exit_code=None if failure.exitcode < 0 else failure.exitcode,
        signal=died_of,
        message=message,
        traceback=traceback,
        hand=told.hand,
        timestamp=int(failure.timestamp),
        what=in_utf8(told.what[:MESSAGE_MAX]),
        error_class=told.kind,
        remedy=told.remedy,
    )


def in_utf8(text: str) -> str:
    """A text that can be written: what a worker leaves may hold halves of characters."""
    return text.encode("utf-8", "replace").decode()


def process_failure(record: FailureRecord) -> ProcessFailure:
    """A failure on another node in torch's shape."""
    code = -_number_of(record.signal) if record.exit_code is None else record.exit_code
    return ProcessFailure(
        local_rank=record.local_rank,
        pid=record.pid,
        exitcode=code,
        message=record.words(),
        timestamp=record.timestamp,
    )


def _number_of(name: str) -> int:
    """The inverse of `words.signal_name`; SIGKILL for what is none."""
    if name in signal.Signals.__members__:
        return signal.Signals[name]
    number = name.removeprefix("signal ")
    return int(number) if number.isdecimal() else signal.SIGKILL


def exit_code_of(result: RunResult) -> int:
    """The exit code of the agent's process: 0, the first failed worker's code, or 128 + its signal."""
    if not result.is_failed():
        return 0
    first = next(iter(result.failures.values()), None)
    code = 1 if first is None else first.exitcode
    # An exit with code 0 can be a failure (a function that never returned); the run still failed.
    return 128 - code if code < 0 else code or 1
