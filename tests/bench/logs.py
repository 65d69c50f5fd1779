"""What it costs the agent to carry its workers' output."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import psutil

from .job import Launcher, running
from .measures import Figures, Measure, Scenario

WORKERS, LINES = 4, 1_000_000


def teed(launcher: Launcher, environ: Mapping[str, str], _random: random.Random) -> Figures:
    """Four workers say a million lines; the agent's CPU time from before the first to after the last."""
    options = ("--standalone", "--nproc-per-node", str(WORKERS), "--tee", "3")
    with running(launcher, options, "chatty.py", environ) as job:
        worker = next(job.next_lines(f"[default{rank}]:ready", 1)[0].pid for rank in range(WORKERS))
        folder = Path(psutil.Process(worker).environ()["TMPDIR"])
        agent = psutil.Process(job.pid)
        before_s = sum(agent.cpu_times()[:2])
        (folder / "go").touch()
        job.pass_lines(LINES)
        used_s = sum(agent.cpu_times()[:2]) - before_s
        (folder / "end").touch()
        if (code := job.wait()) != 0:
            raise job.error(f"it ended with exit code {code}")
    return {"tee-cpu": used_s}


SCENARIOS = (
    Scenario(
        (
            Measure(
                "tee-cpu",
                "CPU of the agent for 1,000,000 lines with --tee 3 (1/3: three times the lines per second)",
                "s",
                1 / 3,
                digits=2,
            ),
        ),
        teed,
        runs_max=5,
        warm_up=False,
    ),
)
