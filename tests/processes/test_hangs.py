"""Real workers that hang, under a real agent: who is told of, who is killed, and who goes on."""

from __future__ import annotations

import os
import signal
import urllib.request
from pathlib import Path

import pytest

from toolkit.core.events import (
    AgentFinished,
    FailureRecorded,
    ReadingsTaken,
    RoundEnded,
    WorkerExited,
    WorkersHung,
    WorkersRecovered,
    WorkersStarted,
)

from .conftest import Meet, Rally, Script
from .jobs import Job, Up, alive, until

#: what waits for the next worker of a script that stops or sleeps
LIFE = """
    def say_up():
        say("up", os.environ["RANK"], os.getpid())
"""


def pids(job: Job, count: int = 2) -> dict[int, int]:
    """Process ids of the workers that have said that they are up, by rank."""
    return {int(line.split()[1]): int(line.split()[2]) for line in job.wait_for_lines("up", count)}


def end(job: Job) -> None:
    (job.run_dir.parent / "end").touch()


def the_hang(job: Job) -> WorkersHung:
    return job.wait_for_events(WorkersHung, timeout_s=60)[0]


def told(job: Job, *words: str) -> None:
    """Wait until all this is on stderr: it comes a moment after the event."""
    until(f"{words} on stderr", lambda: all(word in job.stderr for word in words))


def test_a_stopped_worker_is_noticed_by_default_and_so_is_that_it_goes_on(
    rally: Rally, script: Script
) -> None:
    job = rally("--nproc-per-node", "2", script(LIFE + "\n    say_up()\n    wait_for('end')\n    say('bye')"))
    victim = pids(job)[1]
    os.kill(victim, signal.SIGSTOP)
    hang = the_hang(job)
    (worker,) = hang.workers
    assert (worker.global_rank, worker.pid, worker.kind, worker.culprit) == (1, victim, "stopped", True)
    assert hang.kills == []
    told(job, f"hangs: rank 1 (pid {victim}) is stopped", f"kill -CONT {victim}", "in wait_for")
    assert "in wait_for" in hang.stacks
    os.kill(victim, signal.SIGCONT)
    (recovered,) = job.wait_for_events(WorkersRecovered, timeout_s=60)
    assert recovered.global_ranks == [1]
    end(job)
    assert job.wait() == 0, job.told()
    assert "rank 1 moves again" in job.stderr
    node = next(iter(job.timeline().nodes.values()))
    assert node.hangs[0].recovered == (1,)


def test_a_worker_that_is_stopped_is_killed_for_it_if_that_is_asked_for(rally: Rally, script: Script) -> None:
    text = """
    say_up()
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGSTOP)
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        signal.pause()
    """
    job = rally("--nproc-per-node", "2", "--max-restarts", "1", "--on-hang", "restart", script(LIFE + text))
    assert job.wait(60) == 0, job.told()
    (failure,) = job.events(FailureRecorded)
    assert (failure.global_rank, failure.signal, failure.first) == (1, "SIGKILL", True)
    assert failure.message.startswith("hung: rank 1")
    assert the_hang(job).kills == [1]
    assert "killing rank 1" in job.stderr
    assert "hung: rank 1" in job.stderr
    assert len(job.events(WorkersStarted)) == 2


def test_a_silent_worker_is_told_apart_from_one_that_computes(rally: Rally, script: Script) -> None:
    text = """
    say_up()
    while os.environ["RANK"] == "0" and not os.path.exists("end"):
        sum(range(200_000))
        time.sleep(0.02)
    wait_for_once = signal.sigtimedwait([], 120) if os.environ["RANK"] == "1" else None
    """
    job = rally(
        "--nproc-per-node", "2", "--hang-timeout", "4", "--shutdown-timeout", "1", script(LIFE + text)
    )
    silent = pids(job)[1]
    hang = the_hang(job)
    (worker,) = hang.workers
    assert (worker.global_rank, worker.pid, worker.kind) == (1, silent, "silent")
    told(job, "has used no CPU and written nothing")
    job.signal(signal.SIGTERM)
    assert job.wait() == 128 + signal.SIGTERM


