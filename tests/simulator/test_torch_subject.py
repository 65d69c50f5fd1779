"""torch in the simulator: its own code, unedited, as our agent's rendezvous and as the other subject."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from simulator.faults import CrashNode, KillAgent, SignalAgent
from simulator.scenario import NodePlan, Scenario
from simulator.simulation import Outcome, ScenarioRun
from simulator.subjects import subject_named
from simulator.torch_agent import speaking_agent
from simulator.torch_surroundings import TorchSurroundings, torch_module
from simulator.workloads import Fail, Workload
from toolkit.core import events
from toolkit.core.errors import ConfigurationError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

BOTH = ("rally", "torch")
SHORT = Workload(steps=5)
#: a worker fails in each of the first two rounds
TWO_CRASHES = Workload(steps=5, failures=(Fail(rank=0, at_step=3, incarnations=2),))


def ran(scenario: Scenario, subject: str, seed: int = 1) -> Outcome:
    simulation = ScenarioRun(scenario, subject_named(subject), seed)
    try:
        return simulation.run()
    finally:
        simulation.close()


def results(outcome: Outcome) -> dict[str, tuple[str, int | None]]:
    return {name: (node.result, node.exit_code) for name, node in outcome.nodes.items()}


def said(outcome: Outcome, kind: type[events.Event], node: str = "") -> list[Any]:
    return [e for e in outcome.events if isinstance(e, kind) and e.node.startswith(node)]


@pytest.mark.parametrize("subject", BOTH)
class TestBoth:
    @pytest.mark.parametrize("nodes", [1, 2, 4, 8])
    def test_a_job_that_goes_well(self, subject: str, nodes: int) -> None:
        outcome = ran(Scenario(nodes=nodes, local_world_size=2, workload=SHORT), subject)
        assert outcome.finding == ""
        assert set(results(outcome).values()) == {("SUCCEEDED", 0)}
        formed = said(outcome, events.RendezvousCompleted)
        assert sorted(e.group_rank for e in formed) == list(range(nodes))
        assert sorted(rank for e in formed for rank in e.global_ranks) == list(range(2 * nodes))
        assert {(e.group_world_size, e.world_size) for e in formed} == {(nodes, 2 * nodes)}
        assert len({(e.master_addr, e.master_port) for e in formed}) == 1
        assert {e.outcome for e in said(outcome, events.BarrierLeft)} <= {"complete", "error"}

    def test_a_worker_crash_restarts_everybody(self, subject: str) -> None:
        outcome = ran(Scenario(nodes=4, workload=TWO_CRASHES), subject)
        assert set(results(outcome).values()) == {("SUCCEEDED", 0)}
        assert max(e.round for e in outcome.events) == 3
        assert said(outcome, events.FailureRecorded)[0].global_rank == 0
        for node in outcome.nodes:
            started = said(outcome, events.WorkersStarted, node)
            assert [e.incarnation for e in started] == [0, 1, 2]
            decided = said(outcome, events.DecisionMade, node)
            assert [e.action for e in decided] == ["restart", "restart", "finish"]

    def test_the_budget_ends_the_job(self, subject: str) -> None:
        always = Workload(steps=5, failures=(Fail(rank=0, at_step=3, exit_code=7, incarnations=None),))
        outcome = ran(Scenario(nodes=1, max_restarts=2, workload=always), subject)
        decided = said(outcome, events.DecisionMade)
        assert [(e.action, e.spends_budget) for e in decided] == [
            ("restart", True),
            ("restart", True),
            ("fail", False),
        ]
        assert [e.restarts_left for e in decided] == [1, 0, 0]
        assert outcome.nodes["node0"].result == "FAILED"
        assert said(outcome, events.AgentFinished)[0].failed_ranks == [0]

    def test_those_who_are_left_go_on_after_a_power_cut(self, subject: str) -> None:
        workload = Workload(steps=100, collective_timeout_s=60)
        outcome = ran(
            Scenario(nodes=3, min_nodes=2, workload=workload, faults=(CrashNode("node2", at_s=30),)), subject
        )
        assert results(outcome)["node2"] == ("LOST", None)
        assert {results(outcome)[name] for name in ("node0", "node1")} == {("SUCCEEDED", 0)}
        assert said(outcome, events.RendezvousCompleted)[-1].group_world_size == 2

    def test_the_same_seed_gives_the_same_run(self, subject: str) -> None:
        scenario = Scenario(nodes=4, local_world_size=2, workload=TWO_CRASHES)
        first, second, other = (ran(scenario, subject, seed) for seed in (1, 1, 2))
        assert (first.digest, first.events) == (second.digest, second.events)
        assert first.digest != other.digest

    def test_another_process_gives_the_same_run(self, subject: str) -> None:
        here = ran(Scenario(nodes=4, workload=TWO_CRASHES), subject).digest
        assert {digest_elsewhere(subject, hash_seed) for hash_seed in ("1", "4711")} == {here}

    def test_the_events_are_complete(self, subject: str) -> None:
        outcome = ran(Scenario(nodes=2, workload=TWO_CRASHES), subject)
        for node in outcome.nodes:
            assert [e.seq for e in said(outcome, events.Event, node)] == list(
                range(1, len(said(outcome, events.Event, node)) + 1)
            )
            assert isinstance(said(outcome, events.Event, node)[-1], events.AgentFinished)
            started = [e.pid for e in said(outcome, events.WorkerStarted, node)]
            assert [e.pid for e in said(outcome, events.WorkerExited, node)] == started

    def test_torchs_modules_are_themselves_again(self, subject: str) -> None:
        before = names_of_torch()
        ran(Scenario(nodes=2, workload=SHORT), subject)
        assert names_of_torch() == before

    def test_also_when_the_run_breaks_off(self, subject: str, monkeypatch: pytest.MonkeyPatch) -> None:
        before = names_of_torch()
        simulation = ScenarioRun(Scenario(nodes=2, workload=SHORT), subject_named(subject))

        def break_off() -> None:
            raise ZeroDivisionError

        simulation.kernel.call_after(2_000_000_000, "a mistake of ours", break_off)
        with pytest.raises(ZeroDivisionError):
            simulation.run()
        simulation.close()
        assert names_of_torch() == before

    def test_it_can_be_taken_step_by_step(self, subject: str) -> None:
        scenario = Scenario(nodes=2, workload=SHORT)
        simulation, other = (ScenarioRun(scenario, subject_named(subject), 1) for _ in range(2))
        for until_s in (0.2, 0.25, 3, 8, 1000):
            simulation.run(until_s)
            other.run(until_s)
        assert simulation.outcome.digest == other.outcome.digest == ran(scenario, subject).digest
        simulation.close()
        other.close()


def names_of_torch() -> list[tuple[str, str, int]]:
    swaps = TorchSurroundings(ScenarioRun(Scenario(), subject_named("rally")).world)._swaps
    return [(owner.__name__, name, id(getattr(owner, name))) for owner, name, _ in swaps]


def digest_elsewhere(subject: str, hash_seed: str) -> str:
    code = (
        "from tests.simulator.test_torch_subject import *\n"
        f"print(ran(Scenario(nodes=4, workload=TWO_CRASHES), {subject!r}).digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.strip()


class TestTorchsFaults:
    """What torch 2.13 does wrong happens here as it does on real machines."""

    SCALE_UP = Scenario(
        nodes=2,
        min_nodes=1,
        max_nodes=2,
        workload=Workload(steps=100),
        plans={"node1": NodePlan(start_s=60)},
    )

    def test_scale_up_waits_for_an_address_that_nobody_publishes(self) -> None:
        outcome = ran(self.SCALE_UP, "torch")
        assert results(outcome) == {"node0": ("ERROR", 1), "node1": ("ERROR", 1)}
        assert "MASTER_ADDR" in outcome.nodes["node1"].reason
        assert outcome.nodes["node1"].exited_at_s == pytest.approx(122, abs=1)

    def test_our_agent_scales_up(self) -> None:
        outcome = ran(self.SCALE_UP, "rally")
        assert set(results(outcome).values()) == {("SUCCEEDED", 0)}
        assert said(outcome, events.RendezvousCompleted)[-1].group_world_size == 2
        assert [e.spends_budget for e in said(outcome, events.DecisionMade, "node0")] == [False, False]

    def test_when_rank_0_moves_members_hold_different_addresses(self) -> None:
        outcome = ran(
            Scenario(
                nodes=3,
                names=("b", "a", "c"),
                min_nodes=2,
                max_nodes=4,
                workload=Workload(steps=60),
                plans={"a": NodePlan(start_s=60)},
                limit_s=300,
            ),
            "torch",
        )
        second = [e for e in said(outcome, events.RendezvousCompleted) if e.group_world_size == 3]
        assert len({(e.master_addr, e.master_port) for e in second}) > 1

    def test_an_agent_that_is_not_needed_crashes(self) -> None:
        outcome = ran(Scenario(nodes=3, min_nodes=2, max_nodes=2, workload=SHORT), "torch")
        spare = next(node for node in outcome.nodes.values() if node.result == "ERROR")
        assert "'NoneType' object has no attribute 'is_failed'" in spare.reason


class TestSignals:
    STUBBORN = Workload(steps=100, term_s=None, collective=False)

    def test_before_the_first_workers_a_signal_ends_the_agent_as_by_default(self) -> None:
        fault = SignalAgent("node0", at_s=10)
        outcome = ran(Scenario(nodes=1, min_nodes=1, max_nodes=2, workload=SHORT, faults=(fault,)), "torch")
        assert outcome.nodes["node0"].exit_code == -15
        assert not said(outcome, events.AgentFinished)

    def test_workers_get_the_grace_then_the_kill(self) -> None:
        fault = SignalAgent("node0", at_s=10)
        outcome = ran(Scenario(workload=self.STUBBORN, shutdown_timeout_s=7, faults=(fault,)), "torch")
        assert results(outcome) == {"node0": ("SIGNAL", 1)}
        assert outcome.nodes["node0"].exited_at_s == pytest.approx(17, abs=0.01)
        assert said(outcome, events.WorkersStopped)[-1].killed == [0]

    def test_the_third_aborts_the_clean_up_and_the_worker_lives_on(self) -> None:
        fault = SignalAgent("node0", at_s=10, times=3, every_s=1)
        simulation = ScenarioRun(Scenario(workload=self.STUBBORN, faults=(fault,)), subject_named("torch"))
        outcome = simulation.run()
        left = [process.label for process in simulation.world.nodes["node0"].processes.values()]
        simulation.close()
        assert outcome.nodes["node0"].exited_at_s == pytest.approx(12, abs=0.01)
        assert left == ["rank0"]

    def test_in_the_barrier_it_is_handled_when_the_wait_is_over(self) -> None:
        plans = {"node1": NodePlan(workload=Workload(steps=200, collective=False))}
        scenario = Scenario(
            nodes=2,
            workload=Workload(steps=5, collective=False),
            plans=plans,
            faults=(SignalAgent("node0", at_s=50),),
        )
        late, prompt = ran(scenario, "torch").nodes["node0"], ran(scenario, "rally").nodes["node0"]
        assert late.result == prompt.result == "SIGNAL"
        assert late.exited_at_s is not None and late.exited_at_s > 200
        assert prompt.exited_at_s == pytest.approx(50, abs=0.1)


@pytest.mark.parametrize(("subject", "left"), [("torch", ["rank0"]), ("rally", [])])
def test_whether_workers_outlive_a_killed_agent(subject: str, left: list[str]) -> None:
    scenario = Scenario(workload=Workload(steps=100), faults=(KillAgent("node0", at_s=10),))
    simulation = ScenarioRun(scenario, subject_named(subject))
    simulation.run()
    assert [process.label for process in simulation.world.nodes["node0"].processes.values()] == left
    simulation.close()


def test_the_code_is_torchs() -> None:
    api = torch_module("agent.server.api")
    local = torch_module("agent.server.local_elastic_agent")
    dynamic = torch_module("rendezvous.dynamic_rendezvous")
    agent = speaking_agent()
    assert issubclass(agent, local.LocalElasticAgent) and issubclass(agent, api.SimpleElasticAgent)
    assert "_invoke_run" not in vars(agent) and "_assign_worker_ranks" not in vars(agent)
    for cls in (api.SimpleElasticAgent, local.LocalElasticAgent, dynamic.DynamicRendezvousHandler):
        assert inspect.getsourcefile(cls).startswith(os.path.dirname(torch.__file__))


def test_an_unknown_subject_names_the_near_one() -> None:
    with pytest.raises(ConfigurationError, match="did you mean torch"):
        subject_named("torhc")


def test_where_torch_is_missing_it_says_so() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from simulator.subjects import subject_named\n"
        "from simulator.simulation import Scenario, ScenarioRun\n"
        "for subject in ('torch', 'rally-over-c10d'):\n"
        "    try:\n"
        "        ScenarioRun(Scenario(nodes=2), subject_named(subject))\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, 'pip install torch' in str(error))\n"
        "for scenario in (Scenario(solo=True), Scenario(nodes=2)):\n"
        "    one = ScenarioRun(scenario, subject_named('rally'))\n"
        "    print(one.run().nodes['node0'].result); one.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split("\n")[:4] == ["ConfigurationError True"] * 2 + ["SUCCEEDED"] * 2


def test_what_it_costs(capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, not asserted: `make bench` has the figures that count."""
    three_rounds = Workload(steps=20, failures=(Fail(rank=0, at_step=12, incarnations=2),))
    second = Fail(rank=1, at_step=400, incarnations=2)
    ten_minutes = Workload(steps=600, failures=(Fail(rank=0, at_step=200), second))
    runs: list[tuple[str, Callable[[], Outcome]]] = [
        ("torch, 8 nodes, 3 rounds", lambda: ran(Scenario(nodes=8, workload=three_rounds), "torch")),
        ("torch, 64 nodes, 3 rounds", lambda: ran(Scenario(nodes=64, workload=three_rounds), "torch")),
        ("rally, 8 nodes, 10 minutes", lambda: ran(Scenario(nodes=8, workload=ten_minutes), "rally")),
    ]
    for name, run in runs:
        began_s = time.process_time()
        outcome = run()
        took_s = time.process_time() - began_s
        assert {node.result for node in outcome.nodes.values()} == {"SUCCEEDED"}
        assert max(e.round for e in outcome.events) == 3
        with capsys.disabled():
            print(f"\n  {name}: {took_s:.2f} CPU s, {outcome.steps} steps, {outcome.virtual_s:.0f} s", end="")
