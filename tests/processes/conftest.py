"""Fixtures: start `rally run` or a Python program, write a worker's script; afterwards nothing is left running."""

from __future__ import annotations

import sys
import tempfile
import textwrap
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from tests.ports import free_port

from .jobs import AFTERLIFE_S, RALLY, Job, Nodes, marked, sweep, until

#: what each script begins with. One write for each line: lines of several workers share a file.
PRELUDE = """\
import os, signal, sys, time


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)


def wait_for_signals():
    # Not signal.pause(): that sleeps on if a signal with a Python handler has come just before it.
    while True:
        time.sleep(0.02)


"""


#: what a program with an agent in it begins with
AGENT = """\
from pathlib import Path

from toolkit import LocalElasticAgent, LogLayout, SoloRendezvous, WorkerSpec
from toolkit.adapters.recording.directory import open_for_writing
from toolkit.wiring import system_ports, wall_ns


def supervise(entrypoint, *args, workers=2, restarts=0, start_method="spawn"):
    \"\"\"Run to the end, recorded where the test looks for it.\"\"\"
    run_dir = Path(os.environ["RUN_DIR"])
    sink = open_for_writing(run_dir, "driven", {}, started_wall_ns=wall_ns()).open_sink("driver")
    ports = system_ports(events=sink)
    spec = WorkerSpec(
        "trainer", workers, SoloRendezvous("driven"), entrypoint=entrypoint, args=args, max_restarts=restarts
    )
    try:
        return LocalElasticAgent(spec, LogLayout(str(run_dir / "logs")), start_method, ports=ports).run()
    finally:
        sink.close()


"""


class Rally(Protocol):
    """Starts `rally run` with these words."""

    def __call__(
        self,
        *words: str | Path,
        env: Mapping[str, str] | None = None,
        run_dir: Path | None = None,
        before_exec: Callable[[], None] | None = None,
    ) -> Job: ...


class Meet(Protocol):
    """A job whose agents meet by our own rendezvous at `port`; `conf` is for `--rdzv-conf`."""

    def __call__(self, nnodes: str, *words: str, run_id: str = "job", **conf: float) -> Nodes: ...


class Python(Protocol):
    """Starts a Python program with these words."""

    def __call__(self, *words: str | Path, env: Mapping[str, str] | None = None) -> Job: ...


class Script(Protocol):
    """Writes a script into the test's folder. It has `say` and `wait_for`; with an agent also `supervise`."""

    def __call__(self, text: str, name: str = "worker.py", *, agent: bool = False) -> Path: ...


@pytest.fixture
def script(tmp_path: Path) -> Script:
    def write(text: str, name: str = "worker.py", *, agent: bool = False) -> Path:
        path = tmp_path / name
        path.write_text(PRELUDE + (AGENT if agent else "") + textwrap.dedent(text))
        return path

    return write


@pytest.fixture
def mark() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def started(mark: str) -> Iterator[list[Job]]:
    """All jobs of the test. A job that has ended must have left no process behind."""
    jobs: list[Job] = []
    try:
        yield jobs
        if all(job.ended() for job in jobs):
            until(f"the end of all processes, {marked(mark)}", lambda: not marked(mark), AFTERLIFE_S)
    finally:
        sweep(mark)
        for job in jobs:
            job.kill()


@pytest.fixture
def rally(tmp_path: Path, mark: str, started: list[Job]) -> Rally:
    def start(
        *words: str | Path,
        env: Mapping[str, str] | None = None,
        run_dir: Path | None = None,
        before_exec: Callable[[], None] | None = None,
    ) -> Job:
        name = f"job{len(started)}"
        directory = run_dir or tmp_path / f"run-{name}"
        argv = [*RALLY, "run", "--run-dir", str(directory), *map(str, words)]
        started.append(Job(argv, tmp_path, mark, name, env or {}, directory, before_exec))
        return started[-1]

    return start


@pytest.fixture
def port() -> int:
    """One that nobody listens on."""
    return free_port()


@pytest.fixture
def meet(rally: Rally, tmp_path: Path, port: int) -> Meet:
    def begin(nnodes: str, *words: str, run_id: str = "job", **conf: float) -> Nodes:
        meeting = ("--rdzv-backend", "rally", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", run_id)
        return Nodes(rally, tmp_path / f"all of {run_id}", ("--nnodes", nnodes, *meeting, *words), conf)

    return begin


@pytest.fixture
def python(tmp_path: Path, mark: str, started: list[Job]) -> Iterator[Python]:
    def start(*words: str | Path, env: Mapping[str, str] | None = None) -> Job:
        name = f"job{len(started)}"
        directory = tmp_path / f"run-{name}"
        argv = [sys.executable, *map(str, words)]
        added = {"RUN_DIR": str(directory), "TMPDIR": scratch, **(env or {})}
        started.append(Job(argv, tmp_path, mark, name, added, directory))
        return started[-1]

    # A killed agent leaves its scratch files. Not in `tmp_path`: a fork server's socket needs a short one.
    with tempfile.TemporaryDirectory(prefix="rally-test-", ignore_cleanup_errors=True) as scratch:
        yield start
