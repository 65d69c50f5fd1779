"""What can't be run: one clear message on stderr, exit code 2, nothing started and nothing left behind."""

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from toolkit.adapters.recording.layout import RUN_FILE
from toolkit.core.events import FailureRecorded

from .conftest import Rally, Script
from .jobs import RALLY, Job, clean_environment

torch_needed = pytest.mark.torch


@pytest.fixture
def worker(script: Script) -> Path:
    return script("open('started', 'w').close()")


@pytest.fixture
def listening() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def silent() -> int:
    """A port that nobody listens on."""
    return free_port()


def assert_refused(job: Job, *words: str, begins: str = "rally run: ") -> None:
    """That it was refused in one line, which has all of `words`."""
    assert job.wait() == 2, job.told()
    assert job.stdout == ""
    [line] = job.stderr.splitlines()
    assert line.startswith(begins), line
    for word in words:
        assert word in line, line
    folder = job.run_dir.parent
    assert not (folder / "started").exists()
    assert not (job.run_dir / RUN_FILE).exists(), "no run directory is left of what was never run"
    assert not (folder / "state").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--nnodes 3:1 {worker}", ["--nnodes is '3:1'", "1:3"]),
        ("--nnodes 0 {worker}", ["--nnodes is '0'", "at least 1 node"]),
        ("--nnodes two {worker}", ["--nnodes is 'two'"]),
        ("--standalone --nproc-per-node 0 {worker}", ["--nproc-per-node is 0", "at least 1 worker"]),
        ("--standalone --nproc-per-node -2 {worker}", ["--nproc-per-node is -2"]),
        ("--standalone --nproc-per-node 5000000 {worker}", ["is 5000000", "this machine allows"]),
        ("--standalone --max-restarts -1 {worker}", ["--max-restarts is -1"]),
        ("--standalone --monitor-interval 0 {worker}", ["--monitor-interval is 0"]),
        ("--standalone --redirects 9 {worker}", ["--redirects is '9'"]),
        ("--standalone --tee 4 {worker}", ["--tee is '4'", "give 0 (none), 1 (stdout)", "0:3,1:2"]),
        ("--standalone --tee 0:7 {worker}", ["--tee is '0:7'", "a map by local rank"]),
        ("--standalone --nproc-per-node 2 --tee 5:3 {worker}", ["--tee names local rank 5", "are 0 to 1"]),
        ("--standalone --tee 0:3,0:1 {worker}", ["local rank 0 twice, with 3 and 1", "give it once"]),
        ("--standalone --rdzv-conf lese=3 {worker}", ["has the key 'lese'", "did you mean lease?"]),
        ("--nnodes 2 --rdzv-conf lese=3 {worker}", ["has the key 'lese'", "did you mean lease?"]),
        ("--nnodes 2 --rdzv-conf lease {worker}", ["--rdzv-conf has 'lease'", "write key=value"]),
        ("--nnodes 2 --rdzv-conf lease=x {worker}", ["lease=x", "a number of seconds above 0"]),
        ("--nnodes 2 --rdzv-conf lease=3,lease=4 {worker}", ["lease=3 and lease=4", "give one of them"]),
        (
            "--nnodes 2 --rdzv-backend c10d --rdzv-endpoint a:1 --rdzv-conf joint_timeout=3 {worker}",
            ["has the key 'joint_timeout'", "did you mean join_timeout"],
        ),
        ("--standalone --no-python --module {worker}", ["exclude each other", "leave one of them out"]),
        ("--standalone --shutdown-timeout -1 {worker}", ["--shutdown-timeout is -1", "0 or more seconds"]),
        (
            "--standalone --log-dir /proc/rally {worker}",
            # Who may not write to /proc is told so beforehand; root may, and it can't be done all the same.
            ["/proc/rally can't be written", "another --log-dir"]
            if os.access("/proc", os.W_OK)
            else ["--log-dir is /proc/rally", "nothing can be written to /proc", "another folder"],
        ),
        ("--standalone --signals-to-handle SIGTREM {worker}", ["SIGTREM", "SIGTERM"]),
        ("--standalone --signals-to-handle SIGKILL {worker}", ["SIGKILL", "no process can handle"]),
        ("--standalone --forward-signals SIGURS1 {worker}", ["'SIGURS1'", "did you mean SIGUSR1?"]),
        ("--standalone --forward-signals SIGKILL {worker}", ["SIGKILL", "no process can handle"]),
        ("--standalone --forward-signals SIGCHLD {worker}", ["SIGCHLD", "workers end", "leave it out"]),
        ("--standalone --forward-signals SIGSEGV {worker}", ["SIGSEGV", "in the agent itself"]),
        ("--standalone --forward-signals SIGHUP {worker}", ["SIGHUP", "default of --signals-to-handle"]),
        (
            "--standalone --signals-to-handle SIGTERM,SIGUSR1 --forward-signals SIGUSR1,SIGUSR2 {worker}",
            ["SIGUSR1", "--signals-to-handle", "leave it out of one of them"],
        ),
        ("--standalone no_such_script.py", ["there is no script", "no_such_script.py"]),
        ("--standalone workr.py", ["there is no script", "did you mean worker.py?"]),
        ("--standalone script.sh", ["script.sh", "not a Python script", "--no-python"]),
        ("--standalone --no-python script.sh", ["no program 'script.sh'", "./script.sh"]),
        ("--standalone --no-python ./script.sh", ["./script.sh is not executable", "chmod +x"]),
        ("--standalone -m no_such_module", ["there is no module 'no_such_module'"]),
        ("--standalone --run-path worker.py", ["--run-path needs an absolute path"]),
        ("--standalone --no-such-option 1 {worker}", ["--no-such-option"]),
        ("--standalone --nproc-per-nose 2 {worker}", ["--nproc-per-nose", "--nproc-per-node"]),
        ("--standalone --max-restarts many {worker}", ["--max-restarts", "many"]),
        ("--standalone", ["SCRIPT"]),
    ],
)
def test_a_command_line_that_cannot_be(rally: Rally, worker: Path, words: str, expected: list[str]) -> None:
    (worker.parent / "script.sh").write_text("#!/bin/sh\ntouch started\n")
    assert_refused(rally(*words.format(worker=worker).split()), *expected)


