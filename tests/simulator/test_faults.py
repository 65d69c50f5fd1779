"""Each fault by what it does to a small cluster, whose agents do nothing but count."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import faults
from simulator.adapters.clock import NodeClock
from simulator.adapters.sink import WorldSink
from simulator.adapters.store import StoreLost, StoreServer, connect
from simulator.faults import Fault
from simulator.kernel import SECOND
from simulator.scenario import NodePlan, Scenario
from simulator.simulation import Outcome, RallySubject, ScenarioRun
from simulator.strike import store_host
from simulator.subject import Ended
from simulator.workloads import Jobs, Workload
from simulator.world import Process, World
from toolkit.core import events
from toolkit.core.errors import ConfigurationError, StoreError

PORT = 29400


@dataclass
class Counting:
    """A subject whose agents work a second at a time, ask node0's store after each, and end after `turns`."""

    name: str = "counting"
    turns: int = 60
    store: bool = True
    ends: dict[str, list[float]] = field(default_factory=dict)
    troubles: dict[str, list[tuple[float, str]]] = field(default_factory=dict)

    def surroundings(self, world: World, scenario: Scenario) -> AbstractContextManager[None]:
        return nullcontext()

    def agent(
        self, process: Process, scenario: Scenario, jobs: Jobs, done: Callable[[Ended], None]
    ) -> Callable[[], None]:
        kernel, node = process.node.world.kernel, process.node
        turns = self.ends.setdefault(node.name, [])
        troubles = self.troubles.setdefault(node.name, [])
        sink, clock = WorldSink(process), NodeClock(node)

        def run() -> None:
            if node.index == 0 and self.store:
                StoreServer(process, PORT).listen()
            store = connect(process, "10.0.0.1", PORT, 20) if self.store else None
            sink.emit(
                events.RendezvousCompleted(
                    node=f"{node.name}_{process.pid}",
                    mono_ns=clock.now_ns(),
                    wall_ns=clock.wall_ns(),
                    group_rank=node.index,
                    group_world_size=scenario.nodes,
                    world_size=scenario.nodes,
                    role_world_size=scenario.nodes,
                    master_addr="node0",
                    master_port=1,
                    global_ranks=[node.index],
                )
            )
            # Who serves the store stays longest.
            for _ in range(self.turns * (1 if node.index else 4)):
                kernel.sleep(int(SECOND * node.slowness), "a turn")
                try:
                    if store is not None:
                        store.add("turns", 1)
                except StoreError as error:
                    troubles.append((kernel.now_ns / SECOND, type(error).__name__))
                    store = connect(process, "10.0.0.1", PORT, 20)
                turns.append(kernel.now_ns / SECOND)
            done(Ended("SUCCEEDED", 0, ""))
            process.end(0)

        return run


def ran(
    *planned: Fault, subject: Counting | None = None, nodes: int = 3
) -> tuple[ScenarioRun, Counting, Outcome]:
    subject = subject or Counting()
    simulation = ScenarioRun(Scenario(nodes=nodes, faults=planned), subject, seed=1)
    outcome = simulation.run()
    simulation.close()
    return simulation, subject, outcome


def longest_pause_s(turns: list[float]) -> float:
    return max(b - a for a, b in pairwise(turns))


def solo(*planned: Fault, workload: Workload | None = None) -> Outcome:
    scenario = Scenario(
        local_world_size=2, solo=True, workload=workload or Workload(), faults=planned, name="solo"
    )
    simulation = ScenarioRun(scenario, RallySubject(), seed=3)
    outcome = simulation.run()
    simulation.close()
    return outcome


