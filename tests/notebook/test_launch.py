"""`launch` and `attach`, from a plain process: real agents, real workers, real signals."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.notebook.waiting import alive, pids, until, until_running
from toolkit import Job, attach, launch
from toolkit.core.errors import AgentGoneError, ConfigurationError, ControlError, JobFailedError
from toolkit.core.model import WorkerState

HOLD = """
import sys, time
print("holds", *sys.argv[1:], flush=True)
time.sleep(600)
"""


@pytest.fixture
def started() -> Iterator[list[Job]]:
    """Jobs that end with the test, also when it fails."""
    jobs: list[Job] = []
    try:
        yield jobs
    finally:
        for job in jobs:
            job.stop()
        for job in jobs:
            assert job.wait(40) is not None


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    """A script that waits."""
    path = tmp_path / "hold.py"
    path.write_text(HOLD)
    return path


def squared(base: int, *, more: int = 0) -> dict[str, int]:
    rank = int(os.environ["RANK"])
    print(f"rank {rank} works", flush=True)
    return {"rank": rank, "value": base * base + more}


def test_a_function_returns_by_rank() -> None:
    job = launch(squared, 7, kwargs={"more": 1}, nproc=3)
    result = job.wait(60)
    assert result is not None and result.state == WorkerState.SUCCEEDED
    assert job.returned == {rank: {"rank": rank, "value": 50} for rank in range(3)}
    assert "rank 2 works" in job.logs(2)
    assert len(job.logs()) == 3
    assert job.state == "succeeded" and job.exit_code == 0


def seen(name: str) -> str:
    return os.environ[name]


def test_values_may_look_like_options_and_assignments() -> None:
    job = launch(seen, "SETTINGS", env={"SETTINGS": "a=1,b=--c"}, role="-x=y", local_addr="127.0.0.1")
    result = job.wait(60)
    assert result is not None and result.state == WorkerState.SUCCEEDED
    assert job.returned == {0: "a=1,b=--c"}


def test_the_handlers_of_this_process_are_not_touched(hold: Path, started: list[Job]) -> None:
    before = {sig: signal.getsignal(sig) for sig in signal.valid_signals()}
    job = launch(hold)
    started.append(job)
    until_running(job, 1)
    assert {sig: signal.getsignal(sig) for sig in signal.valid_signals()} == before
    job.stop()
    assert job.wait(40) is not None
    assert {sig: signal.getsignal(sig) for sig in signal.valid_signals()} == before


def test_what_is_no_module_goes_by_value(tmp_path: Path) -> None:
    # As in a notebook: function and what it uses are of __main__.
    script = tmp_path / "main.py"
    script.write_text(
        textwrap.dedent(
            """
            from toolkit import launch
            BASE = 20
            class Thing:
                def __init__(self, value): self.value = value
            def helped(value): return value + BASE
            def work(thing): return Thing(helped(thing.value))
            if __name__ == "__main__":
                job = launch(work, Thing(1), nproc=2)
                print({rank: thing.value for rank, thing in job.wait(60).return_values.items()})
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=90, check=False)
    assert done.stdout.strip() == "{0: 21, 1: 21}", done.stderr


def fails_at_one() -> None:
    if os.environ["RANK"] == "1":
        raise KeyError("the weights are not there")
    threading.Event().wait(60)


def test_who_failed_first_and_where() -> None:
    job = launch(fails_at_one, nproc=2)
    result = job.wait(60)
    assert result is not None and result.is_failed()
    assert list(result.failures) == [1]
    with pytest.raises(JobFailedError, match="rank 1 exited with code 1: KeyError: 'the weights"):
        job.check()
    (failure,) = job.failures
    assert 'raise KeyError("the weights are not there")' in failure.traceback
    assert "packed_function" not in failure.traceback, "it begins in the user's function"
    with pytest.raises(JobFailedError):
        _ = job.returned


