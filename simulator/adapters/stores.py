"""Waits of a simulated agent on any simulated store: each has a `watch`, which a signal breaks off."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from simulator.adapters.interrupts import ProcessInterrupts
from toolkit.core.errors import StoreError, StoreTimeoutError


class SimStores:
    """Implements `toolkit.ports.Stores`."""

    def __init__(self, interrupts: ProcessInterrupts) -> None:
        self._interrupts = interrupts

    def wait(self, store: Any, keys: list[str], timeout_s: float) -> None:
        """Wait until all keys exist; a signal ends it at once.

        Raises:
            StoreTimeoutError: the time is over.
            StoreError: the store failed.
            SignalException: a death signal came.
        """
        with self._interrupts.interruptible():
            try:
                store.watch(keys, timedelta(seconds=timeout_s), self._interrupts.raise_pending)
            except (StoreTimeoutError, StoreError):
                raise
            except (RuntimeError, TimeoutError) as error:
                raise StoreError(f"waiting for {', '.join(keys)}: {error}") from error
