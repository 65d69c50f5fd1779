"""The same scenario in the simulator and on real processes: order, ranks, restarts and outcome are the same.

That is the measure of how true the simulator is. It is not made so by looking away: what is compared, and that other
ranks, orders and causes are named, is held by `tests/views/test_comparison.py`.
"""

from __future__ import annotations

import pytest

from simulator import NodePlan, Scenario, Workload, faults, scenarios
from simulator.workloads import Fail
from toolkit import ExperimentResult

from .conftest import Try

pytest.importorskip("torch")
pytest.importorskip("greenlet")
pytestmark = pytest.mark.torch

CONF = {"beat": "0.5", "lease": "2", "join_window": "1", "last_call_timeout": "2", "store_timeout": "5"}


def agree(scenario: Scenario, simulated: Try, on_processes: Try) -> ExperimentResult:
    """Run it in both worlds; they must agree, and no promise be broken in either. Returns what came of the real one."""
    ours, real = simulated(scenario), on_processes(scenario)
    found = ours.compare(real)
    assert found.differences == [], f"{ours}\n{real}"
    assert real.noted.finding == ""
    assert ours.broken == real.broken == (), f"{ours}\n{real}"
    assert [strike.words for strike in ours.noted.strikes] == [strike.words for strike in real.noted.strikes]
    return real


@pytest.mark.parametrize(
    "name",
    [
        "short-worker-crash",
        pytest.param("short-agent-kill", marks=pytest.mark.slow),
        pytest.param("short-agent-crash", marks=pytest.mark.slow),
        "short-store-stall",
        "short-scale-up",
    ],
)
def test_short_scenarios_agree(name: str, simulated: Try, on_processes: Try) -> None:
    real = agree(scenarios.named(name), simulated, on_processes)
    assert real.timeline.state == "succeeded"


def few(name: str, *struck: faults.Fault, **fields: object) -> Scenario:
    """A job of some seconds."""
    job = {"nodes": 3, "min_nodes": 2, "rdzv_conf": CONF, "quiet_by_s": 60}
    work = {"steps": 14, "step_s": 0.2, "start_s": 0.2, "checkpoint_every": 4}
    work |= dict(fields.pop("workload", {}))  # type: ignore[call-overload]
    workload = Workload(**work)  # type: ignore[arg-type]
    return Scenario(name=name, faults=struck, workload=workload, **{**job, **fields})  # type: ignore[arg-type]


# What stands still is missed (after 2 s) long before it goes on, and goes on before its own patience with the store has
# ended (5 s); what is cut off goes on long after that.
MORE = [
    few("gpu-error", faults.FailWorker("node1", 1.6, cause="gpu")),
    few("agent-stands-still", faults.PauseAgent("node1", 1.6, for_s=4), workload={"steps": 40}),
    few("node-stands-still", faults.PauseNode("node2", 1.6, for_s=4), workload={"steps": 40}),
    few("cut-off", faults.Partition("node1", 1.6, for_s=9), workload={"steps": 50}),
    few("store-host-lost", faults.CrashNode("store-host", 1.6)),
    few(
        "budget-used-up",
        nodes=2,
        max_restarts=1,
        workload={"failures": (Fail(1, at_step=3, exit_code=3, incarnations=None),)},
    ),
    few(
        "ignores-sigterm",
        faults.KillWorker("node1", 1.6),
        shutdown_timeout_s=2,
        workload={"term_s": None, "collective_timeout_s": 100, "leaks_child": True},
    ),
    # The spare comes later: of three that come at once for two seats, any two are taken.
    few(
        "spare",
        faults.CrashNode("node1", 2.6),
        max_nodes=2,
        plans={"node2": NodePlan(spare=True, start_s=1)},
        workload={"steps": 24},
    ),
    few(
        "alone",
        faults.KillWorker("node0", 1.6, local_rank=1),
        nodes=1,
        min_nodes=1,
        local_world_size=2,
        solo=True,
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", MORE, ids=lambda scenario: scenario.name)
def test_other_faults_agree(scenario: Scenario, simulated: Try, on_processes: Try) -> None:
    agree(scenario, simulated, on_processes)