def test_kill_restart_and_stop(started: list[Job], hold: Path) -> None:
    job = launch(hold, "a b", nproc=2, max_restarts=1, shutdown_timeout=5)
    started.append(job)
    until_running(job, 2)
    first = pids(job)
    job.kill(1, why="a test")
    until(lambda: job.now.restarts_used == 1, "a restart")
    until_running(job, 2)
    assert not set(first) & set(pids(job))
    assert "asked for by" in job.failures[0].what and job.failures[0].what.endswith(": a test")
    job.restart()
    until(lambda: job.now.restarts_total == 2, "a second restart")
    until_running(job, 2)
    until(lambda: "holds a b" in job.logs(0), "its first line")
    assert "holds a b" in job.logs(0, incarnation=0)
    job.stop()
    result = job.wait(40)
    assert result is not None and result.state == WorkerState.STOPPED and not result.failures
    assert job.state == "stopped" and "stop" in repr(job).splitlines()[1], "who stopped it"
    assert not any(map(alive, pids(job)))
    assert [row["by"] != "" for row in _rows(job.events("action_taken"))] == [True] * 3


def _rows(frame: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = frame if isinstance(frame, list) else frame.to_dict("records")
    return rows


def test_without_pandas_there_are_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.fronts.notebook.frames.find_spec", lambda name: None)
    job = launch(squared, 2, nproc=1)
    job.wait(60)
    (row,) = job.ranks()
    assert row["rank"] == 0 and row["state"] == "succeeded"
    assert "<table" in job.ranks()._repr_html_()


def test_frames(started: list[Job]) -> None:
    pytest.importorskip("pandas")
    job = launch(squared, 2, nproc=2)
    job.wait(60)
    assert list(job.ranks()["rank"]) == [0, 1]
    assert "agent_finished" in set(job.events()["type"])
    assert len(job.failures.table()) == 0


def test_await_in_any_loop() -> None:
    async def main() -> Any:
        return await launch(squared, 3, nproc=1)

    assert asyncio.run(main()).state == WorkerState.SUCCEEDED


def test_a_wait_that_is_cancelled_leaves_the_job(started: list[Job], hold: Path) -> None:
    job = launch(hold, nproc=1)
    started.append(job)

    async def main() -> None:
        async def waits() -> None:
            await job

        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    until_running(job, 1)


def test_an_interrupt_ends_the_wait_and_not_the_job(started: list[Job], hold: Path) -> None:
    job = launch(hold, nproc=2)
    started.append(job)
    until_running(job, 2)
    # As a kernel is interrupted: to the whole group of processes.
    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt, match="goes on"):
        job.wait(30)
    timer.join()
    assert all(map(alive, pids(job)))
    assert os.getsid(job.pid) == job.pid != os.getsid(0), "in a session of its own"


LAUNCHER = """
import sys, time
from toolkit import launch
job = launch(sys.argv[1], nproc=2, run_id="theirs", detach={detach}, shutdown_timeout=3)
while sum(rank.now.state == "running" for node in job.now.nodes.values() for rank in node.ranks.values()) < 2:
    time.sleep(0.01)
print("up", flush=True)
time.sleep(600)
"""


