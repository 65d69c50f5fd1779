"""The contract of a store: torch's operations with torch's meaning, for ours and for torch's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from toolkit.adapters.memory_store import MemoryStore, PrefixStore

from .store_adapters import ADAPTERS, StoreAdapter, parameters
from .worlds import RealWorld, World

#: timeout of stores whose waits are meant to succeed, and of the tests' own waits
LONG = timedelta(seconds=30)
#: timeout of waits that are meant to fail
SHORT = timedelta(milliseconds=200)

each_adapter = pytest.mark.parametrize("adapter", parameters())


@pytest.fixture
def world(adapter: StoreAdapter) -> Iterator[World]:
    made = adapter.new_world()
    yield made
    made.close()


@pytest.fixture
def stores(adapter: StoreAdapter, world: World, tmp_path: Path) -> tuple[Any, Any]:
    return adapter.open(world, tmp_path, LONG)


@pytest.fixture
def store(stores: tuple[Any, Any]) -> Any:
    return stores[0]


def is_a(error: BaseException, name: str) -> bool:
    return any(cls.__name__ == name for cls in type(error).__mro__)


def fails_late(adapter: StoreAdapter, world: World, wait: Callable[[], object], *keys: str) -> None:
    """`wait` fails with the store's error for waits, after SHORT and not much later."""
    began_s = world.now_s()
    with pytest.raises(Exception) as caught:
        wait()
    took_s = world.now_s() - began_s
    assert is_a(caught.value, adapter.timeout_error), caught.value
    assert SHORT.total_seconds() * 0.9 <= took_s <= SHORT.total_seconds() + adapter.late_s
    if adapter.names_keys:
        assert all(key in str(caught.value) for key in keys)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=[adapter.name for adapter in ADAPTERS])
def test_each_difference_of_an_adapter_has_its_reason(adapter: StoreAdapter) -> None:
    assert set(adapter.differences()) <= set(adapter.reasons)


@each_adapter
class TestValues:
    def test_what_is_set_is_read_by_the_other_handle(self, stores: tuple[Any, Any]) -> None:
        first, second = stores
        first.set("k", "text")
        assert second.get("k") == b"text"
        second.set("k", b"\x00\xff")
        assert second.check(["k"])  # TCPStore's set is still on its way when it returns; this comes after it
        assert first.get("k") == b"\x00\xff"

    def test_text_is_utf8(self, store: Any) -> None:
        store.set("schlüssel", "grün")
        assert store.get("schlüssel") == "grün".encode()

    def test_an_empty_value_is_a_value(self, store: Any) -> None:
        store.set("k", "")
        assert store.check(["k"])
        assert store.get("k") == b""

    def test_a_large_value(self, stores: tuple[Any, Any]) -> None:
        stores[0].set("k", b"x" * 1_000_000)
        assert len(stores[1].get("k")) == 1_000_000

    def test_keys_may_look_like_paths_and_be_empty(self, store: Any) -> None:
        store.set("a/b", "1")
        store.set("", "2")
        assert store.multi_get(["a/b", ""]) == [b"1", b"2"]
        assert not store.check(["a"])

    def test_other_types_are_refused(self, store: Any) -> None:
        with pytest.raises(TypeError):
            store.set("k", 3)
        with pytest.raises(TypeError):
            store.set(3, "x")
        assert not store.check(["k"])

    def test_append(self, stores: tuple[Any, Any]) -> None:
        stores[0].append("k", "x")
        assert stores[0].check(
            ["k"]
        )  # TCPStore's append is still on its way when it returns; this comes after it
        stores[1].append("k", "y")
        stores[0].append("empty", "")
        assert stores[1].multi_get(["k", "empty"]) == [b"xy", b""]

    def test_multi_set_and_multi_get_keep_the_order(self, stores: tuple[Any, Any]) -> None:
        stores[0].multi_set(["a", "b"], ["1", "2"])
        assert stores[1].multi_get(["b", "a", "b"]) == [b"2", b"1", b"2"]
        stores[0].multi_set(["a"], [b"\xff"])
        assert stores[0].check(["a"])  # and so may a multi_set be
        assert stores[1].multi_get(["a"]) == [b"\xff"]
        assert stores[1].multi_get([]) == []

    def test_multi_set_with_too_few_values_fails(self, adapter: StoreAdapter, store: Any) -> None:
        if not adapter.checks_lengths:
            assert "checks_lengths" in adapter.reasons  # it would be undefined behaviour
            return
        with pytest.raises(Exception, match="keys and"):
            store.multi_set(["a", "b"], ["1"])
        assert not store.check(["a"])

    def test_extended_api(self, adapter: StoreAdapter, store: Any) -> None:
        assert store.has_extended_api() is adapter.extended

    def test_check_wants_all_keys(self, store: Any) -> None:
        store.set("a", "1")
        assert store.check(["a"])
        assert store.check(["a", "a"])
        assert not store.check(["a", "b"])
        assert store.check([])

    def test_delete(self, adapter: StoreAdapter, stores: tuple[Any, Any]) -> None:
        stores[0].set("k", "1")
        assert stores[0].check(
            ["k"]
        )  # TCPStore's set is still on its way when it returns; this comes after it
        assert stores[1].delete_key("k") is True
        assert not stores[0].check(["k"])
        assert stores[1].delete_key("k") is adapter.delete_missing

    def test_num_keys(self, adapter: StoreAdapter, stores: tuple[Any, Any]) -> None:
        first, second = stores
        at_first = adapter.keys_at_first
        assert second.num_keys() == at_first
        first.set("a", "")
        first.set("a", "1")
        first.add("n", 0)
        first.append("p", "")
        assert first.check(["p"])  # so may an append be
        assert second.num_keys() == at_first + 3
        first.delete_key("a")
        assert second.num_keys() == at_first + 2


