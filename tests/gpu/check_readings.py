"""To be run on a machine with an NVIDIA GPU: prints what is read of it, and fails if that can't be.

    python tests/gpu/check_readings.py [--seconds 5]

Needs msgspec and nvidia-ml-py; with torch and CUDA there are workers that compute on each GPU, too, and what is
told of them is checked. The real sampler says the readings, as it does beside an agent.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from toolkit.adapters.readings.nvml import Nvml, open_nvml
from toolkit.adapters.readings.sampler import ReadingsSampler
from toolkit.core import events as ev

#: multiplies matrices on one GPU, and has a child beside it
COMPUTE = """
import os, sys, torch
if os.fork() == 0:
    import signal; signal.pause()
a = torch.randn(8192, 8192, device=f"cuda:{sys.argv[1]}", dtype=torch.bfloat16)
held = torch.empty(2 << 30, dtype=torch.uint8, device=a.device)
torch.cuda.synchronize()
print("up", flush=True)
while True:
    a = (a @ a).clamp(-1, 1)
    torch.cuda.synchronize()
"""
SLEEP = "import signal; print('up', flush=True); signal.pause()"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to read (default 5)")
    seconds = parser.parse_args().seconds
    driver = open_nvml()
    if driver is None:
        print("FAILED: there is no NVIDIA GPU here, or nvidia-ml-py is not installed")
        return 1
    print(f"{len(driver.gpus())} GPUs; one look takes {cost_ms(driver):.2f} ms of CPU")
    count = len(driver.gpus())
    computes = has_cuda()
    workers = [start(COMPUTE if computes else SLEEP, rank) for rank in range(count)]
    try:
        readings, notes = read(workers, seconds)
    finally:
        for worker in workers:
            os.killpg(worker.pid, signal.SIGKILL)  # with the child that it has forked
            worker.wait()
    for reading in readings:
        print(ev.encode(reading).decode())
    problems = [*notes, *wrong(readings, count, computes)]
    for problem in problems:
        print(f"FAILED: {problem}")
    if not problems:
        print(f"OK: {len(readings)} readings of {count} GPUs, {'with' if computes else 'without'} torch")
    return 1 if problems else 0


def has_cuda() -> bool:
    """Asked in a process of its own: this one is to have no CUDA context."""
    if importlib.util.find_spec("torch") is None:
        return False
    asked = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0


def cost_ms(driver: Nvml) -> float:
    """CPU time of one look at all GPUs; the first one is not counted."""
    from toolkit.adapters.readings.gpus import Gpus

    gpus = Gpus(driver, print)
    gpus.take({})
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(20):
        gpus.take({})
    after = resource.getrusage(resource.RUSAGE_SELF)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 20 * 1000


def start(code: str, rank: int) -> subprocess.Popen[bytes]:
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(rank)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert worker.stdout is not None and worker.stdout.readline() == b"up\n", "the worker did not start"
    return worker


def read(workers: list[subprocess.Popen[bytes]], seconds: float) -> tuple[list[ev.ReadingsTaken], list[str]]:
    readings: list[ev.ReadingsTaken] = []
    notes: list[str] = []

    def say(still: Callable[[], bool], kind: type[ev.Event], /, **fields: Any) -> None:
        event = kind(seq=len(readings) + 1, mono_ns=time.monotonic_ns(), **fields)
        assert still() and isinstance(event, ev.ReadingsTaken)
        readings.append(event)

    sampler = ReadingsSampler(1.0, notes.append)
    sampler.begin(say)
    for event in starts([worker.pid for worker in workers]):
        sampler.emit(event)
    time.sleep(seconds + 0.7)
    sampler.close()
    return readings, notes


def starts(pids: list[int]) -> list[ev.Event]:
    started: list[ev.Event] = [
        ev.WorkerStarted(
            incarnation=0,
            local_rank=rank,
            global_rank=rank,
            role_rank=rank,
            world_size=len(pids),
            worker_id=str(pid),
            pid=pid,
        )
        for rank, pid in enumerate(pids)
    ]
    return [ev.WorkersStarting(incarnation=0, count=len(pids)), *started, ev.WorkersStarted(incarnation=0)]


def wrong(readings: list[ev.ReadingsTaken], count: int, computes: bool) -> list[str]:
    """What can't be, in sentences."""
    if len(readings) < 2:
        return [f"only {len(readings)} readings"]
    problems = []
    last = readings[-1]
    if len(last.workers) != count or any(worker.rss_bytes < 1 << 20 for worker in last.workers):
        problems.append(f"workers are {last.workers}, and there are {count}")
    if len(last.gpus) != count:
        problems.append(f"{len(last.gpus)} GPUs were read, and there are {count}")
    for gpu in last.gpus:
        problems += [f"GPU {gpu.index}: {problem}" for problem in wrong_with(gpu, computes)]
    if computes and any(worker.processes != 2 or worker.cpu_percent < 1 for worker in last.workers):
        problems.append(f"each worker has a child and is busy, and they are told as {last.workers}")
    return problems


def wrong_with(gpu: ev.GpuReading, computes: bool) -> list[str]:
    used, total = gpu.memory_used_bytes, gpu.memory_total_bytes
    checks = {
        f"its name is {gpu.name!r}": bool(gpu.name),
        f"its memory is {used} of {total} bytes": total is not None
        and used is not None
        and 0 <= used <= total > 0,
        f"its temperature is {gpu.temperature_c}": gpu.temperature_c is not None
        and 5 < gpu.temperature_c < 110,
        f"its power is {gpu.power_w} W": gpu.power_w is not None and 1 < gpu.power_w < 2000,
        f"its utilisation is {gpu.util_percent}": gpu.util_percent is not None
        and 0 <= gpu.util_percent <= 100,
        f"it has errors {gpu.xids}": not gpu.xids,
    }
    if computes:
        checks |= {
            f"somebody computes, and it is busy to {gpu.util_percent} %": (gpu.util_percent or 0) > 50,
            f"somebody holds 2 GiB, and it has {used} bytes in use": (used or 0) > 2 << 30,
            f"rank {gpu.index} computes on it, and it is told to be of {gpu.local_ranks} (in a container without "
            "the host's process ids nobody can know)": gpu.local_ranks == [gpu.index],
        }
    return [problem for problem, holds in checks.items() if not holds]


if __name__ == "__main__":
    sys.exit(main())
