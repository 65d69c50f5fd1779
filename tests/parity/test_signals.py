"""Death signals to an agent's process, torch's and ours: it ends, and its workers are gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

pytest.importorskip("torch")

if TYPE_CHECKING:
    from .subjects import Subject

pytestmark = pytest.mark.torch

REPOSITORY = Path(__file__).resolve().parents[2]
START_S, END_S = 40.0, 20.0


def wait_for(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {limit_s} s for {what}"
        time.sleep(0.01)


class AgentProcess:
    """An agent in a process of its own, and its two workers.

    Args:
        side: which agent.
        folder: where the workers write their pids.
        flags: of `agent_process`.
    """

    def __init__(self, side: str, folder: Path, grace_s: float, *flags: str) -> None:
        self.workers: list[psutil.Process] = []
        self._folder = folder
        command = [
            sys.executable,
            "-m",
            "tests.parity.agent_process",
            side,
            str(folder),
            str(grace_s),
            *flags,
        ]
        with open(folder / "agent.log", "wb") as log:
            self.popen = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            )

    def __enter__(self) -> AgentProcess:
        pid_files = [self._folder / f"{rank}.pid" for rank in (0, 1)]
        wait_for(
            lambda: all(path.exists() for path in pid_files) or self.popen.poll() is not None,
            START_S,
            "workers",
        )
        assert self.popen.poll() is None, (self._folder / "agent.log").read_text()
        self.workers = [psutil.Process(int(path.read_text())) for path in pid_files]
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self.workers:
            if worker.is_running():
                worker.kill()
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()

    def send(self, sig: signal.Signals) -> None:
        self.popen.send_signal(sig)

    def end(self) -> int:
        """Wait for the end of the agent. Returns its exit code."""
        return self.popen.wait(END_S)

    def workers_gone(self) -> bool:
        return not any(
            worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in self.workers
        )


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=lambda sig: sig.name)
def test_a_death_signal_ends_agent_and_workers(
    local_subject: Subject, tmp_path: Path, sig: signal.Signals
) -> None:
    with AgentProcess(local_subject.name, tmp_path, 20) as agent:
        began = time.monotonic()
        agent.send(sig)
        assert agent.end() == 128 + sig
        assert agent.workers_gone()
        assert time.monotonic() - began < 10


def test_workers_that_ignore_the_signal_are_killed_after_the_grace(
    local_subject: Subject, tmp_path: Path
) -> None:
    with AgentProcess(local_subject.name, tmp_path, 0.5, "IGNORE") as agent:
        began = time.monotonic()
        agent.send(signal.SIGTERM)
        assert agent.end() == 128 + signal.SIGTERM
        assert agent.workers_gone()
        assert time.monotonic() - began >= 0.5
