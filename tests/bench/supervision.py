"""What watching, stopping and restarting many workers costs, ours and torchrun by turns: `--only supervision`."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from .job import Job, Launcher, running
from .measures import Figures, Measure, Scenario

#: how long the CPU time of an agent is watched, in seconds
_WATCH_S = 20.0
_SETTLE_S = 1.0
#: until an agent may have seen that its workers sleep, in seconds
_ASLEEP_S = 8.0
_SLEEPERS, _MANY = 16, 64
_SHUTDOWN_TIMEOUT_S = 2
#: torchrun waits 30 s here
_STOP_LIMIT_S = 60.0


def asleep(launcher: Launcher, environ: Mapping[str, str], _random: random.Random) -> Figures:
    """Workers that sleep: the agent has nothing to do."""
    options = ("--standalone", "--nproc-per-node", f"{_SLEEPERS}")
    with running(launcher, options, "steady.py", environ) as job:
        workers = {line.pid for line in job.next_lines("ready", _SLEEPERS)}
        time.sleep(_ASLEEP_S)
        before_ns, began_s = _cpu_ns(job, workers), time.monotonic()
        time.sleep(_WATCH_S)
        used_s, watched_s = (_cpu_ns(job, workers) - before_ns) / 1e9, time.monotonic() - began_s
    return {"asleep-cpu": used_s / watched_s * 60}


def deaf(launcher: Launcher, environ: Mapping[str, str], _random: random.Random) -> Figures:
    """A worker dies, and its sibling ignores SIGTERM."""
    options = ("--standalone", "--nproc-per-node", "2", "--shutdown-timeout", f"{_SHUTDOWN_TIMEOUT_S}")
    with running(launcher, options, "deaf.py", environ) as job:
        ready = job.next_lines("ready", 2)
        first = next(line for line in ready if line.words[1] == "0")
        killed_ns = time.monotonic_ns()
        os.kill(first.pid, signal.SIGKILL)
        if job.wait(_STOP_LIMIT_S) == 0:
            raise job.error("it ended well, though a worker was killed")
        return {"deaf-stop": (time.monotonic_ns() - killed_ns) / 1e9}


def many(launcher: Launcher, environ: Mapping[str, str], numbers: random.Random) -> Figures:
    """Many workers that cost next to nothing, so that the launcher is what is measured."""
    cold_s, back_s = _many(launcher, environ, numbers, ("--no-python", "sh"), "brief.sh")
    return {"many-cold": cold_s, "many-restart": back_s}


def many_pythons(launcher: Launcher, environ: Mapping[str, str], numbers: random.Random) -> Figures:
    """The same with Python, whose own start is most of it: as long for every launcher."""
    cold_s, back_s = _many(launcher, environ, numbers, (), "steady.py")
    return {"many-python-cold": cold_s, "many-python-restart": back_s}


def _many(
    launcher: Launcher,
    environ: Mapping[str, str],
    numbers: random.Random,
    program: tuple[str, ...],
    worker: str,
) -> tuple[float, float]:
    """Many workers start; one gets SIGKILL; all are back. Seconds of the first and of the second."""
    options = ("--standalone", "--max-restarts", "1", "--nproc-per-node", f"{_MANY}", *program)
    with running(launcher, options, worker, environ) as job:
        ready = job.next_lines("ready", _MANY, 120.0)
        cold_ns = ready[-1].at_ns - job.launched_ns
        time.sleep(_SETTLE_S)
        killed_ns = time.monotonic_ns()
        os.kill(numbers.choice(ready).pid, signal.SIGKILL)
        last = job.next_lines("ready", _MANY, 120.0)[-1]
        if job.wait() != 0:
            raise job.error("its workers did not end well")
    return cold_ns / 1e9, (last.at_ns - killed_ns) / 1e9


SCENARIOS = (
    Scenario(
        (
            Measure(
                "asleep-cpu",
                f"CPU of the agent and its helpers per minute, {_SLEEPERS} sleeping workers",
                "s",
                0.1,
                digits=3,
            ),
        ),
        asleep,
        runs_max=3,
        warm_up=False,
        on_request=True,
    ),
    Scenario(
        (
            Measure(
                "deaf-stop",
                f"a worker dies, its sibling ignores SIGTERM, --shutdown-timeout {_SHUTDOWN_TIMEOUT_S} → ended",
                "s",
                0.1,
                digits=2,
            ),
        ),
        deaf,
        runs_max=3,
        warm_up=False,
        on_request=True,
    ),
    Scenario(
        (
            Measure(
                "many-cold",
                f"cold start, {_MANY} light workers: launch → last first line",
                "s",
                0.7,
                digits=2,
            ),
            Measure(
                "many-restart", f"SIGKILL of one of {_MANY} light workers → all are back", "s", 0.7, digits=2
            ),
        ),
        many,
        runs_max=5,
        on_request=True,
    ),
    Scenario(
        (
            Measure("many-python-cold", "  … the same, Python workers", "s", None, digits=2),
            Measure("many-python-restart", "  … the same, Python workers", "s", None, digits=2),
        ),
        many_pythons,
        runs_max=3,
        on_request=True,
    ),
)


def _cpu_ns(job: Job, workers: set[int]) -> int:
    """CPU time so far of the launcher and of its children that are no workers."""
    agent = psutil.Process(job.pid)
    helpers = [child.pid for child in agent.children(recursive=True) if child.pid not in workers]
    return sum(map(_cpu_of, (job.pid, *helpers)))


def _cpu_of(pid: int) -> int:
    """Of all threads; the clock ticks of utime and stime are too coarse for an agent that sleeps."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # a thread that has ended since
            total += int((task / "schedstat").read_text().split()[0])
    return total
