"""How quickly a simulation that is held answers, against fixed goals; each sample in a process of its own.

`python -m tests.bench.notebook NAME` takes one sample and prints it.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping

from .sim import SimMeasure, take

_TIMES = 11


def small() -> Mapping[str, float]:
    """8 nodes: from the call to a run that can be stepped, and what a step takes."""
    from simulator import Scenario, Workload
    from simulator.interactive.hosted import HostedRun

    began_s = time.perf_counter()
    with HostedRun(Scenario("eight", nodes=8, workload=Workload(steps=60))) as run:
        start_s = time.perf_counter() - began_s
        return {"notebook-start": start_s, "notebook-step": 1e3 * statistics.median(_each(run.step, 40))}


def thousand() -> Mapping[str, float]:
    """1,000 nodes that train since half a minute: a branch, and ways back."""
    from simulator import Scenario, Workload, faults
    from simulator.interactive.hosted import HostedRun

    with HostedRun(Scenario("thousand", nodes=1000, workload=Workload(steps=60, step_s=10.0))) as run:
        run.run(until=60.0)
        branches: list[HostedRun] = []
        branches_s = _each(lambda: branches.append(run.branch()), _TIMES)
        for branch in branches:
            branch.close()
        run.inject(faults.CrashNode("node7"))
        run.run(until=70.0)
        back_s = _each(lambda: run.rewind(60.0), 1)
        far_back_s = _each(lambda: run.rewind(30.0), 1)
    return {
        "notebook-branch": 1e3 * statistics.median(branches_s),
        "notebook-undo": 1e3 * back_s[0],
        "notebook-rewind": far_back_s[0],
    }


def _each(do: Callable[[], object], times: int) -> list[float]:
    took_s = []
    for _ in range(times):
        began_s = time.perf_counter()
        do()
        took_s.append(time.perf_counter() - began_s)
    return took_s


MEASURES = (
    SimMeasure("notebook-start", "a simulation in a process of its own, 8 nodes: start", "s", 1.0, small),
    SimMeasure("notebook-step", "  on to the next event", "ms", 5.0, small),
    SimMeasure("notebook-branch", "1,000 nodes: a branch", "ms", 10.0, thousand, runs_max=1),
    SimMeasure("notebook-undo", "  back to before the last fault", "ms", 100.0, thousand, runs_max=1),
    SimMeasure("notebook-rewind", "  back by half a minute", "s", 2.0, thousand, runs_max=1),
)
#: asks for all of them in `--only`
ALL = "notebook"

if __name__ == "__main__":
    take(MEASURES, sys.argv[1])
