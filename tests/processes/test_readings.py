"""Readings of real workers in the recording of a real run."""

from __future__ import annotations

import time

import pytest

from toolkit.core.events import AgentFinished, ReadingsTaken, WorkerReading, WorkersStarted, WorkersStopped

from .conftest import Rally, Script
from .jobs import Job, until

#: rank 0 holds memory and has a child that burns; rank 1 sleeps
WORKER = """
    if os.environ["RANK"] == "0":
        held = bytearray(100 << 20)
        if os.fork() == 0:
            while os.getppid() > 1 and not os.path.exists("end"):
                sum(range(10_000))
            os._exit(0)
    say("up")
    wait_for("end")
"""
MIB = 1 << 20


def by_rank(reading: ReadingsTaken) -> dict[int, WorkerReading]:
    return {worker.local_rank: worker for worker in reading.workers}


def end(job: Job) -> None:
    (job.run_dir.parent / "end").touch()
    assert job.wait() == 0, job.told()


def test_a_run_is_recorded_with_what_its_workers_use(rally: Rally, script: Script) -> None:
    job = rally("--nproc-per-node", "2", "--readings-interval", "0.25", script(WORKER))
    job.wait_for_lines("up", 2)

    def burns() -> bool:
        readings = job.events(ReadingsTaken)
        return any(by_rank(reading)[0].cpu_percent > 20 for reading in readings)

    until("a reading of the one that burns", burns)
    end(job)
    readings = job.events(ReadingsTaken)
    for reading in readings[:-1]:  # at the last one some may have ended
        busy, idle = by_rank(reading)[0], by_rank(reading)[1]
        assert (busy.processes, idle.processes) == (2, 1)
        assert busy.cpu_percent < 200
        assert 100 * MIB < busy.rss_bytes < 500 * MIB
        assert 4 * MIB < idle.rss_bytes < 100 * MIB
    node = next(iter(job.timeline().nodes.values()))
    assert (node.missing, node.result) == (0, "SUCCEEDED")
    assert node.readings is not None and node.readings.cpu_percent(0)
    # Only while workers run.
    started, stopped = job.events(WorkersStarted)[0].seq, job.events(WorkersStopped)[-1].seq
    assert all(started < reading.seq < stopped for reading in readings)
    assert job.events(AgentFinished)[-1].seq > stopped
    assert job.stderr == "", "nobody wants to read of them"


@pytest.mark.parametrize("how", ["option", "variable"])
def test_none_are_taken_if_nobody_wants_them(rally: Rally, script: Script, how: str) -> None:
    words = ("--readings-interval", "0") if how == "option" else ()
    env = {"PET_READINGS_INTERVAL": "0"} if how == "variable" else {}
    job = rally(*words, script("say('up')\nwait_for('end')"), env=env)
    job.wait_for_lines("up")
    time.sleep(1.5)  # the time in which there would be one
    end(job)
    assert job.events(ReadingsTaken) == []