def _launcher(tmp_path: Path, hold: Path, *, detach: bool) -> subprocess.Popen[str]:
    script = tmp_path / "launcher.py"
    script.write_text(LAUNCHER.format(detach=detach))
    process = subprocess.Popen([sys.executable, script, hold], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    return process


def test_the_job_ends_with_its_kernel(tmp_path: Path, hold: Path) -> None:
    process = _launcher(tmp_path, hold, detach=False)
    job = attach("theirs")
    until_running(job, 2)
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    assert job.wait(30) is not None
    assert job.state == "stopped" and not any(map(alive, pids(job)))


def test_a_detached_job_outlives_its_kernel(tmp_path: Path, hold: Path, started: list[Job]) -> None:
    process = _launcher(tmp_path, hold, detach=True)
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    job = attach("theirs")
    started.append(job)
    until_running(job, 2)
    job.kill(0)
    until(lambda: job.over, "its end: no restarts are allowed")
    assert job.state == "failed"


def test_attach_to_what_is_over() -> None:
    done = launch(squared, 2, nproc=1, run_id="done")
    done.wait(60)
    job = attach("done")
    result = job.wait(10)
    assert result is not None and result.state == WorkerState.SUCCEEDED
    assert job.returned == done.returned and job.mode == "REPLAY"
    with pytest.raises(ConfigurationError, match=r"^done is over \(succeeded\)"):
        job.restart()
    with pytest.raises(AgentGoneError, match=r"^done is over \(succeeded\)"):
        job.kill(0)


# -- bad input ------------------------------------------------------------------------------------------------


def test_what_is_over_is_known_at_once_when_it_is_attached() -> None:
    launch(squared, 3, run_id="past").wait(60)
    job = attach("past")
    assert job.over and job.returned[0]["value"] == 9
    job.stop()


def test_what_can_not_be_packed_is_named(state: Path) -> None:
    lock = threading.Lock()

    def uses() -> None:
        lock.acquire()

    with pytest.raises(ConfigurationError, match=r"lock, which .*uses uses, a lock, can't be sent"):
        launch(uses)
    with pytest.raises(
        ConfigurationError, match="argument 0 of squared at 'inner' at 1, a lock, can't be sent"
    ):
        launch(squared, {"inner": [1, lock]})
    assert not state.exists(), "nothing was started"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"nproc": 2.5}, "nproc is 2.5; give a number of workers"),
        ({"nproc": 0}, "^nproc is 0; a node has at least 1 worker; give a number"),
        ({"max_restarts": -1}, "^max_restarts is -1; give 0 or more restarts"),
        ({"shutdown_timeout": 0.5}, "^shutdown_timeout is '0.5'; give a whole number"),
        ({"run_dir": __file__}, "^run_dir is .*, which is a file; give the path of a folder"),
        ({"no_such": 3}, r"no option of launch; an argument of squared goes into kwargs=\{'no_such': 3\}"),
        ({"max_restart": 3}, "max_restart is not an option; did you mean max_restarts"),
        ({"nprocs": 3}, r"nprocs is not an option; did you mean nproc\?"),
        ({"detached": True}, "did you mean detach"),
        (
            {"kwargs": {"no_such": 3}},
            r"squared can't be called with .*: got an unexpected keyword argument 'no_such'",
        ),
        ({"max": 3}, r"kwargs=\{'max': 3\}"),
        ({"rdzv_id": "x"}, "give run_id='x'"),
        ({"nproc_per_node": 2}, "give nproc=2"),
        ({"run_id": ""}, "run_id is ''"),
        ({"run_dir": ""}, "run_dir is ''"),
        ({"help": True}, "rally run --help"),
        ({"env": ["A"]}, "give a dict"),
        ({"kwargs": [1]}, "give a dict"),
        ({"env": {"A": 1}}, "env has A=1; variables are text, so give '1'"),
        ({"env": {"A=B": "1"}}, "env has 'A=B', which is no name of a variable"),
        ({"env": {"A": "\0"}}, "no variable can have a null character"),
        ({"nproc": 9999, "gpu": True}, "GPUs, and this machine has"),
        ({"nproc": "auto", "gpu": True}, "says nothing of GPUs"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    arguments: dict[str, Any], words: str, state: Path
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        launch(squared, 2, **arguments)
    assert not state.exists()


@pytest.mark.parametrize("entrypoint", ["", "-m", 3, None])
def test_what_is_no_entrypoint(entrypoint: Any, state: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"the entrypoint is {entrypoint!r}; give a function"):
        launch(entrypoint)
    assert not state.exists()


def test_a_script_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    with pytest.raises(ConfigurationError, match="did you mean"):
        launch(tmp_path / "trian.py")
    with pytest.raises(ConfigurationError, match="kwargs are for functions"):
        launch(tmp_path / "train.py", kwargs={"a": 1})


def test_two_jobs_of_one_name(started: list[Job], hold: Path) -> None:
    job = launch(hold, run_id="one")
    started.append(job)
    until_running(job, 1)
    with pytest.raises(ConfigurationError, match=r"a job 'one' runs already.*attach\('one'\)"):
        launch(hold, run_id="one")


def test_inside_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "outer")
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ConfigurationError, match="inside of worker 3 of job 'outer'"):
        launch(squared, 2)


