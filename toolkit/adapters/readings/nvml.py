"""NVIDIA's GPUs, as its management library tells of them (package nvidia-ml-py, extra `gpu`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from toolkit.adapters.readings.gpus import GpuLost
from toolkit.core.errors import RallyError

_T = TypeVar("_T")

#: without one of these no GPU is there to be read
_DEVICE_FILES = ("nvidia[0-9]*", "nvhost*", "nvgpu", "dxg")
#: errors that are taken from the queue at once
_XIDS_AT_ONCE = 64
_REASON = re.compile(r"nvmlClocks(?:Event|Throttle)Reason([A-Z]\w*)")
#: not for being held down: it idles, or all of them
_NO_REASONS = ("None", "All", "GpuIdle", "UserDefinedClocks")


def open_nvml(devices: Path = Path("/dev")) -> Nvml | None:
    """The driver, or None where there is no NVIDIA GPU.

    Raises:
        RallyError: a GPU is there, and no package to read it with.
        Exception: of the package; a GPU is there, and the driver does not work.
    """
    if not device_files(devices):
        return None
    try:
        import pynvml  # late: 10 ms, and only where it is of use
    except ImportError as error:
        raise RallyError("pip install 'rallypoint[gpu]' has them read") from error
    return Nvml(pynvml)


def device_files(devices: Path = Path("/dev")) -> list[Path]:
    """Of the NVIDIA GPUs that this process sees."""
    return sorted(path for pattern in _DEVICE_FILES for path in devices.glob(pattern))


class Nvml:
    """Implements `GpuDriver`.

    Args:
        library: the module `pynvml`, or what stands for it.

    Raises:
        library.NVMLError: the driver does not work.
    """

    def __init__(self, library: Any) -> None:
        self.library = library
        library.nvmlInit()
        self._reasons = _reasons_of(library)
        count = library.nvmlDeviceGetCount()
        self._gpus = [gpu for index in range(count) if (gpu := self._gpu(index)) is not None]
        self._events = self._watch_for_xids()

    def gpus(self) -> Sequence[NvmlGpu]:
        """Those that answered when this began."""
        return self._gpus

    def new_xids(self) -> Sequence[tuple[int, int]]:
        """Index of the GPU and number of each error since the last call."""
        return list(self._waiting_xids()) if self._events is not None else []

    def _gpu(self, index: int) -> NvmlGpu | None:
        try:
            handle = self.library.nvmlDeviceGetHandleByIndex(index)
            return NvmlGpu(self.library, index, handle, self._reasons)
        except (self.library.NVMLError, GpuLost):
            return None  # lost before we came, or not ours to see

    def _watch_for_xids(self) -> Any | None:
        library = self.library
        try:
            events = library.nvmlEventSetCreate()
        except library.NVMLError:
            return None
        for gpu in self._gpus:
            gpu.report_xids_to(events)
        return events

    def _waiting_xids(self) -> Iterator[tuple[int, int]]:
        library = self.library
        for _ in range(_XIDS_AT_ONCE):
            try:
                event = library.nvmlEventSetWait_v2(self._events, 0)
                if event.eventType & library.nvmlEventTypeXidCriticalError:
                    yield int(library.nvmlDeviceGetIndex(event.device)), int(event.eventData)
            except library.NVMLError:
                return  # a timeout: there is none


class NvmlGpu:
    """Implements `Gpu`. What fails for any reason but a lost GPU is something that the driver does not say."""

    def __init__(self, library: Any, index: int, handle: Any, reasons: Sequence[tuple[int, str]]) -> None:
        self._library = library
        self.handle = handle
        self._reasons = reasons
        self.index = index
        self._name = self.asked(library.nvmlDeviceGetName) or ""

    def report_xids_to(self, events: Any) -> None:
        """From now on, into this event set; not every GPU can."""
        library = self._library
        try:
            library.nvmlDeviceRegisterEvents(self.handle, library.nvmlEventTypeXidCriticalError, events)
        except library.NVMLError:
            return

    def name(self) -> str:
        """As the vendor calls it."""
        return self._name.decode(errors="replace") if isinstance(self._name, bytes) else str(self._name)

    def util_percent(self) -> float | None:
        """Share of the last sample period of the driver in which a kernel ran."""
        rates = self.asked(self._library.nvmlDeviceGetUtilizationRates)
        return None if rates is None else float(rates.gpu)

    def memory_bytes(self) -> tuple[int, int] | None:
        """Used by programs, and in total."""
        library = self._library
        # The first version counts what the driver keeps for itself as used.
        memory = self.asked(library.nvmlDeviceGetMemoryInfo, library.nvmlMemory_v2)
        memory = memory or self.asked(library.nvmlDeviceGetMemoryInfo)
        return None if memory is None else (int(memory.used), int(memory.total))

    def temperature_c(self) -> float | None:
        """Of the chip."""
        library = self._library
        degrees = self.asked(library.nvmlDeviceGetTemperature, library.NVML_TEMPERATURE_GPU)
        return None if degrees is None else float(degrees)

    def power_w(self) -> float | None:
        """Of the whole board."""
        milliwatts = self.asked(self._library.nvmlDeviceGetPowerUsage)
        return None if milliwatts is None else round(milliwatts / 1000, 1)

    def throttled(self) -> Sequence[str]:
        """Why the clocks are held down."""
        bits = self.asked(self._library.nvmlDeviceGetCurrentClocksEventReasons)
        if bits is None:
            bits = self.asked(self._library.nvmlDeviceGetCurrentClocksThrottleReasons) or 0
        return [reason for bit, reason in self._reasons if bits & bit]

    def pids(self) -> Collection[int]:
        """Of this PID namespace or of the machine's, as the driver has it."""
        library = self._library
        processes = self.asked(library.nvmlDeviceGetComputeRunningProcesses) or []
        return [int(process.pid) for process in processes]

    def asked(self, question: Callable[..., _T], *arguments: Any) -> _T | None:
        """The answer of a function of the library that takes a GPU first; None if the driver does not say.

        Raises:
            GpuLost: there is no such GPU any more.
        """
        library = self._library
        try:
            return question(self.handle, *arguments)
        except (library.NVMLError_GpuIsLost, library.NVMLError_ResetRequired) as error:
            raise GpuLost(str(error)) from error
        except library.NVMLError:
            return None


def _reasons_of(library: Any) -> list[tuple[int, str]]:
    """Bits and names, in the order of the bits; newer names win."""
    named: dict[int, str] = {}
    for attribute, bit in sorted(vars(library).items(), reverse=True):
        match = _REASON.fullmatch(attribute)
        if match is not None and match[1] not in _NO_REASONS and isinstance(bit, int):
            named[bit] = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", match[1]).lower()
    return sorted(named.items())
