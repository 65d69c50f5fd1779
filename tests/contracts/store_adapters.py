"""The stores that the suites run over, and how torch's differ from the rest. A further store is one more entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from toolkit.adapters.memory_store import MemoryStore, PrefixStore

from .worlds import RealWorld, SimWorld, World

Open = Callable[[Any, Path, timedelta], "tuple[Any, Any]"]


@dataclass(frozen=True, slots=True)
class StoreAdapter:
    """One kind of store.

    Args:
        name: for the test's name.
        open: makes two handles on the same keys, with the given timeout; two connections where there are such.
            Takes the world, an empty folder and the timeout.
        reasons: why it differs, by the name of the field; each field that is not at its default needs one.
        timeout_error: class of the error of a wait that takes too long, or the name of a base of it.
        not_a_number: the same for `add` on a value that isn't one.
        names_keys: whether the error of a wait names the keys.
        late_s: how much longer than its timeout a wait may take, in seconds.
        zero_looks_once: whether a wait with timeout 0 ends at once.
        zero_sees: whether it finds a key that is there then, for certain.
        unheard: operations that make a key but do not wake those that wait for it.
        heard_with: the key that has to be set for them to see it.
        waits_at_once: whether several threads may wait, and others work, on one handle.
        keys_at_first: keys that a fresh store counts.
        delete_missing: what deleting a missing key returns.
        extended: what `has_extended_api` says.
        empty_counts_as_0: whether `add` takes an empty value for 0.
        checks_lengths: whether `multi_set` survives that there are fewer values than keys.
        names_only_missing: whether the error of a wait through `Stores` names no keys but those that are missing.
        wakes_for_nothing: whether a `compare_set` that is refused because its key is missing wakes who waits for that
            key, with an empty value.
    """

    name: str
    open: Open
    reasons: Mapping[str, str] = field(default_factory=dict)
    new_world: Callable[[], World] = RealWorld
    needs_torch: bool = False
    timeout_error: str = "StoreTimeoutError"
    not_a_number: str = "StoreError"
    names_keys: bool = True
    late_s: float = 5.0
    zero_looks_once: bool = True
    zero_sees: bool = True
    unheard: tuple[str, ...] = ()
    heard_with: str = "another key"
    waits_at_once: bool = True
    keys_at_first: int = 0
    delete_missing: bool = False
    extended: bool = True
    empty_counts_as_0: bool = True
    checks_lengths: bool = True
    names_only_missing: bool = True
    wakes_for_nothing: bool = False

    def differences(self) -> list[str]:
        """Fields that are not at their defaults."""
        plain = StoreAdapter("", self.open)
        told = set(self.__slots__) - {"name", "open", "reasons", "needs_torch", "new_world"}
        return sorted(name for name in told if getattr(self, name) != getattr(plain, name))


def _memory(world: World, directory: Path, timeout: timedelta) -> tuple[Any, Any]:
    store = MemoryStore(timeout)
    return store, store.clone()


def _tcp(world: World, directory: Path, timeout: timedelta) -> tuple[Any, Any]:
    distributed = pytest.importorskip("torch.distributed")
    # A connection gets more time than the tests' short timeouts.
    server = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    client = distributed.TCPStore("127.0.0.1", server.port, is_master=False)
    return _with_timeout(server, client, timeout)


def _tcp_without_libuv(world: World, directory: Path, timeout: timedelta) -> tuple[Any, Any]:
    distributed = pytest.importorskip("torch.distributed")
    server = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, use_libuv=False)
    client = distributed.TCPStore("127.0.0.1", server.port, is_master=False, use_libuv=False)
    return _with_timeout(server, client, timeout)


def _hash(world: World, directory: Path, timeout: timedelta) -> tuple[Any, Any]:
    store = pytest.importorskip("torch.distributed").HashStore()
    return _with_timeout(store, store, timeout)


def _file(world: World, directory: Path, timeout: timedelta) -> tuple[Any, Any]:
    distributed = pytest.importorskip("torch.distributed")
    path = str(directory / "store")
    return _with_timeout(distributed.FileStore(path), distributed.FileStore(path), timeout)


def _with_timeout(first: Any, second: Any, timeout: timedelta) -> tuple[Any, Any]:
    first.set_timeout(timeout)
    second.set_timeout(timeout)
    return first, second


def _simulated(world: SimWorld, directory: Path, timeout: timedelta) -> tuple[Any, Any]:
    """Two connections of one process to a store on another node."""
    from simulator.adapters.store import StoreClient, StoreServer

    server = StoreServer(world.other_node.start_process("host"), 29400).listen()
    address, timeout_s = world.other_node.address, timeout.total_seconds()
    return (
        StoreClient(world.process, address, server.port, timeout_s),
        StoreClient(world.process, address, server.port, timeout_s),
    )


def _local_simulated(world: SimWorld, directory: Path, timeout: timedelta) -> tuple[Any, Any]:
    from simulator.adapters.local_store import LocalStore

    store = LocalStore(world.kernel, timeout)
    return store, store.clone()


def _prefixed_simulated(world: SimWorld, directory: Path, timeout: timedelta) -> tuple[Any, Any]:
    from simulator.adapters.prefix_store import SimPrefixStore

    first, second = _simulated(world, directory, timeout)
    return SimPrefixStore("job/1", first), SimPrefixStore("1", SimPrefixStore("job", second))


def _prefixed(open_below: Open) -> Open:
    def open_both(world: World, directory: Path, timeout: timedelta) -> tuple[Any, Any]:
        first, second = open_below(world, directory, timeout)
        return PrefixStore("job/1", first), PrefixStore("1", PrefixStore("job", second))

    return open_both


def _torch_prefixed(open_below: Open) -> Open:
    def open_both(world: World, directory: Path, timeout: timedelta) -> tuple[Any, Any]:
        distributed = pytest.importorskip("torch.distributed")
        first, second = open_below(world, directory, timeout)
        return distributed.PrefixStore("job", first), distributed.PrefixStore("job", second)

    return open_both


# Measured with torch 2.13.
_TCP: dict[str, Any] = {
    "needs_torch": True,
    "timeout_error": "DistStoreError",
    "not_a_number": "DistNetworkError",
    "empty_counts_as_0": False,
    "waits_at_once": False,
    "zero_sees": False,
    "wakes_for_nothing": True,
    "reasons": {
        "timeout_error": "torch's own class",
        "wakes_for_nothing": "the libuv server wakes the waiters whatever became of the comparison",
        "zero_sees": "the client gives the server no time at all; under load the answer comes after it has given up",
        "not_a_number": "the server can't read the number and closes the connection, which is dead from then on",
        "empty_counts_as_0": "as for any value that is no number; HashStore and FileStore take it for 0",
        "waits_at_once": "a client is locked while one thread waits on it",
    },
}
_OLD_TCP: dict[str, Any] = {
    **_TCP,
    "wakes_for_nothing": False,
    "unheard": ("compare_set",),
    "heard_with": "late",
    "reasons": {
        "heard_with": "only what sets the key itself notifies",
        **{why: text for why, text in _TCP["reasons"].items() if why != "wakes_for_nothing"},
        "unheard": "it does not notify",
    },
}
_HASH: dict[str, Any] = {
    "needs_torch": True,
    "timeout_error": "DistStoreError",
    "not_a_number": "ValueError",
    "names_keys": False,
    "zero_looks_once": False,
    "unheard": ("add",),
    "checks_lengths": False,
    "reasons": {
        "timeout_error": "torch's own class",
        "not_a_number": "the text is that of C++'s stoll",
        "names_keys": "the text is 'Wait timeout'",
        "unheard": "add does not notify; the waiter sees the key when another operation wakes it",
        "zero_looks_once": "0 means without a limit",
        "checks_lengths": "it reads beyond the end of the list of values",
    },
}
_FILE: dict[str, Any] = {
    "needs_torch": True,
    "timeout_error": "RuntimeError",
    "not_a_number": "ValueError",
    "names_keys": False,
    "late_s": 8.0,
    "zero_looks_once": False,
    "keys_at_first": 1,
    "delete_missing": True,
    "extended": False,
    "checks_lengths": False,
    "reasons": {
        "timeout_error": "no class of its own",
        "not_a_number": "the text is that of C++'s stoll",
        "names_keys": "the text is 'Wait timeout'",
        "late_s": "it looks at the file once a second",
        "zero_looks_once": "0 means without a limit",
        "keys_at_first": "it counts its users under a key of the file",
        "delete_missing": "it writes a deletion to the file and doesn't look",
        "extended": "it says no, but append, multi_get and multi_set work all the same",
        "checks_lengths": "it reads beyond the end of the list of values",
    },
}
# As TCPStore, save for what is an accident there.
_SIMULATED: dict[str, Any] = {
    "new_world": SimWorld,
    "waits_at_once": False,
    "zero_sees": False,
    "names_only_missing": False,
    "wakes_for_nothing": True,
    "reasons": {
        "wakes_for_nothing": "as TCPStore with libuv does: whoever waits has to expect it",
        "waits_at_once": "a connection does one operation at a time, as TCPStore's does",
        "zero_sees": "the answer takes a while, and there is no time at all",
        "names_only_missing": "it does not ask once more which of them are there",
    },
}
_LOCAL_SIMULATED: dict[str, Any] = {"new_world": SimWorld}

ADAPTERS = [
    StoreAdapter("memory", _memory),
    StoreAdapter("prefix-memory", _prefixed(_memory)),
    StoreAdapter("tcp", _tcp, **_TCP),
    StoreAdapter("tcp-without-libuv", _tcp_without_libuv, **_OLD_TCP),
    StoreAdapter("prefix-tcp", _prefixed(_tcp), **_TCP),
    StoreAdapter("torch-prefix-tcp", _torch_prefixed(_tcp), **_TCP),
    StoreAdapter("hash", _hash, **_HASH),
    StoreAdapter("file", _file, **_FILE),
    StoreAdapter("simulated", _simulated, **_SIMULATED),
    StoreAdapter("prefix-simulated", _prefixed_simulated, **_SIMULATED),
    StoreAdapter("simulated-local", _local_simulated, **_LOCAL_SIMULATED),
]


def parameters() -> list[Any]:
    """What the suites are parametrised with."""
    return [
        pytest.param(adapter, id=adapter.name, marks=[pytest.mark.torch] if adapter.needs_torch else [])
        for adapter in ADAPTERS
    ]
