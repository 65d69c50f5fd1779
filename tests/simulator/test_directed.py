"""Orders to agents of several nodes, in the simulator: what one node is told happens to the job."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest

from simulator.checkers import judge
from simulator.faults import CrashNode, Fault
from simulator.kernel import SECOND
from simulator.scenario import NodePlan, Scenario
from simulator.simulation import Outcome as Ended
from simulator.simulation import RallySubject, ScenarioRun
from simulator.workloads import Workload
from toolkit.core import events
from toolkit.core.actions import Action
from toolkit.core.events import Event

E = TypeVar("E", bound=Event)

FREE = Workload(steps=60, collective=False)


class Told:
    """A job of whose agents some are told something.

    Args:
        orders: when, whom, what.
    """

    def __init__(self, scenario: Scenario, *orders: tuple[float, str, Action], seed: int = 1) -> None:
        self.given: list[Any] = []
        simulation = ScenarioRun(scenario, RallySubject(), seed)
        for at_s, node, action in orders:
            simulation.kernel.call_at(
                int(at_s * SECOND), f"{node} is told", lambda n=node, a=action: self._give(simulation, n, a)
            )
        try:
            self.ended: Ended = simulation.run()
        finally:
            simulation.close()
        assert not self.ended.finding, self.ended.finding
        assert not self.broken()

    def _give(self, simulation: ScenarioRun, node: str, action: Action) -> None:
        control = simulation.agents[node].control
        assert control is not None
        self.given.append(control.put(action))

    def outcomes(self) -> list[str]:
        """Of the orders, in the order in which they were given."""
        return [order.outcome.outcome if order.outcome else "none" for order in self.given]

    def detail(self, at: int = 0) -> str:
        return str(self.given[at].outcome.detail)

    def said(self, kind: type[E], node: str = "") -> list[E]:
        return [e for e in self.ended.events if isinstance(e, kind) and e.node.startswith(node)]

    def results(self) -> dict[str, str]:
        return {name: node.result for name, node in self.ended.nodes.items()}

    def broken(self) -> list[str]:
        return [str(broken) for broken in judge(self.ended.events).broken]


def job(nodes: int = 3, *faults: Fault, **fields: Any) -> Scenario:
    given = {"nodes": nodes, "faults": faults, "workload": FREE, "rdzv_conf": {"last_call_timeout": "3"}}
    return Scenario(**(given | fields))


ALL_WELL = {f"node{i}": "SUCCEEDED" for i in range(3)}


@pytest.mark.parametrize("node", ["node0", "node2"])
def test_a_restart_that_one_node_is_told_restarts_all_at_no_cost(node: str) -> None:
    told = Told(job(), (20, node, Action(action="restart", by="ada", incarnation=0)))
    assert told.outcomes() == ["done"]
    assert told.results() == ALL_WELL
    assert [e.restarts for e in told.said(events.RoundEnded)] == [0, 0, 0]
    assert {e.reason for e in told.said(events.RoundEnded)} == {"restart asked for by ada"}
    assert {e.restart_count for e in told.said(events.AgentFinished)} == {0}
    assert len(told.said(events.WorkersStarted)) == 6


def test_restarts_that_two_nodes_are_told_at_once_are_one_or_two_but_never_spend() -> None:
    one, two = (
        Action(action="restart", by="ada", incarnation=0),
        Action(action="restart", by="bob", incarnation=0),
    )
    told = Told(job(), (20, "node1", one), (20, "node2", two))
    assert sorted(told.outcomes()) == ["done", "refused"]
    assert told.results() == ALL_WELL
    assert len(told.said(events.WorkersStarted)) == 6


@pytest.mark.parametrize("node", ["node0", "node1"])
def test_a_stop_that_one_node_is_told_ends_all(node: str) -> None:
    told = Told(job(), (20, node, Action(action="stop", by="ada", why="loss is NaN")))
    assert told.outcomes() == ["done"]
    assert set(told.results().values()) == {"FAILED"}
    ends = told.said(events.JobEnded)
    assert len(ends) == 3
    assert {(e.outcome, e.why) for e in ends} == {("failed", "stop asked for by ada: loss is NaN")}


def test_a_stop_in_the_first_rendezvous_ends_the_wait() -> None:
    scenario = job(2, min_nodes=3, max_nodes=3)
    told = Told(scenario, (10, "node1", Action(action="stop", by="ada")))
    assert told.outcomes() == ["done"]
    assert set(told.results().values()) == {"ERROR"}
    assert told.ended.virtual_s < 20


@pytest.mark.parametrize("node", ["node0", "node1"])
def test_a_node_that_is_drained_leaves_and_the_others_go_on(node: str) -> None:
    scenario = job(3, min_nodes=2, max_nodes=3)
    told = Told(scenario, (20, node, Action(action="drain", by="ada", why="maintenance")))
    assert told.outcomes() == ["done"]
    assert told.results() == {**ALL_WELL, node: "STOPPED"}
    (finished,) = told.said(events.AgentFinished, node)
    assert finished.reason == "drain asked for by ada: maintenance"
    left = {e.reason for e in told.said(events.RoundEnded)}
    assert any("drain asked for by ada: maintenance" in reason for reason in left), left
    assert {e.restart_count for e in told.said(events.AgentFinished)} == {0}


def test_a_spare_is_drained_and_nobody_restarts() -> None:
    scenario = job(3, min_nodes=2, max_nodes=2, plans={"node2": NodePlan(start_s=5)})
    told = Told(scenario, (20, "node2", Action(action="drain", by="ada")))
    assert told.outcomes() == ["done"]
    assert told.results()["node2"] == "STOPPED"
    assert not told.said(events.RoundEnded)


def test_a_signal_kills_one_worker_which_is_a_failure() -> None:
    action = Action(action="signal", local_ranks=(0,), signal="SIGKILL", incarnation=0, by="ada")
    told = Told(job(), (20, "node1", action))
    assert told.outcomes() == ["done"]
    assert told.results() == ALL_WELL
    (failure,) = told.said(events.FailureRecorded)
    assert failure.signal == "SIGKILL"
    assert {e.restart_count for e in told.said(events.AgentFinished)} == {1}


def test_what_is_told_while_the_group_forms_is_answered() -> None:
    kill = Action(action="signal", local_ranks=(0,), signal="SIGKILL", incarnation=0)
    told = Told(
        job(3, CrashNode("node2", 20.0), min_nodes=2, max_nodes=3),
        *((24 + i / 10, "node1", action) for i in range(40) for action in (kill, Action(action="restart"))),
    )
    assert "none" not in told.outcomes()
    assert set(told.results().values()) >= {"SUCCEEDED"}


def test_in_the_exit_barrier_only_a_stop_is_done() -> None:
    short, long = Workload(steps=20, collective=False), Workload(steps=60, collective=False)
    scenario = job(2, plans={"node0": NodePlan(workload=long), "node1": NodePlan(workload=short)})
    told = Told(
        scenario,
        (40, "node1", Action(action="drain")),
        (41, "node1", Action(action="restart")),
        (42, "node0", Action(action="restart")),
        (43, "node1", Action(action="stop", by="ada")),
    )
    assert told.outcomes() == ["refused", "refused", "refused", "done"]
    assert "only waits for the others" in told.detail(0)
    assert "nothing can be started again" in told.detail(2)
    assert set(told.results().values()) == {"FAILED"}


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_told_in_whatever_moment_the_run_ends_and_each_order_is_answered(seed: int) -> None:
    import random

    draw = random.Random(seed)
    kinds = ["restart", "restart", "signal", "drain", "stop"]
    orders = []
    for _ in range(draw.randrange(1, 5)):
        kind = draw.choice(kinds)
        fields: dict[str, Any] = {"action": kind, "by": f"somebody {draw.random()}"}
        if kind == "signal":
            fields |= {"local_ranks": (0,), "signal": "SIGKILL", "incarnation": draw.randrange(2)}
        orders.append((draw.uniform(1, 40), f"node{draw.randrange(3)}", Action(**fields)))
    faults = (CrashNode("node1", draw.uniform(5, 40)),) if draw.random() < 0.3 else ()
    scenario = job(3, *faults, min_nodes=1, max_nodes=3, max_restarts=3)
    told = Told(scenario, *orders, seed=seed)
    assert "RUNNING" not in told.results().values()
