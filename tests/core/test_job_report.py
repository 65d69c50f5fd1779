"""Who failed first: first-hand before second-hand, then as the store ordered them, and the same on every node."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.core.job_report import (
    RECORDS_MAX,
    FailureRecord,
    Hand,
    JobReport,
    culprit,
    encoded,
    hand_of,
    in_order,
    records_of,
    report_of,
)

GLOO = "RuntimeError: [../third_party/gloo/gloo/transport/tcp/"
DIST = "torch.distributed.Dist"
FRAMES = "  a frame\n" * 1000

#: texts of torch 2.6 to 2.13, gloo and NCCL about a peer that has gone, as `@record` and Python put them
SECOND_HAND = [
    f"{GLOO}pair.cc:553] Connection closed by peer [127.0.0.1]:1234",
    f"{GLOO}pair.cc:553] Connection closed by peer [127.0.0.1]:1234. This is typically caused by a remote worker "
    "crashing. Check the logs of the remote worker before reporting an error. GLHF! 🏖️",
    f"{GLOO}pair.cc:534] Connection reset by peer",
    f"{GLOO}pair.cc:598] Read error [10.0.0.2]:4242: Connection reset by peer",
    f"{GLOO}buffer.cc:72] Timed out waiting 1800000ms for send operation to complete",
    f"{GLOO}unbound_buffer.cc:81] Timed out waiting 5000ms for recv operation to complete",
    f"{GLOO}pair.cc:144] Application timeout caused pair closure",
    "RuntimeError: [Rank 0]: Rank 1 failed to pass monitoredBarrier in 2000 ms",
    "RuntimeError: Rank 1 successfully reached monitoredBarrier, but received errors while waiting for send/recv "
    "from rank 0. Please check rank 0 logs for faulty rank.",
    f"{DIST}BackendError: NCCL communicator was aborted on rank 3.",
    f"{DIST}BackendError: NCCL communicator was aborted on rank 3. Original reason for failure was: [Rank 3] ...",
    "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=12, OpType=ALLREDUCE, NumelIn=1, "
    "NumelOut=1, Timeout(ms)=600000) ran for 600000 milliseconds before timing out.",
    f"{DIST}BackendError: NCCL error in: NCCLUtils.hpp:219, remote process exited or there was a network error",
    "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.",
    f"{DIST}NetworkError: failed to recv, got 0 bytes",
    f"{DIST}NetworkError: Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server "
    "shutdown or crash?",
    f"{DIST}NetworkError: The client socket has timed out after 60000ms while trying to connect to (a, 29500).",
    f"{DIST}StoreError: wait timeout after 300000ms, keys: /default_pg/0//cuda//1",
    f"{DIST}StoreError: Timed out after 901 seconds waiting for clients. 1/2 clients joined.",
    "RuntimeError: Connection reset by peer",
    "RuntimeError: Broken pipe",
    "RuntimeError: Socket Timeout",
    "ConnectionResetError: [Errno 104] Connection reset by peer",
]
#: texts of a worker that died of itself
FIRST_HAND = [
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.15 GiB",
    "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 MiB",
    "RuntimeError: CUDA error: an illegal memory access was encountered",
    "torch.AcceleratorError: CUDA error: device-side assert triggered",
    "RuntimeError: CUDA error: uncorrectable ECC error encountered",
    "RuntimeError: CUDA error: peer access is not supported between these two devices",
    "RuntimeError: CUDA error: peer mapping resources exhausted",
    "RuntimeError: CUDA error: unspecified launch failure",
    "RuntimeError: CUDA error: invalid device ordinal",
    "RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1691, unhandled cuda error",
    "RuntimeError: DataLoader worker (pid 4711) is killed by signal: Killed.",
    "RuntimeError: DataLoader worker (pid(s) 4711) exited unexpectedly",
    "ValueError: bad input",
    "KeyError: 'peer'",
    "ValueError: expected connection weights of shape [3]",
    "AssertionError: loss is nan",
    "FileNotFoundError: [Errno 2] No such file or directory: '/data/remote/shard-3'",
    "ModuleNotFoundError: No module named 'flash_attn'",
    "KeyboardInterrupt: ",
    "SystemExit: 3",
    "MyException: it did not converge",
]


@pytest.mark.parametrize("message", SECOND_HAND)
def test_who_tells_of_a_peer_that_has_gone_did_not_die_of_itself(message: str) -> None:
    assert hand_of("", message) == "second"
    assert hand_of("", message, f"Traceback (most recent call last):\n  ...\n{message}\n") == "second"


@pytest.mark.parametrize("message", FIRST_HAND)
def test_an_exception_of_its_own_is_first_hand(message: str) -> None:
    assert hand_of("", message) == "first"
    assert hand_of("", message, f"Traceback (most recent call last):\n  ...\n{message}\n") == "first"


@pytest.mark.parametrize("text", ["CUDA out of memory. Tried to allocate 2 MiB", "bad input"])
def test_whoever_has_a_traceback_has_spoken(text: str) -> None:
    assert hand_of("", text, f"Traceback (most recent call last):\n  ...\n{text}\n") == "first"


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGTERM", "SIGINT"])
@pytest.mark.parametrize("message", ["", "Signal 9 (SIGKILL) received by PID 7", SECOND_HAND[0]])
def test_a_signal_that_we_did_not_send_is_first_hand(signal: str, message: str) -> None:
    assert hand_of(signal, message) == "first"


@pytest.mark.parametrize("message", ["", "Signal 6 (SIGABRT) received by PID 7"])
def test_an_abort_without_a_word_is_unclear(message: str) -> None:
    """NCCL's watchdog aborts the process when a peer has gone, and so does a failed assertion in C++."""
    assert hand_of("SIGABRT", message) == "unclear"


