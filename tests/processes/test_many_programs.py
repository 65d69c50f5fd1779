"""Many programs on one node are started in another way, without a fork of the agent; nothing else is different."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from .conftest import Rally, Script
from .jobs import alive, until

pytestmark = pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs util-linux's setpriv")

#: the number from which on it is done so, and one below
SIZES = (8, 7)


@pytest.mark.parametrize("size", SIZES)
def test_they_die_with_the_agent_whatever_kills_it(rally: Rally, script: Script, size: int) -> None:
    worker = script("say('up', os.getpid(), os.getsid(0)); signal.pause()")
    job = rally("--standalone", "--nproc-per-node", f"{size}", worker)
    lines = job.wait_for_lines("up", size)
    pids = [int(line.split()[1]) for line in lines]
    assert pids == [int(line.split()[2]) for line in lines], "each has a session of its own"
    os.kill(job.pid, signal.SIGKILL)
    until("the end of all workers", lambda: not any(map(alive, pids)))


@pytest.mark.parametrize("size", SIZES)
def test_a_program_that_is_none_is_told_of_in_the_same_words(rally: Rally, tmp_path: Path, size: int) -> None:
    program = tmp_path / "no-program"
    program.write_text("this is nothing that runs\n")
    program.chmod(0o755)
    job = rally("--standalone", "--nproc-per-node", f"{size}", "--no-python", program)
    assert job.wait() != 0
    assert "Exec format error" in job.stderr


@pytest.mark.parametrize("size", SIZES)
def test_the_end_of_each_is_its_own(rally: Rally, script: Script, size: int) -> None:
    worker = script("sys.exit(23) if os.environ['RANK'] == '3' else signal.pause()")
    job = rally("--standalone", "--nproc-per-node", f"{size}", worker)
    assert job.wait() == 23, job.told()
