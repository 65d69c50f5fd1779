"""What real processes use: CPU and memory of a worker with its children, whatever they come and go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from toolkit.adapters.readings import process_table
from toolkit.adapters.readings.processes import WorkerProcesses
from toolkit.core.events import WorkerReading

#: how long something may take that takes a moment
PATIENCE_S = 20.0
MIB = 1 << 20

Start = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a Python process that runs some code; returns once it has said a line."""
    started: list[subprocess.Popen[bytes]] = []

    def python(code: str) -> subprocess.Popen[bytes]:
        prelude = "import os, signal, subprocess, sys, threading, time\n"
        process = subprocess.Popen(
            [sys.executable, "-c", prelude + code], stdout=subprocess.PIPE, start_new_session=True
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        return process

    yield python
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(params=["kernel", "psutil"])
def look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who is asked: the kernel, or psutil where that can't be."""
    if request.param == "psutil":
        monkeypatch.setattr(process_table, "_KERNEL_TELLS_FACTS", False)
        monkeypatch.setattr(process_table, "_KERNEL_TELLS_CHILDREN", False)
    return str(request.param)


class Meter:
    """Takes readings of one worker, on a clock of its own: CPU time is what counts, however busy the machine is."""

    def __init__(self, pid: int) -> None:
        self._processes = WorkerProcesses()
        self._pids = {3: pid}
        assert self.take() is None, "the first look is there for the second to compare with"

    def take(self) -> WorkerReading | None:
        readings = self._processes.take(self._pids, time.monotonic_ns())
        return readings[0] if readings else None

    def family(self) -> tuple[int, ...]:
        return self._processes.families.get(3, ())

    def until(self, what: str, look: Callable[[WorkerReading], bool]) -> WorkerReading:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            time.sleep(0.25)
            reading = self.take()
            assert reading is not None, "it runs"
            if look(reading):
                return reading
            assert time.monotonic() < deadline, f"{what}: {reading}"


UP = "os.write(1, b'up\\n')\n"


def test_a_worker_that_burns_and_holds_memory_is_read_with_its_children(look: str, start: Start) -> None:
    burn = "\n".join(
        [
            "held = bytearray(64 << 20)",
            "if os.fork() == 0:",
            "    more = bytearray(64 << 20)",
            "    if os.fork() == 0:",
            "        signal.pause()",
            "    while True: pass",
            UP + "signal.pause()",
        ]
    )
    worker = start(burn)
    meter = Meter(worker.pid)
    reading = meter.until("3 processes that burn", lambda said: said.processes == 3 and said.cpu_percent > 20)
    assert reading.local_rank == 3
    assert reading.cpu_percent < 150
    own = psutil.Process(worker.pid).memory_info().rss
    assert own > 64 * MIB
    assert reading.rss_bytes > own + 64 * MIB
    assert meter.family()[0] == worker.pid
    assert set(meter.family()) == {
        worker.pid,
        *(child.pid for child in psutil.Process(worker.pid).children(recursive=True)),
    }


def test_a_worker_that_sleeps_uses_next_to_nothing(look: str, start: Start) -> None:
    meter = Meter(start(UP + "signal.pause()").pid)
    reading = meter.until("rest", lambda said: said.cpu_percent < 5)
    assert reading.processes == 1


def test_what_short_lived_children_used_counts_once_they_are_reaped(start: Start) -> None:
    """Each lives for less than the time between two looks."""
    code = UP + "while True:\n  if os.fork() == 0:\n    sum(range(400_000)); os._exit(0)\n  os.wait()"
    meter = Meter(start(code).pid)
    reading = meter.until("their time", lambda said: said.cpu_percent > 20)
    assert reading.cpu_percent < 150


def test_the_end_of_a_child_makes_no_peak(start: Start) -> None:
    code = "\n".join(
        [
            "pid = os.fork()",
            "if pid == 0:",
            "    while True: pass",
            UP + "time.sleep(1.5)",
            "os.kill(pid, signal.SIGKILL); os.wait()",
            "signal.pause()",
        ]
    )
    meter = Meter(start(code).pid)
    seen = [meter.until("two processes", lambda said: said.processes == 2)]
    meter.until("one process", lambda said: bool(seen.append(said)) or said.processes == 1)
    seen.append(meter.until("rest", lambda said: said.cpu_percent < 5))
    assert max(reading.cpu_percent for reading in seen) < 150


def test_a_child_of_a_thread_that_is_not_looked_at_each_time_is_found_and_makes_no_peak(start: Start) -> None:
    code = "\n".join(
        [
            "def serve():",
            "    time.sleep(0.6)",
            "    child = subprocess.Popen([sys.executable, '-c', 'while True: pass'])",
            "    child.wait()",
            "threading.Thread(target=serve, daemon=True).start()",
            UP + "signal.pause()",
        ]
    )
    meter = Meter(start(code).pid)
    seen: list[WorkerReading] = []
    meter.until("two processes", lambda said: bool(seen.append(said)) or said.processes == 2)
    meter.until("its time", lambda said: bool(seen.append(said)) or said.cpu_percent > 20)
    assert max(reading.cpu_percent for reading in seen) < 150


def test_threads_are_not_all_looked_at_each_time(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "for _ in range(50): threading.Thread(target=signal.pause, daemon=True).start()\n"
        + UP
        + "signal.pause()"
    )
    worker = start(code)
    asked: list[str] = []
    real = process_table._children_of_thread
    monkeypatch.setattr(
        process_table,
        "_children_of_thread",
        lambda pid, thread: bool(asked.append(thread)) or real(pid, thread),
    )
    meter = Meter(worker.pid)
    assert len(asked) == 51
    for _ in range(process_table.ALL_THREADS_EVERY):
        meter.take()
    assert len(asked) == 51 + 51 + process_table.ALL_THREADS_EVERY - 1


@pytest.mark.parametrize("reaped", [False, True])
def test_a_worker_that_has_ended_has_no_reading(look: str, start: Start, reaped: bool) -> None:
    gone, stays = start(UP + "signal.pause()"), start(UP + "signal.pause()")
    meter = WorkerProcesses()
    pids = {0: gone.pid, 1: stays.pid}
    meter.take(pids, 0)
    assert [reading.local_rank for reading in meter.take(pids, 10**9)] == [0, 1]
    gone.kill()
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    if reaped:
        gone.wait()
    assert [reading.local_rank for reading in meter.take(pids, 2 * 10**9)] == [1]
    assert dict(meter.families) == {1: (stays.pid,)}


def test_percentages_of_a_moment_are_those_of_the_time_before(start: Start) -> None:
    worker = start(UP + "while True: pass")
    meter = WorkerProcesses()
    now_ns = time.monotonic_ns()
    meter.take({0: worker.pid}, now_ns)
    assert meter.take({0: worker.pid}, now_ns + 10**6) == [], "too soon to say"
    (first,) = meter.take({0: worker.pid}, now_ns + 10**9)
    (second,) = meter.take({0: worker.pid}, now_ns + 10**9 + 10**6)
    assert second.cpu_percent == first.cpu_percent


def test_a_family_has_a_bound(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_table, "PROCESSES_MAX", 4)
    code = "for _ in range(9):\n  if os.fork() == 0: signal.pause()\n" + UP + "signal.pause()"
    meter = Meter(start(code).pid)
    assert len(meter.family()) == 4


def test_a_process_that_nobody_may_ask_is_passed_over(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = start(UP + "signal.pause()")
    monkeypatch.setattr(process_table, "_contents", lambda path: b"no such thing")
    meter = WorkerProcesses()
    assert meter.take({0: worker.pid}, 0) == meter.take({0: worker.pid}, 10**9) == []


def test_the_name_of_a_process_may_have_anything_in_it(start: Start) -> None:
    worker = start("open('/proc/self/comm', 'w').write(') Z 1 (')\n" + UP + "signal.pause()")
    told = process_table.facts(worker.pid)
    assert told is not None and not told.ended
    assert told.rss_bytes > MIB
    assert 0 <= told.age_s < PATIENCE_S


def test_of_a_process_that_is_not_there_nothing_is_told(look: str) -> None:
    assert process_table.facts(2**22 + 1) is None
    assert process_table.Children().family(2**22 + 1, ()) == (2**22 + 1,)
