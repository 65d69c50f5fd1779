"""The contract of `Stores`: a wait on any store ends with the keys, in time, or with the error that says why not."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
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
from toolkit.ports import Bell, Interrupts, Stores

from .store_adapters import StoreAdapter, parameters

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


def make_stores(interrupts: Interrupts) -> Stores:
    return InterruptibleStores(interrupts, SystemClock())


@pytest.fixture
def interrupts() -> FakeInterrupts:
    return FakeInterrupts()


@pytest.fixture
def stores(interrupts: FakeInterrupts) -> Stores:
    return make_stores(interrupts)


@pytest.fixture
def pair(adapter: StoreAdapter, tmp_path: Path) -> tuple[Any, Any]:
    return adapter.open(tmp_path, timedelta(seconds=LONG_S))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@each_adapter
class TestEachStore:
    def test_returns_at_once_when_all_keys_are_there(self, stores: Stores, pair: tuple[Any, Any]) -> None:
        pair[0].multi_set(["a", "b"], ["1", "2"])
        with within(SOON_S):
            stores.wait(pair[1], ["a", "b"], LONG_S)
            stores.wait(pair[1], [], LONG_S)
            stores.wait(pair[1], ["a"], 0.0)

    @pytest.mark.parametrize("operation", ["set", "add"])
    def test_returns_when_the_last_key_comes(
        self, stores: Stores, interrupts: FakeInterrupts, pair: tuple[Any, Any], operation: str
    ) -> None:
        pair[0].set("a", "1")
        with ThreadPoolExecutor(1) as thread:
            ended = thread.submit(stores.wait, pair[1], ["a", "b"], LONG_S)
            assert interrupts.asked.wait(SOON_S)
            assert not ended.done()
            if operation == "set":
                pair[0].set("b", "1")
            else:
                pair[0].add("b", 1)
            ended.result(SOON_S)

    def test_names_the_missing_keys_and_the_time(self, stores: Stores, pair: tuple[Any, Any]) -> None:
        pair[0].set("there", "1")
        with (
            within(SHORT_S + SOON_S),
            pytest.raises(StoreTimeoutError, match=r"waited 0\.2 s for keys 'x', 'y', in vain"),
        ):
            stores.wait(pair[1], ["x", "there", "y"], SHORT_S)

    def test_a_timeout_of_0_looks_once(self, stores: Stores, pair: tuple[Any, Any]) -> None:
        with within(SOON_S), pytest.raises(StoreTimeoutError, match="'x'"):
            stores.wait(pair[1], ["x"], 0.0)

    def test_a_signal_ends_the_wait(
        self, stores: Stores, interrupts: FakeInterrupts, pair: tuple[Any, Any]
    ) -> None:
        with ThreadPoolExecutor(1) as thread:
            ended = thread.submit(stores.wait, pair[1], ["x"], LONG_S)
            assert interrupts.asked.wait(SOON_S)
            interrupts.send(signal.SIGTERM)
            with pytest.raises(SignalException, match="got SIGTERM while waiting for key 'x'") as caught:
                ended.result(SOON_S)
        assert caught.value.sigval is signal.SIGTERM
        assert interrupts.take() is None

    def test_a_signal_that_came_before_ends_it_too(
        self, stores: Stores, interrupts: FakeInterrupts, pair: tuple[Any, Any]
    ) -> None:
        interrupts.send(signal.SIGINT)
        interrupts.send(signal.SIGTERM)
        with within(SOON_S), pytest.raises(SignalException) as caught:
            stores.wait(pair[1], ["x"], LONG_S)
        assert caught.value.sigval is signal.SIGINT
        assert interrupts.take() == signal.SIGTERM

    def test_the_store_is_free_for_others_while_one_waits_and_works_after_a_signal(
        self, stores: Stores, interrupts: FakeInterrupts, pair: tuple[Any, Any]
    ) -> None:
        # The same handle: a torch client that waits by itself would be locked for the whole wait.
        store = pair[1]
        with ThreadPoolExecutor(1) as thread:
            ended = thread.submit(stores.wait, store, ["x"], LONG_S)
            assert interrupts.asked.wait(SOON_S)
            with within(SOON_S):
                assert store.add("n", 1) == 1
            interrupts.send(signal.SIGTERM)
            with pytest.raises(SignalException):
                ended.result(SOON_S)
        with within(SOON_S):
            assert store.add("n", 1) == 2

    def test_the_store_keeps_its_timeout(self, stores: Stores, pair: tuple[Any, Any]) -> None:
        with pytest.raises(StoreTimeoutError):
            stores.wait(pair[1], ["x"], 0.01)
        assert pair[1].timeout == timedelta(seconds=LONG_S)


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
        with pytest.raises(StoreTimeoutError, match=r"waited 0\.3 s for key 'x'"):
            stores.wait(store, ["x"], 0.3)
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
