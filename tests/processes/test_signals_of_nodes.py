"""Signals to an agent of several nodes, where it waits for others: before, in and behind the rendezvous."""

import os
import signal
import time
from pathlib import Path

import pytest

from toolkit.adapters.recording.layout import RUN_FILE
from toolkit.core.events import AgentFinished, AgentStarted, BarrierEntered, SignalReceived, WorkersStarting

from .conftest import Meet, Rally, Script
from .jobs import LONG_S, REPOSITORY, until
from .moments import Hit, Moment, install

pytest.importorskip("torch")
pytestmark = pytest.mark.torch


@pytest.fixture
def worker(script: Script) -> Path:
    return script("open('started', 'w').close()")


#: from the first step behind the recording's begin, by way of the import of torch, to the wait for the other node
ALONE = (Moment("recorded", 1), Moment("recorded", 40), Moment("recorded", 1500), Moment("recorded", ms=4000))


@pytest.mark.parametrize("backend", ["rally", "c10d", "static"])
@pytest.mark.parametrize("moment", ALONE, ids=lambda moment: moment.text)
def test_an_agent_that_waits_for_others(
    rally: Rally, worker: Path, port: int, tmp_path: Path, backend: str, moment: Moment
) -> None:
    (tmp_path / "hook").mkdir()
    hit, run_dir = tmp_path / "hit", tmp_path / "run"
    job = rally(
        *("--nnodes", "2", "--rdzv-backend", backend, "--rdzv-endpoint", f"127.0.0.1:{port}"),
        *("--node-rank", "0", "--quiet", worker),
        run_dir=run_dir,
        env={
            "PYTHONPATH": os.pathsep.join([str(install(tmp_path / "hook")), str(REPOSITORY)]),
            "MOMENT": moment.text,
            "MOMENT_SIGNALS": "15",
            "MOMENT_RUN": str(run_dir),
            "MOMENT_HIT": str(hit),
        },
    )
    until("the signal", hit.exists, LONG_S)
    assert job.wait() == 128 + signal.SIGTERM, job.told()
    # The import of torch that it may be in takes its time on a busy machine.
    assert time.monotonic() - Hit.of(hit).at_s < 10, "nothing has to be waited for"
    assert Hit.of(hit).phase == "recorded"
    assert [event.count for event in job.events(SignalReceived)] == [1]
    assert len(job.events(AgentStarted)) == 1
    assert [event.result for event in job.events(AgentFinished)] == ["SIGNAL"]
    assert job.events(WorkersStarting) == []
    assert job.timeline().state == "stopped"
    assert "Traceback" not in job.stderr, job.told()
    assert not (tmp_path / "started").exists()


def test_an_agent_whose_endpoint_does_not_answer(rally: Rally, worker: Path, port: int) -> None:
    job = rally(
        *("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"),
        *("--rdzv-conf", "is_host=0,read_timeout=600", worker),
    )
    until("a word on the wait", lambda: "waiting for the rendezvous endpoint" in job.stderr, LONG_S)
    job.signal(signal.SIGTERM)
    assert job.wait(10) == 128 + signal.SIGTERM, job.told()
    assert job.stderr.endswith("rally run: stopped by SIGTERM before anything was started\n")
    assert not (job.run_dir / RUN_FILE).exists()


@pytest.mark.parametrize("signals", [1, 3])
def test_an_agent_at_the_exit_barrier(meet: Meet, script: Script, signals: int) -> None:
    """Its own workers have succeeded, and it waits for those of the other node."""
    worker = script("""
        say("up", os.environ["GROUP_RANK"])
        if os.environ["GROUP_RANK"] == "1":
            wait_for("end")
    """)
    # The second one waits so long for the first one's store, too.
    nodes = meet("2", lease=2, store_timeout=15)
    nodes.start_several(2, worker)
    [entered] = nodes.wait_for_events(BarrierEntered)
    [first] = [job for job in nodes.jobs if entered.node.endswith(f"_{job.pid}")]
    for _ in range(signals):
        first.signal(signal.SIGTERM)
    assert first.wait(LONG_S) == 128 + signal.SIGTERM, nodes.told()
    [finished] = nodes.of(first, AgentFinished)
    assert (finished.result, finished.reason) == ("SIGNAL", "the agent got SIGTERM")
    (nodes.run_dir.parent / "end").touch()
    for job in nodes.jobs:
        job.wait(LONG_S)
    assert "Traceback" not in first.stderr
