"""The end of an experiment's processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from toolkit.adapters.experiment.processes import MARK, kill_all, marked
from toolkit.adapters.leftovers.cgroup import PREFIX, own_folder
from toolkit.adapters.leftovers.process_tree import supervises


def cgroup_of(pid: int) -> Path:
    """Where a process is, as the file system has it."""
    [path] = [
        line[3:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::")
    ]
    [own] = [
        line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")
    ]
    return Path(own_folder()[0]) / Path(path).relative_to(own)


@pytest.mark.parametrize("stopped", [False, True])
def test_all_are_killed_and_no_cgroup_stays(tmp_path: Path, stopped: bool) -> None:
    if not own_folder()[0]:
        pytest.skip(own_folder()[1])
    mark = f"{uuid.uuid4().hex}/"
    (tmp_path / "worker.sh").write_text("echo $$ > worker\nexec sleep 600\n")
    words = ("--standalone", "--no-python", "sh", "worker.sh")
    agent = subprocess.Popen(
        [sys.executable, "-m", "toolkit", "run", "--run-dir", str(tmp_path / "run"), *words],
        cwd=tmp_path,
        env={**os.environ, MARK: mark, "PYTHONPATH": str(Path(__file__).parents[3])},
        stderr=subprocess.DEVNULL,
    )
    try:
        limit_s = time.monotonic() + 30
        while not (tmp_path / "worker").exists() or not (tmp_path / "worker").read_text().strip():
            assert agent.poll() is None
            assert time.monotonic() < limit_s
            time.sleep(0.01)
        pid = int((tmp_path / "worker").read_text())
        while not (folder := cgroup_of(pid)).name.startswith(PREFIX):
            assert time.monotonic() < limit_s, "the supervisor moves it"
            time.sleep(0.01)
        [supervisor] = [pid for pid in marked(mark) if supervises(pid)]
        if stopped:
            os.kill(supervisor, signal.SIGSTOP)
    finally:
        left = kill_all(mark)
        agent.wait(30)
    assert left == []
    assert marked(mark) == []
    assert not folder.exists()
