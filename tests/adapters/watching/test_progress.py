"""A step's way from a worker to its agent, and stacks on a signal; each worker is a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from toolkit.adapters.watching.evidence import Evidence, stacks_in
from toolkit.adapters.watching.looking import catches
from toolkit.adapters.watching.shared import SharedNotes
from toolkit.core.hanging.worker_notes import STACKS_SIGNAL_BELOW_MAX, STACKS_VARIABLE, STEPS_VARIABLE
from toolkit.core.stacks import Answer, Stacks, Target, Unread

ROOT = Path(__file__).parents[3]
SIGNAL = signal.SIGRTMAX - STACKS_SIGNAL_BELOW_MAX
Worker = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def notes() -> Iterator[SharedNotes]:
    made = SharedNotes(3)
    yield made
    made.close()


@pytest.fixture
def worker() -> Iterator[Worker]:
    """Starts some code with these variables; it says a line when it is there."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, variables: Mapping[str, str]) -> subprocess.Popen[str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("RALLY_")}
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**env, "PYTHONPATH": str(ROOT), **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


STEPS = "import toolkit, sys\nfor step in (5, 6, 7):\n    toolkit.progress(step)\nprint('up', flush=True)\ninput()"


def test_the_last_step_of_each_worker_is_known_to_the_end_and_after(
    notes: SharedNotes, worker: Worker
) -> None:
    assert notes.notes() == {}
    process = worker(STEPS, notes.variables()[1])
    assert said(process) == "up"
    ((rank, (step, told_ns)),) = notes.notes().items()
    assert (rank, step) == (1, 7)
    process.kill()
    process.wait()
    assert notes.notes() == {1: (7, told_ns)}


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {STEPS_VARIABLE: "/proc/1/fd/99999:0"},
        {STEPS_VARIABLE: "nonsense"},
        {STEPS_VARIABLE: "/dev/null:64"},
        {STEPS_VARIABLE: "/etc:x", STACKS_VARIABLE: "/etc"},
    ],
)
def test_without_an_agent_it_does_nothing(worker: Worker, variables: Mapping[str, str]) -> None:
    assert said(worker(STEPS, variables)) == "up"


def test_it_needs_neither_torch_nor_numpy_and_takes_their_numbers(worker: Worker, notes: SharedNotes) -> None:
    code = """
import sys, toolkit
toolkit.progress(1)
heavy = [name for name in ("torch", "numpy", "asyncio", "multiprocessing", "msgspec") if name in sys.modules]
class Number:
    def __index__(self):
        return 41
toolkit.progress(Number())
assert toolkit.progress is toolkit.progress
print(heavy, flush=True)
input()
"""
    assert said(worker(code, notes.variables()[0])) == "[]"
    assert notes.notes()[0][0] == 41


@pytest.mark.parametrize("step", ["1.5", "'7'", "None", "-1", "1 << 63"])
@pytest.mark.parametrize("agent", [True, False])
def test_what_is_no_step_is_an_error_with_and_without_an_agent(
    worker: Worker, notes: SharedNotes, step: str, agent: bool
) -> None:
    code = f"""
import toolkit
try:
    toolkit.progress({step})
except (TypeError, ValueError) as error:
    print(type(error).__name__, flush=True)
"""
    wanted = "ValueError" if step in ("-1", "1 << 63") else "TypeError"
    assert said(worker(code, notes.variables()[0] if agent else {})) == wanted
    assert notes.notes() == {}


class CanNot:
    """Implements Dumper: like py-spy where it may not."""

    def dump(self, targets: Sequence[Target]) -> list[Answer]:
        return [Unread("may not be read") for _ in targets]

    def close(self) -> None: ...


def target(process: subprocess.Popen[str], rank: int) -> Target:
    return Target(rank, "host", process.pid, 0, "", rank)


def test_workers_that_made_steps_write_their_stacks_where_py_spy_may_not(
    notes: SharedNotes, worker: Worker
) -> None:
    code = STEPS.replace("input()", "import threading\n") + (
        "def beside():\n    threading.Event().wait()\n"
        "threading.Thread(target=beside, daemon=True).start()\n"
        "def stand_still():\n    print('here', flush=True)\n    threading.Event().wait()\n"
        "stand_still()"
    )
    processes = [worker(code, notes.variables()[rank]) for rank in range(2)]
    processes.append(
        worker("print('up', flush=True)\nprint('here', flush=True)\ninput()", notes.variables()[2])
    )
    for process in processes:
        assert [said(process), said(process)] == ["up", "here"]
    assert [catches(process.pid, SIGNAL) for process in processes] == [True, True, False]
    evidence = Evidence(notes, CanNot())
    answers = evidence.take([target(process, rank) for rank, process in enumerate(processes)])
    for rank in range(2):
        told = answers[rank]
        assert isinstance(told, Stacks)
        assert [frame.function for frame in told.main][-2:] == ["stand_still", "<module>"]
        assert len(told.threads) == 2
    assert answers[2] == Unread("may not be read")
    assert all(process.poll() is None for process in processes), "nobody died of being asked"


def test_a_stopped_worker_says_nothing_and_keeps_nobody_waiting(notes: SharedNotes, worker: Worker) -> None:
    process = worker(STEPS, notes.variables()[0])
    assert said(process) == "up"
    process.send_signal(signal.SIGSTOP)
    answers = Evidence(notes, CanNot()).take([target(process, 0)])
    assert answers == {0: Unread("may not be read")}


def test_what_faulthandler_writes_is_read_and_what_is_none_is_not() -> None:
    first = 'Thread 0x1 (most recent call first):\n  File "a.py", line 3 in f\n\n'
    text = first + "Current thread 0x2 (most recent call first):\n"
    stacks = stacks_in(text + '  File "b.py", line ??? in g\n  File "b.py", line 1 in <module>\n', 77)
    assert stacks is not None
    assert [thread.main for thread in stacks.threads] == [True, False]
    assert [(frame.function, frame.line) for frame in stacks.main] == [("g", 0), ("<module>", 1)]
    assert stacks_in("", 77) is None
    assert stacks_in("  File \\x00", 77) is None
