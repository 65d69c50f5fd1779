"""Looks at workers: real ones that are stopped, write, start processes and end; made-up ones in rare states."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes.jobs import until
from toolkit.adapters.readings.process_table import Facts
from toolkit.adapters.watching.looking import SEARCH_EVERY, Looking, name_of, tracer_of, where_in_kernel
from toolkit.core.hanging.hangs import Look
from toolkit.core.hanging.watched import WatchedWorker

Start = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a shell that runs some words, in a session of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def shell(words: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["/bin/sh", "-c", words], start_new_session=True))
        return started[-1]

    yield shell
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def one(looking: Looking, rank: int = 0) -> Look:
    (look,) = [look for look in looking.look({}) if look.local_rank == rank]
    return look


def test_a_stopped_worker_and_one_that_goes_on(start: Start) -> None:
    worker = start("sleep 100; true")
    looking = Looking([WatchedWorker(0, 0, worker.pid)])
    until("its sleep", lambda: one(looking).processes[0].state == "S")
    worker.send_signal(signal.SIGSTOP)
    until("state T", lambda: one(looking).processes[0].state == "T")
    assert one(looking).processes[0].tracer == 0
    worker.send_signal(signal.SIGCONT)
    until("state S", lambda: one(looking).processes[0].state == "S")


def test_processes_that_a_worker_starts_are_looked_at_within_some_looks(start: Start, tmp_path: Path) -> None:
    worker = start(f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; sleep 100 & sleep 101 & wait")
    looking = Looking([WatchedWorker(0, 0, worker.pid)])
    one(looking)
    (tmp_path / "go").touch()

    def found() -> bool:
        looks = [one(looking) for _ in range(SEARCH_EVERY)]
        return {len(look.processes) for look in looks[-1:]} == {3}

    until("both children", found)
    assert looking.families[0][0] == worker.pid


def test_a_worker_that_has_ended_is_no_more_looked_at(start: Start) -> None:
    workers = [start("sleep 100"), start("sleep 100")]
    looking = Looking([WatchedWorker(rank, rank, worker.pid) for rank, worker in enumerate(workers)])
    assert [look.local_rank for look in looking.look({})] == [0, 1]
    workers[0].kill()  # it is a zombie now
    until("the end", lambda: [look.local_rank for look in looking.look({})] == [1])
    workers[1].kill()
    workers[1].wait()
    assert looking.look({}) == []


def test_what_a_worker_writes_and_tells_is_seen(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "stdout.log"
    worker = WatchedWorker(0, 0, start("sleep 100").pid, (str(log), str(tmp_path / "missing")))
    looking = Looking([worker])
    before = one(looking).written
    assert one(looking).written == before
    log.write_text("a line\n")
    after = one(looking).written
    assert after != before
    (look,) = looking.look({0: (17, 99)})
    assert (look.step, look.told_ns, look.written) == (17, 99, after)


def test_states_come_from_who_knows_them() -> None:
    told = {7: Facts(1.5, 0, 3.0, False, "D"), 8: Facts(1.5, 0, 3.0, True, "Z")}
    looking = Looking([WatchedWorker(0, 0, 7), WatchedWorker(1, 1, 8), WatchedWorker(2, 2, 9)], told.get)
    (look,) = looking.look({})
    assert (look.local_rank, look.processes[0].state, look.processes[0].cpu_s) == (0, "D", 1.5)


def test_a_debugger_is_recognised_and_named(start: Start) -> None:
    code = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]\n"
        "assert libc.ptrace(16, int(sys.argv[1]), None, None) == 0\n"  # PTRACE_ATTACH
        "os.waitpid(int(sys.argv[1]), 0)\n"
        "print('held', flush=True)\n"
        "input()\n"
    )
    worker = start("sleep 100")
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(worker.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != "held\n":
            pytest.skip("this machine lets nobody trace")
        look = one(Looking([WatchedWorker(0, 0, worker.pid)])).processes[0]
        assert (look.state, look.tracer) == ("t", holder.pid)
        assert tracer_of(worker.pid) == holder.pid
        assert name_of(holder.pid).endswith(f", pid {holder.pid}")
    finally:
        holder.communicate()
    assert tracer_of(worker.pid) == 0


def test_of_processes_that_are_gone_nothing_is_known() -> None:
    assert (tracer_of(4_000_000), where_in_kernel(4_000_000)) == (0, "")
    assert name_of(4_000_000) == "pid 4000000"
