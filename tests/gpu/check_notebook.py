"""To be run on a machine with an NVIDIA GPU: launches functions that compute on it, and fails if that goes wrong.

    python tests/gpu/check_notebook.py

Needs msgspec, psutil, cloudpickle, nvidia-ml-py, and torch with CUDA. What launches never touches CUDA; each worker has
the GPU for itself; more workers than GPUs are refused; what a worker uses is read.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["PYTHONPATH"] = os.pathsep.join((sys.path[0], os.environ.get("PYTHONPATH", "")))
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp()

import pynvml

from toolkit import launch
from toolkit.core.errors import ConfigurationError


def compute(seconds: float) -> dict[str, object]:
    """Multiply matrices for a while."""
    import os
    import time

    import torch

    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    a = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    print("computes on", torch.cuda.get_device_name(), flush=True)
    until = time.time() + seconds
    while time.time() < until:
        a = (a @ a).clamp(-1, 1)
        torch.cuda.synchronize()
    return {"device": torch.cuda.get_device_name(), "rank": int(os.environ["RANK"])}


def users_of_the_gpu() -> set[int]:
    """Processes that have a CUDA context, as the driver knows them."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    return {process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)}


def main() -> None:
    """All checks."""
    pynvml.nvmlInit()
    count = pynvml.nvmlDeviceGetCount()
    try:
        launch(compute, 1, nproc=count + 1, gpu=True)
        raise AssertionError("more workers than GPUs were not refused")
    except ConfigurationError as error:
        print("refused:", error)
    job = launch(compute, 20, nproc=count, gpu=True, max_restarts=1)
    job.until(lambda: all("computes on" in job.logs(rank) for rank in range(count)), 120)
    job.until(lambda: any((row["gpu_util_percent"] or 0) > 50 for row in rows(job)), 60)
    assert "torch" not in sys.modules, "what launches does without torch"
    users = users_of_the_gpu()
    assert os.getpid() not in users and job.pid not in users, "neither launcher nor agent touches CUDA"
    print("uses the GPU:", [row["gpu_util_percent"] for row in rows(job)], "percent; users:", len(users))
    job.kill(0)
    job.until(lambda: job.now.restarts_used == 1, 30)
    result = job.wait(120)
    assert result is not None and not result.is_failed(), job.report()
    print("after a restart:", job.returned)
    print(job.report())


def rows(job: object) -> list[dict[str, object]]:
    """Of the ranks, with or without pandas."""
    found = job.ranks()  # type: ignore[attr-defined]
    return found if isinstance(found, list) else found.to_dict("records")  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
