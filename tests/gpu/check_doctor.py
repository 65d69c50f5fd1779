"""To be run on a machine with an NVIDIA GPU: `rally doctor` there must know driver, GPUs and torch, and leave no trace.

    python tests/gpu/check_doctor.py

Needs msgspec, psutil, rich and nvidia-ml-py; with torch for CUDA what that sees is held against the driver, too. Prints
what people see, then the JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: what every driver of a data centre's GPU says
_SAID = (
    "name",
    "uuid",
    "pci",
    "memory_total_bytes",
    "memory_used_bytes",
    "temperature_c",
    "power_w",
    "compute_mode",
)


def doctor(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "toolkit", "doctor", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def check(found: dict[str, Any]) -> None:
    assert not {"gpus", "torch"} & set(found["silent"]), found["silent"]
    gpus, torch = found["facts"]["gpus"], found["facts"]["torch"]
    assert gpus["driver"] and gpus["cuda"], gpus
    assert len(gpus["gpus"]) == gpus["device_files"] > 0, gpus
    for gpu in gpus["gpus"]:
        missing = [name for name in _SAID if gpu[name] in (None, "")]
        assert not missing, f"GPU {gpu['index']} does not say {missing}"
    if torch["cuda"]:
        assert torch["devices"] == len(gpus["gpus"]), torch
        assert torch["nccl"], torch
    levels = {one["id"]: one["level"] for one in found["findings"]}
    assert levels["gpu.driver"] == "ok", found["findings"]
    assert found["asked"]["nproc"] == len(gpus["gpus"])


def main() -> int:
    seen = doctor()
    print(seen.stdout, seen.stderr)
    said = doctor("--json")
    print(said.stdout, said.stderr)
    check(json.loads(said.stdout))
    hidden = subprocess.run(
        [sys.executable, "-m", "toolkit", "doctor", "--json", "--only", "gpu"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "99"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    levels = {one["id"]: one["level"] for one in json.loads(hidden.stdout)["findings"]}
    assert (hidden.returncode, levels["gpu.visible"]) == (1, "problem"), hidden.stdout
    print("rally doctor knows this machine's GPUs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
