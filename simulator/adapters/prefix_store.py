"""Key prefixes for any simulated store, as torch's `PrefixStore` puts them: `<prefix>/<key>`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from toolkit.core.errors import StoreTimeoutError
from toolkit.core.words import late


class SimPrefixStore:
    """torch's `PrefixStore` over a store that is no C++ object.

    Args:
        prefix: put before each key, with a slash.
        store: what holds the keys.
    """

    def __init__(self, prefix: str, store: Any) -> None:
        self._prefix = prefix
        self._store = store

    @property
    def underlying_store(self) -> Any:
        """What holds the keys."""
        return self._store

    @property
    def timeout(self) -> timedelta:
        """Of the underlying store."""
        timeout: timedelta = self._store.timeout
        return timeout

    def set_timeout(self, timeout: timedelta, /) -> None:
        """Of the underlying store: whoever else uses that gets it too, as in torch."""
        self._store.set_timeout(timeout)

    def has_extended_api(self) -> bool:
        """Whether `append`, `multi_get` and `multi_set` work: as below."""
        return bool(self._store.has_extended_api())

    def set(self, key: str, value: str | bytes, /) -> None:
        """Set a key."""
        self._store.set(self._key(key), value)

    def get(self, key: str, /) -> bytes:
        """The value; waits for the key."""
        value: bytes = self._store.get(self._key(key))
        return value

    def add(self, key: str, amount: int, /) -> int:
        """Add to a counter."""
        return int(self._store.add(self._key(key), amount))

    def append(self, key: str, value: str | bytes, /) -> None:
        """Append to a value."""
        self._store.append(self._key(key), value)

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes, /) -> bytes:
        """Set if the value is as expected."""
        value: bytes = self._store.compare_set(self._key(key), expected, desired)
        return value

    def multi_get(self, keys: Sequence[str], /) -> list[bytes]:
        """Several values; waits for all."""
        return list(self._store.multi_get(self._keys(keys)))

    def multi_set(self, keys: Sequence[str], values: Sequence[str | bytes], /) -> None:
        """Several keys at once."""
        self._store.multi_set(self._keys(keys), values)

    def check(self, keys: Sequence[str], /) -> bool:
        """Whether all exist."""
        return bool(self._store.check(self._keys(keys)))

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None, /) -> None:
        """Block until all exist."""
        if timeout is None:
            self._store.wait(self._keys(keys))
        else:
            self._store.wait(self._keys(keys), timeout)

    def watch(self, keys: Sequence[str], timeout: timedelta, check_signals: Callable[[], None]) -> None:
        """Block until all exist, or `check_signals` raises."""
        try:
            self._store.watch(self._keys(keys), timeout, check_signals)
        except StoreTimeoutError as error:
            # In the caller's words, which are without the prefix.
            raise StoreTimeoutError(late(keys, timeout.total_seconds())) from error

    def delete_key(self, key: str, /) -> bool:
        """Delete a key."""
        return bool(self._store.delete_key(self._key(key)))

    def num_keys(self) -> int:
        """Keys of the underlying store, those without the prefix too, as torch counts."""
        return int(self._store.num_keys())

    def _key(self, key: str) -> str:
        if not isinstance(key, str):
            raise TypeError(f"a key of a store is a str, not {type(key).__name__}: {key!r}")
        return f"{self._prefix}/{key}"

    def _keys(self, keys: Sequence[str]) -> list[str]:
        return [self._key(key) for key in keys]
