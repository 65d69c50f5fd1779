"""Devices are counted by torch in a process of its own, and only where there may be one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.adapters.accelerators import count
from toolkit.core.errors import ConfigurationError

CORES = len(os.sched_getaffinity(0))


@pytest.fixture
def no_devices(tmp_path: Path) -> Path:
    devices = tmp_path / "dev"
    devices.mkdir()
    (devices / "null").touch()
    return devices


@pytest.fixture
def some_devices(no_devices: Path) -> Path:
    for name in ("nvidia0", "kfd", "dri"):
        (no_devices / name).touch()
    return no_devices


def interpreter(folder: Path, body: str) -> str:
    """A stand-in for the workers' Python: a program that gets the arguments of `python -c`."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_cores_are_those_that_this_process_may_use() -> None:
    assert count("cpu", {}, "/no/python") == CORES


def test_a_machine_without_device_files_is_told_without_torch(no_devices: Path) -> None:
    assert count("gpu", {}, "/no/python", devices=no_devices) == 0
    assert count("xpu", {}, "/no/python", devices=no_devices) == 0


def test_torch_is_asked_where_there_may_be_a_device(tmp_path: Path, some_devices: Path) -> None:
    python = interpreter(tmp_path, """echo noise; printf '{"answer": %s}' "$SEEN" > /proc/self/fd/$4""")
    for kind in ("gpu", "xpu", "auto"):
        assert count(kind, {"SEEN": "8"}, python, devices=some_devices) == 8
    assert count("gpu", {"SEEN": "0"}, python, devices=some_devices) == 0
    assert count("auto", {"SEEN": "0"}, python, devices=some_devices) == CORES


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo \"ModuleNotFoundError: No module named 'torch'\" >&2; exit 1", "needs torch, which"),
        (
            "echo 'OSError: libcudart.so.13: not found' >&2; exit 1",
            "OSError: libcudart.so.13: not found; give a",
        ),
        ("exit 3", "torch could not count gpu devices: exit code 3; give a number"),
        ("exit 0", "torch could not count gpu devices: exit code 0; give a number"),
    ],
)
def test_when_torch_cant_be_asked(tmp_path: Path, some_devices: Path, body: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        count("gpu", {}, interpreter(tmp_path, body), devices=some_devices)
    assert message in str(caught.value)


def test_an_interpreter_that_is_none(some_devices: Path) -> None:
    with pytest.raises(ConfigurationError, match="/no/python can't be run: No such file"):
        count("gpu", {}, "/no/python", devices=some_devices)


@pytest.mark.torch
def test_torch_answers_as_it_would_to_torchrun(some_devices: Path) -> None:
    torch = pytest.importorskip("torch")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    assert count("gpu", os.environ, sys.executable, devices=some_devices) == gpus
    accelerators = torch.accelerator.device_count() if torch.accelerator.is_available() else CORES
    assert count("auto", os.environ, sys.executable, devices=some_devices) == accelerators


@pytest.mark.torch
def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    pytest.importorskip("torch")
    message = "'tpu' is no kind of device that this torch knows; give a number, cpu, gpu, xpu or auto"
    with pytest.raises(ConfigurationError, match=message):
        count("tpu", os.environ, sys.executable)


def test_counting_does_not_import_torch_here() -> None:
    source = (
        "import os, sys; from toolkit.adapters.accelerators import count; "
        "count('auto', os.environ, sys.executable); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", source], check=True, timeout=60)
