"""Our rendezvous in small clusters: who sits where, who is refused, who is told what, and what stays in the store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from simulator.adapters.connector import SimConnector
from simulator.adapters.store import StoreServer
from simulator.faults import (
    CrashNode,
    FailSpawn,
    Fault,
    KillWorker,
    PauseAgent,
    PauseAtOperation,
    PauseNode,
    SignalAgent,
    StallStore,
)
from simulator.report import Report, simulate
from simulator.scenario import NodePlan, Scenario
from simulator.simulation import STORE_PORT, ScenarioRun
from simulator.subjects import subject_named
from simulator.workloads import Fail, Workload
from toolkit.agent.rendezvous.keys import Keys
from toolkit.core import events
from toolkit.core.events import Event

E = TypeVar("E", bound=Event)

FREE = Workload(steps=60, collective=False)
QUICK = {"last_call_timeout": "3"}


def said(report: Report, kind: type[E], node: str = "") -> list[E]:
    """Events of one kind, of one node or of all."""
    return [
        event
        for event in report.events
        if isinstance(event, kind) and (not node or event.node.startswith(f"{node}_"))
    ]


def seats(report: Report) -> dict[int, dict[str, int]]:
    """Group rank by node, for each round."""
    found: dict[int, dict[str, int]] = {}
    for event in said(report, events.RendezvousCompleted):
        found.setdefault(event.round, {})[event.node.split("_")[0]] = event.group_rank
    return found


def held(scenario: Scenario, seed: int = 1) -> Report:
    report = simulate(scenario, "rally", seed)
    assert report.verdict == "held", str(report)
    return report


def job(nodes: int = 3, *faults: Fault, **fields: Any) -> Scenario:
    return Scenario(**({"nodes": nodes, "faults": faults, "workload": FREE, "rdzv_conf": QUICK} | fields))


# -- who sits where -------------------------------------------------------------------------------------------


def test_a_restart_leaves_every_rank_where_it_was() -> None:
    report = held(job(4, KillWorker("node2", 20.0)))
    first, second = seats(report)[1], seats(report)[2]
    assert first == second
    assert sorted(first.values()) == [0, 1, 2, 3]


def test_a_spare_takes_the_seat_of_the_node_that_is_lost() -> None:
    scenario = job(
        4, CrashNode("node1", 20.0), min_nodes=3, max_nodes=3, plans={"node3": NodePlan(start_s=5)}
    )
    report = held(scenario)
    assert seats(report)[1] == {"node0": 0, "node1": 1, "node2": 2}
    assert seats(report)[2] == {"node0": 0, "node3": 1, "node2": 2}
    assert [event.beside for event in said(report, events.Parked, "node3")] == [1]


def test_a_join_that_would_only_add_a_spare_restarts_nobody() -> None:
    report = held(job(3, min_nodes=2, max_nodes=2, plans={"node2": NodePlan(start_s=10)}))
    assert list(seats(report)) == [1]
    assert report.nodes["node2"].result == "STOPPED"


def test_nodes_with_one_label_sit_beside_each_other() -> None:
    labels = ("b", "a", "b", "a")
    plans = {f"node{at}": NodePlan(topology=label) for at, label in enumerate(labels)}
    ranks = seats(held(job(4, plans=plans)))[1]
    assert ranks == {"node1": 0, "node3": 1, "node0": 2, "node2": 3}


def test_a_rank_that_was_asked_for_is_given() -> None:
    plans = {f"node{at}": NodePlan(node_rank=rank) for at, rank in enumerate((2, 0, 1))}
    assert seats(held(job(3, plans=plans)))[1] == {"node0": 2, "node1": 0, "node2": 1}


def test_who_would_rather_wait_does_until_somebody_is_to_be_replaced() -> None:
    plans = {"node2": NodePlan(spare=True)}
    report = held(job(3, CrashNode("node1", 20.0), min_nodes=1, plans=plans))
    assert seats(report)[1] == {"node0": 0, "node1": 1}
    assert seats(report)[2] == {"node0": 0, "node2": 1}


def test_one_spare_too_many_is_sent_away() -> None:
    plans = {f"node{at}": NodePlan(start_s=5.0 * at) for at in (2, 3)}
    report = simulate(job(4, KillWorker("node0", 30.0), max_nodes=2, min_nodes=2, spares=1, plans=plans))
    refused = said(report, events.JoinRefused)
    assert {event.joiner.split("_")[0] for event in refused} == {"node3"}
    assert "--spares 1" in refused[0].reason
    assert report.nodes["node3"].result == "ERROR"


# -- who is refused -------------------------------------------------------------------------------------------


def test_two_nodes_of_one_rank_are_told_of_each_other() -> None:
    plans = {"node1": NodePlan(node_rank=0, start_s=1), "node0": NodePlan(node_rank=0)}
    report = simulate(job(3, min_nodes=2, plans=plans))
    assert "node rank 0, and so has node0" in report.nodes["node1"].reason
    assert [event.joiner.split("_")[0] for event in said(report, events.JoinRefused, "node0")] == ["node1"]
    assert report.nodes["node0"].result == report.nodes["node2"].result == "SUCCEEDED"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("max_restarts", 7, "max_restarts is 3 there and 7 here"),
        ("min_nodes", 1, "min_nodes is 2 there and 1 here"),
        ("lease_s", 9.0, "lease_s is 4.0 there and 9.0 here"),
    ],
)
def test_other_settings_are_named_on_both_sides(
    field: str, value: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simulator import simulation
    from toolkit.core.rounds import Settings

    made: Iterator[int] = iter(range(100))

    def settings(**fields: Any) -> Settings:
        odd = {field: value} if next(made) == 2 else {}
        return Settings(**(fields | odd))

    monkeypatch.setattr(simulation, "Settings", settings)
    report = simulate(job(3, min_nodes=2, plans={"node2": NodePlan(start_s=2)}))
    assert words in report.nodes["node2"].reason
    [told] = said(report, events.JoinRefused, "node0")
    assert words in told.reason
    assert report.nodes["node0"].result == report.nodes["node1"].result == "SUCCEEDED"


@pytest.mark.parametrize(
    "card",
    [b"", b"\xff", b"{", b"null", b"[" * 5000, b"x" * 20_000, b'{"v":1}'],
    ids=["void", "binary", "torn", "null", "deep", "large", "poor"],
)
def test_a_card_that_is_none_harms_nobody(card: bytes) -> None:
    report = with_card(card)
    assert [report.nodes[name].result for name in ("node0", "node1")] == ["SUCCEEDED"] * 2
    if card:
        assert said(report, events.JoinRefused, "node0")


def test_a_card_of_another_version_is_answered() -> None:
    report = with_card(b'{"v":2,"node":"stranger","kind":"new"}')
    [refused] = said(report, events.JoinRefused, "node0")
    assert (refused.joiner, "version 2" in refused.reason) == ("stranger", True)


def with_card(card: bytes) -> Report:
    """A job of two nodes, while a stranger writes a card into its store."""

    def invite(simulation: ScenarioRun) -> None:
        stranger = simulation.world.nodes["node1"].start_process("stranger")

        def write() -> None:
            store, keys = SimConnector(stranger, "node0", STORE_PORT).connect(5.0), Keys("sim")
            seat = store.add(keys.joins, 1) - 1
            store.set(keys.card(seat), card)
            store.check([keys.head])
            stranger.end(0)

        stranger.spawn(write, "main", after_ns=10**9)

    return simulate(job(2, plans={"node1": NodePlan(start_s=2)}), "rally", 1, started=invite)


# -- who is told what -----------------------------------------------------------------------------------------


def test_all_agents_tell_one_report() -> None:
    plans = {"node1": NodePlan(workload=replace(FREE, failures=(Fail(rank=1, at_step=20, exit_code=3),)))}
    report = held(job(3, max_restarts=0, plans=plans))
    told = said(report, events.JobEnded)
    assert len(told) == 3
    assert len({(event.outcome, event.why, tuple(event.failures)) for event in told}) == 1
    first = told[0].failures[0]
    assert (first.global_rank, first.exit_code, first.host) == (1, 3, "node1")
    assert {end.result for end in report.nodes.values()} == {"FAILED"}


def test_who_failed_first_is_told_from_who_failed_because_of_it() -> None:
    report = simulate(job(4, KillWorker("node2", 20.0), workload=Workload(steps=60), max_restarts=0))
    failures = said(report, events.JobEnded)[0].failures
    assert (failures[0].global_rank, failures[0].signal, failures[0].hand) == (2, "SIGKILL", "first")
    assert all(failure.hand != "first" for failure in failures[1:])


def test_a_failure_after_a_success_ends_the_job_although_there_are_restarts_left() -> None:
    plans = {
        "node1": NodePlan(workload=Workload(steps=90, collective=False, failures=(Fail(1, at_step=75),)))
    }
    report = held(job(2, plans=plans))
    assert {end.result for end in report.nodes.values()} == {"FAILED"}
    assert "nothing can be started again" in said(report, events.JobEnded)[0].why


def test_an_agent_that_was_stopped_starts_nothing_and_asks_anew() -> None:
    report = held(job(3, PauseAgent("node2", 20.0, for_s=30.0), min_nodes=2))
    learned = [*said(report, events.Evicted, "node2"), *said(report, events.RoundEnded, "node2")]
    assert learned[0].round == 1, "it is told, whichever it hears first"
    assert said(report, events.StoreSilent, "node2") == [], "the silence was its own"
    starts = [event.round for event in said(report, events.WorkersStarting, "node2")]
    assert starts == [1, 3], "nothing in the round that it did not know of"


def test_who_wakes_to_a_silent_store_stops_its_workers_instead_of_training_beside_the_others() -> None:
    """What the store said to it while it slept may have reached its machine before the store fell silent, or not."""
    asleep = PauseNode("node2", 20.0, for_s=20.0)
    scenario = job(3, asleep, StallStore("store-host", 39.0, for_s=20.0), min_nodes=2)
    told_nothing = 0
    for seed in range(6):
        report = held(scenario, seed)
        [left, *_] = said(report, events.RoundEnded, "node2")
        assert left.action == "membership" and not left.spends_budget
        [node2] = [life for life in report.record.lives if life.name == "node2"]
        [(stopped, _), *_] = node2.of(events.WorkersStopped)
        assert {end.result for end in report.nodes.values()} == {"SUCCEEDED"}
        if "is lost" in left.reason:
            assert stopped.at_s < 41, "it knew as soon as it woke"
            continue
        told_nothing += 1
        assert "node2_" in left.reason and "stood still for 2" in left.reason
        assert 44 < stopped.at_s < 51, "a lease after it woke, and not when the store answers"
    assert told_nothing, "no seed has the store silent before it could say anything"


@pytest.mark.parametrize("number", range(1, 13))
def test_a_card_that_comes_late_is_read(number: int) -> None:
    """A coordinator that looks for it meanwhile must not wake its own reader for nothing (found on a real store)."""
    late = PauseAtOperation("node2", number=number, for_s=2.5)
    report = held(job(3, late, min_nodes=2, plans={"node2": NodePlan(start_s=20.0)}))
    [node2] = [life for life in report.record.lives if life.name == "node2"]
    joined_s = next(told.at_s for told, _ in node2.of(events.RendezvousCompleted))
    assert joined_s < 20 + 2.5 + 10, "its start, the pause, and the time for which joins are gathered"


def test_who_sleeps_for_as_long_as_everybody_goes_on() -> None:
    asleep = [PauseNode(f"node{index}", 20.0, for_s=60.0) for index in range(3)]
    report = held(job(3, *asleep, min_nodes=2))
    assert said(report, events.RoundEnded) == []


def test_a_host_that_is_lost_again_and_again_is_held_back() -> None:
    crashes = [CrashNode("node2", at_s, reboot_after_s=1.0) for at_s in (20.0, 50.0)]
    report = simulate(job(3, *crashes, min_nodes=2, workload=replace(FREE, steps=150)))
    [kept] = said(report, events.JoinHeld)
    assert "node2 was lost 2 times" in kept.reason
    assert 25 < kept.for_s <= 30


def test_a_node_that_is_told_to_end_is_not_missed_for_a_lease() -> None:
    report = held(job(3, SignalAgent("node2", 20.0), min_nodes=2))
    [ended] = said(report, events.RoundEnded, "node0")
    assert "leaves" in ended.reason
    [left] = said(report, events.AgentFinished, "node2")
    assert (left.result, ended.by.split("_")[0]) == ("SIGNAL", "node2"), "it says so itself"


def test_the_host_of_the_store_stays_for_the_others_when_its_own_workers_can_not_start() -> None:
    report = held(job(3, FailSpawn("node0", 0.0), min_nodes=2))
    assert report.nodes["node0"].result == "ERROR"
    assert {report.nodes[name].result for name in ("node1", "node2")} == {"SUCCEEDED"}


@pytest.mark.parametrize("at_s", [0.0005, 0.002, 1.0, 3.0])
def test_a_signal_ends_the_wait_for_the_others_at_once(at_s: float) -> None:
    report = simulate(job(2, SignalAgent("node0", at_s), plans={"node1": NodePlan(start_s=50)}))
    end = report.record.facts.nodes["node0"]
    assert end.result == "SIGNAL"
    assert end.exited_at_s is not None
    assert end.exited_at_s < at_s + 3


# -- what stays in the store ----------------------------------------------------------------------------------


def keys_left(restarts: int) -> int:
    """How many keys the store holds after so many rounds, while the next one runs."""
    failures = (Fail(rank=0, at_s=20.0, incarnations=restarts),)
    scenario = job(4, workload=replace(FREE, steps=1000, failures=failures), max_restarts=100)
    simulation = ScenarioRun(scenario, subject_named("rally"), 1)
    simulation.run(until_s=restarts * 25.0 + 60)
    server: StoreServer = simulation.world.listeners[simulation.world.nodes["node0"].address, STORE_PORT]
    left = server.data.num_keys()
    simulation.close()
    return left


def test_what_old_rounds_leave_in_the_store_is_removed() -> None:
    assert keys_left(20) <= keys_left(3) + 2


def test_the_loop_of_an_agent_rests_while_its_heart_watches_the_store() -> None:
    scenario = job(2, workload=Workload(steps=100, step_s=1.0))
    simulation = ScenarioRun(scenario, subject_named("rally"), seed=1)
    simulation.kernel.keep_trace(1_000_000)
    simulation.run()
    steps = [entry.what for entry in simulation.kernel.trace]
    simulation.close()
    assert sum(step.startswith("timeout node1/agent/rally-heart") for step in steps) > 90
    assert sum(step.startswith("timeout node1/agent/main") for step in steps) < 10


def test_a_store_that_falls_silent_is_told_of_before_long_and_so_is_its_first_answer() -> None:
    report = held(job(2, StallStore("store-host", 30.0, for_s=10.0), workload=Workload(steps=60)))
    for node in ("node0", "node1"):
        [life] = [life for life in report.record.lives if life.name == node]
        [(silent, _)] = life.of(events.StoreSilent)
        [(answers, _)] = life.of(events.StoreAnswers)
        assert 32 <= silent.at_s < 36
        assert 40 < answers.at_s < 44