class TestNodes:
    def test_a_crashed_node_is_silent_for_ever(self) -> None:
        _, subject, outcome = ran(faults.CrashNode("node1", at_s=10.5))
        assert outcome.nodes["node1"].result == "LOST"
        assert max(subject.ends["node1"]) < 10.5
        assert outcome.nodes["node2"].result == "SUCCEEDED"
        assert outcome.struck == ["at 10.5 s node1 loses power"]
        assert [(hit.kind, hit.node, hit.until_s) for hit in outcome.hits] == [
            ("CrashNode", "node1", math.inf)
        ]

    def test_a_rebooted_node_starts_a_new_agent(self) -> None:
        simulation, subject, outcome = ran(faults.CrashNode("node1", at_s=10.5, reboot_after_s=20))
        assert outcome.nodes["node1"].result == "SUCCEEDED"
        assert simulation.world.nodes["node1"].boots == 2
        assert len(subject.ends["node1"]) == 10 + 60
        assert outcome.nodes["node1"].exited_at_s == pytest.approx(30.5 + 60, abs=0.2)
        assert outcome.quiet_at_s == 30.5

    def test_a_node_can_crash_before_its_agent_ever_starts(self) -> None:
        _, subject, outcome = ran(faults.CrashNode("node2"))
        assert "node2" not in subject.ends
        assert outcome.nodes["node0"].result == "SUCCEEDED"

    def test_a_paused_node_stands_still(self) -> None:
        _, subject, outcome = ran(faults.PauseNode("node1", at_s=10.5, for_s=7))
        assert longest_pause_s(subject.ends["node1"]) == pytest.approx(7, abs=1)
        assert longest_pause_s(subject.ends["node2"]) < 1.1
        assert outcome.nodes["node1"].result == "SUCCEEDED"

    def test_pauses_that_overlap_end_with_the_last(self) -> None:
        _, subject, _ = ran(
            faults.PauseNode("node1", at_s=10.5, for_s=7), faults.PauseNode("node1", at_s=12, for_s=15)
        )
        assert longest_pause_s(subject.ends["node1"]) == pytest.approx(16.5, abs=0.6)

    def test_a_slow_node_takes_longer(self) -> None:
        _, _, outcome = ran(faults.SlowNode("node1", at_s=0, factor=4, for_s=20))
        assert outcome.nodes["node1"].exited_at_s == pytest.approx(60 + 15, abs=1.5)
        assert outcome.nodes["node2"].exited_at_s == pytest.approx(60, abs=1.5)

    def test_a_flapping_joiner_comes_and_goes(self) -> None:
        simulation, subject, outcome = ran(
            faults.FlappingJoiner("node2", at_s=5, stays_s=4.5, away_s=10, times=3)
        )
        assert len(subject.ends["node2"]) == 3 * 4
        assert min(subject.ends["node2"]) > 5
        assert simulation.world.nodes["node2"].boots == 3
        assert outcome.nodes["node2"].result == "LOST"
        assert outcome.quiet_at_s == 5 + 3 * 4.5 + 2 * 10
        vanished = [(hit.at_s, hit.until_s) for hit in outcome.hits if hit.kind == "CrashNode"]
        assert vanished == [(9.5, 19.5), (24, 34), (38.5, math.inf)]


class TestAgents:
    def test_a_killed_agent_is_gone(self) -> None:
        _, _, outcome = ran(faults.KillAgent("node1", at_s=10.5))
        assert (outcome.nodes["node1"].result, outcome.nodes["node1"].exit_code) == ("KILLED", -9)

    def test_and_may_come_back(self) -> None:
        simulation, _, outcome = ran(faults.KillAgent("node1", at_s=10.5, restart_after_s=3))
        assert outcome.nodes["node1"].result == "SUCCEEDED"
        assert simulation.world.nodes["node1"].boots == 1

    def test_a_stopped_agent_goes_on_later(self) -> None:
        _, subject, _ = ran(faults.PauseAgent("node1", at_s=10.5, for_s=5))
        assert longest_pause_s(subject.ends["node1"]) == pytest.approx(5, abs=1)

    def test_workers_run_on_while_their_agent_is_stopped(self) -> None:
        outcome = solo(faults.PauseAgent("node0", at_s=10, for_s=100), workload=Workload(steps=30))
        assert outcome.nodes["node0"].exited_at_s == pytest.approx(110, abs=0.5)
        assert outcome.nodes["node0"].result == "SUCCEEDED"

    def test_signals_come_as_often_as_said(self) -> None:
        outcome = solo(faults.SignalAgent("node0", at_s=10, signal="SIGTERM", times=3, every_s=0.5))
        assert outcome.nodes["node0"].result == "SIGNAL"
        assert outcome.nodes["node0"].exit_code == 128 + signal.SIGTERM
        assert outcome.quiet_at_s == 11

    def test_an_agent_that_is_gone_is_missed(self) -> None:
        _, _, outcome = ran(faults.KillAgent("node1", at_s=10), faults.KillAgent("node1", at_s=20))
        assert (
            outcome.struck[1] == "at 20 s the agent on node1 is killed: struck nothing, no agent runs there"
        )


