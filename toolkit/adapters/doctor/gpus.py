"""The GPUs of this machine and their driver, asked in a process of its own: a driver that hangs takes that along alone.

`python -m toolkit.adapters.doctor.gpus` prints the facts as JSON.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from ctypes import byref
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec

from toolkit.adapters.doctor.child import output_of
from toolkit.adapters.readings import nvml
from toolkit.adapters.readings.gpus import GpuLost
from toolkit.adapters.readings.nvml import Nvml, NvmlGpu
from toolkit.core.doctor.facts import GpuFacts, GpusFacts
from toolkit.core.errors import RallyError

_OTHERS = {
    "kfd": "AMD GPU",
    "accel*": "accelerator",
    "hl[0-9]*": "Gaudi",
    "neuron*": "Neuron",
    "davinci[0-9]*": "Ascend",
}
_MODES = {0: "default", 1: "exclusive", 2: "prohibited", 3: "exclusive"}
_FABRIC = {0: "not supported", 1: "not started", 2: "in progress", 3: "completed"}
_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9A-Fa-f:.]+)\): (\d+)")
#: of the kernel's log
_LOG_BYTES = 1 << 16
_XIDS_MAX = 64


def gpus(patience_s: float, devices: Path = Path("/dev")) -> GpusFacts:
    """The GPUs; at once where there are none.

    Args:
        patience_s: how long the driver may take. A little less is left to it, so that it is ended by then.
        devices: where the device files are.

    Raises:
        TimeoutError: the driver did not answer.
    """
    there = nvml.device_files(devices)
    others = [name for pattern, name in _OTHERS.items() if any(devices.glob(pattern))]
    if not there:
        return GpusFacts(other=others)
    done = output_of((sys.executable, "-m", "toolkit.adapters.doctor.gpus"), patience_s)
    if done is None:
        raise TimeoutError(f"the driver did not answer in {patience_s:g} s")
    code, said, complained = done
    if code != 0:
        last = (complained.strip().splitlines() or [f"exit code {code}"])[-1]
        return GpusFacts(device_files=len(there), other=others, problem=last)
    return msgspec.structs.replace(msgspec.json.decode(said, type=GpusFacts), other=others)


def _asked() -> GpusFacts:
    files = len(nvml.device_files())
    try:
        driver = nvml.open_nvml()
    except RallyError:
        return GpusFacts(device_files=files, library=False, xids=_xids())
    except Exception as error:  # noqa: BLE001 the package's own errors, which can't be named without it
        return GpusFacts(device_files=files, problem=str(error), xids=_xids())
    return GpusFacts() if driver is None else facts_of_driver(driver, files)


def facts_of_driver(driver: Nvml, device_files: int) -> GpusFacts:
    """What a driver that works says.

    Args:
        driver: opened.
        device_files: of GPUs that this process sees.
    """
    library = driver.library
    found = [_gpu(gpu, library) for gpu in driver.gpus()]
    missing = [GpuFacts(index=index, lost=True) for index in _lost(driver, [gpu.index for gpu in found])]
    blocked, why, nvlinks = _peers(driver.gpus(), library)
    return GpusFacts(
        device_files=device_files,
        driver=_text(_of_system(library, library.nvmlSystemGetDriverVersion)),
        cuda=_cuda_version(_of_system(library, library.nvmlSystemGetCudaDriverVersion_v2)),
        gpus=sorted([*found, *missing], key=lambda gpu: gpu.index),
        peers_blocked=blocked,
        peers_problem=why,
        nvlinks=nvlinks,
        xids=_xids(),
    )


def _of_system(library: Any, question: Any) -> Any:
    try:
        return question()
    except library.NVMLError:
        return None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def _cuda_version(value: int | None) -> str:
    return f"{value // 1000}.{value % 1000 // 10}" if value else ""


def _lost(driver: Nvml, answered: Sequence[int]) -> list[int]:
    """GPUs that the driver counts and can't open, save those that are not ours to see."""
    library = driver.library
    lost = []
    for index in range(library.nvmlDeviceGetCount()):
        if index in answered:
            continue
        try:
            library.nvmlDeviceGetHandleByIndex(index)
        except library.NVMLError_NoPermission:
            continue
        except library.NVMLError:
            lost.append(index)
    return lost


def _gpu(gpu: NvmlGpu, library: Any) -> GpuFacts:
    try:
        return _facts_of(gpu, library)
    except GpuLost:
        return GpuFacts(index=gpu.index, name=gpu.name(), lost=True)


