"""Fixtures: experiments with real processes, which leave nothing behind, whatever becomes of the test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

from toolkit import Experiment, ExperimentResult
from toolkit.adapters.experiment.processes import marked

_T = TypeVar("_T")
Try = Callable[..., ExperimentResult]


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is recorded without a folder goes to the test's; no process outlives its experiment."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    before = set(marked(""))
    yield
    left = [pid for pid in marked("") if pid not in before and _is_ours(pid, tmp_path)]
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
    assert left == [], "processes were left behind"


def _is_ours(pid: int, tmp_path: Path) -> bool:
    with suppress(OSError):
        return tmp_path in Path(os.readlink(f"/proc/{pid}/cwd")).parents
    return False


@pytest.fixture
def on_processes(tmp_path: Path) -> Try:
    """Run a scenario on real processes."""

    def run(scenario: object, seed: int = 0) -> ExperimentResult:
        return Experiment(scenario, "local", seed, tmp_path / "local").run()  # type: ignore[arg-type]

    return run


@pytest.fixture
def simulated(tmp_path: Path) -> Try:
    """Run a scenario in the simulator."""

    def run(scenario: object, seed: int = 0) -> ExperimentResult:
        return Experiment(scenario, "sim", seed, tmp_path / "sim").run()  # type: ignore[arg-type]

    return run


class Command:
    """`rally experiment` as a process of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder = folder
        root = Path(__file__).parents[2]
        env = {**os.environ, "PYTHONPATH": str(root), "XDG_STATE_HOME": str(folder / "state")}
        argv = [sys.executable, "-m", "toolkit.fronts.cli", "experiment", *words]
        self.process = subprocess.Popen(
            argv, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def ended(self, timeout_s: float = 90.0) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        stdout, stderr = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, stdout, stderr

    def its(self) -> list[int]:
        """Processes of its experiment."""
        return [pid for pid in marked("") if _is_ours(pid, self.folder)]


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Start `rally experiment` with these words in the test's folder."""
    started: list[Command] = []

    def start(*words: str) -> Command:
        started.append(Command(tmp_path, *words))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()
