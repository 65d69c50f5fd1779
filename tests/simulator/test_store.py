"""The simulated store as a thing on a network: what stalls, breaks, falls silent, and what a connection does then.

What its operations mean is in the contract suite, which it passes (`tests/contracts/test_store.py`).
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta

import pytest

from simulator.adapters.store import StoreClient, StoreLost, StoreServer, connect
from simulator.kernel import SECOND
from tests.contracts.worlds import SimWorld
from toolkit.core.errors import StoreError, StoreTimeoutError
from toolkit.core.keyvalue import KeyValues

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
        assert 0.0004 <= sim.took_s(lambda: store.add("k", 1)) < 0.001

    sim.run(body)


def test_a_stall_holds_everything_and_then_lets_it_go(sim: Hosted) -> None:
    def body() -> None:
        store, other = sim.client(), sim.client()
        sim.server.stalled_until_ns = sim.kernel.now_ns + 20 * SECOND
        running = sim.start(lambda: other.set("a", "1"))
        assert 20 <= sim.took_s(lambda: store.add("b", 1)) < 20.01
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
        assert store.check(["k"])

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
        took_s = sim.took_s(lambda: store.add("k", 1))
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


class TestWritesThatNobodyWaitsFor:
    """`set`, `multi_set` and `append`, as TCPStore does them."""

    @pytest.fixture(
        params=[
            lambda store: store.set("k", "1"),
            lambda store: store.multi_set(["k"], ["1"]),
            lambda store: store.append("k", "1"),
        ],
        ids=["set", "multi_set", "append"],
    )
    def write(self, request: pytest.FixtureRequest) -> Callable[[StoreClient], None]:
        made: Callable[[StoreClient], None] = request.param
        return made

    def test_they_return_at_once_and_are_done_soon(
        self, sim: Hosted, write: Callable[[StoreClient], None]
    ) -> None:
        def body() -> None:
            store, other = sim.client(), sim.client()
            assert sim.took_s(lambda: write(store)) == 0
            assert not store.busy
            assert other.get("k") == b"1"

        sim.run(body)

    def test_they_return_at_once_when_nobody_answers(
        self, sim: Hosted, write: Callable[[StoreClient], None]
    ) -> None:
        def body() -> None:
            store = sim.client()
            sim.other_node.crash()
            assert sim.took_s(lambda: write(store)) == 0

        sim.run(body)

    def test_they_wait_for_their_turn_on_the_connection(
        self, sim: Hosted, write: Callable[[StoreClient], None]
    ) -> None:
        def body() -> None:
            store = sim.client()
            sim.start(lambda: store.wait(["late"]))
            sim.later(5, lambda: sim.server.data.set("late", "1"))
            sim.later(6, lambda: sim.start(lambda: sim.client().set("late", "2")))
            sim.kernel.sleep(SECOND)
            assert 5 <= sim.took_s(lambda: write(store)) < 5.01

        sim.run(body)

    def test_on_a_broken_connection_they_raise(
        self, sim: Hosted, write: Callable[[StoreClient], None]
    ) -> None:
        def body() -> None:
            store = sim.client()
            store.reset("a cable")
            with pytest.raises(StoreLost, match="a cable"):
                write(store)

        sim.run(body)

    def test_the_first_one_after_the_death_of_the_server_is_lost_and_the_next_one_raises(
        self, sim: Hosted, write: Callable[[StoreClient], None]
    ) -> None:
        """Measured on torch 2.13: the first `set` returns, the second says "Broken pipe"."""

        def body() -> None:
            store = sim.client()
            assert store.num_keys() == 0
            sim.host.end(-signal.SIGKILL)
            write(store)
            sim.kernel.sleep(SECOND)
            with pytest.raises(StoreLost, match="connection reset by peer"):
                write(store)

        sim.run(body)

    def test_what_is_on_its_way_when_the_connection_breaks_is_lost(
        self, sim: Hosted, write: Callable[[StoreClient], None]
    ) -> None:
        def body() -> None:
            store, network = sim.client(), sim.cluster.network
            network.cut(sim.node, sim.other_node)
            write(store)
            store.reset("a cable")
            network.mend(sim.node, sim.other_node)
            sim.kernel.sleep(100 * SECOND)
            assert not sim.client().check(["k"])

        sim.run(body)

    def test_they_raise_when_tcp_has_given_up(
        self, sim: Hosted, write: Callable[[StoreClient], None]
    ) -> None:
        def body() -> None:
            store = sim.client()
            sim.other_node.crash()
            write(store)
            sim.kernel.sleep(923 * SECOND)
            write(store)
            sim.kernel.sleep(SECOND)
            with pytest.raises(StoreLost, match="connection timed out"):
                write(store)

        sim.run(body)

    def test_what_is_wrong_is_told_before_it_is_sent(self, sim: Hosted) -> None:
        def body() -> None:
            store = sim.client()
            for wrong in (
                lambda: store.set("k", 3),  # type: ignore[arg-type]
                lambda: store.append(3, "x"),  # type: ignore[arg-type]
                lambda: store.multi_set(["a", "b"], ["1", 2]),  # type: ignore[list-item]
            ):
                with pytest.raises(TypeError):
                    wrong()
            assert store.num_keys() == 0
            assert sim.server.operations == 1

        sim.run(body)

    def test_a_list_that_the_caller_changes_afterwards_is_sent_as_it_was(self, sim: Hosted) -> None:
        def body() -> None:
            store, keys, values = sim.client(), ["a", "b"], ["1", "2"]
            store.multi_set(keys, values)
            keys[0], values[1] = "other", "other"
            assert store.multi_get(["a", "b"]) == [b"1", b"2"]

        sim.run(body)


class TestOrderOnAConnection:
    """Each message has a latency of its own; what is sent later is done later all the same."""

    COUNT = 50

    def write(self, store: StoreClient) -> None:
        for number in range(self.COUNT):
            store.append("k", f"{number},")

    def assert_in_order(self, store: StoreClient) -> None:
        assert store.get("k").decode() == "".join(f"{number}," for number in range(self.COUNT))

    def test_later_ones_do_not_overtake(self, sim: Hosted) -> None:
        def body() -> None:
            store = sim.client()
            self.write(store)
            assert store.check(["k"])
            self.assert_in_order(store)

        sim.run(body)

    def test_not_even_when_the_link_gets_faster(self, sim: Hosted) -> None:
        def body() -> None:
            store, link = sim.client(), sim.cluster.network.link(sim.node, sim.other_node)
            link.latency_ns = 5 * SECOND
            store.set("k", "first")
            link.latency_ns = 1000
            assert sim.took_s(lambda: store.add("n", 1)) >= 5
            assert store.get("k") == b"first"

        sim.run(body)

    @pytest.mark.parametrize("seed", range(5))
    def test_a_stall_or_a_pause_keeps_the_order(self, seed: int) -> None:
        sim = Hosted(seed)

        def body() -> None:
            store = sim.client()
            sim.server.stalled_until_ns = sim.kernel.now_ns + SECOND
            self.write(store)
            sim.kernel.sleep(SECOND // 2)
            sim.other_node.pause()
            store.append("k", f"{self.COUNT},")
            sim.later(2, sim.other_node.unpause)
            sim.kernel.sleep(3 * SECOND)
            assert sim.client().get("k").endswith(f",{self.COUNT - 1},{self.COUNT},".encode())

        sim.run(body)
        sim.close()

    def test_what_comes_at_the_end_of_a_stall_comes_after_what_it_held(self, sim: Hosted) -> None:
        def body() -> None:
            store = sim.client()
            for _ in range(self.COUNT):
                sim.server.stalled_until_ns = sim.kernel.now_ns + 200_000 + 10_000
                store.set("k", "early")
                store.set("k", "late")
                assert store.get("k") == b"late"

        sim.run(body)

    def test_what_a_cut_swallowed_comes_before_what_was_sent_after_it(self, sim: Hosted) -> None:
        def body() -> None:
            store, network = sim.client(), sim.cluster.network
            store.append("k", "0,")
            network.cut(sim.node, sim.other_node)
            store.append("k", "1,")
            sim.kernel.sleep(10 * SECOND)
            store.append("k", "2,")
            sim.kernel.sleep(SECOND)
            network.mend(sim.node, sim.other_node)
            store.append("k", "3,")
            sim.kernel.sleep(SECOND // 10)
            assert sim.server.data.get("k") == b"0,"
            assert store.check(["k"])
            assert store.get("k") == b"0,1,2,3,"

        sim.run(body)

    def test_two_connections_have_no_order_between_them(self) -> None:
        firsts = set()
        for seed in range(20):
            sim = Hosted(seed)

            def body(sim: Hosted = sim) -> None:
                one, other = sim.client(), sim.client()
                one.append("k", "1")
                other.append("k", "2")
                sim.kernel.sleep(SECOND)
                firsts.add(one.get("k"))

            sim.run(body)
            sim.close()
        assert firsts == {b"12", b"21"}


class TestOneServer:
    """A connection is to one server: to the one after it, it is a stranger's."""

    def test_a_server_that_starts_where_another_one_ended_resets_its_connections(self, sim: Hosted) -> None:
        def body() -> None:
            store = sim.client()
            assert store.add("n", 1) == 1
            sim.host.end(0)
            StoreServer(sim.other_node.start_process("again"), PORT).listen()
            store.set("k", "1")
            with pytest.raises(StoreLost, match="connection reset by peer"):
                store.check(["k"])
            assert not sim.client().check(["k"])

        sim.run(body)

    def test_so_does_one_on_a_host_that_was_booted(self, sim: Hosted) -> None:
        def body() -> None:
            store, fresh = sim.client(), sim.client()
            assert store.add("n", 1) == 1
            sim.other_node.crash()
            store.set("k", "1")
            fresh.set("k", "1")
            sim.other_node.boot()
            StoreServer(sim.other_node.start_process("again"), PORT).listen()
            for each in (store, fresh):
                with pytest.raises(StoreLost, match="connection reset by peer"):
                    each.check(["k"])

        sim.run(body)

    def test_a_long_wait_that_nobody_hears_ends_when_tcp_gives_up(self, sim: Hosted) -> None:
        def body() -> None:
            store = sim.client()
            assert store.add("n", 1) == 1
            sim.other_node.crash()

            def wait() -> None:
                with pytest.raises(StoreLost, match="connection timed out"):
                    store.wait(["k"], timedelta(days=30))

            assert sim.took_s(wait) == 924

        sim.run(body)


