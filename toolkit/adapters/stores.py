"""Waits on any store, torch's or ours, that all end the same way.

torch's stores wait in C++, where no Python signal handler runs, the store's one connection is locked for everybody
else, and each time-out writes warnings to stderr. So a foreign store is not asked to wait: a thread asks it again and
again whether the keys are there, at intervals that grow with the wait, and the caller waits for the thread. A store
that doesn't answer thus holds up neither a signal nor the time-out. torch is not imported for any of this.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from toolkit.adapters.memory_store import MemoryStore, PrefixStore
from toolkit.core.errors import SignalException, StoreError, StoreTimeoutError
from toolkit.core.words import late, named
from toolkit.ports import Clock, Interrupts

#: the longest that a death signal goes unnoticed, in seconds
SLICE_S = 0.1
#: between two questions to a store, in seconds: at first, at most, and as a share of the time waited so far
ASK_MIN_S = 0.001
ASK_MAX_S = 0.1
ASK_SHARE = 0.1
#: how long after the time-out a store may take to say which keys are missing, in seconds
ANSWER_S = 1.0
#: one blocking wait of a store that can't be asked, in seconds
BLOCKING_SLICE_S = 0.25

#: prefixes around a store that are looked through; a bound, not a limit that anybody meets
_NESTED_MAX = 64


class InterruptibleStores:
    """Implements `toolkit.ports.Stores`.

    Args:
        interrupts: where death signals arrive.
        clock: measures the waits.
    """

    def __init__(self, interrupts: Interrupts, clock: Clock) -> None:
        self._interrupts = interrupts
        self._clock = clock

    def wait(self, store: Any, keys: list[str], timeout_s: float) -> None:
        """Wait until all keys exist. Looks at least once, also if `timeout_s` is 0.

        A signal that nobody took yet ends the wait even if the keys are there; it counts as taken then.

        Args:
            store: ours, torch's, or any other with `check` or `wait`.
            keys: what to wait for.
            timeout_s: how long, in seconds.

        Raises:
            StoreTimeoutError: `timeout_s` has passed; names the keys.
            StoreError: the store failed, or no longer answers.
            SignalException: a death signal came.
        """
        deadline_ns = self._clock.now_ns() + int(timeout_s * 1e9)
        if _in_memory(store):
            missing = self._wait_in_memory(store, keys, deadline_ns)
        else:
            missing = self._wait_in_thread(store, keys, deadline_ns)
        if missing:
            raise StoreTimeoutError(late(missing, timeout_s))

    def _wait_in_memory(self, store: Any, keys: list[str], deadline_ns: int) -> list[str]:
        root, below = _resolved(store, keys)
        while True:
            self._raise_if_interrupted(keys)
            left_s = self._left_s(deadline_ns)
            missing = root.missing_after(below, min(left_s, SLICE_S))
            if not missing or left_s <= SLICE_S:
                return [key for key, name in zip(keys, below, strict=True) if name in missing]

    def _wait_in_thread(self, store: Any, keys: list[str], deadline_ns: int) -> list[str]:
        watch = _Watch(store, keys, lambda: self._left_s(deadline_ns))
        try:
            while not watch.ended(SLICE_S):
                self._raise_if_interrupted(keys)
                if self._left_s(deadline_ns) <= -ANSWER_S:
                    raise StoreError(
                        f"{described(store)} has not answered while {named(keys)} was waited for; "
                        "its host has stopped, or the network to it is down"
                    )
        finally:
            watch.abandon()
        self._raise_if_interrupted(keys)
        return watch.missing()

    def _left_s(self, deadline_ns: int) -> float:
        return (deadline_ns - self._clock.now_ns()) / 1e9

    def _raise_if_interrupted(self, keys: list[str]) -> None:
        signum = self._interrupts.take()
        if signum is not None:
            sigval = signal.Signals(signum)
            raise SignalException(f"got {sigval.name} while waiting for {named(keys)} in the store", sigval)


class _Watch:
    """One wait on a foreign store, in a thread of its own, which may be left behind."""

    def __init__(self, store: Any, keys: list[str], left_s: Callable[[], float]) -> None:
        self._store = store
        self._keys = list(keys)
        self._left_s = left_s
        self._abandoned = threading.Event()
        self._ended = threading.Event()
        self._missing: list[str] = []
        self._error: BaseException | None = None
        # A daemon: a store that never answers must not keep the process from ending.
        threading.Thread(target=self._run, name="rally-store-wait", daemon=True).start()

    def ended(self, timeout_s: float) -> bool:
        """Wait for the end for up to `timeout_s`. Returns whether it has come."""
        return self._ended.wait(timeout_s)

    def abandon(self) -> None:
        """Let the thread end after the question that it is at. Does not wait for that."""
        self._abandoned.set()

    def missing(self) -> list[str]:
        """After the end: the keys that did not come in time.

        Raises:
            StoreError: the store failed.
        """
        match self._error:
            case None:
                return self._missing
            case StoreError() | TypeError():
                raise self._error
            case Exception():
                what = f"{described(self._store)} failed while {named(self._keys)} was waited for"
                raise StoreError(
                    f"{what}: {_first_line(self._error)}; is its host still up?"
                ) from self._error
            case _:
                raise self._error

    def _run(self) -> None:
        try:
            self._missing = self._ask_until_there()
        except BaseException as error:  # noqa: BLE001 - the edge of a thread: the waiter raises it
            self._error = error
        finally:
            self._ended.set()

    def _ask_until_there(self) -> list[str]:
        begun_with_s = self._left_s()
        try:
            there = self._store.check(self._keys)
        except Exception as error:
            if _is_unsupported(error):
                return self._wait_in_slices()
            raise
        while not there:
            left_s = self._left_s()
            if left_s <= 0:
                return self._still_missing()
            pause_s = min(max((begun_with_s - left_s) * ASK_SHARE, ASK_MIN_S), ASK_MAX_S, left_s)
            if self._abandoned.wait(pause_s):
                return []
            there = self._store.check(self._keys)
        return []

    def _still_missing(self) -> list[str]:
        """Those that are not there now; some of them, if the store takes too long to say."""
        found: list[str] = []
        for asked, key in enumerate(self._keys):
            if self._left_s() < -ANSWER_S / 2:
                return found or self._keys[asked:]
            if not self._store.check([key]):
                found.append(key)
        return found

    def _wait_in_slices(self) -> list[str]:
        while not self._abandoned.is_set():
            left_s = self._left_s()
            try:
                self._store.wait(self._keys, timedelta(seconds=max(min(left_s, BLOCKING_SLICE_S), ASK_MIN_S)))
            except Exception as error:
                if not _is_timeout(error):
                    raise
            else:
                return []
            if left_s <= BLOCKING_SLICE_S:
                return self._keys
        return []


def _in_memory(store: Any) -> bool:
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    return isinstance(store, MemoryStore)


def _resolved(store: Any, keys: list[str]) -> tuple[MemoryStore, list[str]]:
    """The store below all prefixes, and what `keys` are called there."""
    while isinstance(store, PrefixStore):
        store, keys = store.underlying_store, store.keys_below(keys)
    assert isinstance(store, MemoryStore), "only stores of this process are waited for directly"
    return store, keys


def described(store: Any) -> str:
    """A store in words: its kind, and its address if it has one. Does not ask its host."""
    seen = 0
    while (below := getattr(store, "underlying_store", None)) is not None and seen < _NESTED_MAX:
        store, seen = below, seen + 1
    kind = type(store).__name__
    host, port = getattr(store, "host", None), getattr(store, "port", None)
    return f"{kind} at {host}:{port}" if host and port else kind


def _is_unsupported(error: Exception) -> bool:
    """Whether a store says that it has no `check`: a Python subclass of torch's `Store` need not have it."""
    if isinstance(error, AttributeError):
        return error.name == "check"
    return isinstance(error, NotImplementedError) or "pure virtual function" in str(error)


def _is_timeout(error: Exception) -> bool:
    """Whether a store's `wait` ended because the time was over. torch has no class of its own for that:

    TCPStore and HashStore raise DistStoreError, FileStore RuntimeError, EtcdStore LookupError, each with a text
    that says so (2.13). A DistNetworkError may speak of a time-out too, but that of a connection.
    """
    if any(cls.__name__ == "DistNetworkError" for cls in type(error).__mro__):
        return False
    return isinstance(error, TimeoutError) or "timeout" in str(error).lower()


def _first_line(error: BaseException) -> str:
    # torch puts a C++ stack trace below it.
    return (str(error).splitlines() or [""])[0] or type(error).__name__
