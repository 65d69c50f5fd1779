"""Plain scenarios: what every subject must get right. Most take another number of nodes (`--nodes 8`)."""

from __future__ import annotations

from dataclasses import replace

from simulator.faults import KillWorker
from simulator.scenario import NodePlan, Scenario
from simulator.workloads import Fail, Workload

_SOURCE = "plain case"

_HAPPY = Scenario(
    name="happy",
    about="all goes well, on as many nodes as you like (--nodes N)",
    source=_SOURCE,
    nodes=4,
    workload=Workload(steps=30),
    quiet_by_s=300,
)


def _happy(nodes: int) -> Scenario:
    noun = "node" if nodes == 1 else "nodes"
    return replace(_HAPPY, name=f"happy-{nodes}", about=f"all goes well on {nodes} {noun}", nodes=nodes)


SCENARIOS: tuple[Scenario, ...] = (
    _HAPPY,
    _happy(1),
    _happy(4),
    _happy(64),
    Scenario(
        name="worker-crash",
        about="a worker that the others wait for is killed, and all start again from the last checkpoint",
        source=_SOURCE,
        nodes=4,
        local_world_size=2,
        workload=Workload(steps=40, step_s=0.05),
        plans={"node1": NodePlan(workload=Workload(steps=40))},
        faults=(KillWorker("node1", at_s=20, local_rank=1),),
        quiet_by_s=300,
    ),
    Scenario(
        name="budget-used-up",
        about="a rank fails in every incarnation, until the restarts are used up",
        source=_SOURCE,
        local_world_size=4,
        max_restarts=2,
        workload=Workload(steps=40, failures=(Fail(rank=1, at_step=5, exit_code=3, incarnations=None),)),
        quiet_by_s=600,
        note="On one node: with more of them, torch's handler lets nodes count restarts differently (split-budget).",
    ),
    Scenario(
        name="mixed-roles",
        about="trainers and readers, with other numbers of workers on each node",
        source=_SOURCE,
        nodes=4,
        local_world_size=2,
        plans={
            "node1": NodePlan(local_world_size=3),
            "node2": NodePlan(role="reader", local_world_size=1),
            "node3": NodePlan(role="reader", local_world_size=4),
        },
        workload=Workload(steps=30),
        quiet_by_s=300,
    ),
    Scenario(
        name="spread-finish",
        about="ranks finish up to 70 s apart, and the exit barrier keeps the first for the last",
        source=_SOURCE,
        nodes=4,
        local_world_size=2,
        workload=Workload(steps=30, spread_s=10),
        quiet_by_s=600,
        note="torch's barrier waits with the connection locked, so that heartbeats stop; with all nodes needed "
        "(min = max) nobody can profit from that, and the job ends well.",
    ),
    Scenario(
        name="solo",
        about="one node without a rendezvous service",
        source=_SOURCE,
        local_world_size=4,
        solo=True,
        workload=Workload(steps=30),
        quiet_by_s=300,
    ),
    Scenario(
        name="solo-crash",
        about="one node without a rendezvous service, and one of its workers is killed",
        source=_SOURCE,
        local_world_size=4,
        solo=True,
        workload=Workload(steps=30),
        faults=(KillWorker("node0", at_s=15, local_rank=2),),
        quiet_by_s=300,
    ),
)
