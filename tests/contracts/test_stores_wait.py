"""The contract of `Stores`: a wait on any store ends with the keys, in time, or with the error that says why not."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from toolkit.adapters.clock import SystemClock
from toolkit.adapters.memory_store import MemoryStore, PrefixStore
from toolkit.adapters.stores import InterruptibleStores, described
from toolkit.core.errors import SignalException, StoreError, StoreTimeoutError
from toolkit.ports import Bell, Stores

from .store_adapters import StoreAdapter, parameters
from .worlds import Running, SimWorld, World

#: timeout of waits that are meant to end earlier, in seconds
LONG_S = 30.0
#: timeout of waits that are meant to fail, in seconds
SHORT_S = 0.2
#: how long a signal or a dead store may take to end a wait, in seconds; generous, the machine may be busy
SOON_S = 5.0

each_adapter = pytest.mark.parametrize("adapter", parameters())


class FakeInterrupts:
    """`Interrupts` for which the test says when a signal has come."""

    def __init__(self) -> None:
        self._pending: list[int] = []
        self._count = 0
        self.asked = threading.Event()

    def send(self, signum: int) -> None:
        self._count += 1
        self._pending.append(signum)

    def handling(self, bell: Bell) -> AbstractContextManager[None]:
        return nullcontext()

    def interruptible(self) -> AbstractContextManager[None]:
        return nullcontext()

    def take(self) -> int | None:
        self.asked.set()
        return self._pending.pop(0) if self._pending else None

    def count(self) -> int:
        return self._count


class Waiter:
    """What waits, in a real process: waits in threads, and signals that the test makes up."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.interrupts = FakeInterrupts()
        self.stores: Stores = InterruptibleStores(self.interrupts, SystemClock())

    def wait(self, store: Any, keys: list[str], timeout_s: float) -> None:
        self.stores.wait(store, keys, timeout_s)

    def start(self, store: Any, keys: list[str]) -> Running:
        """Wait for long beside the test's body. When this returns, the wait has begun."""
        running = self._world.start(lambda: self.stores.wait(store, keys, LONG_S))
        assert self.interrupts.asked.wait(SOON_S)
        return running

    def send(self, signum: int) -> None:
        self.interrupts.send(signum)

    def take(self) -> int | None:
        return self.interrupts.take()


class SimWaiter:
    """The same in a simulated process, whose main task is whichever waits."""

    def __init__(self, world: SimWorld) -> None:
        from simulator.adapters.bell import TaskBell
        from simulator.adapters.clock import NodeClock
        from simulator.adapters.interrupts import ProcessInterrupts
        from simulator.adapters.stores import SimStores

        self._world = world
        self._bell = TaskBell(world.kernel, NodeClock(world.node))
        self._interrupts = ProcessInterrupts(world.process)
        self._stores = SimStores(self._interrupts)
        self._early: list[int] = []

    def wait(self, store: Any, keys: list[str], timeout_s: float) -> None:
        with self._interrupts.handling(self._bell):
            for signum in self._early:
                self._world.process.receive(signum)
            self._stores.wait(store, keys, timeout_s)

    def start(self, store: Any, keys: list[str]) -> Running:
        running = self._world.start(lambda: self.wait(store, keys, LONG_S))
        self._world.kernel.sleep(100_000_000)
        return running

    def send(self, signum: int) -> None:
        if self._world.process.on_signal is None:
            self._early.append(signum)  # nothing waits yet, and the signal would end the process
        else:
            self._world.process.receive(signum)

    def take(self) -> int | None:
        return self._interrupts.take()


@pytest.fixture
def interrupts() -> FakeInterrupts:
    return FakeInterrupts()


@pytest.fixture
def stores(interrupts: FakeInterrupts) -> Stores:
    return InterruptibleStores(interrupts, SystemClock())


@contextmanager
def within(seconds: float, now_s: Callable[[], float] = time.monotonic) -> Iterator[None]:
    began_s = now_s()
    yield
    assert now_s() - began_s < seconds