class TestWorkers:
    def test_a_killed_worker_is_a_failure(self) -> None:
        outcome = solo(faults.KillWorker("node0", at_s=10, local_rank=1))
        recorded = [event for event in outcome.events if isinstance(event, events.FailureRecorded)]
        assert [(event.local_rank, event.signal) for event in recorded] == [(1, "SIGKILL")]
        assert outcome.nodes["node0"].result == "SUCCEEDED"

    def test_a_stopped_worker_hangs_its_peers_until_their_timeout(self) -> None:
        outcome = solo(
            faults.KillWorker("node0", at_s=10.5, local_rank=1, signal="SIGSTOP"),
            workload=Workload(collective_timeout_s=50),
        )
        first = next(event for event in outcome.events if isinstance(event, events.FailureRecorded))
        assert (first.local_rank, first.signal) == (0, "SIGABRT")
        assert first.mono_ns / SECOND % 1e6 == pytest.approx(61, abs=1)
        # It can't hear SIGTERM, so that only SIGKILL ends it.
        stopped = next(event for event in outcome.events if isinstance(event, events.WorkersStopped))
        assert stopped.killed == [1]

    def test_a_worker_without_memory_is_killed(self) -> None:
        outcome = solo(faults.FailWorker("node0", at_s=10, local_rank=1, cause="oom"))
        first = next(event for event in outcome.events if isinstance(event, events.FailureRecorded))
        assert (first.local_rank, first.signal) == (1, "SIGKILL")

    def test_a_worker_whose_gpu_fails_says_so(self) -> None:
        outcome = solo(faults.FailWorker("node0", at_s=10, local_rank=1, cause="gpu"))
        first = next(event for event in outcome.events if isinstance(event, events.FailureRecorded))
        assert (first.local_rank, first.exit_code) == (1, 1)
        assert "CUDA error" in first.message
        assert "CUDA error" in first.traceback

    def test_a_slow_worker_holds_the_others_up(self) -> None:
        plain = solo()
        slow = solo(faults.SlowWorker("node0", at_s=10.5, local_rank=1, factor=5, for_s=20))
        assert slow.virtual_s > plain.virtual_s + 10
        assert slow.nodes["node0"].result == "SUCCEEDED"

    def test_a_start_fails_once(self) -> None:
        outcome = solo(faults.FailSpawn("node0", local_rank=1))
        assert outcome.nodes["node0"].result == "ERROR"
        assert "local rank 1 can't be started" in outcome.nodes["node0"].reason

    def test_starts_are_slow_for_a_while(self) -> None:
        plain, slow = solo(), solo(faults.SlowStart("node0", extra_s=40, for_s=5))
        assert slow.virtual_s - plain.virtual_s == pytest.approx(40, abs=0.1)