def test_an_abort_is_what_it_says() -> None:
    assert hand_of("SIGABRT", SECOND_HAND[0]) == "second"
    assert hand_of("SIGABRT", FIRST_HAND[0]) == "first"


@pytest.mark.parametrize("message", ["", "exited with code 1", "exited with code 137", "<NONE>"])
def test_an_exit_code_alone_is_unclear(message: str) -> None:
    assert hand_of("", message) == "unclear"


def test_the_end_of_a_traceback_counts_where_the_message_says_nothing() -> None:
    trace = f"Traceback (most recent call last):\n{FRAMES}{SECOND_HAND[0]}\n"
    assert hand_of("", "a child process failed", trace) == "second"


def test_the_beginning_of_a_long_traceback_does_not() -> None:
    trace = f"{SECOND_HAND[0]}\n{FRAMES}ValueError: bad input\n"
    assert hand_of("", "ValueError: bad input", trace) == "first"


@given(st.sampled_from(["", "SIGKILL", "SIGABRT", "signal 64"]), st.text(max_size=50), st.text(max_size=50))
def test_whatever_is_said_has_a_hand(signal: str, message: str, traceback: str) -> None:
    assert hand_of(signal, message, traceback) in ("first", "unclear", "second")


# -- in order -------------------------------------------------------------------------------------------------


def record(rank: int, hand: Hand, order: int = 0, message: str = "") -> FailureRecord:
    return FailureRecord(order=order, node="n", host="h", global_rank=rank, hand=hand, message=message)


def test_first_hand_goes_before_unclear_and_that_before_second_hand() -> None:
    told = [record(0, "second", 1), record(1, "unclear", 2), record(2, "first", 3)]
    assert [r.global_rank for r in in_order(told)] == [2, 1, 0]


def test_among_equals_the_store_decides() -> None:
    told = [record(0, "first", 3), record(1, "first", 1), record(2, "second", 2), record(3, "second", 4)]
    assert [r.global_rank for r in in_order(told)] == [1, 0, 2, 3]


def test_where_there_was_no_store_the_rank_decides() -> None:
    assert [r.global_rank for r in in_order([record(2, "first"), record(1, "first")])] == [1, 2]


def test_the_first_of_them_is_the_culprit() -> None:
    assert culprit([]) is None
    assert culprit(in_order([record(0, "second", 1), record(1, "first", 2)])) == record(1, "first", 2)


HANDS = st.sampled_from(["first", "unclear", "second"])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
RECORDS = st.lists(st.builds(record, st.integers(0, 50), HANDS, message=TEXT), max_size=12).map(
    lambda found: [msgspec.structs.replace(one, order=at) for at, one in enumerate(found, start=1)]
)