@each_adapter
class TestEachStore:
    @pytest.fixture
    def world(self, adapter: StoreAdapter) -> Iterator[World]:
        made = adapter.new_world()
        yield made
        made.close()

    @pytest.fixture
    def waiter(self, world: World) -> Waiter | SimWaiter:
        return SimWaiter(world) if isinstance(world, SimWorld) else Waiter(world)

    @pytest.fixture
    def pair(self, adapter: StoreAdapter, world: World, tmp_path: Path) -> tuple[Any, Any]:
        return adapter.open(world, tmp_path, timedelta(seconds=LONG_S))

    def test_returns_at_once_when_all_keys_are_there(
        self, world: World, waiter: Waiter, pair: tuple[Any, Any], adapter: StoreAdapter
    ) -> None:
        pair[0].multi_set(["a", "b"], ["1", "2"])
        with within(SOON_S, world.now_s):
            waiter.wait(pair[1], ["a", "b"], LONG_S)
            waiter.wait(pair[1], [], LONG_S)
            if adapter.zero_sees or isinstance(waiter, Waiter):
                waiter.wait(pair[1], ["a"], 0.0)

    @pytest.mark.parametrize("operation", ["set", "add"])
    def test_returns_when_the_last_key_comes(
        self, waiter: Waiter, pair: tuple[Any, Any], operation: str
    ) -> None:
        pair[0].set("a", "1")
        running = waiter.start(pair[1], ["a", "b"])
        assert not running.done()
        if operation == "set":
            pair[0].set("b", "1")
        else:
            pair[0].add("b", 1)
        running.result(SOON_S)

    def test_names_the_missing_keys_and_the_time(
        self, adapter: StoreAdapter, world: World, waiter: Waiter, pair: tuple[Any, Any]
    ) -> None:
        pair[0].set("there", "1")
        named = "'x', 'y'" if adapter.names_only_missing else "'x', 'there', 'y'"
        with (
            within(SHORT_S + SOON_S, world.now_s),
            pytest.raises(StoreTimeoutError, match=f"waited 0.2 s for keys {named}, in vain"),
        ):
            waiter.wait(pair[1], ["x", "there", "y"], SHORT_S)

    def test_a_timeout_of_0_looks_once(self, world: World, waiter: Waiter, pair: tuple[Any, Any]) -> None:
        with within(SOON_S, world.now_s), pytest.raises(StoreTimeoutError, match="'x'"):
            waiter.wait(pair[1], ["x"], 0.0)

    def test_a_signal_ends_the_wait(self, waiter: Waiter, pair: tuple[Any, Any]) -> None:
        running = waiter.start(pair[1], ["x"])
        waiter.send(signal.SIGTERM)
        with pytest.raises(SignalException, match="got SIGTERM") as caught:
            running.result(SOON_S)
        assert caught.value.sigval is signal.SIGTERM
        assert waiter.take() is None

    def test_a_signal_that_came_before_ends_it_too(
        self, world: World, waiter: Waiter, pair: tuple[Any, Any]
    ) -> None:
        waiter.send(signal.SIGINT)
        waiter.send(signal.SIGTERM)
        with within(SOON_S, world.now_s), pytest.raises(SignalException) as caught:
            waiter.wait(pair[1], ["x"], LONG_S)
        assert caught.value.sigval is signal.SIGINT
        assert waiter.take() == signal.SIGTERM

    def test_the_store_is_free_for_others_while_one_waits_and_works_after_a_signal(
        self, world: World, waiter: Waiter, pair: tuple[Any, Any]
    ) -> None:
        # The same handle: a torch client that waits by itself would be locked for the whole wait.
        store = pair[1]
        running = waiter.start(store, ["x"])
        with within(SOON_S, world.now_s):
            assert store.add("n", 1) == 1
        waiter.send(signal.SIGTERM)
        with pytest.raises(SignalException):
            running.result(SOON_S)
        with within(SOON_S, world.now_s):
            assert store.add("n", 1) == 2

    def test_the_store_keeps_its_timeout(self, waiter: Waiter, pair: tuple[Any, Any]) -> None:
        with pytest.raises(StoreTimeoutError):
            waiter.wait(pair[1], ["x"], 0.01)
        assert pair[1].timeout == timedelta(seconds=LONG_S)


def test_the_error_of_a_signal_says_what_was_waited_for(stores: Stores, interrupts: FakeInterrupts) -> None:
    interrupts.send(signal.SIGTERM)
    with pytest.raises(SignalException, match="got SIGTERM while waiting for key 'x'"):
        stores.wait(MemoryStore(), ["x"], LONG_S)