class TestNetwork:
    def test_a_partition_delays_what_is_sent_meanwhile(self) -> None:
        _, subject, outcome = ran(faults.Partition("node1", at_s=10.5, for_s=8))
        # TCP sends again with growing pauses, so the answer comes some seconds after the link is whole.
        assert 7.5 < longest_pause_s(subject.ends["node1"]) < 16
        assert subject.troubles["node1"] == []
        assert longest_pause_s(subject.ends["node2"]) < 1.1
        assert outcome.nodes["node1"].result == "SUCCEEDED"

    def test_an_operation_gives_up_when_tcp_does(self) -> None:
        # TCPStore has no time limit of its own for operations that wait for no key.
        _, subject, _ = ran(faults.Partition("node1", at_s=10.5, for_s=None))
        assert subject.troubles["node1"][0] == (pytest.approx(11 + 924, abs=0.2), "StoreLost")

    def test_one_way_loses_only_what_the_node_sends(self) -> None:
        simulation = ScenarioRun(
            Scenario(nodes=2, faults=(faults.Partition("node1", at_s=1, one_way=True),)), Counting()
        )
        simulation.run(until_s=2)
        nodes, network = simulation.world.nodes, simulation.world.network
        assert network.route(nodes["node1"], nodes["node0"]).latency_ns() is None
        assert network.route(nodes["node0"], nodes["node1"]).latency_ns() is not None
        simulation.close()

    def test_two_partitions_that_overlap(self) -> None:
        planned = (
            faults.Partition("node1", at_s=1, for_s=10, one_way=True),
            faults.Partition("node1", at_s=2, for_s=4),
        )
        simulation = ScenarioRun(Scenario(nodes=2, faults=planned), Counting())
        nodes, network = simulation.world.nodes, simulation.world.network
        ways = [(nodes["node1"], nodes["node0"]), (nodes["node0"], nodes["node1"])]
        seen = []
        for until_s in (1.5, 2.5, 6.5, 11.5):
            simulation.run(until_s=until_s)
            seen.append([network.link(*way).cut for way in ways])
        assert seen == [[True, False], [True, True], [True, False], [False, False]]
        assert network.cuts == 0
        simulation.close()

    def test_slow_links(self) -> None:
        _, _, outcome = ran(faults.SlowLinks("node1", at_s=0, latency_s=0.5, for_s=100))
        assert outcome.nodes["node1"].exited_at_s == pytest.approx(60 * 2.05 - 20, rel=0.2)
        assert outcome.nodes["node2"].exited_at_s == pytest.approx(60, abs=1.5)

    def test_connections_are_reset_at_both_ends(self) -> None:
        _, subject, _ = ran(faults.ConnectionDrop("node1", at_s=10.5))
        assert [name for _, name in subject.troubles["node1"]] == [StoreLost.__name__]
        assert subject.troubles["node2"] == []
        _, subject, _ = ran(faults.ConnectionDrop("store-host", at_s=10.5))
        assert all(len(subject.troubles[node]) == 1 for node in ("node0", "node1", "node2"))

    def test_a_reset_breaks_off_an_operation(self) -> None:
        _, subject, _ = ran(faults.StallStore(at_s=10.5, for_s=10), faults.ConnectionDrop("node1", at_s=15))
        assert subject.troubles["node1"][0] == (pytest.approx(15, abs=0.01), "StoreLost")

    def test_a_store_stalls(self) -> None:
        _, subject, outcome = ran(faults.StallStore(at_s=10.5, for_s=9))
        assert all(longest_pause_s(turns) == pytest.approx(9, abs=0.6) for turns in subject.ends.values())
        assert outcome.struck == ["at 10.5 s the store on node0 answers nothing for 9 s (store-host)"]

    @pytest.mark.parametrize("kind", [faults.PauseNode, faults.PauseAgent])
    def test_a_store_host_that_stands_still_answers_later(self, kind: type[Fault]) -> None:
        fault = kind("store-host", 10.5, 9)  # type: ignore[call-arg]
        simulation, subject, _ = ran(fault)
        assert all(longest_pause_s(turns) == pytest.approx(9, abs=0.6) for turns in subject.ends.values())
        assert simulation.kernel.steps < 3_000

    def test_a_store_host_that_stands_still_for_ever_costs_no_steps(self) -> None:
        simulation, subject, outcome = ran(faults.PauseNode("store-host", at_s=10.5, for_s=None))
        assert outcome.nodes["node0"].result == "RUNNING"
        assert subject.troubles["node1"][0] == (pytest.approx(11 + 924, abs=0.2), "StoreLost")
        assert simulation.kernel.steps < 3_000


class TestClocksAndDisks:
    def walls(self, *planned: Fault) -> dict[str, float]:
        """How far the wall clock of each node is ahead after 40 s."""
        simulation = ScenarioRun(Scenario(nodes=2, faults=planned), Counting())
        simulation.run(until_s=40)
        clocks = {name: NodeClock(node) for name, node in simulation.world.nodes.items()}
        true_ns = clocks["node0"].wall_ns()
        simulation.close()
        return {name: (clock.wall_ns() - true_ns) / SECOND for name, clock in clocks.items()}

    def test_offsets(self) -> None:
        assert self.walls(faults.ClockOffset("node1", offset_s=-20)) == {"node0": 0, "node1": -20}

    def test_steps_add_up(self) -> None:
        planned = (
            faults.ClockOffset("node1", at_s=1, offset_s=20),
            faults.ClockStep("node1", at_s=9, step_s=-5),
        )
        assert self.walls(*planned)["node1"] == 15

    def test_drift_counts_from_its_beginning(self) -> None:
        assert self.walls(faults.ClockDrift("node1", at_s=20, share=0.1))["node1"] == pytest.approx(2)

    def test_a_monotonic_clock_never_runs_back(self) -> None:
        planned = (
            faults.ClockDrift("node1", at_s=10, share=0.5),
            faults.ClockDrift("node1", at_s=20, share=-0.5),
        )
        simulation = ScenarioRun(Scenario(nodes=2, faults=planned), Counting())
        clock, seen = NodeClock(simulation.world.nodes["node1"]), []
        for until_s in range(1, 40):
            simulation.run(until_s=until_s)
            seen.append(clock.now_ns())
        simulation.close()
        assert seen == sorted(seen)
        assert seen[-1] - 2 * 10**15 == pytest.approx((10 + 15 + 9.5) * SECOND)

    def test_a_full_disk_costs_events_only(self) -> None:
        plain, full = solo(), solo(faults.FillDisk("node0", at_s=0, for_s=30))
        assert len(full.events) < len(plain.events)
        assert full.nodes["node0"].result == "SUCCEEDED"


