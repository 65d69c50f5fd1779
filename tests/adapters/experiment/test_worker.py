"""The worker of an experiment, started by itself: what `simulator.workloads` says, as a real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from simulator import Fail, Workload
from tests.ports import free_port
from toolkit.adapters.experiment import worker
from toolkit.adapters.experiment.links import Links

PATIENCE_S = 20.0


@pytest.fixture
def links() -> Iterator[Links]:
    made = Links({"a": "127.0.0.1"}, ("a", "127.0.0.1", free_port()))
    yield made
    made.close()


class Job:
    """Workers of one node that meet each other."""

    def __init__(self, folder: Path, links: Links, workload: Workload, size: int) -> None:
        self.folder, self.size = folder, size
        self._links, self._workload, self._port = links, workload, free_port()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.says()

    def says(self, **now: Any) -> None:
        """What the experiment says of the node."""
        said = {"slow": 1.0, "slow_workers": {}, "start_delay_s": 0.0, **now}
        text = json.dumps({**said, "workload": asdict(self._workload), "gate": self._links.to_peers["a"]})
        part = self.folder / "part"
        part.write_text(text)
        part.replace(self.folder / "a.json")

    def start(self, rank: int) -> subprocess.Popen[bytes]:
        env = {
            "RANK": f"{rank}",
            "WORLD_SIZE": f"{self.size}",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": f"{self._port}",
            "TORCHELASTIC_ERROR_FILE": str(self.folder / f"error-{rank}.json"),
        }
        argv = [sys.executable, worker.__file__, str(self.folder), "a"]
        self.processes.append(subprocess.Popen(argv, env=env, cwd=self.folder, start_new_session=True))
        return self.processes[-1]

    def start_all(self) -> None:
        for rank in range(self.size):
            self.start(rank)

    def codes(self) -> list[int]:
        return [process.wait(PATIENCE_S) for process in self.processes]

    @property
    def step(self) -> int:
        """That was saved last."""
        with suppress(FileNotFoundError, ValueError):
            return int((self.folder / "checkpoint").read_text())
        return 0

    def close(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE_S)


Begin = Callable[..., Job]


@pytest.fixture
def begin(tmp_path: Path, links: Links) -> Iterator[Begin]:
    jobs: list[Job] = []

    def make(size: int, **fields: Any) -> Job:
        quick = {"steps": 6, "step_s": 0.02, "start_s": 0.0, "checkpoint_every": 1}
        jobs.append(Job(tmp_path, links, Workload(**{**quick, **fields}), size))
        return jobs[-1]

    yield make
    for job in jobs:
        job.close()


def until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.005)


def test_all_steps_are_done_together(begin: Begin) -> None:
    job = begin(3)
    job.start_all()
    assert job.codes() == [0, 0, 0]
    assert job.step == 6


def test_it_goes_on_from_the_checkpoint(begin: Begin) -> None:
    job = begin(1, steps=4, failures=(Fail(0, at_step=2, exit_code=7),))
    assert job.start(0).wait(PATIENCE_S) == 7
    assert job.step == 2
    assert job.start(0).wait(PATIENCE_S) == 0
    assert job.step == 4


def test_a_failure_in_each_start_and_one_by_a_signal(begin: Begin) -> None:
    job = begin(1, failures=(Fail(0, at_s=0.05, exit_code=-9, incarnations=None),), steps=1000)
    assert [job.start(0).wait(PATIENCE_S) for _ in range(3)] == [-9, -9, -9]


@pytest.mark.parametrize("gone", [0, 1], ids=["who serves", "another"])
def test_peers_of_one_that_is_gone_fail(begin: Begin, gone: int) -> None:
    job = begin(3, steps=10_000)
    job.start_all()
    until(lambda: job.step > 2)
    job.processes[gone].kill()
    codes = job.codes()
    assert codes.pop(gone) == -signal.SIGKILL
    assert codes == [worker.PEER_GONE_EXIT] * 2


def test_a_silent_peer_ends_the_collective_by_its_timeout(begin: Begin) -> None:
    job = begin(2, steps=10_000, collective_timeout_s=0.5)
    job.start_all()
    until(lambda: job.step > 2)
    job.processes[1].send_signal(signal.SIGSTOP)
    assert job.processes[0].wait(PATIENCE_S) == -signal.SIGABRT


def test_without_a_collective_nobody_waits(begin: Begin) -> None:
    job = begin(3, collective=False)
    assert job.start(2).wait(PATIENCE_S) == 0


def test_sigterm_takes_its_time(begin: Begin) -> None:
    job = begin(1, steps=10_000, term_s=0.2)
    process = job.start(0)
    until(lambda: job.step > 2)
    began = time.monotonic()
    process.terminate()
    assert process.wait(PATIENCE_S) == -signal.SIGTERM
    assert time.monotonic() - began >= 0.2


def test_sigterm_may_be_ignored(begin: Begin) -> None:
    job = begin(1, steps=10_000, term_s=None)
    process = job.start(0)
    until(lambda: job.step > 2)
    process.terminate()
    at = job.step
    until(lambda: job.step > at + 2)
    assert process.poll() is None


def test_a_gpu_error_is_reported(begin: Begin) -> None:
    job = begin(1, steps=10_000)
    process = job.start(0)
    until(lambda: job.step > 2)
    process.send_signal(worker.GPU_ERROR_SIGNAL)
    assert process.wait(PATIENCE_S) == 1
    said = json.loads((job.folder / "error-0.json").read_text())
    assert said["message"]["message"] == worker.GPU_ERROR


def test_a_slow_node_takes_longer(begin: Begin) -> None:
    job = begin(1, steps=4, step_s=0.05)
    job.says(slow=4.0)
    began = time.monotonic()
    assert job.start(0).wait(PATIENCE_S) == 0
    assert time.monotonic() - began >= 4 * 4 * 0.05


def test_the_child_that_it_leaves_ends_with_the_experiment(begin: Begin, links: Links) -> None:
    job = begin(1, leaks_child=True)
    process = job.start(0)
    assert process.wait(PATIENCE_S) == 0
    os.killpg(process.pid, 0)  # somebody is left
    os.killpg(process.pid, signal.SIGTERM)
    os.killpg(process.pid, 0)
    links.close()
    until(lambda: not _group_is_there(process.pid))


def _group_is_there(group: int) -> bool:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[2] == f"{group}" and fields[0] not in ("Z", "X"):
                    return True
    return False
