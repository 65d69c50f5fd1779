"""The cluster's physics: what ends with what, what signals do, and what the network carries."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from simulator.adapters.clock import NodeClock
from simulator.adapters.store import StoreServer
from simulator.kernel import SECOND
from simulator.world import LINK_NS, LOOPBACK_NS, Process
from tests.contracts.worlds import SimWorld


@pytest.fixture
def sim() -> Iterator[SimWorld]:
    made = SimWorld()
    yield made
    made.close()


def ticking(sim: SimWorld, process: Process) -> list[int]:
    """The seconds at which a task of `process` ran, once each second."""
    seen: list[int] = []

    def run() -> None:
        while True:
            sim.kernel.sleep(SECOND)
            seen.append(sim.kernel.now_ns // SECOND)

    process.spawn(run, "ticks")
    return seen


def at(sim: SimWorld, at_s: float, what: Callable[[], object]) -> None:
    sim.kernel.call_at(int(at_s * SECOND), "the test", lambda: (what(), None)[1])


class TestProcesses:
    def test_an_end_stops_its_tasks_and_is_told_in_order(self, sim: SimWorld) -> None:
        told: list[object] = []
        sim.process.on_exit += [told.append, lambda code: told.append(("second", code))]
        sim.process.on_gone.append(lambda: told.append("gone"))
        seen = ticking(sim, sim.process)
        at(sim, 2.5, lambda: sim.process.end(3))
        sim.kernel.run(until_ns=10 * SECOND)
        assert seen == [1, 2]
        assert told == ["gone", 3, ("second", 3)]
        assert not sim.process.alive
        assert sim.process.exit_code == 3
        assert sim.process.pid not in sim.node.processes

    def test_a_power_cut_is_told_to_nobody(self, sim: SimWorld) -> None:
        told: list[object] = []
        sim.process.on_exit.append(told.append)
        sim.process.on_gone.append(lambda: told.append("gone"))
        seen = ticking(sim, sim.process)
        at(sim, 2.5, sim.node.crash)
        sim.kernel.run(until_ns=10 * SECOND)
        assert seen == [1, 2]
        assert told == ["gone"]
        assert sim.process.exit_code is None
        assert not sim.node.up
        assert not sim.node.processes

    def test_it_ends_once(self, sim: SimWorld) -> None:
        told: list[int] = []
        sim.process.on_exit.append(told.append)
        sim.process.end(1)
        sim.process.end(2)
        sim.process.receive(signal.SIGKILL)
        sim.node.crash()
        assert told == [1]

    def test_pids_and_ports_are_never_given_twice(self, sim: SimWorld) -> None:
        processes = [node.start_process("p") for node in (sim.node, sim.other_node) for _ in range(20)]
        assert len({process.pid for process in processes}) == 40
        assert len({sim.node.free_port() for _ in range(100)}) == 100

    def test_nothing_starts_without_power(self, sim: SimWorld) -> None:
        sim.node.crash()
        with pytest.raises(AssertionError, match="is down"):
            sim.node.start_process("late")
        sim.node.boot()
        assert sim.node.start_process("again").alive
        assert sim.node.boots == 2


class TestSignals:
    def test_a_signal_without_a_handler_ends_it(self, sim: SimWorld) -> None:
        sim.process.receive(signal.SIGTERM)
        assert sim.process.exit_code == -signal.SIGTERM

    def test_a_handler_decides_but_not_on_sigkill(self, sim: SimWorld) -> None:
        got: list[int] = []
        sim.process.on_signal = got.append
        sim.process.receive(signal.SIGTERM)
        sim.process.receive(signal.SIGHUP)
        assert (got, sim.process.alive) == ([signal.SIGTERM, signal.SIGHUP], True)
        sim.process.receive(signal.SIGKILL)
        assert sim.process.exit_code == -signal.SIGKILL
        assert len(got) == 2

    def test_stopped_it_stands_still_and_loses_nothing(self, sim: SimWorld) -> None:
        seen = ticking(sim, sim.process)
        at(sim, 2.5, lambda: sim.process.receive(signal.SIGSTOP))
        at(sim, 6.5, lambda: sim.process.receive(signal.SIGCONT))
        sim.kernel.run(until_ns=int(8.9 * SECOND))
        # The timer that was due at 3 s goes off at 6.5 s.
        assert seen == [1, 2, 6, 7, 8]

    def test_a_signal_to_a_stopped_process_waits_for_its_continuation(self, sim: SimWorld) -> None:
        got: list[int] = []
        sim.process.on_signal = got.append
        sim.process.receive(signal.SIGSTOP)
        sim.process.receive(signal.SIGTERM)
        assert got == []
        sim.process.receive(signal.SIGCONT)
        assert got == [signal.SIGTERM]

    def test_a_stopped_process_can_be_killed(self, sim: SimWorld) -> None:
        sim.process.receive(signal.SIGSTOP)
        sim.process.receive(signal.SIGKILL)
        assert sim.process.exit_code == -signal.SIGKILL

    def test_a_process_on_a_paused_node_goes_on_only_if_neither_pauses_it(self, sim: SimWorld) -> None:
        seen = ticking(sim, sim.process)
        at(sim, 1.5, sim.node.pause)
        at(sim, 2.5, lambda: sim.process.receive(signal.SIGSTOP))
        at(sim, 3.5, sim.node.unpause)
        at(sim, 5.5, lambda: sim.process.receive(signal.SIGCONT))
        sim.kernel.run(until_ns=int(7.1 * SECOND))
        assert seen == [1, 5, 6]

    def test_other_processes_of_the_node_go_on_while_one_is_stopped(self, sim: SimWorld) -> None:
        other = sim.node.start_process("other")
        seen = ticking(sim, other)
        sim.process.receive(signal.SIGSTOP)
        sim.kernel.run(until_ns=int(3.5 * SECOND))
        assert seen == [1, 2, 3]


class TestClocks:
    def test_a_node_that_stands_still_has_clocks_that_go_on(self, sim: SimWorld) -> None:
        clock = NodeClock(sim.node)
        before_ns = clock.now_ns()
        sim.node.pause()
        sim.kernel.run(until_ns=5 * SECOND)
        assert clock.now_ns() - before_ns == 5 * SECOND

    def test_monotonic_clocks_of_two_nodes_are_far_apart(self, sim: SimWorld) -> None:
        apart_ns = NodeClock(sim.node).now_ns() - NodeClock(sim.other_node).now_ns()
        assert abs(apart_ns) > 24 * 3600 * SECOND

    def test_a_drift_counts_from_its_beginning_and_stretches_waits(self, sim: SimWorld) -> None:
        clock = NodeClock(sim.node)
        before_ns = clock.now_ns()
        sim.kernel.run(until_ns=100 * SECOND)
        assert clock.now_ns() - before_ns == 100 * SECOND
        sim.node.drift(0.5)
        assert clock.now_ns() - before_ns == 100 * SECOND
        sim.kernel.run(until_ns=200 * SECOND)
        assert clock.now_ns() - before_ns == 250 * SECOND
        assert clock.kernel_ns(3.0) == 2 * SECOND

    @pytest.mark.parametrize("drift", [0.0, 0.01, 0.5, -0.3])
    def test_a_wait_for_what_is_left_of_a_moment_ends(self, sim: SimWorld, drift: float) -> None:
        """A wait that took no time at all would be repeated for ever."""
        sim.node.drift(drift)
        clock = NodeClock(sim.node)
        assert all(clock.kernel_ns(seconds) > 0 for seconds in (1e-9, 0.4e-9, 1.5e-9, 1e-15))
        assert clock.kernel_ns(0.0) == 0
        until_ns = clock.now_ns() + 12345
        while (left_ns := until_ns - clock.now_ns()) > 0:
            sim.kernel.run(until_ns=sim.kernel.now_ns + clock.kernel_ns(left_ns / 1e9))
        assert clock.now_ns() - until_ns <= 2

    def test_an_offset_moves_the_wall_clock_only(self, sim: SimWorld) -> None:
        clock = NodeClock(sim.node)
        wall_ns, now_ns = clock.wall_ns(), clock.now_ns()
        sim.node.clock_offset_s = -20.0
        assert clock.wall_ns() == wall_ns - 20 * SECOND
        assert clock.now_ns() == now_ns

    def test_a_boot_starts_the_monotonic_clock_again(self, sim: SimWorld) -> None:
        clock = NodeClock(sim.node)
        at_boot_ns = clock.now_ns()
        sim.kernel.run(until_ns=50 * SECOND)
        sim.node.crash()
        sim.node.boot()
        assert clock.now_ns() == at_boot_ns


class TestNetwork:
    def arrivals(self, sim: SimWorld, send_at_s: list[float], until_s: float) -> list[float]:
        seen: list[float] = []

        def send() -> None:
            network = sim.cluster.network
            network.route(sim.node, sim.other_node).send("hello", lambda: seen.append(sim.now_s()))

        for when_s in send_at_s:
            at(sim, when_s, send)
        sim.kernel.run(until_ns=int(until_s * SECOND))
        return seen

    def test_a_message_takes_its_links_latency_and_up_to_a_tenth_more(self, sim: SimWorld) -> None:
        taken = {sim.cluster.network.route(sim.node, sim.other_node).latency_ns() for _ in range(200)}
        assert min(taken) >= LINK_NS  # type: ignore[type-var]
        assert max(taken) <= LINK_NS * 1.1  # type: ignore[operator,type-var]
        assert len(taken) > 50
        assert sim.cluster.network.route(sim.node, sim.node).latency_ns() == LOOPBACK_NS

    def test_each_direction_has_a_link_of_its_own(self, sim: SimWorld) -> None:
        network = sim.cluster.network
        network.link(sim.node, sim.other_node).latency_ns = 5 * SECOND
        there, back = (
            network.route(sim.node, sim.other_node).latency_ns(),
            network.route(sim.other_node, sim.node).latency_ns(),
        )
        assert there is not None
        assert back is not None
        assert there >= 5 * SECOND
        assert back < SECOND

    def test_what_is_sent_into_a_cut_arrives_when_tcp_sends_it_again(self, sim: SimWorld) -> None:
        at(sim, 0.5, lambda: sim.cluster.network.cut(sim.node, sim.other_node))
        at(sim, 10.0, lambda: sim.cluster.network.mend(sim.node, sim.other_node))
        seen = self.arrivals(sim, [0.1, 1.0, 11.0], until_s=30.0)
        assert len(seen) == 3
        assert seen[0] < 0.2
        assert sum(10.0 < each < 11.0 for each in seen) <= 1
        assert any(11.0 <= each < 11.01 for each in seen)
        # Pauses between two attempts double: 0.2, 0.4, ... 6.4 s; the attempt after 10 s comes at 1 + 12.6 s.
        assert any(13.5 < each < 13.7 for each in seen)

    def test_what_is_sent_into_a_cut_that_lasts_is_given_up(self, sim: SimWorld) -> None:
        sim.cluster.network.cut(sim.node, sim.other_node)
        at(sim, 1500.0, lambda: sim.cluster.network.mend(sim.node, sim.other_node))
        assert self.arrivals(sim, [1.0], until_s=3000.0) == []

    def test_a_host_without_power_hears_nothing_also_not_later(self, sim: SimWorld) -> None:
        sim.other_node.crash()
        at(sim, 5.0, sim.other_node.boot)
        seen = self.arrivals(sim, [1.0, 6.0], until_s=30.0)
        assert len(seen) == 1
        assert seen[0] > 6.0

    def test_a_cut_is_one_way_unless_the_other_is_cut_too(self, sim: SimWorld) -> None:
        network = sim.cluster.network
        network.cut(sim.node, sim.other_node)
        assert network.route(sim.node, sim.other_node).latency_ns() is None
        assert network.route(sim.other_node, sim.node).latency_ns() is not None
        assert network.cuts == 1
        network.cut(sim.node, sim.other_node)
        assert network.cuts == 1
        network.mend(sim.node, sim.other_node)
        network.mend(sim.node, sim.other_node)
        assert network.cuts == 0

    def test_listeners_die_with_their_process(self, sim: SimWorld) -> None:
        server = StoreServer(sim.process, 29400).listen()
        assert sim.cluster.listeners[sim.node.address, 29400] is server
        sim.process.end(0)
        assert not sim.cluster.listeners

    def test_listeners_die_with_their_node_and_the_port_is_free_again(self, sim: SimWorld) -> None:
        StoreServer(sim.process, 29400).listen()
        sim.node.crash()
        sim.node.boot()
        StoreServer(sim.node.start_process("again"), 29400).listen()

    def test_two_do_not_listen_on_one_port(self, sim: SimWorld) -> None:
        StoreServer(sim.process, 29400).listen()
        with pytest.raises(Exception, match="in use"):
            StoreServer(sim.node.start_process("other"), 29400).listen()
        StoreServer(sim.other_node.start_process("other"), 29400).listen()

    def test_a_node_is_found_by_its_name_and_address(self, sim: SimWorld) -> None:
        assert sim.cluster.node_at(sim.node.address) is sim.node
        assert sim.cluster.node_at(sim.node.name) is sim.node
        assert sim.cluster.node_at("10.9.9.9") is None
