"""GPUs for tests: a driver that says what it is told, and may lose one, break, or hang."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from toolkit.adapters.readings.gpus import GpuLost

GIB = 1 << 30

_T = TypeVar("_T")


@dataclass
class FakeGpu:
    """Implements `Gpu`."""

    index: int
    busy: float | None = 97.0
    running: list[int] = field(default_factory=list)
    lost: bool = False
    says_nothing: bool = False

    def name(self) -> str:
        return "Fake H100"

    def util_percent(self) -> float | None:
        return self._said(self.busy)

    def memory_bytes(self) -> tuple[int, int] | None:
        return self._said((70 * GIB, 80 * GIB))

    def temperature_c(self) -> float | None:
        return self._said(61.0)

    def power_w(self) -> float | None:
        return self._said(612.3)

    def throttled(self) -> Sequence[str]:
        return self._said(["sw_power_cap"]) or []

    def pids(self) -> Collection[int]:
        return self._said(self.running) or []

    def _said(self, value: _T) -> _T | None:
        if self.lost:
            raise GpuLost("GPU is lost")
        return None if self.says_nothing else value


class FakeDriver:
    """Implements `GpuDriver`. While `answers` is cleared it hangs."""

    def __init__(self, *gpus: FakeGpu) -> None:
        self.all = gpus
        self.xids: list[tuple[int, int]] = []
        self.breaks: Exception | None = None
        self.answers = threading.Event()
        self.answers.set()

    def gpus(self) -> Sequence[FakeGpu]:
        return self.all

    def new_xids(self) -> Sequence[tuple[int, int]]:
        self.answers.wait()
        if self.breaks is not None:
            raise self.breaks
        new, self.xids = self.xids, []
        return new