def test_steps_tell_who_is_behind(rally: Rally, script: Script) -> None:
    text = """
    import toolkit

    say_up()
    rank = int(os.environ["RANK"])
    for step in range(100 if rank == 2 else 101):
        toolkit.progress(step)
    while not os.path.exists("end"):  # it spins, as NCCL's workers do
        time.sleep(0.01)
        sum(range(10_000))
    """
    job = rally("--nproc-per-node", "3", "--hang-timeout", "4", script(LIFE + text))
    hang = the_hang(job)
    culprit, *others = hang.workers
    assert (culprit.global_rank, culprit.step, culprit.culprit) == (2, 99, True)
    assert [(worker.global_rank, worker.step, worker.culprit) for worker in others] == [
        (0, 100, False),
        (1, 100, False),
    ]
    assert "stands at step 99" in hang.why
    assert "the others are at 100" in hang.why
    end(job)
    assert job.wait() == 0, job.told()


def test_progress_keeps_a_worker_that_only_waits_from_being_told_of(rally: Rally, script: Script) -> None:
    text = """
    import toolkit

    say_up()
    if os.environ["RANK"] == "1":
        signal.pause()
    step = 0
    while not os.path.exists("end"):
        step += 1
        toolkit.progress(step)
        time.sleep(0.5)
    os._exit(0)
    """
    job = rally(
        "--nproc-per-node", "2", "--hang-timeout", "4", "--shutdown-timeout", "1", script(LIFE + text)
    )
    hang = the_hang(job)
    assert [worker.global_rank for worker in hang.workers] == [1]
    job.signal(signal.SIGTERM)
    assert job.wait() == 128 + signal.SIGTERM


TIMER = """
    import json

    def timer(name, after_s, signum=9):
        path = os.environ["TORCHELASTIC_TIMER_FILE"]
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        expires = time.time() + after_s if after_s else -1
        request = {
            "version": 1, "pid": os.getpid(), "scope_id": name, "expiration_time": expires, "signal": signum
        }
        os.write(fd, (json.dumps(request) + "\\n").encode())
        os.close(fd)
"""


@pytest.mark.parametrize("named", [False, True])
def test_an_expired_timer_of_torchs_kills_its_worker_and_nobody_else(
    rally: Rally, script: Script, tmp_path: Path, named: bool
) -> None:
    text = """
    say_up()
    signal.signal(signal.SIGTERM, lambda *_: (say("saved"), os._exit(0)))
    if os.environ["RANK"] == "1":
        timer("forward", 0.5)
        timer("forward", 0)
        timer("backward", 0.5)
    else:
        os.write(os.open(os.environ["TORCHELASTIC_TIMER_FILE"], os.O_WRONLY), b"no timer at all\\n")
    while True:
        signal.pause()
    """
    pipe = tmp_path / "pipe"
    env = {"TORCHELASTIC_ENABLE_FILE_TIMER": "1"} | ({"TORCHELASTIC_TIMER_FILE": str(pipe)} if named else {})
    job = rally("--nproc-per-node", "2", script(LIFE + TIMER + text), env=env)
    assert job.wait(60) == 128 + signal.SIGKILL, job.told()
    (failure,) = job.events(FailureRecorded)
    assert failure.global_rank == 1
    assert failure.message.startswith("hung: timer 'backward' of rank 1")
    (hang,) = job.events(WorkersHung)
    assert (hang.workers[0].kind, hang.workers[0].timer, hang.kills) == ("timer", "backward", [1])
    assert "saved" in job.lines, "the other one is stopped as after any failure"
    assert {e.global_rank: e.stopped_by_agent for e in job.events(WorkerExited)} == {0: True, 1: False}
    assert job.events(AgentFinished)[0].result == "FAILED"
    assert "is no timer of a worker here" in job.stderr
    assert not pipe.exists()


