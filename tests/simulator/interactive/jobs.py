"""Small jobs for these tests, and what a run of them does that nobody takes apart."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.faults import KillWorker, StallStore
from simulator.interactive.hosted import Injected
from simulator.interactive.messages import ENDLESS, unpacked
from simulator.scenario import NodePlan, Scenario
from simulator.simulation import Outcome, ScenarioRun
from simulator.subjects import subject_named
from simulator.workloads import Workload

#: a worker is killed, the store stalls, and a node comes late; over after some 80 s
SMALL = Scenario(
    "small",
    nodes=3,
    min_nodes=2,
    workload=Workload(steps=40, step_s=1.0, checkpoint_every=5),
    plans={"node2": NodePlan(start_s=15.0)},
    faults=(KillWorker("node0", 24.0), StallStore("store-host", 40.0, for_s=8.0)),
)
#: goes on until it is stopped
ENDLESS_JOB = Scenario(
    "endless", nodes=2, workload=Workload(steps=10**9, step_s=1.0), limit_s=1e9, quiet_by_s=1e9
)


def straight(
    scenario: Scenario, seed: int = 1, subject: str = "rally", injected: Sequence[Injected] = ()
) -> Outcome:
    """A run in this process, which stops only where something is injected."""
    run = ScenarioRun(scenario, subject_named(subject), seed)
    try:
        for struck in injected:
            _go_to(run, struck)
            run.strike(unpacked(struck.data, "the fault"))
        return run.run()
    finally:
        run.close()


def _go_to(run: ScenarioRun, struck: Injected) -> None:
    place = struck.place
    if run.kernel.steps < place.steps:
        run.go_on(pause=lambda: run.kernel.steps >= place.steps)
    if place.drained_ns is not None:
        run.go_on(None if place.drained_ns == ENDLESS else place.drained_ns)
    assert (run.kernel.steps, run.kernel.now_ns) == (place.steps, place.now_ns)
