"""Where nothing fails, our agent and torch's do the same: ranks, world sizes, environments, results."""

from __future__ import annotations

import random
from typing import Any

import pytest

from simulator.scenario import NodePlan, Scenario
from simulator.simulation import ScenarioRun
from simulator.subject import Subject
from simulator.subjects import subject_named
from simulator.torch_subject import FRESH_WORKER_STORE, TorchSubject
from simulator.workloads import Workload
from toolkit.core import events

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

SCENARIOS = 200
ROLES = ("trainer", "evaluator", "reader")


def small_scenario(number: int) -> Scenario:
    """A job without faults: 1 to 5 nodes, their roles, sizes, start and finish times."""
    draw = random.Random(number)
    nodes = draw.randint(1, 5)
    names = draw.sample(["a", "b", "c", "gpu-1", "gpu-10", "gpu-2"], nodes)
    collective = draw.random() < 0.5
    return Scenario(
        name=f"small-{number}",
        nodes=nodes,
        names=tuple(names),
        min_nodes=draw.randint(1, nodes),
        max_nodes=nodes,
        max_restarts=draw.randint(0, 3),
        workload=Workload(
            steps=draw.randint(1, 4),
            step_s=draw.uniform(0.05, 2),
            start_s=draw.uniform(0, 3),
            collective=collective,
            spread_s=draw.uniform(0, 4),
        ),
        plans={
            name: NodePlan(
                start_s=draw.uniform(0, 5),
                role=draw.choice(ROLES),
                local_world_size=draw.randint(1, 3),
                workload=None
                if collective
                else Workload(steps=draw.randint(1, 4), collective=False, start_s=draw.uniform(0, 9)),
            )
            for name in names
        },
    )


def what_happened(scenario: Scenario, subject: Subject, seed: int) -> dict[str, Any]:
    simulation = ScenarioRun(scenario, subject, seed)
    outcome = simulation.run()
    simulation.close()
    assert outcome.finding == ""
    ends = [(name, node.result, node.exit_code) for name, node in outcome.nodes.items()]
    return {
        "ends": ends,
        "rounds": sorted(
            (e.node, e.group_rank, e.group_world_size, e.world_size, e.role_world_size, e.global_ranks)
            for e in outcome.events
            if isinstance(e, events.RendezvousCompleted)
        ),
        "workers": sorted(
            (e.node, e.local_rank, e.global_rank, e.role_rank, e.world_size)
            for e in outcome.events
            if isinstance(e, events.WorkerStarted)
        ),
        "exits": sorted(
            (e.node, e.local_rank, e.exit_code, e.signal, e.stopped_by_agent)
            for e in outcome.events
            if isinstance(e, events.WorkerExited)
        ),
        "environments": sorted(sorted(env.items()) for env in simulation.jobs.environments),
    }


@pytest.mark.parametrize("first", range(0, SCENARIOS, 50))
def test_both_do_the_same_where_nothing_fails(first: int) -> None:
    # Both with a store of the workers' own in each round: what our wiring asks of torch's handler.
    torch = TorchSubject(environment={FRESH_WORKER_STORE: "1"})
    for number in range(first, first + 50):
        scenario = small_scenario(number)
        ours = what_happened(scenario, subject_named("rally-over-c10d"), seed=number)
        theirs = what_happened(scenario, torch, seed=number)
        assert ours == theirs, scenario.name
        assert {result for _, result, _ in ours["ends"]} == {"SUCCEEDED"}, scenario.name


def test_by_default_torch_differs_only_in_where_the_workers_store_is() -> None:
    scenario = small_scenario(7)
    ours = what_happened(scenario, subject_named("rally-over-c10d"), seed=7)["environments"]
    theirs = what_happened(scenario, subject_named("torch"), seed=7)["environments"]
    differing = {
        name
        for one, other in zip(ours, theirs, strict=True)
        for (name, value), (_, others) in zip(one, other, strict=True)
        if value != others
    }
    assert differing <= {"MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE"}
    assert "TORCHELASTIC_USE_AGENT_STORE" in differing
