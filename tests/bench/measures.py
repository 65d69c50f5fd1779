"""What is measured, the goal of each, and the jobs that yield the figures: one job may yield several."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from .job import Job, Launcher, running

Figures = dict[str, float]
_TWO_WORKERS = ("--nproc-per-node", "2")
_SETTLE_S = 0.3
_SPREAD_S = 0.2
#: how long the CPU time of an agent is watched
_WATCH_S = 10.0


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure.

    Args:
        name: for `--only` and `--json`.
        title: for people.
        unit: "s", "ms", "MB", "%" of one core, or "" for a count.
        goal: upper bound of ours / torchrun's; None where there is none.
        limit: upper bound of ours; None where there is none.
        digits: behind the point.
    """

    name: str
    title: str
    unit: str
    goal: float | None
    limit: float | None = None
    digits: int = 1

    @property
    def goals(self) -> str:
        """In words; empty where it is only shown."""
        ratio = "" if self.goal is None else f"≤ {self.goal:.3g}"
        limit = "" if self.limit is None else f"≤ {self.limit:g} {self.unit}".rstrip()
        return ", ".join(filter(None, (ratio, limit)))


@dataclass(frozen=True, slots=True)
class Scenario:
    """A job, and the figures it yields by the name of their measure.

    Args:
        measures: what it yields.
        run: runs it once. Takes the launcher, the environment and the run's own random numbers. What torchrun does not
            do before the cut-off is `math.inf`.
        runs_max: so many runs are enough, however many are asked for.
        warm_up: whether a first run does not count.
        cut_off_s: what is infinite took longer than this.
        slow: torchrun takes a minute, so that it runs once, and only if a measure is asked for by its name.
        on_request: runs only if a measure is asked for by its name, or its whole table is.
    """

    measures: tuple[Measure, ...]
    run: Callable[[Launcher, Mapping[str, str], random.Random], Figures]
    runs_max: int = 1000
    warm_up: bool = True
    cut_off_s: float = math.inf
    slow: bool = False
    on_request: bool = False

    @property
    def names(self) -> set[str]:
        """Of its measures."""
        return {measure.name for measure in self.measures}


def cold_start(launcher: Launcher, environ: Mapping[str, str], _random: random.Random) -> Figures:
    with running(launcher, ("--standalone", *_TWO_WORKERS), "hello.py", environ) as job:
        first, second = job.next_lines("ready", 2)
        _must_succeed(job)
        ended_ns = time.monotonic_ns()
    return {
        "cold-start": (first.at_ns - job.launched_ns) / 1e9,
        "cold-start-all": (second.at_ns - job.launched_ns) / 1e9,
        "whole-run": (ended_ns - job.launched_ns) / 1e9,
    }


def gloo_start(launcher: Launcher, environ: Mapping[str, str], _random: random.Random) -> Figures:
    with running(launcher, ("--standalone", *_TWO_WORKERS), "gloo.py", environ) as job:
        last = job.next_lines("joined", 2)[-1]
        _must_succeed(job)
    return {"gloo-start": (last.at_ns - job.launched_ns) / 1e9}


def crash(launcher: Launcher, environ: Mapping[str, str], numbers: random.Random) -> Figures:
    """Two workers run; one gets SIGKILL. The agent knows no later than when it tells the other one to end."""
    options = ("--standalone", "--max-restarts", "1", *_TWO_WORKERS)
    with running(launcher, options, "steady.py", environ) as job:
        ready = job.next_lines("ready", 2)
        memory = _memory_mb(job, workers={line.pid for line in ready})
        # An agent that polls is found at a random phase of its period, as by a crash in real life.
        time.sleep(numbers.uniform(0, _SPREAD_S))
        killed_ns = time.monotonic_ns()
        os.kill(numbers.choice(ready).pid, signal.SIGKILL)
        told = job.next_lines("told", 1)[0]
        last = job.next_lines("ready", 2)[-1]
        _must_succeed(job)
    return memory | {
        "notice": (int(told.words[3]) - killed_ns) / 1e6,
        "restart": (last.at_ns - killed_ns) / 1e9,
    }


def watching(launcher: Launcher, environ: Mapping[str, str], _random: random.Random) -> Figures:
    """Sixteen workers with four children each, all asleep: how much the agent works. Ours reads them each second."""
    with running(launcher, ("--standalone", "--nproc-per-node", "16"), "family.py", environ) as job:
        job.next_lines("ready", 16)
        time.sleep(_SETTLE_S)
        agent = psutil.Process(job.pid)
        before, began_s = sum(agent.cpu_times()[:2]), time.monotonic()
        time.sleep(_WATCH_S)
        used_s = sum(agent.cpu_times()[:2]) - before
        return {"agent-cpu": used_s / (time.monotonic() - began_s) * 100}


SCENARIOS = (
    Scenario(
        (
            Measure("cold-start", "cold start, 2 plain workers: launch → first line", "s", 0.25, digits=3),
            Measure("cold-start-all", "  … → both workers' first lines", "s", None, digits=3),
            Measure("whole-run", "  … → the launcher has ended", "s", None, digits=3),
        ),
        cold_start,
    ),
    Scenario(
        (
            Measure(
                "gloo-start",
                "same, workers import torch and init gloo: launch → init done",
                "s",
                0.65,
                digits=3,
            ),
        ),
        gloo_start,
    ),
    Scenario(
        (
            Measure(
                "restart", "SIGKILL of a worker → last new worker's first line (plain)", "s", 0.4, digits=3
            ),
            Measure("notice", "death of a worker → the agent knows (its sibling gets SIGTERM)", "ms", 0.1),
            Measure("rss", "RSS of the agent, 2 workers", "MB", 0.3),
            Measure("pss", "  PSS of the agent and its own helpers", "MB", None),
        ),
        crash,
    ),
    Scenario(
        (
            Measure(
                "agent-cpu",
                "CPU of the agent, 16 workers of 5 processes, readings at 1 Hz",
                "%",
                None,
                1.0,
                2,
            ),
        ),
        watching,
        runs_max=3,
        warm_up=False,
    ),
)


def _must_succeed(job: Job) -> None:
    """A figure counts only if the job did its work."""
    if (code := job.wait()) != 0:
        raise job.error(f"it ended with exit code {code}")


def _memory_mb(job: Job, workers: set[int]) -> Figures:
    """Of the launcher, once it has loaded what it loads late. Helpers are its children save the workers."""
    time.sleep(_SETTLE_S)
    agent = psutil.Process(job.pid)
    helpers = [child for child in agent.children(recursive=True) if child.pid not in workers]
    return {"rss": agent.memory_info().rss / 1e6, "pss": sum(_pss_mb(p.pid) for p in (agent, *helpers))}


def _pss_mb(pid: int) -> float:
    """Resident memory with shared pages divided among those who share them."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1000
