"""What a store holds and what each operation does to it; the meaning is that of torch's c10d stores.

Nothing here waits or locks: one owner calls, and decides what to do about keys that are missing. The cases in
which torch's own stores differ from each other are listed in `tests/contracts/test_store.py`; where they do,
this is its `HashStore` (torch 2.13), save that a counter which leaves 64 bits is an error and does not wrap.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from toolkit.core.errors import ConfigurationError, StoreError

#: what C's `stoll` reads as a number: blanks, a sign, digits; whatever follows is not looked at
_NUMBER = re.compile(rb"\s*([+-]?[0-9]+)")

_COUNTER_MIN = -(2**63)
_COUNTER_MAX = 2**63 - 1


class KeyValues:
    """Keys and their values: str to bytes. Has one owner; not safe for several threads by itself."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def set(self, key: str, value: str | bytes) -> None:
        """Make `value` the value of `key`, whether or not it had one."""
        self._values[_checked(key)] = encoded(value)

    def get(self, key: str) -> bytes | None:
        """The value, or None if the key is missing."""
        return self._values.get(_checked(key))

    def add(self, key: str, amount: int) -> int:
        """Add to the counter `key` and return the sum.

        A missing key and an empty value count as 0. The sum is stored as decimal text, also when `amount` is 0,
        so that it can be read with `get`, written with `set` and waited for.

        Args:
            key: the counter.
            amount: what to add; may be negative.

        Raises:
            StoreError: the value is not a number, or the sum does not fit in 64 bits; nothing was changed.
        """
        total = self._counter(key) + amount
        if not _fits(total):
            raise StoreError(f"adding {amount} to key {key!r} gives {total}, which does not fit in 64 bits")
        self._values[key] = b"%d" % total
        return total

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> bytes:
        """Set `key` to `desired` if its value is `expected`, or if it is missing and `expected` is empty.

        Returns:
            `desired` if it was set; else the value that is there. If the key is missing and `expected` is not
            empty: `expected`, and the key stays missing. (So the answer `expected` does not prove that the key
            exists; torch's stores behave like that.)
        """
        found, want, new = self.get(key), encoded(expected), encoded(desired)
        if found is None and want:
            return want
        if found is not None and found != want:
            return found
        self._values[key] = new
        return new

    def append(self, key: str, value: str | bytes) -> None:
        """Put `value` behind the value of `key`; a missing key is made, also if `value` is empty."""
        self._values[key] = (self.get(key) or b"") + encoded(value)

    def multi_get(self, keys: Iterable[str]) -> list[bytes | None]:
        """The values in the order of `keys`, None where a key is missing."""
        every = tuple(keys)
        if self.holds(every):
            return list(map(self._values.__getitem__, every))
        return [self.get(key) for key in every]

    def multi_set(self, keys: Sequence[str], values: Sequence[str | bytes]) -> None:
        """Set several keys.

        Raises:
            ConfigurationError: there are not as many values as keys; nothing was set.
        """
        self.put(pairs(keys, values))

    def put(self, values: Iterable[tuple[str, bytes]]) -> None:
        """Set several keys to what `pairs` made of them."""
        self._values.update(values)

    def check(self, keys: Iterable[str]) -> bool:
        """Whether all keys exist; true for no keys."""
        return not self.missing(keys)

    def holds(self, keys: Iterable[str]) -> bool:
        """Whether all keys exist, in a hurry: what is no key is one that doesn't."""
        return all(map(self._values.__contains__, keys))

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that do not exist, in the order given."""
        return [key for key in keys if _checked(key) not in self._values]

    def delete_key(self, key: str) -> bool:
        """Forget `key`. Returns whether it was there."""
        return self._values.pop(_checked(key), None) is not None

    def num_keys(self) -> int:
        """How many keys there are, counters among them."""
        return len(self._values)

    def _counter(self, key: str) -> int:
        value = self.get(key)
        if not value:
            return 0
        number = _NUMBER.match(value)
        if number is None or not _fits(int(number.group(1))):
            raise StoreError(
                f"key {key!r} holds {_short(value)}, which is not a number of 64 bits; add works on counters only"
            )
        return int(number.group(1))


def pairs(keys: Sequence[str], values: Sequence[str | bytes]) -> list[tuple[str, bytes]]:
    """Each key with its value as it is stored.

    Raises:
        ConfigurationError: there are not as many values as keys.
        TypeError: a key is no str, or a value neither str nor bytes.
    """
    if len(keys) != len(values):
        raise ConfigurationError(
            f"multi_set got {len(keys)} keys and {len(values)} values; pass one value for each key"
        )
    return [(_checked(key), encoded(value)) for key, value in zip(keys, values, strict=True)]


def encoded(value: str | bytes) -> bytes:
    """`value` as it is stored: text as UTF-8, bytes as they are."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise TypeError(f"a store holds str or bytes, not {type(value).__name__}: {value!r}")


def _checked(key: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a key of a store is a str, not {type(key).__name__}: {key!r}")
    return key


def _short(value: bytes) -> str:
    return repr(value) if len(value) <= 40 else f"{value[:40]!r}... ({len(value)} bytes)"


def _fits(number: int) -> bool:
    return _COUNTER_MIN <= number <= _COUNTER_MAX
