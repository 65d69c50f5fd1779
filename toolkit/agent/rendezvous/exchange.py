"""A store for what the agents of one round tell each other themselves; connected when it is first used.

Our agent needs none: its seat says everything. Agents written for torch's rendezvous exchange their ranks over it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import cached_property

from toolkit.ports import Store


class ExchangeStore:
    """Implements `toolkit.ports.Store` under a prefix.

    Args:
        connect: makes the connection.
        prefix: before each key, with a slash.
    """

    def __init__(self, connect: Callable[[], Store], prefix: str) -> None:
        self._connect = connect
        self._prefix = prefix

    @cached_property
    def _store(self) -> Store:
        return self._connect()

    def set(self, key: str, value: str | bytes, /) -> None:
        """Set a key."""
        self._store.set(self._key(key), value)

    def get(self, key: str, /) -> bytes:
        """The value; waits for the key."""
        return self._store.get(self._key(key))

    def add(self, key: str, amount: int, /) -> int:
        """Add to a counter."""
        return self._store.add(self._key(key), amount)

    def append(self, key: str, value: str | bytes, /) -> None:
        """Put something behind a value."""
        self._store.append(self._key(key), value)

    def multi_get(self, keys: list[str], /) -> list[bytes]:
        """Several values; waits for all."""
        return self._store.multi_get([self._key(key) for key in keys])

    def multi_set(self, keys: list[str], values: list[str] | list[bytes], /) -> None:
        """Several keys at once."""
        self._store.multi_set([self._key(key) for key in keys], values)

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes, /) -> bytes:
        """Set if the value is as expected."""
        return self._store.compare_set(self._key(key), expected, desired)

    def check(self, keys: list[str], /) -> bool:
        """Whether all exist."""
        return self._store.check([self._key(key) for key in keys])

    def wait(self, keys: list[str], timeout: timedelta, /) -> None:
        """Block until all exist."""
        self._store.wait([self._key(key) for key in keys], timeout)

    def delete_key(self, key: str, /) -> bool:
        """Delete a key."""
        return self._store.delete_key(self._key(key))

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}"
