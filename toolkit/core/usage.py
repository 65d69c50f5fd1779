"""What a worker and a GPU use at one moment: the values in a `ReadingsTaken` event."""

from __future__ import annotations

import msgspec


class WorkerReading(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one worker and the processes that it started used, as the operating system counts.

    Args:
        cpu_percent: of one core, since the reading before; 250 is two and a half cores.
        rss_bytes: resident memory of all of them together. Pages that several of them share count several times.
        processes: how many there are.
        step: that it told last by `toolkit.progress`; None if it never did.
    """

    local_rank: int
    cpu_percent: float
    rss_bytes: int
    processes: int = 1
    step: int | None = None


class GpuReading(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One GPU of a node. What the driver does not say is None or empty.

    Args:
        index: as NVML counts.
        local_ranks: workers that have a process on it.
        util_percent: share of the time in which a kernel ran.
        throttled: why the clocks are held down, in NVML's words without their prefix, such as "sw_power_cap".
        xids: error numbers that the driver has reported since the agent began, oldest first.
    """

    index: int
    name: str = ""
    local_ranks: list[int] = []
    util_percent: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    throttled: list[str] = []
    xids: list[int] = []
