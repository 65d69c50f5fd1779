"""Deaths are told in the order of the kernel, however late one looks; and a lost pipe loses no last words."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolkit.adapters.processes.deaths import Deaths
from toolkit.adapters.processes.last_words import BYTES_MAX, end_of_file


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    started = [
        subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"]) for _ in range(6)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def kill(process: subprocess.Popen[bytes]) -> None:
    """And wait until it is dead, without reaping it."""
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def test_the_order_is_that_of_the_deaths(sleepers: list[subprocess.Popen[bytes]]) -> None:
    deaths = Deaths()
    for rank, process in enumerate(sleepers):
        assert deaths.watch(rank, process.pid)
    assert deaths.take() == []
    order = list(range(len(sleepers)))
    random.Random(3).shuffle(order)
    for rank in order[:4]:
        kill(sleepers[rank])
    assert select.select([deaths.fileno()], [], [], 30)[0]
    assert deaths.take() == order[:4]
    assert select.select([deaths.fileno()], [], [], 0)[0] == [], "each is told once"
    for rank in order[4:]:
        kill(sleepers[rank])
    assert deaths.take() == order[4:]
    deaths.close()
    deaths.close()


def test_who_died_before_is_told_too(sleepers: list[subprocess.Popen[bytes]]) -> None:
    kill(sleepers[0])
    deaths = Deaths()
    assert deaths.watch(0, sleepers[0].pid)
    assert deaths.take() == [0]
    sleepers[0].wait()
    with pytest.raises(ProcessLookupError):
        deaths.watch(1, sleepers[0].pid)
    deaths.close()


def test_the_end_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "stderr.log"
    path.write_bytes(b"a" * 10 + b"\xff" + b"b" * (BYTES_MAX - 1))
    text, at_ns = end_of_file(str(path))
    assert text == "\N{REPLACEMENT CHARACTER}" + "b" * (BYTES_MAX - 1)
    assert at_ns == path.stat().st_mtime_ns


def test_what_is_no_file_has_no_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("missing", "fifo", ".", "\0"):
        assert end_of_file(str(tmp_path / name)) == ("", 0)