class Looked(KeyValues):
    """Counts how often somebody looks for a key."""

    __slots__ = ("looks",)

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    def get(self, key: str) -> bytes | None:
        self.looks += 1
        return super().get(key)

    def missing(self, keys: Iterable[str]) -> list[str]:
        looked_for = list(keys)
        self.looks += len(looked_for)
        return super().missing(looked_for)


class TestWaitersByKey:
    @pytest.fixture
    def data(self, sim: Hosted) -> Looked:
        sim.server.data = made = Looked()
        return made

    def test_a_key_wakes_who_waits_for_it_and_costs_nobody_else_anything(
        self, sim: Hosted, data: Looked
    ) -> None:
        count = 5_000
        woken: list[int] = []

        def wait(number: int) -> None:
            sim.client().wait([f"k{number}"])
            woken.append(number)

        def body() -> None:
            for number in range(count):
                sim.process.spawn(lambda number=number: wait(number), "waiter")  # type: ignore[misc]
            sim.kernel.sleep(SECOND)
            store, steps, looks = sim.client(), sim.kernel.steps, data.looks
            assert looks == count
            for number in range(count):
                store.set(f"k{number}", "1")
                store.add("another", 1)
            sim.kernel.sleep(SECOND)
            assert sorted(woken) == list(range(count))
            # Per key: the set arrives, and the answer to who waited; the addition arrives, and its answer.
            assert sim.kernel.steps - steps <= 4 * count + 1
            # Once for whether it has come, once by who waited for it, once by `add`.
            assert data.looks - looks <= 3 * count
            assert not sim.server._waiting

        sim.run(body)

    def test_who_waits_for_many_keys_looks_at_each_a_few_times(self, sim: Hosted, data: Looked) -> None:
        keys = [f"k{number}" for number in range(2_000)]

        def body() -> None:
            store = sim.client()
            running = sim.start(lambda: sim.client().multi_get(keys))
            sim.kernel.sleep(SECOND)
            for key in keys:
                store.set(key, "1")
            assert running.result(1.0) == [b"1"] * len(keys)
            assert data.looks <= 6 * len(keys)

        sim.run(body)

    @pytest.mark.parametrize("order", [("a", "b", "c"), ("c", "b", "a"), ("b", "c", "a")])
    def test_keys_may_come_in_any_order(self, sim: Hosted, order: tuple[str, ...]) -> None:
        def body() -> None:
            store = sim.client()
            running = sim.start(lambda: sim.client().multi_get(["a", "b", "c"]))
            for key in order:
                sim.kernel.sleep(SECOND)
                assert not running.done()
                store.set(key, key)
            assert running.result(1.0) == [b"a", b"b", b"c"]

        sim.run(body)

    def test_all_keys_must_be_there_together(self, sim: Hosted) -> None:
        def body() -> None:
            store = sim.client()
            running = sim.start(lambda: sim.client().multi_get(["a", "b"]))
            sim.kernel.sleep(SECOND)
            store.set("a", "1")
            store.delete_key("a")
            store.set("b", "1")
            sim.kernel.sleep(SECOND)
            assert not running.done()
            store.set("a", "2")
            assert running.result(1.0) == [b"2", b"1"]

        sim.run(body)

    def test_a_comparison_that_makes_no_key_wakes_who_waits_for_it_for_nothing(self, sim: Hosted) -> None:
        """As TCPStore's libuv server does (measured on torch 2.13)."""

        def body() -> None:
            store = sim.client()
            store.set("there", "1")
            running = sim.start(lambda: sim.client().get("k"))
            several = sim.start(lambda: sim.client().multi_get(["there", "k"]))
            sim.kernel.sleep(SECOND)
            assert store.compare_set("k", "old", "new") == b"old"
            assert running.result(1.0) == b""
            assert several.result(1.0) == [b"1", b""]

        sim.run(body)

    def test_who_gives_up_leaves_the_others_waiting(self, sim: Hosted) -> None:
        def body() -> None:
            store = sim.client()
            others = [sim.start(lambda: sim.client().get("k")) for _ in range(3)]
            sim.kernel.sleep(SECOND)
            with pytest.raises(StoreTimeoutError):
                store.wait(["k"], timedelta(seconds=1))
            assert sum(map(len, sim.server._waiting.values())) == 3
            store.set("k", "1")
            assert [each.result(1.0) for each in others] == [b"1"] * 3

        sim.run(body)


def test_operations_leave_no_timers_behind(sim: Hosted) -> None:
    def body() -> None:
        store = sim.client(timeout_s=3600.0)
        store.set("k", "1")
        before = len(sim.kernel._times)
        for _ in range(100):
            store.wait(["k"])
            store.get("k")
            store.add("n", 1)
        assert len(sim.kernel._times) <= before + 2

    sim.run(body)
