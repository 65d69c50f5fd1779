"""How many devices this machine has, as the workers' torch would count them.

torch is asked in a child process: imported here it would cost the agent a second and 150 MB for as long as it
lives, and could leave a CUDA context behind. Counting without it is error-prone (CUDA_VISIBLE_DEVICES takes
indices, UUIDs and MIG names; drivers may be there and broken), so it is asked whenever there may be a device,
and only then: a machine without a device file is told at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from toolkit.core.errors import ConfigurationError

ASK_TIMEOUT_S = 120.0

_NVIDIA = ("nvidia*", "nvhost*", "nvgpu", "dxg")
_AMD = ("kfd", "dxg")
_INTEL = ("dri", "dxg")
_OTHERS = ("accel*", "neuron*", "davinci*", "cambricon*", "mtgpu*", "hl*")
_DEVICE_FILES: Mapping[str, tuple[str, ...]] = {
    "gpu": _NVIDIA + _AMD,
    "xpu": _INTEL,
    "auto": tuple(dict.fromkeys(_NVIDIA + _AMD + _INTEL + _OTHERS)),
}

# Prints to a pipe of its own, because plug-ins that torch loads may print to stdout.
_ASK = """
import json, os, sys
kind, answer = sys.argv[1], int(sys.argv[2])
import torch

def count():
    custom = torch._C._get_privateuse1_backend_name()
    if kind == "gpu":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "xpu":
        return torch.xpu.device_count() if torch.xpu.is_available() else 0
    if kind == "auto":
        return torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if kind == custom and custom != "privateuseone":
        module = getattr(torch, custom)
        return module.device_count() if module.is_available() else 0
    return custom

os.write(answer, json.dumps({"answer": count()}).encode())
"""


def count(kind: str, environ: Mapping[str, str], python: str, *, devices: Path = Path("/dev")) -> int:
    """The devices of one kind that workers started with `environ` would see; 0 if there are none.

    Args:
        kind: "cpu", "gpu", "xpu", "auto" (of whatever kind torch calls the accelerator, or CPU cores if
            there is none), or the name under which a plug-in of torch registers its device.
        environ: what the workers inherit, such as CUDA_VISIBLE_DEVICES.
        python: the interpreter of the workers.
        devices: where the device files are.

    Raises:
        ConfigurationError: no such kind, or torch is needed to know and can't be asked.
    """
    if kind == "cpu":
        return _cpu_cores()
    found = _ask_torch(kind, environ, python) if _may_be_there(kind, devices) else 0
    return found or (_cpu_cores() if kind == "auto" else 0)


def _cpu_cores() -> int:
    """The cores that this process may use, as torch counts them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _may_be_there(kind: str, devices: Path) -> bool:
    if kind not in _DEVICE_FILES or not sys.platform.startswith("linux"):
        return True
    if any(next(devices.glob(pattern), None) for pattern in _DEVICE_FILES[kind]):
        return True
    return kind == "auto" and _has_device_plugins()


def _has_device_plugins() -> bool:
    """Whether torch would load a plug-in, which may know device files that we don't."""
    from importlib.metadata import entry_points  # takes as long to import as all the rest of a start

    return bool(entry_points(group="torch.backends"))


def _ask_torch(kind: str, environ: Mapping[str, str], python: str) -> int:
    reader, writer = os.pipe()
    try:
        done = _run((python, "-c", _ASK, kind, str(writer)), environ, writer)
        text = _waiting_in(reader)
    finally:
        os.close(reader)
        os.close(writer)
    if done.returncode != 0 or not text:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else f"exit code {done.returncode}"
        if "No module named 'torch'" in last:
            raise ConfigurationError(
                f"counting {kind} devices needs torch, which {python} does not have; give a number"
            )
        raise ConfigurationError(f"torch could not count {kind} devices: {last}; give a number")
    return _number(json.loads(text)["answer"], kind)


def _waiting_in(reader: int) -> bytes:
    """What is in the pipe now. The writer has ended; its own end, kept open here, must not make this wait."""
    os.set_blocking(reader, False)
    try:
        return os.read(reader, 4096)
    except BlockingIOError:
        return b""


def _run(
    argv: tuple[str, ...], environ: Mapping[str, str], answer: int
) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            argv,
            env=dict(environ),
            pass_fds=(answer,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=ASK_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigurationError(
            f"torch did not count the devices within {ASK_TIMEOUT_S:.0f} s; check the driver, or give a number"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{argv[0]} can't be run: {error.strerror}; see PYTHON_EXEC") from error


def _number(answer: int | str, kind: str) -> int:
    if isinstance(answer, int):
        return answer
    custom = "" if answer == "privateuseone" else f", {answer}"
    raise ConfigurationError(
        f"{kind!r} is no kind of device that this torch knows; give a number, cpu, gpu, xpu{custom} or auto"
    )
