"""To be run on a machine with an NVIDIA GPU: what goes wrong there is named, and nothing stays on the GPU.

    python tests/gpu/check_failures.py

Needs msgspec, psutil, nvidia-ml-py, and torch with CUDA. Prints the report of each failure.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pynvml

ROOT = Path(__file__).resolve().parents[2]
#: what a worker does, and what its report must say
FAILURES = {
    "import torch\ntorch.empty(2**41, dtype=torch.uint8, device='cuda')": "CUDA out of memory",
    "import torch\ntorch.zeros(4, device='cuda')[torch.tensor([9], device='cuda')].sum().item()": "device-side assert",
    "import torch\ntorch.zeros(4, device='cuda') @ torch.zeros(5, device='cuda')": "RuntimeError",
}
STEPS = """
import torch, toolkit
x = torch.ones(1024, 1024, device="cuda")
for step in range(10**9):
    x = (x @ x).clamp(0, 1)
    torch.cuda.synchronize()
    toolkit.progress(step)
    if step == 200:
        print("steps", flush=True)
        while {spins}: pass
"""


def rally(folder: Path, script: str, *words: str) -> subprocess.Popen[str]:
    (folder / "train.py").write_text(script)
    command = [sys.executable, "-m", "toolkit", "run", "--standalone", *words, "train.py"]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder / "state")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def on_the_gpu() -> list[int]:
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    return [process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]


def failures_are_named(folder: Path) -> None:
    for script, wanted in FAILURES.items():
        agent = rally(folder, script)
        told, _ = agent.communicate(timeout=120)
        print(told)
        assert agent.returncode == 1, agent.returncode
        assert wanted in told, wanted


def steps_of_a_gpu_that_spins_are_seen(folder: Path) -> None:
    agent = rally(folder, STEPS.format(spins=True), "--on-hang", "restart", "--hang-timeout", "8")
    told, _ = agent.communicate(timeout=150)
    print(told)
    assert agent.returncode == 128 + signal.SIGKILL, agent.returncode
    assert "stands at step 200" in told


def nothing_stays(folder: Path, signum: int) -> None:
    agent = rally(folder, STEPS.format(spins=False))
    assert agent.stdout is not None
    assert any("steps" in line for line in agent.stdout)
    agent.send_signal(signum)
    agent.stdout.read()
    print(f"after {signal.Signals(signum).name}: exit {agent.wait(60)}")
    until = time.monotonic() + 20
    while on_the_gpu() and time.monotonic() < until:
        time.sleep(0.2)
    assert not on_the_gpu()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        failures_are_named(Path(scratch))
        steps_of_a_gpu_that_spins_are_seen(Path(scratch))
        nothing_stays(Path(scratch), signal.SIGTERM)
        nothing_stays(Path(scratch), signal.SIGKILL)
    print("all is well")