def _facts_of(gpu: NvmlGpu, library: Any) -> GpuFacts:
    memory = gpu.memory_bytes()
    rows = gpu.asked(library.nvmlDeviceGetRemappedRows)
    ecc = gpu.asked(library.nvmlDeviceGetEccMode)
    mig = gpu.asked(library.nvmlDeviceGetMigMode)
    limit = gpu.asked(library.nvmlDeviceGetEnforcedPowerLimit)
    pci = gpu.asked(library.nvmlDeviceGetPciInfo)
    fabric, trouble = _fabric(gpu, library)
    return GpuFacts(
        index=gpu.index,
        name=gpu.name(),
        uuid=_text(gpu.asked(library.nvmlDeviceGetUUID)),
        pci=_text(pci.busId) if pci is not None else "",
        memory_used_bytes=memory[0] if memory else None,
        memory_total_bytes=memory[1] if memory else None,
        temperature_c=gpu.temperature_c(),
        power_w=gpu.power_w(),
        power_limit_w=limit / 1000 if limit is not None else None,
        persistence=_yes(gpu.asked(library.nvmlDeviceGetPersistenceMode)),
        ecc=_yes(ecc[0]) if ecc is not None else None,
        ecc_uncorrected=_uncorrected(gpu, library),
        remap_pending=_yes(rows[2]) if rows is not None else None,
        remap_failed=_yes(rows[3]) if rows is not None else None,
        retired_pending=_yes(gpu.asked(library.nvmlDeviceGetRetiredPagesPendingStatus)),
        throttled=list(gpu.throttled()),
        compute_mode=_MODES.get(gpu.asked(library.nvmlDeviceGetComputeMode) or 0, ""),
        mig=_yes(mig[0]) if mig is not None else None,
        fabric=fabric,
        fabric_problem=trouble,
        pids=list(gpu.pids()),
    )


def _yes(value: Any) -> bool | None:
    return None if value is None else bool(value)


def _uncorrected(gpu: NvmlGpu, library: Any) -> int | None:
    """Since the driver was loaded; what was before may have been mended."""
    count = gpu.asked(
        library.nvmlDeviceGetTotalEccErrors,
        library.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
        library.NVML_VOLATILE_ECC,
    )
    return None if count is None else int(count)


def _fabric(gpu: NvmlGpu, library: Any) -> tuple[str, str]:
    """State of the fabric, and why it did not come up."""
    try:
        info = library.c_nvmlGpuFabricInfoV_t()
        gpu.asked(lambda handle: library.nvmlDeviceGetGpuFabricInfoV(handle, byref(info)))
    except (AttributeError, TypeError):
        return "", ""  # a package or a driver that is older than the question
    state = _FABRIC.get(int(info.state), "")
    return state, f"status {int(info.status)}" if state == "completed" and int(info.status) else ""


def _peers(gpus: Sequence[NvmlGpu], library: Any) -> tuple[list[tuple[int, int]], str, bool | None]:
    """Pairs that can't read each other's memory, why not, and whether any pair is joined by NVLink."""
    blocked: list[tuple[int, int]] = []
    why, nvlinks = "", None
    for one, other in combinations(gpus, 2):
        try:
            status = one.asked(library.nvmlDeviceGetP2PStatus, other.handle, library.NVML_P2P_CAPS_INDEX_READ)
            linked = one.asked(
                library.nvmlDeviceGetP2PStatus, other.handle, library.NVML_P2P_CAPS_INDEX_NVLINK
            )
        except GpuLost:
            continue
        if linked is not None:
            nvlinks = bool(nvlinks) or linked == library.NVML_P2P_STATUS_OK
        if status is not None and status != library.NVML_P2P_STATUS_OK:
            blocked.append((one.index, other.index))
            why = why or _status_name(library, status)
    return blocked, why, nvlinks


def _status_name(library: Any, status: int) -> str:
    """Such as "chipset not supported"."""
    prefix = "NVML_P2P_STATUS_"
    names = sorted(
        name for name, value in vars(library).items() if name.startswith(prefix) and value == status
    )
    return names[-1].removeprefix(prefix).replace("_", " ").lower() if names else f"status {status}"


def _xids() -> list[str] | None:
    """Errors in the kernel's log, oldest first; None if it may not be read."""
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    found: list[str] = []
    try:
        while True:
            try:
                record = os.read(log, _LOG_BYTES).decode(errors="replace")
            except BrokenPipeError:
                continue  # the record was overwritten while we came; the next read goes on
            except OSError:
                break  # the end of what there is
            if not record:
                break
            found += [f"{match[1]}: {match[2]}" for match in _XID.finditer(record)]
    finally:
        os.close(log)
    return found[-_XIDS_MAX:]


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(_asked()).decode())