def test_of_many_keys_the_first_missing_are_named(stores: Stores) -> None:
    with pytest.raises(StoreTimeoutError, match=r"'6', '7' and 92 more, in vain"):
        stores.wait(MemoryStore(), [str(i) for i in range(100)], 0.0)


def test_missing_keys_are_named_as_the_caller_calls_them(stores: Stores) -> None:
    store = PrefixStore("inner", PrefixStore("outer", MemoryStore()))
    with pytest.raises(StoreTimeoutError, match="for key 'x',"):
        stores.wait(store, ["x"], 0.0)


def test_a_wrong_key_is_the_callers_mistake(stores: Stores) -> None:
    for store in (MemoryStore(), PrefixStore("p", MemoryStore())):
        with pytest.raises(TypeError, match="key of a store is a str"):
            stores.wait(store, [3], 0.0)  # type: ignore[list-item]


class WaitOnlyStore:
    """A store without `check`, as a Python subclass of torch's may be."""

    def __init__(self, no_check: Exception, late: Exception) -> None:
        self._no_check = no_check
        self._late = late
        self.waits: list[float] = []
        self.has = threading.Event()

    def check(self, keys: Sequence[str]) -> bool:
        raise self._no_check

    def wait(self, keys: Sequence[str], timeout: timedelta) -> None:
        self.waits.append(timeout.total_seconds())
        if not self.has.wait(timeout.total_seconds()):
            raise self._late


NO_CHECK = [
    NotImplementedError(),
    RuntimeError('Tried to call pure virtual function "::c10d::Store::check"'),
    AttributeError("no check", name="check"),
]
LATE = [
    RuntimeError("Wait timeout"),
    LookupError("Timeout while waiting for keys in EtcdStore"),
    TimeoutError(),
    StoreTimeoutError("waited"),
]


