"""What the GPUs of this node do, from a driver that may be slow, broken, or hang. Never raises; waits but shortly."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from toolkit.adapters.readings.aside import Aside
from toolkit.core.events import GpuReading

#: error numbers that are kept of each GPU, the latest
XIDS_MAX = 16
#: how long the driver may not answer before that is told, in seconds
SILENT_S = 30.0


class GpuLost(Exception):
    """This GPU does not answer any more: it has fallen off the bus, or must be reset."""


class Gpu(Protocol):
    """One GPU. What the driver does not say is None or empty.

    Each method raises GpuLost if there is no such GPU any more, and nothing else.
    """

    @property
    def index(self) -> int: ...
    def name(self) -> str: ...
    def util_percent(self) -> float | None: ...

    def memory_bytes(self) -> tuple[int, int] | None:
        """Used, and in total."""
        ...

    def temperature_c(self) -> float | None: ...
    def power_w(self) -> float | None: ...
    def throttled(self) -> Sequence[str]: ...

    def pids(self) -> Collection[int]:
        """Of the processes that compute on it."""
        ...


class GpuDriver(Protocol):
    """The GPUs of this machine."""

    def gpus(self) -> Sequence[Gpu]: ...

    def new_xids(self) -> Sequence[tuple[int, int]]:
        """Errors since the last call, oldest first: index of the GPU, and number. Never waits; raises nothing."""
        ...


class Gpus:
    """Reads all GPUs. Used by one thread.

    Args:
        driver: of this machine.
        note: told once in words when a GPU is lost.
    """

    def __init__(self, driver: GpuDriver, note: Callable[[str], None]) -> None:
        self._driver = driver
        self._note = note
        self._gpus = list(driver.gpus())
        self._xids: dict[int, list[int]] = {}

    def take(self, families: Mapping[int, Collection[int]]) -> list[GpuReading]:
        """Readings of those that answer.

        Args:
            families: of each local rank, its processes.
        """
        for index, xid in self._driver.new_xids():
            self._xids[index] = [*self._xids.get(index, ()), xid][-XIDS_MAX:]
        rank_of = {pid: rank for rank, pids in families.items() for pid in pids}
        readings = []
        for gpu in tuple(self._gpus):
            try:
                readings.append(self._reading(gpu, rank_of))
            except GpuLost as lost:
                self._gpus.remove(gpu)
                self._note(f"GPU {gpu.index} has no readings any more: {lost}")
        return readings

    def _reading(self, gpu: Gpu, rank_of: Mapping[int, int]) -> GpuReading:
        used, total = gpu.memory_bytes() or (None, None)
        return GpuReading(
            index=gpu.index,
            name=gpu.name(),
            local_ranks=sorted({rank_of[pid] for pid in gpu.pids() if pid in rank_of}),
            util_percent=gpu.util_percent(),
            memory_used_bytes=used,
            memory_total_bytes=total,
            temperature_c=gpu.temperature_c(),
            power_w=gpu.power_w(),
            throttled=list(gpu.throttled()),
            xids=list(self._xids.get(gpu.index, ())),
        )


class GpuWatch:
    """Reads the GPUs in a thread of its own, because a driver in trouble hangs. Used by one thread.

    Args:
        open_driver: returns the driver, or None if there is nothing to read; anything that it raises is noted once.
        note: told in words, once for each reason, why there are no readings.
        silent_s: how long the driver may not answer before that is noted.
    """

    def __init__(
        self,
        open_driver: Callable[[], GpuDriver | None],
        note: Callable[[str], None],
        silent_s: float = SILENT_S,
    ) -> None:
        self._open_driver = open_driver
        self._note = note
        self._silent_s = silent_s
        self._aside: Aside[list[GpuReading]] = Aside("rally-gpus")
        self._gpus: Gpus | None = None
        self._opened = False
        self._off = False
        self._asked_s = 0.0
        self._noted = False

    def take(self, families: Mapping[int, Collection[int]], patience_s: float) -> list[GpuReading]:
        """Readings, or none if the driver does not answer within `patience_s`, or there is none."""
        if self._off:
            return []
        now_s = time.monotonic()
        self._asked_s = self._asked_s or now_s
        readings = self._aside.ask(lambda: self._look(families), patience_s)
        if readings is not None:
            self._asked_s = 0.0
        elif now_s - self._asked_s > self._silent_s and not self._noted:
            self._noted = True
            self._note(f"no readings of the GPUs: their driver has not answered for {self._silent_s:.0f} s")
        return readings or []

    def close(self, timeout_s: float) -> None:
        """No more readings. Waits for the driver for `timeout_s` at the most."""
        self._aside.close(timeout_s)

    # -- in the thread --------------------------------------------------------------------------------------

    def _look(self, families: Mapping[int, Collection[int]]) -> list[GpuReading]:
        try:
            if not self._opened:
                self._opened = True
                driver = self._open_driver()
                self._gpus = Gpus(driver, self._note) if driver is not None else None
                self._off = self._gpus is None
            return self._gpus.take(families) if self._gpus is not None else []
        except Exception as error:  # noqa: BLE001 - foreign code, and readings are not worth a job
            self._gpus, self._off = None, True
            self._note(f"no readings of the GPUs: {error}")
            return []
