"""The simulated store as a thing on a network: what stalls, breaks, falls silent, and what a connection does then.

What its operations mean is in the contract suite, which it passes (`tests/contracts/test_store.py`).
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from simulator.adapters.store import StoreClient, StoreLost, StoreServer, connect
from simulator.kernel import SECOND
from tests.contracts.worlds import SimWorld
from toolkit.core.errors import StoreError, StoreTimeoutError

PORT = 29400


class Hosted(SimWorld):
    """A store on the other node."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.host = self.other_node.start_process("host")
        self.server = StoreServer(self.host, PORT).listen()

    def client(self, timeout_s: float = 30.0) -> StoreClient:
        return StoreClient(self.process, self.other_node.address, PORT, timeout_s)

    def took_s(self, what: Callable[[], object]) -> float:
        began_s = self.now_s()
        what()
        return self.now_s() - began_s


@pytest.fixture
def sim() -> Iterator[Hosted]:
    made = Hosted()
    yield made
    made.close()


def test_an_operation_takes_a_round_trip(sim: Hosted) -> None:
    def body() -> None:
        store = sim.client()
        assert 0.0004 <= sim.took_s(lambda: store.set("k", "1")) < 0.001

    sim.run(body)


def test_a_stall_holds_everything_and_then_lets_it_go(sim: Hosted) -> None:
    def body() -> None:
        store, other = sim.client(), sim.client()
        sim.server.stalled_until_ns = sim.kernel.now_ns + 20 * SECOND
        running = sim.start(lambda: other.set("a", "1"))
        assert 20 <= sim.took_s(lambda: store.set("b", "1")) < 20.01
        running.result(1.0)
        assert store.check(["a", "b"])

    sim.run(body)


def test_a_host_that_stands_still_answers_when_it_goes_on(sim: Hosted) -> None:
    def body() -> None:
        store = sim.client()
        sim.other_node.pause()
        sim.later(15, sim.other_node.unpause)
        assert 15 <= sim.took_s(lambda: store.add("n", 1)) < 15.1
        assert store.add("n", 1) == 2

    sim.run(body)


def test_the_death_of_the_hosting_process_resets_connections(sim: Hosted) -> None:
    def body() -> None:
        store = sim.client()
        store.set("k", "1")
        sim.host.end(0)
        with pytest.raises(StoreLost, match=f"{sim.other_node.address}:{PORT} is gone"):
            store.get("k")
        with pytest.raises(StoreLost):
            store.get("k")  # it stays broken

    sim.run(body)


def test_a_wait_ends_when_the_hosting_process_dies(sim: Hosted) -> None:
    def body() -> None:
        store = sim.client()
        sim.later(5, lambda: sim.host.end(-signal.SIGKILL))
        with pytest.raises(StoreError):
            store.wait(["never"], timedelta(seconds=3600))
        assert sim.now_s() < 3600

    sim.run(body)


def test_a_host_without_power_is_silence_which_ends_with_an_error(sim: Hosted) -> None:
    def body() -> None:
        store = sim.client()
        store.set("k", "1")
        sim.other_node.crash()
        with pytest.raises(StoreError):
            store.get("k")
        assert 30.0 <= sim.now_s() < 1800.0

    sim.run(body)


def test_nobody_answers_where_nobody_listens(sim: Hosted) -> None:
    def body() -> None:
        with pytest.raises(StoreTimeoutError, match=f"{sim.node.address}:{PORT} within 7 s"):
            connect(sim.process, sim.node.address, PORT, 7.0)
        assert 7.0 <= sim.now_s() < 8.0

    sim.run(body)


def test_a_connection_is_made_as_soon_as_somebody_listens(sim: Hosted) -> None:
    def body() -> None:
        sim.later(3, lambda: StoreServer(sim.node.start_process("late"), PORT).listen())
        store = connect(sim.process, sim.node.address, PORT, 60.0)
        assert 3.0 <= sim.now_s() < 5.0
        store.set("k", "1")

    sim.run(body)