@pytest.mark.parametrize("no_check", NO_CHECK, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("late", LATE, ids=lambda error: type(error).__name__)
class TestStoreWithoutCheck:
    def test_waits_in_slices_until_the_timeout(
        self, stores: Stores, no_check: Exception, late: Exception
    ) -> None:
        store = WaitOnlyStore(no_check, late)
        with pytest.raises(StoreTimeoutError, match=r"waited 1 s for key 'x'"):
            stores.wait(store, ["x"], 1.0)
        assert len(store.waits) >= 2
        assert max(store.waits) <= 0.25

    def test_returns_when_the_key_comes(self, stores: Stores, no_check: Exception, late: Exception) -> None:
        store = WaitOnlyStore(no_check, late)
        threading.Timer(0.05, store.has.set).start()
        with within(SOON_S):
            stores.wait(store, ["x"], LONG_S)

    def test_a_signal_ends_the_wait(
        self, stores: Stores, interrupts: FakeInterrupts, no_check: Exception, late: Exception
    ) -> None:
        store = WaitOnlyStore(no_check, late)
        interrupts.send(signal.SIGTERM)
        with within(SOON_S), pytest.raises(SignalException):
            stores.wait(store, ["x"], LONG_S)


class BrokenStore:
    """Fails the same way each time."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.calls = 0

    def check(self, keys: Sequence[str]) -> bool:
        self.calls += 1
        raise self._error


@pytest.mark.parametrize("error", [RuntimeError("connection reset"), OSError(5, "I/O error"), KeyError("k")])
def test_a_failure_of_the_store_is_not_tried_again(stores: Stores, error: Exception) -> None:
    store = BrokenStore(error)
    with within(SOON_S), pytest.raises(StoreError, match=r"BrokenStore failed while key 'x'") as caught:
        stores.wait(store, ["x"], LONG_S)
    assert caught.value.__cause__ is error
    assert not isinstance(caught.value, StoreTimeoutError)
    assert store.calls == 1


SERVER = """
import sys
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A TCPStore server in a process of its own, and its port."""
    pytest.importorskip("torch.distributed")
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.torch
class TestTcpStoreServerInTrouble:
    @pytest.fixture
    def store(self, server: tuple[subprocess.Popen[str], int]) -> Any:
        from torch.distributed import TCPStore

        return TCPStore("127.0.0.1", server[1], is_master=False, timeout=timedelta(seconds=LONG_S))

    def test_its_death_ends_the_wait_with_an_error_that_names_it(
        self,
        stores: Stores,
        interrupts: FakeInterrupts,
        server: tuple[subprocess.Popen[str], int],
        store: Any,
    ) -> None:
        process, port = server
        with ThreadPoolExecutor(1) as thread:
            ended = thread.submit(stores.wait, store, ["x"], LONG_S)
            assert interrupts.asked.wait(SOON_S)
            process.kill()
            with pytest.raises(StoreError, match=rf"TCPStore at 127\.0\.0\.1:{port} failed") as caught:
                ended.result(SOON_S)
        assert not isinstance(caught.value, StoreTimeoutError)
        assert "\n" not in str(caught.value)

    def test_one_that_was_dead_before_is_an_error_at_once(
        self, stores: Stores, server: tuple[subprocess.Popen[str], int], store: Any
    ) -> None:
        process, _ = server
        process.kill()
        process.wait(SOON_S)
        with within(SOON_S), pytest.raises(StoreError, match="failed while key 'x'"):
            stores.wait(PrefixStore("p", store), ["x"], LONG_S)

    def test_a_signal_ends_the_wait_on_one_that_hangs(
        self,
        stores: Stores,
        interrupts: FakeInterrupts,
        server: tuple[subprocess.Popen[str], int],
        store: Any,
    ) -> None:
        process, _ = server
        process.send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor(1) as thread:
            ended = thread.submit(stores.wait, store, ["x"], LONG_S)
            assert interrupts.asked.wait(SOON_S)
            interrupts.send(signal.SIGTERM)
            with pytest.raises(SignalException):
                ended.result(SOON_S)

    def test_the_timeout_holds_for_one_that_hangs(
        self, stores: Stores, server: tuple[subprocess.Popen[str], int], store: Any
    ) -> None:
        process, port = server
        process.send_signal(signal.SIGSTOP)
        with within(SHORT_S + SOON_S), pytest.raises(StoreError, match=rf":{port} has not answered"):
            stores.wait(store, ["x"], SHORT_S)


@pytest.mark.torch
def test_a_store_is_described_without_asking_it() -> None:
    distributed = pytest.importorskip("torch.distributed")
    tcp = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    assert described(tcp) == f"TCPStore at 127.0.0.1:{tcp.port}"
    assert described(distributed.PrefixStore("a", tcp)) == described(tcp)
    assert described(PrefixStore("a", tcp)) == described(tcp)
    assert described(distributed.HashStore()) == "HashStore"


def test_torch_is_not_imported_for_a_wait() -> None:
    program = (
        "import sys\n"
        "from toolkit.adapters.clock import SystemClock\n"
        "from toolkit.adapters.interrupts import SignalInterrupts\n"
        "from toolkit.adapters.memory_store import MemoryStore\n"
        "from toolkit.adapters.stores import InterruptibleStores\n"
        "store = MemoryStore()\n"
        "store.set('k', '1')\n"
        "InterruptibleStores(SignalInterrupts(1), SystemClock()).wait(store, ['k'], 1.0)\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=LONG_S, check=False).returncode == 0


WAITER = """
import os, sys
from toolkit.adapters.clock import SystemClock
from toolkit.adapters.interrupts import SignalInterrupts
from toolkit.adapters.loop_bell import LoopBell
from toolkit.adapters.memory_store import MemoryStore
from toolkit.adapters.stores import InterruptibleStores
from toolkit.core.errors import SignalException
if sys.argv[1] == "memory":
    store = MemoryStore()
else:
    from torch.distributed import TCPStore
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
interrupts = SignalInterrupts(os.getpid())
with interrupts.handling(LoopBell()):
    print("ready", flush=True)
    try:
        InterruptibleStores(interrupts, SystemClock()).wait(store, ["x"], 60.0)
    except SignalException as error:
        print(error.sigval.name, flush=True)
"""


@pytest.mark.parametrize("kind", ["memory", pytest.param("tcp", marks=pytest.mark.torch)])
def test_a_real_signal_ends_a_wait_in_the_main_thread(kind: str) -> None:
    if kind == "tcp":
        pytest.importorskip("torch.distributed")
    process = subprocess.Popen([sys.executable, "-c", WAITER, kind], stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            with within(SOON_S):
                assert process.stdout.readline() == "SIGTERM\n"
                assert process.wait(SOON_S) == 0
        finally:
            process.kill()
