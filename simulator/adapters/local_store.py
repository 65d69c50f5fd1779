"""A store in the memory of one simulated process: what `Ports.new_store` makes there. Waits park; no thread is held.

The semantics are `toolkit.core.keyvalue`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar, cast

from simulator.kernel import Kernel, Task
from toolkit.core.errors import StoreTimeoutError
from toolkit.core.keyvalue import KeyValues
from toolkit.core.words import late

_R = TypeVar("_R")

#: torch's default
TIMEOUT = timedelta(seconds=300)


class LocalStore:
    """The operations of torch's `Store` over `KeyValues`, for the tasks of one simulation.

    A wait with a timeout of 0 or less looks once. Only waits need a task; the rest can be called from anywhere.

    Args:
        kernel: of the run.
        timeout: how long `get`, `multi_get` and `wait` wait for a missing key, unless told otherwise.
    """

    def __init__(self, kernel: Kernel, timeout: timedelta = TIMEOUT) -> None:
        self._kernel = kernel
        self._timeout = timeout
        self._values = KeyValues()
        self._waiting: list[Task] = []

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

    def clone(self) -> LocalStore:
        """Another handle on the same keys: this one."""
        return self

    def set(self, key: str, value: str | bytes, /) -> None:
        """Set a key."""
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
        """Append to a value."""
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

    def check(self, keys: Sequence[str], /) -> bool:
        """Whether all keys exist; never waits."""
        return self._values.check(keys)

    def num_keys(self) -> int:
        """How many keys there are."""
        return self._values.num_keys()

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
        self.wait(keys)
        # No other task runs between the end of the wait and this.
        return cast("list[bytes]", self._values.multi_get(keys))

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None, /) -> None:
        """Block until all keys exist.

        Raises:
            StoreTimeoutError: they did not come within `timeout` (None: the store's own).
        """
        self.watch(keys, self._timeout if timeout is None else timeout, lambda: None)

    def watch(self, keys: Sequence[str], timeout: timedelta, check_signals: Callable[[], None]) -> None:
        """Block until all keys exist; `check_signals` is called after each wake-up and may break it off.

        Raises:
            StoreTimeoutError: they did not come within `timeout`.
        """
        until_ns = self._kernel.now_ns + int(timeout.total_seconds() * 1e9)
        while missing := self._values.missing(keys):
            left_ns = until_ns - self._kernel.now_ns
            if left_ns <= 0:
                raise StoreTimeoutError(late(missing, timeout.total_seconds()))
            self._park(keys, left_ns)
            check_signals()

    def _park(self, keys: Sequence[str], left_ns: int) -> None:
        task = self._kernel.current
        assert task is not None, "only tasks wait for keys"
        self._waiting.append(task)
        try:
            self._kernel.park(f"keys of its own store: {', '.join(keys)}", left_ns)
        finally:
            self._waiting.remove(task)

    def _change(self, change: Callable[[KeyValues], _R]) -> _R:
        result = change(self._values)
        for task in self._waiting:
            self._kernel.wake(task)
        return result