@each_adapter
class TestCounters:
    def test_add_counts_from_0_in_decimal_text(self, stores: tuple[Any, Any]) -> None:
        first, second = stores
        assert first.add("n", 3) == 3
        assert second.add("n", -5) == -2
        assert first.get("n") == b"-2"

    def test_adding_0_makes_the_key(self, store: Any) -> None:
        assert store.add("n", 0) == 0
        assert store.get("n") == b"0"

    @pytest.mark.parametrize(("held", "total"), [("7", 8), (" +7", 8), ("7x", 8), (b"-7", -6)])
    def test_add_reads_what_set_wrote(self, store: Any, held: str | bytes, total: int) -> None:
        store.set("n", held)
        assert store.add("n", 1) == total

    def test_set_writes_over_a_counter(self, store: Any) -> None:
        store.add("n", 1)
        store.set("n", "x")
        assert store.get("n") == b"x"

    def test_a_deleted_counter_starts_again(self, store: Any) -> None:
        store.add("n", 5)
        store.delete_key("n")
        assert store.add("n", 1) == 1

    def test_add_to_what_is_no_number_fails(self, adapter: StoreAdapter, stores: tuple[Any, Any]) -> None:
        first, second = stores
        first.set("n", "abc")
        with pytest.raises(Exception) as caught:
            first.add("n", 1)
        assert is_a(caught.value, adapter.not_a_number)
        assert second.get("n") == b"abc"

    def test_add_to_an_empty_value(self, adapter: StoreAdapter, store: Any) -> None:
        store.set("n", "")
        if adapter.empty_counts_as_0:
            assert store.add("n", 1) == 1
        else:
            with pytest.raises(Exception) as caught:
                store.add("n", 1)
            assert is_a(caught.value, adapter.not_a_number)

    def test_no_addition_gets_lost_between_threads(self, world: World, stores: tuple[Any, Any]) -> None:
        def count(store: Any) -> list[int]:
            return [store.add("n", 1) for _ in range(200)]

        running = [world.start(partial(count, store)) for store in (*stores, *stores)]
        sums = [total for each in running for total in each.result(LONG.total_seconds())]
        assert sorted(sums) == list(range(1, 801))


