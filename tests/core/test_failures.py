"""From exits to failures, results and exit codes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.core.failures import cause_of, exit_code_of, failure_of, result_of
from toolkit.core.launch_plan import WorkerExit
from toolkit.core.model import NOT_AVAILABLE, RunResult, WorkerState
from toolkit.core.ranks import RankBase, workers_of
from toolkit.core.words import signal_name

WORKERS = workers_of(RankBase(10, 20, 10, 20), 3)


def end(local_rank: int, code: int = 0, **more: object) -> WorkerExit:
    return WorkerExit(local_rank, pid=100 + local_rank, exit_code=code, at_ns=0, wall_s=1000, **more)  # type: ignore[arg-type]


RECORDED = {
    "message": {
        "message": "ValueError: bad shape\nand more",
        "extraInfo": {"py_callstack": "Traceback...\nValueError: bad shape", "timestamp": "1234"},
    }
}


def test_all_or_nothing() -> None:
    assert result_of(WORKERS, []).state == WorkerState.HEALTHY
    assert result_of(WORKERS, [end(0), end(1)]).state == WorkerState.HEALTHY
    done = result_of(WORKERS, [end(2, return_value="c"), end(0, return_value="a"), end(1)])
    assert done.state == WorkerState.SUCCEEDED
    assert done.return_values == {10: "a", 11: None, 12: "c"}


def test_failures_are_by_global_rank_in_the_order_of_their_happening() -> None:
    failed = result_of(WORKERS, [end(0), end(2, -9), end(1, 3)])
    assert failed.state == WorkerState.FAILED
    assert list(failed.failures) == [12, 11]
    assert failed.return_values == {}


def test_a_signal_is_told_in_torchs_words() -> None:
    failure = failure_of(end(0, -9))
    assert failure.message == "Signal 9 (SIGKILL) received by PID 100"
    assert (failure.error_file, failure.timestamp) == (NOT_AVAILABLE, 1000)
    assert failure.signal_name() == "SIGKILL"


def test_an_error_file_gives_message_traceback_and_time() -> None:
    failure = failure_of(end(0, 1, error_file="/e.json", error_data=RECORDED))
    assert failure.summary() == "ValueError: bad shape"
    assert failure.traceback().startswith("Traceback")
    assert (failure.timestamp, failure.error_file) == (1234, "/e.json")


@pytest.mark.parametrize(
    "data",
    [
        {"message": "plain"},
        {"message": {"extraInfo": 3}},
        {"message": {}},
        {"message": {"extraInfo": {}}},
        {"message": {"extraInfo": {"timestamp": float("inf")}}},
        {"message": {"extraInfo": {"timestamp": 10**40}}},
        {"message": {"extraInfo": {"timestamp": "-5"}}},
    ],
)
def test_strange_error_files_do_no_harm(data: dict) -> None:
    failure = failure_of(end(0, 1, error_file="/e.json", error_data=data))
    assert failure.timestamp == 1000
    assert isinstance(failure.summary(), str)
    assert failure.traceback() == ""


def test_a_clean_exit_can_be_a_failure() -> None:
    result = result_of(WORKERS, [end(0, 0, problem="never returned")])
    assert result.is_failed()
    assert exit_code_of(result) == 1


@pytest.mark.parametrize(("code", "expected"), [(3, 3), (-9, 137), (-15, 143), (255, 255)])
def test_the_exit_code_is_the_first_failed_workers(code: int, expected: int) -> None:
    assert exit_code_of(result_of(WORKERS, [end(1, code), end(0, 77)])) == expected


def test_exit_codes_of_other_endings() -> None:
    assert exit_code_of(RunResult(WorkerState.SUCCEEDED)) == 0
    assert exit_code_of(RunResult(WorkerState.STOPPED)) == 0
    assert exit_code_of(RunResult(WorkerState.FAILED)) == 1


def test_causes_that_look_the_same_have_the_same_key() -> None:
    one = cause_of(result_of(WORKERS, [end(0, 1, error_file="/e", error_data=RECORDED)]).failures)
    two = cause_of(result_of(WORKERS, [end(2, 1, error_file="/f", error_data=RECORDED)]).failures)
    assert one.key == two.key == "exit code 1: ValueError: bad shape"
    assert cause_of(result_of(WORKERS, [end(0, -9), end(1, 1)]).failures).exit_codes == (-9, 1)
    assert cause_of({}).key == "unknown"


def test_a_first_hand_failure_speaks_for_those_who_died_of_it() -> None:
    lost_peer = {
        "message": {"message": "RuntimeError: Connection closed by peer", "extraInfo": {"py_callstack": ""}}
    }
    second = end(0, 1, error_file="/e", error_data=lost_peer)
    cause = cause_of(result_of(WORKERS, [second, end(1, -9)]).failures)
    assert (cause.key, cause.exit_codes, cause.hand) == ("SIGKILL", (-9,), "first")
    alone = cause_of(result_of(WORKERS, [second]).failures)
    assert (alone.exit_codes, alone.hand) == ((1,), "second")
    assert cause_of(result_of(WORKERS, [end(1, 3)]).failures).hand == "unclear"


@given(st.integers(-100, 300))
def test_every_exit_code_has_a_name_or_none(code: int) -> None:
    assert bool(signal_name(code)) == (code < 0)


VICTIM = "Traceback (most recent call last):\nConnectionResetError: [Errno 104] Connection reset by peer\n"
ERROR = 'Traceback (most recent call last):\n  File "train.py", line 3, in <module>\nValueError: bad shape\n'


def test_a_traceback_on_stderr_is_told_in_the_form_of_an_error_file() -> None:
    failure = failure_of(end(0, 1, last_words=ERROR))
    assert (failure.summary(), failure.traceback()) == ("ValueError: bad shape", ERROR)
    assert failure.error_file == NOT_AVAILABLE
    assert cause_of({0: failure}).key == "exit code 1: ValueError: bad shape"


def test_who_died_of_anothers_death_comes_last_and_the_culprit_is_the_earliest() -> None:
    """torch's `ChildFailedError` takes the earliest for the first."""
    ends = [
        replace(end(0, 1, last_words=VICTIM), wall_s=1_000),
        replace(end(1, -9), wall_s=1_001),
        replace(end(2, 1, last_words=ERROR), wall_s=1_002),
    ]
    failures = result_of(WORKERS, ends).failures
    ranks = [WORKERS[local_rank].global_rank for local_rank in (1, 2, 0)]
    assert list(failures) == ranks
    assert min(failures, key=lambda rank: failures[rank].timestamp) == ranks[0]


def test_torchs_error_names_the_culprit_and_shows_its_traceback() -> None:
    errors = pytest.importorskip("torch.distributed.elastic.multiprocessing.errors")
    ends = [
        replace(end(0, 1, last_words=VICTIM), wall_s=1_000),
        replace(end(2, 1, last_words=ERROR), wall_s=1_002),
    ]
    error = errors.ChildFailedError("train.py", result_of(WORKERS, ends).failures)
    rank, failure = error.get_first_failure()
    assert (rank, failure.local_rank) == (WORKERS[2].global_rank, 2)
    assert "ValueError: bad shape" in str(error)
    assert 'File "train.py", line 3' in str(error)