class TestTargets:
    def test_rank0_is_looked_up_when_the_fault_strikes(self) -> None:
        _, _, outcome = ran(faults.PauseNode("rank0", at_s=10, for_s=1))
        assert outcome.struck == ["at 10 s node0 stands still for 1 s (rank0)"]

    def test_nobody_is_rank0_before_the_first_round(self) -> None:
        _, _, outcome = ran(faults.CrashNode("rank0", at_s=0))
        assert outcome.struck == ["at 0 s rank0 loses power: struck nothing, there is no rank0 now"]

    def test_the_last_joiner(self) -> None:
        scenario = Scenario(
            nodes=3,
            plans={"node1": NodePlan(start_s=5)},
            faults=(faults.KillAgent("last-joiner", at_s=10), faults.KillAgent("last-joiner", at_s=11)),
        )
        simulation = ScenarioRun(scenario, Counting())
        outcome = simulation.run()
        simulation.close()
        assert outcome.struck[0] == "at 10 s the agent on node1 is killed (last-joiner)"
        assert "node1" not in outcome.struck[1]

    def test_the_store_host(self) -> None:
        simulation = ScenarioRun(Scenario(nodes=2), Counting())
        assert store_host(simulation.world) is None
        simulation.run(until_s=5)
        found = store_host(simulation.world)
        assert found is not None
        assert found.name == "node0"
        simulation.close()

    def test_busy_is_whoever_waits_for_the_store(self) -> None:
        _, _, outcome = ran(
            faults.PauseNode("busy", at_s=5.5, for_s=1),
            faults.StallStore(at_s=10.9, for_s=10),
            faults.PauseNode("busy", at_s=15, for_s=1),
        )
        assert "struck nothing" in outcome.struck[0]
        assert outcome.struck[2].endswith("(busy)")

    def test_any_is_drawn_by_what_the_fault_is(self) -> None:
        first, second = faults.PauseNode("any", at_s=20, for_s=1), faults.KillAgent("any", at_s=30)
        both = ran(first, second, nodes=5)[2].struck
        assert ran(second, nodes=5)[2].struck == both[1:]


class TestImpossible:
    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda: faults.CrashNode("node0", at_s=-1), "a time can't be negative"),
            (lambda: faults.PauseNode("node0", for_s=-3), "for_s=-3"),
            (lambda: faults.PauseNode("node0", at_s=float("nan")), "give a number of seconds"),
            (lambda: faults.SlowNode("node0", factor=0), "factor is 0"),
            (lambda: faults.SignalAgent("node0", signal="SIGTREM"), "did you mean SIGTERM"),
            (lambda: faults.SignalAgent("node0", times=0), "give 1 or more"),
            (lambda: faults.ClockDrift("node0", share=-1), "share is -1"),
            (lambda: faults.FlappingJoiner("node0", times=0), "give 1 or more"),
            (lambda: Scenario(nodes=2, faults=(faults.CrashNode("node7"),)), "did you mean node"),
            (lambda: Scenario(nodes=2, faults=(faults.KillWorker("rank0", local_rank=1),)), "give 0 to 0"),
            (lambda: Scenario(nodes=2, faults=(faults.CrashNode("node1", at_s=1e9),)), "higher limit_s"),
        ],
    )
    def test_they_are_refused_before_anything_runs(self, make: Callable[[], object], said: str) -> None:
        with pytest.raises(ConfigurationError, match=said):
            make()

    def test_kinds_by_name(self) -> None:
        assert faults.kind_named("CrashNode") is faults.CrashNode
        with pytest.raises(ConfigurationError, match="did you mean CrashNode"):
            faults.kind_named("CrashNod")


@given(st.sampled_from(faults.KINDS), st.floats(0, 100))
def test_every_kind_can_be_said_in_a_line(kind: type[Fault], at_s: float) -> None:
    fault = kind(target="node0", at_s=at_s)
    assert "\n" not in fault.words()
    assert "node0" in fault.words()
    assert faults.quiet_at_s((fault,)) >= at_s


@pytest.mark.parametrize("kind", faults.KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_strikes_and_repeats(kind: type[Fault]) -> None:
    one, two = (ran(kind(target="node1", at_s=7.3)) for _ in range(2))
    assert one[2].digest == two[2].digest
    assert len(one[2].struck) == 1
