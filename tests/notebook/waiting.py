"""Waiting for something that is to come true, and for nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from toolkit import Job, attach
from toolkit.core.errors import ConfigurationError


def until(comes: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    """Wait until it is so."""
    end = time.monotonic() + timeout_s
    while not comes():
        assert time.monotonic() < end, f"{what} did not come within {timeout_s:g} s"
        time.sleep(0.01)


def until_running(job: Job, ranks: int) -> None:
    """Wait until so many of its workers run."""

    def running() -> bool:
        states = [rank.now.state for node in job.now.nodes.values() for rank in node.ranks.values()]
        return states.count("running") == ranks or job.over

    until(running, f"{ranks} running workers")
    assert not job.over, repr(job) + job.output()


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pids(job: Job) -> list[int]:
    """Of its workers."""
    return [rank.now.pid for node in job.now.nodes.values() for rank in node.ranks.values()]


def attached(run_id: str) -> Job:
    """A job that another process has just launched."""
    found: list[Job] = []

    def there() -> bool:
        try:
            found.append(attach(run_id))
        except ConfigurationError:
            return False
        return True

    until(there, f"run {run_id}")
    return found[0]