def test_a_connection_does_one_operation_at_a_time_in_their_order(sim: Hosted) -> None:
    done: list[tuple[str, float]] = []

    def body() -> None:
        store, other = sim.client(), sim.client()

        def noting(name: str, what: Callable[[], object]) -> Callable[[], None]:
            return lambda: (what(), done.append((name, sim.now_s())))[1]

        waiting = sim.start(noting("wait", lambda: store.wait(["late"])))
        sim.kernel.sleep(SECOND)
        behind = sim.start(noting("set", lambda: store.set("k", "1")))
        sim.kernel.sleep(SECOND)
        assert not other.check(["k"])  # another connection is free
        other.set("late", "1")
        waiting.result(1.0)
        behind.result(1.0)
        assert [name for name, _ in done] == ["wait", "set"]
        assert other.check(["k"])

    sim.run(body)


def test_a_watch_leaves_the_connection_to_others(sim: Hosted) -> None:
    def body() -> None:
        store = sim.client()
        waiting = sim.start(lambda: store.watch(["late"], timedelta(seconds=60), lambda: None))
        sim.kernel.sleep(SECOND)
        assert sim.took_s(lambda: store.set("k", "1")) < 0.01
        store.set("late", "1")
        waiting.result(1.0)

    sim.run(body)


def test_a_wait_in_vain_is_forgotten_by_the_store(sim: Hosted) -> None:
    def body() -> None:
        store = sim.client()
        for _ in range(3):
            with pytest.raises(StoreTimeoutError, match="waited 2 s for key 'absent'"):
                store.wait(["absent"], timedelta(seconds=2))
        assert not sim.server._waiting
        store.set("absent", "1")
        assert store.get("absent") == b"1"

    sim.run(body)


def test_a_late_answer_to_a_wait_in_vain_wakes_nobody(sim: Hosted) -> None:
    """A task that has given up does something else by then, and must not be woken out of that."""

    def body() -> None:
        store = sim.client()
        sim.cluster.network.link(sim.other_node, sim.node).latency_ns = SECOND
        sim.later(1.5, lambda: sim.server.data.set("k", b"1"))
        sim.start(lambda: sim.client().set("wakes waiters", ""))
        with pytest.raises(StoreTimeoutError):
            store.wait(["absent"], timedelta(seconds=2))
        began_s = sim.now_s()
        sim.kernel.sleep(50 * SECOND)
        assert sim.now_s() - began_s == 50

    sim.run(body)


def test_a_cut_link_delays_and_does_not_break(sim: Hosted) -> None:
    def body() -> None:
        store, network = sim.client(), sim.cluster.network
        network.cut(sim.node, sim.other_node)
        sim.later(20, lambda: network.mend(sim.node, sim.other_node))
        took_s = sim.took_s(lambda: store.set("k", "1"))
        assert 20 <= took_s < 60
        assert store.get("k") == b"1"

    sim.run(body)


def test_a_lost_answer_leaves_the_operation_done(sim: Hosted) -> None:
    def body() -> None:
        store, other = sim.client(), StoreClient(sim.host, "localhost", PORT)
        sim.cluster.network.cut(sim.other_node, sim.node)
        waiting = sim.start(lambda: store.add("n", 1))
        sim.kernel.sleep(5 * SECOND)
        assert not waiting.done()
        assert sim.server.data.get("n") == b"1"
        assert other.check(["n"])
        sim.cluster.network.mend(sim.other_node, sim.node)
        assert waiting.result(60.0) == 1

    sim.run(body)


def test_a_reset_breaks_a_connection_under_its_operation(sim: Hosted) -> None:
    def body() -> None:
        store, other = sim.client(), sim.client()
        sim.later(5, lambda: store.reset("a cable"))
        with pytest.raises(StoreLost, match="a cable"):
            store.wait(["never"])
        assert sim.now_s() < 6
        other.set("k", "1")

    sim.run(body)


def test_a_store_is_empty_after_its_host_came_back(sim: Hosted) -> None:
    def body() -> None:
        sim.client().set("k", "1")
        sim.other_node.crash()
        sim.other_node.boot()
        StoreServer(sim.other_node.start_process("host"), PORT).listen()
        assert not sim.client().check(["k"])

    sim.run(body)


def test_operations_are_counted(sim: Hosted) -> None:
    def body() -> None:
        store = sim.client()
        before = sim.server.operations
        for _ in range(5):
            store.add("n", 1)
        assert sim.server.operations == before + 5

    sim.run(body)