def test_attach_to_another_machine(started: list[Job], hold: Path) -> None:
    job = launch(hold, run_id="far")
    started.append(job)
    until_running(job, 1)
    for name in ("run.json", *(path.name for path in job.path.glob("events-*"))):
        path = job.path / name
        path.write_text(path.read_text().replace(f'"{os.uname().nodename}"', '"elsewhere"'))
    with pytest.raises(ConfigurationError, match=r"far runs on elsewhere.*rally top"):
        attach("far")
    with pytest.raises(ConfigurationError, match="no run 'nobody'"):
        attach("nobody")


def test_a_stop_before_the_agent_listens(hold: Path) -> None:
    job = launch(hold)
    job.stop()
    result = job.wait(40)
    assert result is not None and job.state == "stopped" and result.state == WorkerState.STOPPED


def test_what_was_not_read_of_a_long_log_is_told(tmp_path: Path) -> None:
    script = tmp_path / "talks.py"
    script.write_text("for number in range(30_000): print(number, 'x' * 300)")
    job = launch(script)
    job.wait(60)
    logs = job.logs(0, stream="out")
    assert logs[-1].startswith("29999 ") and logs.cut == (logs.cut[0],)
    assert "lines before these are in" in logs._repr_mimebundle_()["text/html"]
    assert not job.logs(0, stream="out", last=10).cut


def test_orders_that_can_not_be(started: list[Job], hold: Path) -> None:
    job = launch(hold, nproc=2)
    started.append(job)
    until_running(job, 2)
    with pytest.raises(ConfigurationError, match="there is no rank 7; there are 0 to 1"):
        job.kill(7)
    for wrong in ("0", True, None, 0.5, []):
        with pytest.raises(ConfigurationError, match="rank is"):
            job.kill(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="signal is 99; give a name"):
        job.signal(99, 0)
    with pytest.raises(ConfigurationError, match="SIGNOTHING"):
        job.signal("SIGNOTHING", 0)
    with pytest.raises(ConfigurationError, match="stream is 'all'; give out, err or both"):
        job.logs(0, stream="all")
    with pytest.raises(ConfigurationError, match="no node 'x'"):
        job.drain("x")
    with pytest.raises(ConfigurationError, match="no event 'worker_exit'; did you mean worker_exited"):
        job.events("worker_exit")
    with pytest.raises(ConfigurationError, match="a job is never 'runing'; did you mean running"):
        job.until("runing")
    with pytest.raises(ConfigurationError, match=r"x\.svg can't be written: No such file or directory"):
        job.timeline().save("/proc/none/x.svg")
    with pytest.raises(ControlError, match="refuses"):
        job.signal("SIGUSR1", 0, incarnation=5)


def test_an_agent_that_can_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What only the agent itself finds out is shown, too.
    job = launch(squared, 2, module=True)
    job.wait(60)
    assert job.state == "error" and job.exit_code == 2
    assert "-m needs a module" in repr(job)


def test_a_folder_is_taken_by_one_job(tmp_path: Path, started: list[Job], hold: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o755)
    (mine / "photo").touch()
    with pytest.raises(ConfigurationError, match=r"mine, which has other files in it; give a new folder"):
        launch(squared, 2, run_dir=mine)
    assert mine.stat().st_mode & 0o777 == 0o755, "it was left alone"
    job = launch(squared, 2, run_dir=tmp_path / "run")
    started.append(job)
    with pytest.raises(ConfigurationError, match="give a new folder"):
        launch(squared, 3, run_dir=tmp_path / "run")
    assert job.wait(60) is not None and job.returned[0]["value"] == 4


def test_two_jobs_of_one_name_at_once(started: list[Job], hold: Path) -> None:
    started.append(launch(hold, run_id="twice"))
    with pytest.raises(ConfigurationError, match=r"a job 'twice' runs already.*attach\('twice'\)"):
        launch(hold, run_id="twice")