@given(RECORDS, st.randoms(use_true_random=False))
def test_the_report_does_not_depend_on_who_reads_it_in_which_order(found: list[FailureRecord], draw) -> None:
    shuffled = list(found)
    draw.shuffle(shuffled)
    ordered = in_order(found)
    assert in_order(shuffled) == ordered
    assert in_order(ordered) == ordered
    assert sorted(ordered, key=lambda one: one.order) == found, "none is lost, none is made"


# -- as it stands in the store --------------------------------------------------------------------------------


def lines(*found: FailureRecord) -> bytes:
    return b"".join(encoded(one) + b"\n" for one in found)


@given(RECORDS)
def test_what_was_appended_is_read_with_its_place(found: list[FailureRecord]) -> None:
    found = [msgspec.structs.replace(one, pid=one.order) for one in found]
    written = lines(*[msgspec.structs.replace(one, order=0) for one in found])
    assert records_of(written) == in_order(found)


def test_a_line_that_was_written_twice_is_one_record() -> None:
    """As when a connection broke and nobody knew whether it had arrived."""
    first, second = record(0, "first", message="a"), record(0, "first", message="b")
    found = records_of(lines(first, first, second, first))
    assert [(one.order, one.message) for one in found] == [(1, "a"), (2, "b")]


def test_a_message_of_several_lines_is_one_record() -> None:
    told = record(1, "first", message="ValueError: a\nb\r\n\u2028c\x0bd\x85e")
    assert records_of(lines(told)) == [msgspec.structs.replace(told, order=1)]


@pytest.mark.parametrize(
    "bad", [b"", b"garbage", b"{", b"[]", b"null", b"\xff\xfe", b'{"hand": "third"}', b"[" * 100_000]
)
def test_a_line_that_is_no_record_is_left_out_and_keeps_its_place(bad: bytes) -> None:
    written = lines(record(0, "second")) + bad + b"\n" + lines(record(2, "first"))
    assert records_of(written) == [record(2, "first", 3), record(0, "second", 1)]


def test_a_torn_last_line_costs_no_other() -> None:
    written = lines(record(0, "first"), record(1, "first"))
    whole = len(lines(record(0, "first")))
    for end in range(whole, len(written) - 1):
        assert [r.global_rank for r in records_of(written[:end])] in ([0], [0, 1])


def test_nothing_written_is_no_record() -> None:
    assert records_of(b"") == []


def test_of_many_records_the_first_ones_are_kept() -> None:
    found = records_of(lines(*[record(rank, "first") for rank in range(RECORDS_MAX + 10)]))
    assert [one.global_rank for one in found] == list(range(RECORDS_MAX))


@given(st.sampled_from(["succeeded", "failed"]), TEXT, RECORDS)
def test_a_report_that_is_written_is_read(outcome: str, why: str, found: list[FailureRecord]) -> None:
    report = JobReport(outcome=outcome, why=why, failures=found)
    assert report_of(encoded(report)) == report


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"null", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"outcome": 1}']
)
def test_what_is_no_report_is_none(data: bytes) -> None:
    assert report_of(data) is None


@given(st.binary(max_size=100))
def test_garbage_raises_nothing(data: bytes) -> None:
    assert report_of(data) is None
    records_of(data)


# -- in words -------------------------------------------------------------------------------------------------

WHO = FailureRecord(host="node7", global_rank=11, local_rank=3, pid=4242)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"exit_code": 1, "message": "ValueError: bad shape\nand more"},
            "exited with code 1: ValueError: bad shape",
        ),
        ({"exit_code": 3}, "exited with code 3"),
        ({"exit_code": 3, "message": "exited with code 3"}, "exited with code 3"),
        ({"exit_code": 3, "message": "  \n "}, "exited with code 3"),
        (
            {"signal": "SIGKILL", "message": "Signal 9 (SIGKILL) received by PID 4242"},
            "was killed by SIGKILL",
        ),
        ({"message": "it never returned"}, "ended: it never returned"),
    ],
)
def test_a_record_is_one_line(changes: dict, words: str) -> None:
    said = msgspec.structs.replace(WHO, **changes).words()
    assert said == f"rank 11 (local rank 3 on node7, pid 4242) {words}"


@given(TEXT)
def test_whatever_was_said_it_is_one_line(message: str) -> None:
    assert "\n" not in msgspec.structs.replace(WHO, exit_code=1, message=message).words()
