"""A store in this process's memory with the interface of torch's `Store`, and key prefixes for any store.

Threads may share one; every change wakes those that wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from threading import TIMEOUT_MAX, Condition
from typing import Any, TypeVar, cast

from toolkit.core.errors import StoreTimeoutError
from toolkit.core.keyvalue import KeyValues
from toolkit.core.words import late

_R = TypeVar("_R")

#: torch's default
TIMEOUT = timedelta(seconds=300)


class MemoryStore:
    """The operations of torch's `Store` over `KeyValues`. Safe to use from several threads.

    A wait with a timeout of 0 or less looks once. A wait is not ended by a signal handler: whoever must be
    interruptible waits through the `Stores` port.

    Args:
        timeout: how long `get`, `multi_get` and `wait` wait for a missing key, unless told otherwise.
    """

    def __init__(self, timeout: timedelta = TIMEOUT) -> None:
        self._timeout = timeout
        self._values = KeyValues()
        self._changed = Condition()

    @property
    def timeout(self) -> timedelta:
        """How long a missing key is waited for."""
        return self._timeout

    def set_timeout(self, timeout: timedelta, /) -> None:
        """Change it for later calls; waits that have begun keep theirs."""
        self._timeout = timeout

    def has_extended_api(self) -> bool:
        """Whether `append`, `multi_get` and `multi_set` work: they do."""
        return True

    def clone(self) -> MemoryStore:
        """Another handle on the same keys, as torch's `HashStore` gives: this one."""
        return self

    def set(self, key: str, value: str | bytes, /) -> None:
        self._change(lambda values: values.set(key, value))

    def add(self, key: str, amount: int, /) -> int:
        """Add to a counter that starts at 0 and return the sum.

        Raises:
            StoreError: the value is not a number, or the sum does not fit in 64 bits.
        """
        return self._change(lambda values: values.add(key, amount))

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes, /) -> bytes:
        """Set if the value is `expected`; what it returns in which case: see `KeyValues.compare_set`."""
        return self._change(lambda values: values.compare_set(key, expected, desired))

    def append(self, key: str, value: str | bytes, /) -> None:
        self._change(lambda values: values.append(key, value))

    def multi_set(self, keys: Sequence[str], values: Sequence[str | bytes], /) -> None:
        """Set several keys at once.

        Raises:
            ConfigurationError: there are not as many values as keys.
        """
        self._change(lambda held: held.multi_set(keys, values))

    def delete_key(self, key: str, /) -> bool:
        """Forget a key. Returns whether it was there."""
        return self._change(lambda values: values.delete_key(key))

    def get(self, key: str, /) -> bytes:
        """The value; waits for the key.

        Raises:
            StoreTimeoutError: it did not come within `timeout`.
        """
        return self.multi_get([key])[0]

    def multi_get(self, keys: Sequence[str], /) -> list[bytes]:
        """The values at one moment at which all keys exist; waits for that.

        Raises:
            StoreTimeoutError: they did not come within `timeout`.
        """
        with self._changed:
            self._wait(keys, self._timeout)
            # Still under the lock: nobody can have deleted one since.
            return cast("list[bytes]", self._values.multi_get(keys))

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None, /) -> None:
        """Block until all keys exist.

        Args:
            keys: what to wait for.
            timeout: how long; None: the store's own.

        Raises:
            StoreTimeoutError: it passed.
        """
        with self._changed:
            self._wait(keys, self._timeout if timeout is None else timeout)

    def missing_after(self, keys: Sequence[str], timeout_s: float) -> list[str]:
        """Wait up to `timeout_s` for all keys. Returns those that are missing then; none: all are there."""
        with self._changed:
            self._changed.wait_for(lambda: self._values.check(keys), min(max(timeout_s, 0.0), TIMEOUT_MAX))
            return self._values.missing(keys)

    def check(self, keys: Sequence[str], /) -> bool:
        """Whether all keys exist; never waits."""
        with self._changed:
            return self._values.check(keys)

    def num_keys(self) -> int:
        with self._changed:
            return self._values.num_keys()

    def _wait(self, keys: Sequence[str], timeout: timedelta) -> None:
        timeout_s = timeout.total_seconds()
        missing = self.missing_after(keys, timeout_s)
        if missing:
            raise StoreTimeoutError(late(missing, timeout_s))

    def _change(self, change: Callable[[KeyValues], _R]) -> _R:
        with self._changed:
            result = change(self._values)
            self._changed.notify_all()
        return result


class PrefixStore:
    """Any store, seen through a prefix: key `k` is `prefix/k` below. Nests; torch's keys for the same prefix.

    Args:
        prefix: what the keys begin with; "" makes keys that begin with "/".
        store: ours or one of torch's.
    """

    def __init__(self, prefix: str, store: Any) -> None:
        self._prefix = prefix
        self._store = store

    @property
    def underlying_store(self) -> Any:
        """The store that is seen through the prefix."""
        return self._store

    @property
    def timeout(self) -> timedelta:
        """That of the underlying store."""
        return cast("timedelta", self._store.timeout)

    def set_timeout(self, timeout: timedelta, /) -> None:
        """Change it for the underlying store, whoever else uses it."""
        self._store.set_timeout(timeout)

    def has_extended_api(self) -> bool:
        return bool(self._store.has_extended_api())

    def clone(self) -> PrefixStore:
        """The same prefix over a clone of the store."""
        return PrefixStore(self._prefix, self._store.clone())

    def set(self, key: str, value: str | bytes, /) -> None:
        self._store.set(self._key(key), value)

    def get(self, key: str, /) -> bytes:
        """The value; waits for the key."""
        return cast("bytes", self._store.get(self._key(key)))

    def add(self, key: str, amount: int, /) -> int:
        return int(self._store.add(self._key(key), amount))

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes, /) -> bytes:
        return cast("bytes", self._store.compare_set(self._key(key), expected, desired))

    def append(self, key: str, value: str | bytes, /) -> None:
        self._store.append(self._key(key), value)

    def multi_get(self, keys: Sequence[str], /) -> list[bytes]:
        return cast("list[bytes]", self._store.multi_get(self.keys_below(keys)))

    def multi_set(self, keys: Sequence[str], values: Sequence[str | bytes], /) -> None:
        self._store.multi_set(self.keys_below(keys), values)

    def check(self, keys: Sequence[str], /) -> bool:
        return bool(self._store.check(self.keys_below(keys)))

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None, /) -> None:
        below = self.keys_below(keys)
        if timeout is None:
            self._store.wait(below)
        else:
            self._store.wait(below, timeout)

    def delete_key(self, key: str, /) -> bool:
        return bool(self._store.delete_key(self._key(key)))

    def num_keys(self) -> int:
        """Keys of the underlying store, those without the prefix too, as torch counts."""
        return int(self._store.num_keys())

    def keys_below(self, keys: Sequence[str]) -> list[str]:
        """What `keys` are called in the underlying store."""
        return [self._key(key) for key in keys]

    def _key(self, key: str) -> str:
        if not isinstance(key, str):
            raise TypeError(f"a key of a store is a str, not {type(key).__name__}: {key!r}")
        return f"{self._prefix}/{key}"