def test_a_timer_is_heard_in_each_incarnation(rally: Rally, script: Script) -> None:
    text = """
    say_up()
    timer("step", 0.2)
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "2":
        timer("step", 0)
        sys.exit(0)
    signal.pause()
    """
    job = rally(
        "--max-restarts", "2", script(LIFE + TIMER + text), env={"TORCHELASTIC_ENABLE_FILE_TIMER": "1"}
    )
    assert job.wait(60) == 0, job.told()
    assert len(job.events(FailureRecorded)) == 2


def test_a_worker_in_uninterruptible_sleep_fails_the_group_if_torchs_variable_says_so(
    rally: Rally, script: Script
) -> None:
    # A parent in vfork sleeps so until its child has gone: CLONE_VFORK alone, so that they share nothing.
    text = """
    import ctypes

    say_up()
    if os.environ["RANK"] == "0":
        signal.pause()
    if ctypes.CDLL(None).syscall(56, 0x4000 | 17, 0, 0, 0, 0) == 0:
        while True:
            signal.pause()
    """
    env = {"TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT": "2"}
    job = rally("--nproc-per-node", "2", script(LIFE + text), env=env)
    stuck = pids(job)[1]
    until("state D", lambda: _state(stuck) == "D")
    assert job.wait(60) == 128 + signal.SIGKILL, job.told()
    (hang,) = job.events(WorkersHung)
    assert (hang.workers[0].global_rank, hang.workers[0].kind) == (1, "stuck")
    assert "is in uninterruptible sleep" in job.stderr
    assert not alive(stuck)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_stopped_worker_hears_that_it_is_to_end(rally: Rally, script: Script) -> None:
    text = """
    signal.signal(signal.SIGTERM, lambda *_: (say("saved"), os._exit(0)))
    say_up()
    wait_for_signals()
    """
    job = rally(script(LIFE + text))
    victim = pids(job, 1)[0]
    os.kill(victim, signal.SIGSTOP)
    until("state T", lambda: _state(victim) == "T")
    job.signal(signal.SIGTERM)
    assert job.wait(20) == 128 + signal.SIGTERM
    assert "saved" in job.lines


def test_the_health_check_of_torchs_variable_is_answered(rally: Rally, script: Script, port: int) -> None:
    job = rally(
        script(LIFE + "\n    say_up()\n    wait_for('end')"),
        env={"TORCHELASTIC_HEALTH_CHECK_PORT": str(port)},
    )
    pids(job, 1)
    for _ in range(3):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
            assert answer.status == 200
    end(job)
    assert job.wait() == 0, job.told()


@pytest.mark.torch
def test_a_hang_on_one_node_has_all_nodes_start_anew_and_names_its_worker(meet: Meet, script: Script) -> None:
    pytest.importorskip("torch")
    text = """
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGSTOP)
    wait_for("end")
    """
    nodes = meet("2", "--max-restarts", "1", "--on-hang", "restart")
    nodes.start_several(2, script(Up.SCRIPT + text))
    first = nodes.ups(1)
    again = nodes.ups(2)
    assert {up.restarts for up in again} == {1}
    (failure,) = nodes.events(FailureRecorded)
    victim = next(up for up in first if up.rank == 1)
    assert (failure.global_rank, failure.pid) == (1, victim.pid)
    for ended in nodes.wait_for_events(RoundEnded, 2):
        assert f"hung: rank 1 (pid {victim.pid}) is stopped" in ended.reason
    (nodes.run_dir.parent / "end").touch()
    nodes.assert_all_end_with(0)
    nodes.assert_promises_held()


def test_readings_have_the_step_that_a_worker_tells(rally: Rally, script: Script) -> None:
    text = """
    import toolkit

    say_up()
    if os.environ["RANK"] == "0":
        toolkit.progress(41)
    wait_for("end")
    """
    job = rally("--nproc-per-node", "2", "--readings-interval", "0.25", script(LIFE + text))
    pids(job)

    def told() -> list[int | None]:
        for reading in job.events(ReadingsTaken):
            steps = [worker.step for worker in reading.workers]
            if steps == [41, None]:
                return steps
        return []

    until("a reading with the step", told)
    end(job)
    assert job.wait() == 0, job.told()