@torch_needed
def test_gpu_without_one(rally: Rally, worker: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    job = rally("--standalone", "--nproc-per-node", "gpu", worker)
    assert_refused(job, "--nproc-per-node is gpu", "no GPU", "give a number, cpu or auto")


def test_a_program_among_the_scripts(rally: Rally, worker: Path) -> None:
    assert_refused(
        rally("--standalone", "/bin/ls"), "/bin/ls is a program, not a Python script", "--no-python"
    )


def test_a_port_in_use(rally: Rally, worker: Path, listening: int) -> None:
    job = rally("--standalone", "--master-port", f"{listening}", worker)
    assert_refused(job, f"port {listening} of --master-port is in use by", "give another port")


@torch_needed
def test_an_endpoint_whose_port_is_in_use(rally: Rally, worker: Path, listening: int) -> None:
    pytest.importorskip("torch")
    job = rally(
        "--nnodes",
        "2",
        "--node-rank",
        "0",
        "--master-addr",
        "127.0.0.1",
        "--master-port",
        f"{listening}",
        worker,
    )
    assert_refused(job, f"port {listening}", "in use by")


@torch_needed
def test_an_endpoint_that_cannot_be_resolved(rally: Rally, worker: Path) -> None:
    pytest.importorskip("torch")
    job = rally(
        "--quiet",
        *("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "nowhere.invalid:29400"),
        *("--rdzv-conf", "read_timeout=1", worker),
    )
    assert_refused(job, "'nowhere.invalid' can't be resolved", "tried for 1.", "check")


@torch_needed
def test_an_endpoint_that_does_not_answer(rally: Rally, worker: Path, silent: int) -> None:
    pytest.importorskip("torch")
    job = rally(
        "--quiet",
        *("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{silent}"),
        *("--rdzv-conf", "is_host=0,read_timeout=1", worker),
    )
    assert_refused(job, f"127.0.0.1:{silent} can't be reached", "tried for", "refused")


@torch_needed
def test_a_wait_for_the_endpoint_is_told(rally: Rally, worker: Path, silent: int) -> None:
    pytest.importorskip("torch")
    job = rally(
        *("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{silent}"),
        *("--rdzv-conf", "is_host=0,read_timeout=4", worker),
    )
    assert job.wait() == 2, job.told()
    *waits, last = job.stderr.splitlines()
    assert waits
    assert all("waiting for the rendezvous endpoint" in wait for wait in waits)
    assert "can't be reached" in last


@torch_needed
def test_a_static_endpoint_that_does_not_answer(rally: Rally, worker: Path, silent: int) -> None:
    pytest.importorskip("torch")
    job = rally(
        "--quiet",
        *("--nnodes", "2", "--node-rank", "1", "--master-addr", "127.0.0.1", "--master-port", f"{silent}"),
        *("--rdzv-backend", "static", "--rdzv-conf", "timeout=1", worker),
    )
    assert_refused(job, f"127.0.0.1:{silent} can't be reached", "tried for")


@pytest.mark.parametrize("option", ["--run-dir", "--log-dir"])
def test_a_folder_that_cannot_be_made(rally: Rally, worker: Path, tmp_path: Path, option: str) -> None:
    """The path goes through a file; permissions would not stop root."""
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "run"
    job = rally("--standalone", option, inside, worker)
    assert_refused(job, f"{option} is {inside}", f"{tmp_path / 'file'} is a file")


def test_a_word_of_the_environment(rally: Rally, worker: Path) -> None:
    job = rally("--standalone", worker, env={"PET_TEE": "9"})
    assert_refused(job, "PET_TEE is '9'", "a map by local rank")


def test_a_folder_that_is_gone(tmp_path: Path, mark: str, started: list[Job], worker: Path) -> None:
    """The shell still stands in it."""
    gone = tmp_path / "gone"
    gone.mkdir()

    def leave() -> None:
        os.chdir(gone)
        gone.rmdir()

    argv = [*RALLY, "run", "--standalone", str(worker)]
    started.append(Job(argv, tmp_path, mark, "job", {}, tmp_path / "run", leave))
    assert_refused(started[0], "the folder that this shell is in was deleted", "go to another one")


@pytest.mark.parametrize(
    ("written", "why"),
    [('{"message": {"mess', "is truncated or no JSON"), ("[1, 2]", "has no message"), ("", "is truncated")],
)
def test_an_error_file_that_cannot_be_read_is_reported(
    rally: Rally, script: Script, written: str, why: str
) -> None:
    """As of a worker that was killed while it wrote: the agent goes on."""
    worker = script(
        f"with open(os.environ['TORCHELASTIC_ERROR_FILE'], 'w') as file:\n    file.write({written!r})\nsys.exit(5)\n"
    )
    job = rally("--standalone", "--max-restarts", "1", worker)
    assert job.wait() == 5, job.told()
    assert len(job.events(FailureRecorded)) == 2, "it was started anew"
    assert all(why in event.message for event in job.events(FailureRecorded))
    assert why in job.stderr
    assert "Traceback" not in job.stderr


def test_a_run_directory_of_another_run(rally: Rally, worker: Path, tmp_path: Path) -> None:
    first = rally("--standalone", worker)
    assert first.wait() == 0, first.told()
    (tmp_path / "started").unlink()
    second = rally("--standalone", worker, run_dir=first.run_dir)
    assert second.wait() == 2, second.told()
    [line] = second.stderr.splitlines()
    assert str(first.run_dir) in line
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("word", "expected"), [("rnu", "did you mean `rally run`?"), ("fly", "the commands are run, top")]
)
def test_an_unknown_command(tmp_path: Path, word: str, expected: str) -> None:
    ended = subprocess.run(
        [*RALLY, word],
        cwd=tmp_path,
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(rf"rally: there is no command '{word}'; .*\n", ended.stderr)
    assert expected in ended.stderr


@torch_needed
def test_an_event_handler_that_torch_does_not_have(rally: Rally, worker: Path) -> None:
    job = rally("--standalone", "--event-log-handler", "consle", str(worker))
    assert_refused(job, "--event-log-handler is 'consle'", "did you mean console?")


def test_numa_binding_without_a_gpu(rally: Rally, worker: Path) -> None:
    if list(Path("/dev").glob("nvidia*")):
        pytest.skip("this machine has GPUs to bind to")
    assert_refused(
        rally("--standalone", "--numa-binding", "node", str(worker)),
        "--numa-binding node",
        "there is no GPU here",
    )


def test_a_busy_port_of_several_nodes_gets_a_remedy_that_helps(
    rally: Rally, worker: Path, listening: int
) -> None:
    meeting = ("--master-addr", "127.0.0.1", "--master-port", str(listening))
    job = rally("--nnodes", "2", "--node-rank", "0", *meeting, str(worker))
    assert_refused(job, f"port {listening}", "give another port, the same on every node")


@pytest.mark.parametrize(
    ("words", "env", "said"),
    [
        (("--on-hang", "kill"), {}, ("'kill'", "report, restart or off")),
        (("--hang-timeout", "0"), {}, ("--hang-timeout is 0", "give a number of seconds from 1 on")),
        (("--hang-timeout", "nan"), {}, ("--hang-timeout is nan", "seconds")),
        ((), {"PET_HANG_TIMEOUT": "soon"}, ("PET_HANG_TIMEOUT", "'soon'")),
        ((), {"TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT": "long"}, ("STATE_TIMEOUT is 'long'", "seconds")),
        ((), {"TORCHELASTIC_HEALTH_CHECK_PORT": "http"}, ("CHECK_PORT is 'http'", "from 1 to 65535")),
        (
            (),
            {"TORCHELASTIC_ENABLE_FILE_TIMER": "1", "TORCHELASTIC_TIMER_FILE": "/proc/no/pipe"},
            ("TORCHELASTIC_TIMER_FILE is '/proc/no/pipe'", "give a path that is free"),
        ),
    ],
)
def test_what_is_said_of_hangs_must_make_sense(
    rally: Rally, worker: Path, words: tuple[str, ...], env: dict[str, str], said: tuple[str, ...]
) -> None:
    assert_refused(rally("--standalone", *words, str(worker), env=env), *said)


def test_a_file_where_the_pipe_for_timers_is_to_be_is_left_alone(
    rally: Rally, worker: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("data")
    env = {"TORCHELASTIC_ENABLE_FILE_TIMER": "1", "TORCHELASTIC_TIMER_FILE": str(precious)}
    assert_refused(rally("--standalone", str(worker), env=env), str(precious), "give a path that is free")
    assert precious.read_text() == "data"


def test_a_busy_port_for_the_health_check_is_refused(rally: Rally, worker: Path, listening: int) -> None:
    env = {"TORCHELASTIC_HEALTH_CHECK_PORT": str(listening)}
    assert_refused(rally("--standalone", str(worker), env=env), str(listening), "give a port that is free")