@each_adapter
class TestCompareSet:
    @pytest.mark.parametrize(
        ("held", "expected", "returned", "after"),
        [
            ("old", "old", b"new", b"new"),
            ("old", "bad", b"old", b"old"),
            ("old", "", b"old", b"old"),
            ("", "", b"new", b"new"),
            ("", "bad", b"", b""),
            (None, "", b"new", b"new"),
            (None, "old", b"old", None),
        ],
    )
    def test_cases(
        self, stores: tuple[Any, Any], held: str | None, expected: str, returned: bytes, after: bytes | None
    ) -> None:
        first, second = stores
        if held is not None:
            first.set("k", held)
        assert first.compare_set("k", expected, "new") == returned
        assert second.check(["k"]) is (after is not None)
        if after is not None:
            assert second.get("k") == after

    def test_a_missing_key_set_to_nothing_exists(self, store: Any) -> None:
        assert store.compare_set("k", "", "") == b""
        assert store.check(["k"])

    def test_bytes(self, store: Any) -> None:
        assert store.compare_set("k", b"", b"\xff") == b"\xff"
        assert store.compare_set("k", b"\xff", b"\xfe") == b"\xfe"

    def test_one_thread_wins(self, world: World, stores: tuple[Any, Any]) -> None:
        start = threading.Barrier(4)

        def compete(me: int) -> bool:
            if isinstance(world, RealWorld):  # simulated tasks start at the same moment anyway
                start.wait(LONG.total_seconds())
            return bool(stores[me % 2].compare_set("leader", "", str(me)) == str(me).encode())

        running = [world.start(partial(compete, me)) for me in range(4)]
        won = [each.result(LONG.total_seconds()) for each in running]
        assert won.count(True) == 1
        assert stores[0].get("leader") == str(won.index(True)).encode()


def _waits(store: Any) -> dict[str, Callable[[], object]]:
    return {
        "get": lambda: store.get("late"),
        "multi_get": lambda: store.multi_get(["there", "late"]),
        "wait": lambda: store.wait(["there", "late"]),
        "wait with a timeout": lambda: store.wait(["there", "late"], LONG),
    }


WAITS = list(_waits(None))

_WAKERS: dict[str, Callable[[Any], object]] = {
    "set": lambda store: store.set("late", "1"),
    "add": lambda store: store.add("late", 1),
    "append": lambda store: store.append("late", "1"),
    "compare_set": lambda store: store.compare_set("late", "", "1"),
    "multi_set": lambda store: store.multi_set(["other", "late"], ["0", "1"]),
}


