"""GPUs: what is told of them, and that a driver in trouble costs only their readings."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from tests.leaks import nothing_left
from toolkit.adapters.readings.aside import Aside
from toolkit.adapters.readings.gpus import XIDS_MAX, GpuDriver, Gpus, GpuWatch
from toolkit.adapters.readings.nvml import Nvml, open_nvml
from toolkit.core.errors import RallyError
from toolkit.core.events import GpuReading

from .fake_gpus import GIB, FakeDriver, FakeGpu

PATIENCE_S = 20.0


@pytest.fixture
def notes() -> list[str]:
    return []


# -- what is told -------------------------------------------------------------------------------------------


def test_a_gpu_is_told_with_the_workers_that_have_a_process_on_it(notes: list[str]) -> None:
    driver = FakeDriver(FakeGpu(0, running=[101, 999, 202]), FakeGpu(1, running=[101]), FakeGpu(2, busy=0.0))
    first, second, idle = Gpus(driver, notes.append).take({4: (100, 101), 5: (200, 202, 203)})
    assert first == GpuReading(
        index=0,
        name="Fake H100",
        local_ranks=[4, 5],
        util_percent=97.0,
        memory_used_bytes=70 * GIB,
        memory_total_bytes=80 * GIB,
        temperature_c=61.0,
        power_w=612.3,
        throttled=["sw_power_cap"],
    )
    assert (second.local_ranks, idle.local_ranks, idle.util_percent) == ([4], [], 0.0)


def test_what_a_driver_does_not_say_is_left_out(notes: list[str]) -> None:
    (told,) = Gpus(FakeDriver(FakeGpu(3, says_nothing=True)), notes.append).take({})
    assert told == GpuReading(index=3, name="Fake H100")
    assert notes == []


def test_errors_stay_with_their_gpu_the_latest_of_them(notes: list[str]) -> None:
    driver = FakeDriver(FakeGpu(0), FakeGpu(1))
    gpus = Gpus(driver, notes.append)
    driver.xids = [(1, 79), (0, 31)]
    assert [gpu.xids for gpu in gpus.take({})] == [[31], [79]]
    driver.xids = [(1, 48)]
    assert [gpu.xids for gpu in gpus.take({})] == [[31], [79, 48]]
    driver.xids = [(0, 13)] * 40
    assert [len(gpu.xids) for gpu in gpus.take({})] == [XIDS_MAX, 2]


def test_a_gpu_that_falls_off_the_bus_is_noted_once_and_the_others_are_read_on(notes: list[str]) -> None:
    lost = FakeGpu(0)
    gpus = Gpus(FakeDriver(lost, FakeGpu(1)), notes.append)
    assert len(gpus.take({})) == 2
    lost.lost = True
    for _ in range(3):
        assert [gpu.index for gpu in gpus.take({})] == [1]
    assert notes == ["GPU 0 has no readings any more: GPU is lost"]


# -- drivers in trouble -------------------------------------------------------------------------------------


@pytest.fixture
def watch(notes: list[str]) -> Iterator[Callable[..., GpuWatch]]:
    made: list[GpuWatch] = []

    def make(open_driver: Callable[[], GpuDriver | None], **options: Any) -> GpuWatch:
        made.append(GpuWatch(open_driver, notes.append, **options))
        return made[-1]

    with nothing_left():
        yield make
        for one in made:
            one.close(PATIENCE_S)


def test_without_a_gpu_nothing_is_told_and_nothing_said(
    watch: Callable[..., GpuWatch], notes: list[str]
) -> None:
    opened: list[None] = []
    gpus = watch(lambda: opened.append(None))
    assert [gpus.take({}, PATIENCE_S) for _ in range(3)] == [[], [], []]
    assert (len(opened), notes) == (1, [])


def test_a_driver_that_cannot_be_opened_is_noted_once(
    watch: Callable[..., GpuWatch], notes: list[str]
) -> None:
    def broken() -> GpuDriver:
        raise pynvml.NVMLError_DriverNotLoaded()

    gpus = watch(broken)
    assert [gpus.take({}, PATIENCE_S) for _ in range(3)] == [[], [], []]
    assert notes == ["no readings of the GPUs: Driver Not Loaded"]


def test_a_driver_that_breaks_is_noted_once(watch: Callable[..., GpuWatch], notes: list[str]) -> None:
    driver = FakeDriver(FakeGpu(0))
    gpus = watch(lambda: driver)
    assert len(gpus.take({}, PATIENCE_S)) == 1
    driver.breaks = OSError("the library is gone")
    assert [gpus.take({}, PATIENCE_S) for _ in range(3)] == [[], [], []]
    assert notes == ["no readings of the GPUs: the library is gone"]


def test_a_driver_that_hangs_holds_nobody_up_and_may_come_back(
    watch: Callable[..., GpuWatch], notes: list[str]
) -> None:
    driver = FakeDriver(FakeGpu(0))
    gpus = watch(lambda: driver, silent_s=0.05)
    assert len(gpus.take({}, PATIENCE_S)) == 1
    driver.answers.clear()
    began_s = time.monotonic()
    while time.monotonic() < began_s + 0.2:
        assert gpus.take({}, 0.01) == []
        time.sleep(0.01)
    assert notes == ["no readings of the GPUs: their driver has not answered for 0 s"]
    driver.answers.set()
    deadline = time.monotonic() + PATIENCE_S
    while not gpus.take({}, 0.01):
        assert time.monotonic() < deadline
    assert len(notes) == 1


def test_a_task_that_hangs_is_not_joined_by_another() -> None:
    with nothing_left():
        aside: Aside[int] = Aside("test")
        go_on = threading.Event()
        ran: list[int] = []

        def slow() -> int:
            ran.append(1)
            go_on.wait()
            return 1

        assert [aside.ask(slow, 0.01) for _ in range(5)] == [None] * 5
        assert ran == [1]
        aside.close(0.01)  # does not wait for ever
        assert aside.ask(lambda: 2, PATIENCE_S) is None
        go_on.set()
        aside.close(PATIENCE_S)


# -- NVIDIA's library ---------------------------------------------------------------------------------------


class Library:
    """What `pynvml` would be on a machine with these GPUs: its names, and answers of ours. Handles are indexes."""

    def __init__(self, count: int, **answers: Any) -> None:
        self.events: list[tuple[int, int]] = []
        self.registered: list[int] = []
        self._count = count
        self._answers = answers
        named = {name: value for name, value in vars(pynvml).items() if not callable(value)}
        self.__dict__.update(named)
        errors = {name: value for name, value in vars(pynvml).items() if name.startswith("NVMLError")}
        self.__dict__.update(errors)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith("nvmlDeviceGet"):
            raise AttributeError(name)

        def answer(handle: int, *arguments: Any) -> Any:
            said = self._answers.get(name.removeprefix("nvmlDeviceGet"), pynvml.NVMLError_NotSupported())
            if isinstance(said, Exception):
                raise said
            return said

        return answer

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names
        if "Init" in self._answers:
            raise self._answers["Init"]

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self._count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if index == self._answers.get("bad_index"):
            raise pynvml.NVMLError_GpuIsLost()
        return index

    def nvmlDeviceGetIndex(self, handle: int) -> int:  # noqa: N802
        return handle

    def nvmlEventSetCreate(self) -> str:  # noqa: N802
        if "EventSet" in self._answers:
            raise self._answers["EventSet"]
        return "set"

    def nvmlDeviceRegisterEvents(self, handle: int, types: int, events: str) -> None:  # noqa: N802
        assert (types, events) == (pynvml.nvmlEventTypeXidCriticalError, "set")
        if handle == 0:
            raise pynvml.NVMLError_NotSupported()
        self.registered.append(handle)

    def nvmlEventSetWait_v2(self, events: str, timeout_ms: int) -> Any:  # noqa: N802
        assert (events, timeout_ms) == ("set", 0)
        if not self.events:
            raise pynvml.NVMLError_Timeout()
        device, xid = self.events.pop(0)
        return SimpleNamespace(device=device, eventData=xid, eventType=pynvml.nvmlEventTypeXidCriticalError)


FULL = {
    "Name": "NVIDIA H100 80GB HBM3",
    "UtilizationRates": SimpleNamespace(gpu=93, memory=40),
    "MemoryInfo": SimpleNamespace(used=70 * GIB, total=80 * GIB),
    "Temperature": 54,
    "PowerUsage": 412_345,
    "CurrentClocksEventReasons": pynvml.nvmlClocksEventReasonSwPowerCap
    | pynvml.nvmlClocksEventReasonHwThermalSlowdown
    | pynvml.nvmlClocksEventReasonGpuIdle,
    "ComputeRunningProcesses_v3": [SimpleNamespace(pid=101)],
    "ComputeRunningProcesses": [SimpleNamespace(pid=101)],
}


def test_what_nvml_says_is_told_in_our_units(notes: list[str]) -> None:
    library = Library(2, **FULL)
    driver = Nvml(library)
    library.events = [(1, 79), (1, 48)]
    first, second = Gpus(driver, notes.append).take({0: (101,)})
    assert first == GpuReading(
        index=0,
        name="NVIDIA H100 80GB HBM3",
        local_ranks=[0],
        util_percent=93.0,
        memory_used_bytes=70 * GIB,
        memory_total_bytes=80 * GIB,
        temperature_c=54.0,
        power_w=412.3,
        throttled=["sw_power_cap", "hw_thermal_slowdown"],
    )
    assert (second.index, second.xids) == (1, [79, 48])
    assert library.registered == [1], "the other one can't report errors, which is no trouble"


@pytest.mark.parametrize(
    "answers", [{}, {"Name": b"Old \xff"}, {"EventSet": pynvml.NVMLError_Unknown()}], ids=lambda a: str([*a])
)
def test_a_gpu_of_which_nvml_knows_little_is_told_all_the_same(
    answers: dict[str, Any], notes: list[str]
) -> None:
    (told,) = Gpus(Nvml(Library(1, **answers)), notes.append).take({})
    assert told == GpuReading(index=0, name="Old \ufffd" if "Name" in answers else "")


def test_gpus_that_are_lost_before_or_later_are_left_out(notes: list[str]) -> None:
    library = Library(3, **FULL, bad_index=1)
    gpus = Gpus(Nvml(library), notes.append)
    assert [gpu.index for gpu in gpus.take({})] == [0, 2]
    library._answers["MemoryInfo"] = pynvml.NVMLError_GpuIsLost()
    assert gpus.take({}) == []
    assert notes == [f"GPU {index} has no readings any more: GPU is lost" for index in (0, 2)]


def test_nvml_is_not_touched_without_a_device_file(tmp_path: Any) -> None:
    (tmp_path / "nvidiactl").touch()
    assert open_nvml(tmp_path) is None


def test_a_device_file_without_a_driver_is_an_error_in_words(tmp_path: Any, notes: list[str]) -> None:
    with pytest.raises(pynvml.NVMLError, match="Driver Not Loaded"):
        Nvml(Library(0, Init=pynvml.NVMLError_DriverNotLoaded()))


def test_without_the_package_the_remedy_is_told(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia0").touch()
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    with pytest.raises(RallyError, match=r"pip install 'rallypoint\[gpu\]'"):
        open_nvml(tmp_path)
