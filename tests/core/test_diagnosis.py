"""What a worker died of: a corpus of what processes really left on stderr, error files, the kernel's record, and junk.

Texts of `corpus/` were written by CPython 3.11, torch 2.13 with gloo, torch 2.11 with NCCL 2.28 on an H200, glibc and
bash; those of older NCCL and CUDA and of loguru follow their documented forms.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.core.diagnosing.diagnosis import consequence, diagnose
from toolkit.core.diagnosing.kernel_record import KernelRecord
from toolkit.core.diagnosing.known_errors import Kind
from toolkit.core.launch_plan import WorkerExit

CORPUS = Path(__file__).parent / "corpus"

#: text, exit code, what it is about, hand, a part of what is said of it, a part of its own message
CASES: list[tuple[str, int, Kind, str, str, str]] = [
    ("abort", -6, "unknown", "unclear", "abort", ""),
    ("argparse", 2, "own", "unclear", "", "error: argument --lr: invalid float value"),
    ("bigalloc", 1, "memory", "first", "out of memory (the machine's", "RuntimeError: [enforce fail"),
    ("c_assert", -6, "own", "first", "abort: ", "Assertion `n>0' failed"),
    ("chained", 1, "own", "first", "", "ValueError: bad config"),
    ("cmd127", 127, "own", "first", "exit code 127: command not found", ""),
    ("connection_reset", 1, "peer", "second", "connection reset by peer", "ConnectionResetError"),
    ("dataloader_error", 1, "own", "first", "", "ValueError: Caught ValueError in DataLoader worker"),
    (
        "dataloader_killed",
        1,
        "memory",
        "first",
        "a DataLoader worker was killed (SIGKILL)",
        "RuntimeError: DataLoader",
    ),
    ("disk_full", 1, "own", "first", "disk full", "OSError: [Errno 28]"),
    ("doublefree", -6, "own", "first", "abort: ", "double free detected"),
    ("faulthandler", -11, "own", "first", "segmentation fault", "Fatal Python error: Segmentation fault"),
    ("gloo_culprit", 1, "own", "first", "", "ValueError: loss is NaN at step 5"),
    ("gloo_victim", 1, "peer", "second", "gloo: connection closed by peer", "RuntimeError: [/"),
    (
        "gpu_assert",
        1,
        "gpu",
        "first",
        "assertion on the device (CUDA device-side assert)",
        "torch.AcceleratorError",
    ),
    (
        "gpu_dup0",
        1,
        "gpu",
        "first",
        "NCCL: ranks 0 and 1 use the same GPU",
        "torch.distributed.DistBackendError",
    ),
    ("gpu_illegal", 1, "gpu", "first", "CUDA: illegal memory access", "torch.AcceleratorError"),
    ("gpu_nccl_init", 1, "own", "first", "", "RuntimeError: No backend type"),
    ("gpu_nogpu", 1, "gpu", "first", "CUDA: no GPU can be used", "RuntimeError: No CUDA GPUs are available"),
    (
        "gpu_oom",
        1,
        "memory",
        "first",
        "CUDA out of memory: tried to allocate 20.00 GiB (GPU 0; 139.80 GiB in all, 19.29 GiB free)",
        "torch.OutOfMemoryError",
    ),
    ("gpu_ordinal", 1, "gpu", "first", "CUDA: no GPU of that number", "torch.AcceleratorError"),
    (
        "gpu_watchdog",
        -6,
        "peer",
        "second",
        "NCCL: a collective timed out (ALLREDUCE, number 2, after 3000 ms)",
        "C++",
    ),
    ("group", 1, "own", "first", "", "ExceptionGroup: several (2 sub-exceptions)"),
    ("ignored", 1, "own", "first", "", "ValueError: the real one"),
    ("in_a_thread", 3, "own", "unclear", "", "RuntimeError: in a thread"),
    ("in_use", 1, "own", "first", "address already in use", "OSError: [Errno 98]"),
    ("interrupt", -2, "stopped", "first", "interrupted (SIGINT)", "KeyboardInterrupt"),
    ("logged", 3, "own", "first", "", "ZeroDivisionError: division by zero"),
    ("loguru", 1, "own", "first", "", "ValueError: 4"),
    (
        "nccl_oom_old",
        1,
        "memory",
        "first",
        "tried to allocate 2.00 GiB (GPU 3; 79.15 GiB in all)",
        "RuntimeError",
    ),
    (
        "nccl_remote_exit",
        1,
        "peer",
        "second",
        "NCCL: remote process exited",
        "torch.distributed.DistBackendError",
    ),
    ("nocuda", 1, "own", "first", "", "AssertionError: Torch not compiled with CUDA enabled"),
    ("nomod", 1, "own", "first", "ModuleNotFoundError: no module named flash_attn_9", "ModuleNotFoundError"),
    ("noscript", 2, "own", "first", "there is no script /home/me/nothere.py", ""),
    ("notes", 1, "own", "first", "", "ValueError: bad shape"),
    ("pipe_closed", 1, "peer", "second", "", "EOFError"),
    ("pool_child", 1, "own", "first", "", "ValueError: in a child"),
    ("progress_and_colours", 1, "own", "first", "", "RuntimeError: it broke"),
    ("recursion", 1, "own", "first", "", "RecursionError: maximum recursion depth exceeded"),
    ("rich_box", 1, "own", "first", "", "ValueError: in a box"),
    ("shape", 1, "own", "first", "", "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    ("shm_full", 1, "memory", "first", "shared memory is full (/dev/shm)", "RuntimeError: DataLoader worker"),
    (
        "storeconn",
        1,
        "peer",
        "second",
        "torch's store: rank 0 can't be reached",
        "torch.distributed.DistNetworkError",
    ),
    ("storeinuse", 1, "own", "first", "address already in use", "torch.distributed.DistNetworkError"),
    (
        "storewait",
        1,
        "peer",
        "second",
        "torch's store: a key did not come in time",
        "torch.distributed.DistStoreError",
    ),
    ("syntax", 1, "own", "first", "", "SyntaxError: invalid syntax"),
    ("terminate", -6, "own", "first", "abort: C++ exception std::runtime_error: bad tensor", "C++ exception"),
    (
        "wrapped_victim",
        1,
        "peer",
        "second",
        "gloo: connection closed by peer",
        "TrainingError: step 12 failed",
    ),
]


def end(code: int = 1, said: str = "", **more: object) -> WorkerExit:
    return WorkerExit(0, 100, code, 0, 1_000, last_words=said, **more)  # type: ignore[arg-type]


def said_in(name: str) -> str:
    return (CORPUS / f"{name}.txt").read_text(errors="replace")


@pytest.mark.parametrize(
    ("name", "code", "kind", "hand", "what", "message"), CASES, ids=[c[0] for c in CASES]
)
def test_what_processes_really_leave(
    name: str, code: int, kind: str, hand: str, what: str, message: str
) -> None:
    told = diagnose(end(code, said_in(name)))
    assert (told.kind, told.hand) == (kind, hand), told
    assert what in told.what
    assert bool(told.what) == bool(what)
    assert message in told.message


def test_each_text_of_the_corpus_is_used() -> None:
    # Of the two ranks on one GPU both are kept: NCCL names them in either order.
    assert {path.stem for path in CORPUS.glob("*.txt")} - {"gpu_dup1"} == {case[0] for case in CASES}


@pytest.mark.parametrize(
    "name", ["gloo_culprit", "progress_and_colours", "faulthandler", "notes", "rich_box"]
)
@pytest.mark.parametrize(
    "before", ["", "a line\n" * 20_000, "\x1b[2K\r" * 5_000 + "\n", "x" * 100_000 + "\n"]
)
def test_what_stands_before_it_makes_no_difference(name: str, before: str) -> None:
    code = -11 if name == "faulthandler" else 1
    assert diagnose(end(code, before + said_in(name))) == diagnose(end(code, said_in(name)))


@pytest.mark.parametrize(
    "noise",
    [
        "[rank1]:[W1127 11:57:52.747 ProcessGroupNCCL.cpp:1575] Warning: destroy_process_group() was not called\n",
        "/usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: leaked semaphore objects\n",
        "Exception ignored in: <function A.__del__>\nTraceback (most recent call last):\n"
        '  File "a.py", line 2, in __del__\nOSError: late\n',
    ],
)
def test_what_a_dying_process_says_after_it_makes_no_difference(noise: str) -> None:
    alone = diagnose(end(1, said_in("gloo_culprit")))
    assert diagnose(end(1, said_in("gloo_culprit") + noise)) == alone


def test_a_traceback_is_whole_and_without_what_stood_before_its_lines() -> None:
    told = diagnose(end(1, said_in("gloo_culprit")))
    assert told.traceback == (
        "Traceback (most recent call last):\n"
        '  File "/home/me/gloo_victim.py", line 8, in <module>\n'
        '    raise ValueError("loss is NaN at step 5")\n'
        "ValueError: loss is NaN at step 5\n"
    )
    chained = diagnose(end(1, said_in("chained"))).traceback
    assert "KeyError: 'lr'" in chained
    assert "direct cause of the following" in chained
    notes = diagnose(end(1, said_in("notes"))).traceback
    assert notes.endswith("ValueError: bad shape\nin batch 12\nof shard 3\n")
    syntax = diagnose(end(1, said_in("syntax"))).traceback
    assert syntax.startswith('  File "/home/me/syntax.py", line 1\n')


def test_an_error_that_was_only_logged_long_ago_is_not_the_cause() -> None:
    logged = said_in("logged") + "INFO all is well\n" * 100
    assert diagnose(end(3, logged)).traceback == ""
    assert diagnose(end(-9, said_in("logged"))).message == ""


# -- error files ----------------------------------------------------------------------------------------------


def recorded(message: str, trace: str = "") -> dict[str, object]:
    return {"message": {"message": message, "extraInfo": {"py_callstack": trace, "timestamp": "1234"}}}


def test_the_error_file_counts_more_than_stderr() -> None:
    told = diagnose(end(1, said_in("gloo_victim"), error_data=recorded("ValueError: bad", "Traceback ...")))
    assert (told.message, told.hand, told.traceback) == ("ValueError: bad", "first", "Traceback ...")


def test_an_error_file_is_told_in_words_too() -> None:
    told = diagnose(end(1, error_data=recorded("RuntimeError: CUDA error: device-side assert triggered")))
    assert (told.what, told.kind) == ("assertion on the device (CUDA device-side assert)", "gpu")
    assert told.remedy


def test_an_error_file_that_can_not_be_used_leaves_the_word_to_stderr() -> None:
    data = {"message": "the worker failed, and its error file /e.json is truncated or no JSON"}
    told = diagnose(end(1, said_in("notes"), error_data=data, error_unusable=True))
    assert told.message == "ValueError: bad shape"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON, JSON)
def test_whatever_stands_in_an_error_file_is_told(message: object, trace: object, extra: object) -> None:
    for data in (
        {"message": message},
        {"message": {"message": message, "extraInfo": {"py_callstack": trace}}},
        {"message": {"message": message, "extraInfo": extra}},
    ):
        diagnose(end(1, error_data=json.loads(json.dumps(data))))


# -- the kernel -----------------------------------------------------------------------------------------------


def test_the_oom_killer_is_named_with_its_limit() -> None:
    record = KernelRecord(counted=True, oom_kills=1, certain=True, limit_bytes=8 << 30)
    told = diagnose(end(-9, kernel=record))
    assert told.what == "killed by the kernel's OOM killer: its cgroup's limit is 8.0 GiB"
    assert (told.kind, told.hand) == ("memory", "first")
    assert "machine was out of memory" in diagnose(end(-9, kernel=replace(record, limit_bytes=None))).what
    assert diagnose(end(-9, kernel=replace(record, certain=False))).what.startswith("probably killed")


def test_a_sigkill_that_the_kernel_knows_nothing_of_came_from_somebody() -> None:
    told = diagnose(end(-9, kernel=KernelRecord(counted=True)))
    assert told.what == "SIGKILL from outside, not from this agent, nor from the kernel's OOM killer"
    assert diagnose(end(-9)).what == "SIGKILL from outside, not from this agent"
    of_a_shell = diagnose(end(137, kernel=KernelRecord(counted=True))).what
    assert of_a_shell == "its program was killed by SIGKILL (137 = 128 + 9), not by the kernel's OOM killer"


def test_a_line_that_is_shown_need_not_be_asked_for() -> None:
    assert diagnose(end(-11)).remedy == "python -X faulthandler shows the line"
    assert diagnose(end(-11, said_in("faulthandler"))).remedy == ""


def test_a_data_loader_that_the_oom_killer_took() -> None:
    record = KernelRecord(counted=True, oom_kills=1, certain=True, limit_bytes=512 << 20)
    told = diagnose(end(1, said_in("dataloader_killed"), kernel=record))
    assert (
        told.what
        == "one of its processes was killed by the kernel's OOM killer: its cgroup's limit is 512 MiB"
    )


def test_oom_kills_elsewhere_do_not_explain_an_exception() -> None:
    record = KernelRecord(counted=True, oom_kills=3)
    assert diagnose(end(1, said_in("notes"), kernel=record)).what == ""


def test_an_xid_belongs_to_an_error_of_the_gpu() -> None:
    told = diagnose(end(1, said_in("gpu_illegal"), kernel=KernelRecord(xids=("31 (GPU 0000:3b:00)",))))
    assert told.what == "CUDA: illegal memory access; the driver reported Xid 31 (GPU 0000:3b:00)"


# -- exit codes and signals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "what", "hand"),
    [
        (-11, "segmentation fault", "first"),
        (-7, "bus error: /dev/shm full?", "first"),
        (-4, "illegal instruction: built for another CPU?", "first"),
        (-15, "SIGTERM from outside, not from this agent", "first"),
        (137, "its program was killed by SIGKILL (137 = 128 + 9)", "first"),
        (126, "exit code 126: the command can't be executed", "first"),
        (7, "", "unclear"),
    ],
)
def test_an_exit_without_words(code: int, what: str, hand: str) -> None:
    told = diagnose(end(code))
    assert (told.what, told.hand) == (what, hand)


@given(st.integers(-70, 300), st.text(max_size=300), st.sampled_from(["", "it never returned"]))
def test_whatever_a_process_leaves_is_told(code: int, said: str, problem: str) -> None:
    diagnose(end(code, said, problem=problem))


# -- whom the agent stopped -----------------------------------------------------------------------------------


def test_of_whose_death_a_stopped_worker_had_spoken() -> None:
    assert consequence(end(-15, said_in("gloo_victim"))) == "gloo: connection closed by peer"
    assert consequence(end(-15, said_in("gloo_culprit"))) == ""
    assert consequence(end(0, said_in("gloo_victim"))) == ""
    assert consequence(end(-15)) == ""


# -- junk -----------------------------------------------------------------------------------------------------

_draw = random.Random(7)
JUNK = {
    "one line": "a" * 65_536,
    "escapes": "\x1b[" * 40_000,
    "titles": "\x1b]0;" * 20_000,
    "binary": "".join(chr(_draw.randrange(0x2000)) for _ in range(65_536)),
    "returns": "\r 12%|###" * 10_000,
    "headers": "Traceback (most recent call last):\n" * 2_000,
    "prefixes": ("x" * 500 + "Traceback (most recent call last):\n") * 130,
    "groups": "  + Exception Group Traceback (most recent call last):\n" * 2_000,
    "boxes": "╭─ Traceback (most recent call last) ─╮\n" * 2_000,
    "chains": 'Traceback (most recent call last):\n  File "x", line 1\nValueError: x\n\nDuring handling of the above '
    "exception, another exception occurred:\n\n" * 600,
    "spaces": " " * 65_536,
    "gloo": "gloo gloo gloo " * 5_000,
    "nccl": "Watchdog caught collective operation timeout: W(OpType=" * 1_500,
    "dots": "." * 30_000 + "Error" + ":" * 30_000,
    "null": "\0" * 65_536,
    "notes": "Traceback (most recent call last):\nE: x\n" + "y\n" * 30_000,
}


@pytest.mark.parametrize("name", JUNK)
@pytest.mark.parametrize("code", [1, -6, -11])
def test_junk_costs_little_time(name: str, code: int) -> None:
    """No claim of speed: what backtracks without end takes minutes, what does not takes milliseconds."""
    began = time.process_time()
    diagnose(end(code, JUNK[name]))
    assert time.process_time() - began < 5


def test_the_last_words_of_one_that_says_why_in_no_known_way() -> None:
    end = WorkerExit(
        local_rank=0, pid=1, exit_code=3, at_ns=0, wall_s=0, last_words="loading\nthe disk is missing\n\n"
    )
    told = diagnose(end)
    assert (told.what, told.hand) == ("the last it wrote to stderr: the disk is missing", "unclear")
    assert told.message == "" and told.traceback == "", "which would say that it has failed of itself"