@each_adapter
class TestWaiting:
    @pytest.mark.parametrize("kind", WAITS)
    def test_does_not_wait_for_what_is_there(self, world: World, store: Any, kind: str) -> None:
        store.multi_set(["there", "late"], ["1", "1"])
        began_s = world.now_s()
        _waits(store)[kind]()
        assert world.now_s() - began_s < 1.0

    @pytest.mark.parametrize("waker", _WAKERS)
    def test_a_key_from_elsewhere_ends_a_wait(
        self, adapter: StoreAdapter, world: World, stores: tuple[Any, Any], waker: str
    ) -> None:
        def wake(store: Any) -> None:
            _WAKERS[waker](store)
            if waker in adapter.unheard:
                store.set(adapter.heard_with, "")

        self._wake("wait", world, stores, wake)

    @pytest.mark.parametrize("kind", WAITS)
    def test_each_wait_ends_when_the_last_key_comes(
        self, world: World, stores: tuple[Any, Any], kind: str
    ) -> None:
        self._wake(kind, world, stores, _WAKERS["set"])

    def _wake(self, kind: str, world: World, stores: tuple[Any, Any], waker: Callable[[Any], object]) -> None:
        first, second = stores
        first.set("there", "0")
        running = world.start(_waits(second)[kind])
        # Whether the wait has begun by now can't be seen from outside; either order must do.
        with pytest.raises(TimeoutError):
            running.result(0.05)
        waker(first)
        running.result(LONG.total_seconds() / 2)

    def test_a_comparison_with_a_missing_key_makes_nothing(
        self, adapter: StoreAdapter, world: World, stores: tuple[Any, Any]
    ) -> None:
        """It may wake a waiter all the same, which then gets an empty value of a key that is not there."""
        first, second = stores
        running = world.start(lambda: second.get("late"))
        with pytest.raises(TimeoutError):
            running.result(0.05)
        assert first.compare_set("late", "other", "other") == b"other"
        assert not first.check(["late"])
        if not adapter.wakes_for_nothing:
            with pytest.raises(TimeoutError):
                running.result(0.05)
            first.set("late", "1")
        found = running.result(LONG.total_seconds() / 2)
        assert found == (b"" if adapter.wakes_for_nothing else b"1")

    def test_all_waiters_wake(self, adapter: StoreAdapter, world: World, store: Any) -> None:
        if not adapter.waits_at_once:
            assert "waits_at_once" in adapter.reasons  # the set below would wait for the gets
            return
        running = [world.start(lambda: store.get("late")) for _ in range(4)]
        store.set("late", "1")
        assert [each.result(LONG.total_seconds() / 2) for each in running] == [b"1"] * 4

    def test_waiting_for_no_keys_ends_at_once(self, store: Any) -> None:
        store.wait([], SHORT)

    def test_a_wait_ends_after_its_own_timeout(self, adapter: StoreAdapter, world: World, store: Any) -> None:
        store.set("there", "1")
        fails_late(adapter, world, lambda: store.wait(["there", "absent"], SHORT), "absent")

    @pytest.mark.parametrize("kind", WAITS[:3])
    def test_a_wait_ends_after_the_timeout_of_the_store(
        self, adapter: StoreAdapter, world: World, store: Any, kind: str
    ) -> None:
        store.set("there", "1")
        store.set_timeout(SHORT)
        assert store.timeout == SHORT
        fails_late(adapter, world, _waits(store)[kind], "late")

    def test_the_store_works_on_after_a_wait_in_vain(
        self, adapter: StoreAdapter, world: World, stores: tuple[Any, Any]
    ) -> None:
        fails_late(adapter, world, lambda: stores[1].wait(["absent"], SHORT))
        stores[0].set("absent", "1")
        assert stores[1].get("absent") == b"1"

    def test_a_timeout_of_0_looks_once(self, adapter: StoreAdapter, store: Any) -> None:
        if not adapter.zero_looks_once:
            assert "zero_looks_once" in adapter.reasons  # it would wait for ever
            return
        with pytest.raises(Exception) as caught:
            store.wait(["absent"], timedelta(0))
        assert is_a(caught.value, adapter.timeout_error)
        store.set("k", "1")
        if adapter.zero_sees:
            store.wait(["k"], timedelta(0))
        else:
            assert "zero_sees" in adapter.reasons


class TestPrefixes:
    def test_keys_below_carry_the_prefix(self) -> None:
        below = MemoryStore()
        store = PrefixStore("outer", PrefixStore("inner", below))
        store.set("k", "1")
        assert below.get("inner/outer/k") == b"1"
        assert store.underlying_store.underlying_store is below

    def test_two_prefixes_do_not_see_each_other_but_count_together(self) -> None:
        below = MemoryStore()
        one, two = PrefixStore("1", below), PrefixStore("2", below)
        one.set("k", "1")
        assert not two.check(["k"])
        assert two.num_keys() == 1

    def test_a_timeout_is_that_of_the_store_below(self) -> None:
        below = MemoryStore(LONG)
        store = PrefixStore("p", below)
        store.set_timeout(SHORT)
        assert below.timeout == store.timeout == SHORT

    @pytest.mark.torch
    @pytest.mark.parametrize("prefix", ["p", "", "p/", "a/b"])
    def test_torch_and_ours_agree_on_the_keys(self, prefix: str) -> None:
        distributed = pytest.importorskip("torch.distributed")
        below = distributed.HashStore()
        PrefixStore(prefix, below).set("ours", "1")
        distributed.PrefixStore(prefix, below).set("torchs", "2")
        assert distributed.PrefixStore(prefix, below).get("ours") == b"1"
        assert PrefixStore(prefix, below).get("torchs") == b"2"
        assert PrefixStore(prefix, below).clone().get("torchs") == b"2"


def test_a_very_long_timeout_is_no_error() -> None:
    store = MemoryStore(timedelta.max)
    store.set("k", "1")
    assert store.get("k") == b"1"