def test_jobs_that_are_over_hold_no_descriptors() -> None:
    jobs = [launch(squared, 1)]
    jobs[0].wait(60)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        jobs.append(launch(squared, 1))
        jobs[-1].wait(60)
    assert len(os.listdir("/proc/self/fd")) <= before


def leaves_words() -> None:
    sys.exit("no data here")


def gives_a_lock() -> Any:
    return threading.Lock()


def has_a_child() -> str:
    if os.fork() == 0:
        return "child"
    os.wait()
    return "parent"


def random() -> int:
    import random

    return random.randrange(1)


def does_not_listen() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("on", flush=True)
    signal.pause()


def test_stopping_again_and_tables_without_rows() -> None:
    job = launch(does_not_listen, shutdown_timeout=1)
    assert list(job.restarts()["node"]) == [] and list(job.failures.table()["message"]) == []
    assert list(job.events("lease_lost")["type"]) == []
    job.until(lambda: "on" in job.logs())
    while not job.over:
        job.stop()
    assert job.wait(30) is not None


def test_an_agent_that_is_killed(hold: Path) -> None:
    job = launch(hold)
    until_running(job, 1)
    os.kill(job.pid, signal.SIGKILL)
    job.wait(30)
    with pytest.raises(
        JobFailedError, match="its agent was killed by SIGKILL and did not say how the job ended"
    ):
        job.check()


def test_a_code_is_told_once() -> None:
    job = launch(sys.exit, 3)
    job.wait(60)
    assert repr(job.failures).endswith("exited with code 3 in round 1, the first of its node")


def commands() -> None:
    raise ValueError("\x1b]0;a title\x07no")


def test_nothing_that_a_worker_says_commands_the_console() -> None:
    job = launch(commands)
    job.wait(60)
    with pytest.raises(JobFailedError) as failed:
        job.check()
    for words in (repr(job), repr(job.failures), str(failed.value), str(job), job.report()):
        assert "\x1b" not in words
    assert "ValueError: \\x1b]0;a title\\x07no" in str(failed.value)


def draws_a_bar() -> None:
    sys.stderr.write("epoch 1\n")
    sys.stderr.write("\r10%\r50%")
    sys.stderr.flush()


def test_a_line_without_an_end_is_seen() -> None:
    job = launch(draws_a_bar, nproc=2)
    job.wait(60)
    assert job.logs(0, stream="err").lines == ("epoch 1", "50%")
    assert job.logs(1).lines == ("epoch 1", "50%")
    assert sorted(job.logs()) == ["[0] 50%", "[0] epoch 1", "[1] 50%", "[1] epoch 1"]


def test_failures_say_why() -> None:
    for function, words in (
        (leaves_words, "SystemExit: no data here"),
        (gives_a_lock, "a lock can't be pickled"),
    ):
        job = launch(function)
        job.wait(60)
        assert words in job.failures[0].message and "packed_function" not in job.failures[0].traceback, (
            job.failures
        )


def test_a_function_called_like_a_module_does_not_hide_it() -> None:
    job = launch(random)
    job.wait(60)
    assert job.returned == {0: 0}, job.failures


def test_a_forked_child_that_comes_back_is_not_the_worker() -> None:
    job = launch(has_a_child)
    job.wait(60)
    assert job.returned == {0: "parent"}


async def sleepy() -> None: ...


def steps() -> Iterator[int]:
    yield 1


def test_functions_that_would_do_nothing(state: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"sleepy is an async function.*asyncio.run\(sleepy\(\)\)"):
        launch(sleepy)
    with pytest.raises(ConfigurationError, match="steps is a generator"):
        launch(steps)
    assert not state.exists()


FORKS = """
import multiprocessing, os, signal, sys, time
from toolkit import launch
job = launch(sys.argv[1])
job.until("running")
multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,)).start()
print(job.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_forked_child_of_the_launcher_does_not_keep_the_job(hold: Path) -> None:
    launcher = subprocess.Popen([sys.executable, "-c", FORKS, str(hold)], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    pid = int(launcher.stdout.readline())
    launcher.wait(30)
    launcher.stdout.close()
    until(lambda: not alive(pid), "the end of the agent", 10)
