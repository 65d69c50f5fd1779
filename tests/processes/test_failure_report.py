"""Who failed first, and what of: the culprit is told from its victims, and from whom the agent stopped."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolkit.core.events import FailureRecorded, WorkerExited, WorkerStarted

from .conftest import Python, Rally, Script
from .jobs import RALLY, Job, clean_environment, until

#: two ranks that hold a connection; `peer` is it, and `fail()` ends the rank in the way that the test wants
PAIR = """
    import socket, threading
    rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    place = f"socket {attempt}"
    if rank == 0:
        server = socket.socket(socket.AF_UNIX)
        server.bind(place + ".new")
        server.listen()
        os.rename(place + ".new", place)
        peer, _ = server.accept()
    else:
        wait_for(place)
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(place)

    def other_pid():
        peer.sendall(str(os.getpid()).encode().ljust(20))
        return int(peer.recv(20, socket.MSG_WAITALL))

    def until_gone(pid):
        import select
        poll = select.poll()
        poll.register(os.pidfd_open(pid), select.POLLIN)
        poll.poll()
"""


def first_ranks(job: Job) -> list[int]:
    """The rank that was told as the first of each incarnation, in the end."""
    firsts = {
        failure.incarnation: failure.global_rank
        for failure in job.timeline().failures.values()
        if failure.first
    }
    return [firsts[incarnation] for incarnation in sorted(firsts)]


def assert_right(told: list[int], culprits: list[int]) -> None:
    """At least 95 % of them."""
    wrong = [at for at, (said, true) in enumerate(zip(told, culprits, strict=True)) if said != true]
    assert len(wrong) <= 0.05 * len(culprits), f"wrong in incarnations {wrong}"


# -- one dies, the other a little later -----------------------------------------------------------------------


def test_who_was_killed_is_the_culprit_and_not_who_raises_because_of_it(rally: Rally, script: Script) -> None:
    worker = script(
        PAIR
        + """
    other = other_pid()
    say("up", rank, os.getpid())
    if rank == 1:
        signal.pause()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    until_gone(other)
    time.sleep(0.05)
    raise RuntimeError("rank 1 does not answer")
    """
    )
    job = rally("--standalone", "--nproc-per-node", "2", worker)
    pids = {line.split()[1]: int(line.split()[2]) for line in job.wait_for_lines("up", 2)}
    os.kill(pids["1"], signal.SIGKILL)
    assert job.wait() == 128 + signal.SIGKILL, job.told()
    failures = job.events(FailureRecorded)
    assert [(f.global_rank, f.signal, f.first, f.hand) for f in failures] == [(1, "SIGKILL", True, "first")]
    assert "failed first: rank 1 (local rank 1 on " in job.stderr
    assert "that is: SIGKILL from outside, not from this agent" in job.stderr
    # What rank 0 died of in the end was told after the agent had told it to stop: no failure.
    exits = {event.global_rank: event for event in job.events(WorkerExited)}
    assert (exits[0].exit_code, exits[0].stopped_by_agent) == (1, True)


OFFSETS_MS = [1, 2, 3, 5, 8, 12, 20, 30, 40, 50, 60, 75, 90, 100, 120, 140, 160, 175, 190, 200]
#: incarnations of a test: each of the two ranks is the first at each of these
TIMES = 2 * len(OFFSETS_MS)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("os._exit(7)", "os._exit(8)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "raise RuntimeError('somebody is missing')"),
        ("raise ValueError('bad')", "raise ConnectionResetError('connection reset by peer')"),
        ("raise ConnectionResetError('reset by peer')", "os._exit(8)"),
    ],
)
def test_of_two_failures_that_follow_each_other_the_first_is_told(
    rally: Rally, script: Script, first: str, second: str
) -> None:
    """20 times in either order, 1 to 200 ms apart.

    In the last case a worker whose connection broke is only a victim, and the next, whose code says nothing, may be the
    culprit: so it is told.
    """
    worker = script(
        PAIR
        + f"""
    offsets = {OFFSETS_MS}
    other = other_pid()
    if attempt % 2 == rank:
        {first}
    until_gone(other)
    time.sleep(offsets[attempt // 2] / 1000)
    {second}
    """
    )
    job = rally("--standalone", "--nproc-per-node", "2", "--max-restarts", str(TIMES - 1), worker)
    assert job.wait(120) != 0, job.told()
    victims_first = "reset by peer" in first
    culprits = [(attempt + victims_first) % 2 for attempt in range(TIMES)]
    assert_right(first_ranks(job), culprits)


def test_deaths_that_are_noticed_at_once_are_told_in_the_order_of_the_kernel(
    rally: Rally, script: Script
) -> None:
    """The agent is stopped until both are dead, so that it sees both in one look."""
    worker = script("""
    rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    say("up", attempt, rank, os.getpid())
    signal.pause()
    """)
    times = 20
    job = rally("--standalone", "--nproc-per-node", "4", "--max-restarts", str(times - 1), worker)
    orders = []
    for attempt in range(times):
        lines = job.wait_for_lines(f"up {attempt} ", 4)
        pids = {int(line.split()[2]): int(line.split()[3]) for line in lines}
        # No event tells more than `workers_started`; a stopped agent would not say it.
        until("the start", lambda attempt=attempt: _started(job, attempt) == 4)
        order = [3, 1, 2, 0] if attempt % 2 else [2, 0, 3, 1]
        orders.append(order)
        job.signal(signal.SIGSTOP)
        for rank in order:
            os.kill(pids[rank], signal.SIGKILL)
            until(f"the death of rank {rank}", lambda pid=pids[rank]: _is_dead(pid))
        job.signal(signal.SIGCONT)
    assert job.wait(60) == 128 + signal.SIGKILL, job.told()
    told: dict[int, list[int]] = {}
    for failure in job.events(FailureRecorded):
        told.setdefault(failure.incarnation, []).append(failure.global_rank)
    assert [told[attempt] for attempt in range(times)] == orders


def _started(job: Job, incarnation: int) -> int:
    return sum(event.incarnation == incarnation for event in job.events(WorkerStarted))


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


# -- the victim is gone before the culprit --------------------------------------------------------------------


def test_the_culprit_is_told_though_its_victim_is_gone_first(rally: Rally, script: Script) -> None:
    """A process that has raised closes its connections and goes on to its end, for as long as that takes.

    20 times in either order, 1 to 200 ms apart.
    """
    worker = script(
        PAIR
        + f"""
    offsets = {OFFSETS_MS}
    other = other_pid()
    if attempt % 2 == rank:
        import atexit
        def end():
            peer.shutdown(socket.SHUT_RDWR)
            until_gone(other)
            time.sleep(offsets[attempt // 2] / 1000)
        atexit.register(end)
        raise ValueError("loss is NaN")
    if not peer.recv(1):
        raise ConnectionResetError(104, "Connection reset by peer")
    """
    )
    job = rally("--standalone", "--nproc-per-node", "2", "--max-restarts", str(TIMES - 1), worker)
    assert job.wait(120) == 1, job.told()
    assert_right(first_ranks(job), [attempt % 2 for attempt in range(TIMES)])
    assert "failed first: rank 1 (" in job.stderr
    assert "ValueError: loss is NaN" in job.stderr
    assert "because of it: rank 0 exited with code 1: connection reset by peer" in job.stderr


def test_a_culprit_that_takes_long_is_told_when_the_agent_stops_it(rally: Rally, script: Script) -> None:
    """It has written its error file, and nothing but the agent's signal ends it."""
    worker = script(
        PAIR
        + """
    import json
    other_pid()
    if rank == 1:
        told = {"message": "ValueError: loss is NaN", "extraInfo": {"py_callstack": "Traceback ...", "timestamp": "9"}}
        with open(os.environ["TORCHELASTIC_ERROR_FILE"], "w") as file:
            json.dump({"message": told}, file)
        peer.shutdown(socket.SHUT_RDWR)
        signal.pause()
    if not peer.recv(1):
        raise ConnectionResetError(104, "Connection reset by peer")
    """
    )
    job = rally("--standalone", "--nproc-per-node", "2", worker)
    assert job.wait() == 128 + signal.SIGTERM, job.told()
    assert first_ranks(job) == [1]
    checked = subprocess.run(
        [*RALLY, "check", str(job.run_dir)],
        env=clean_environment(job.run_dir),
        capture_output=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout.decode()
    assert "failed first: rank 1 (" in job.stderr
    assert "because of it: rank 0 exited with code 1: connection reset by peer" in job.stderr


def test_who_ended_too_early_is_named_where_the_others_only_miss_it(rally: Rally, script: Script) -> None:
    worker = script(
        PAIR
        + """
    other = other_pid()
    if rank == 1:
        sys.exit(0)
    until_gone(other)
    raise ConnectionResetError(104, "Connection reset by peer")
    """
    )
    job = rally("--standalone", "--nproc-per-node", "2", worker)
    assert job.wait() == 1, job.told()
    assert "nobody is known to have failed by itself; first to tell was rank 0 (" in job.stderr
    told = "before that rank 1 had ended with exit code 0, perhaps too early for the others"
    assert f"rally: {told}\n" in job.stderr
    shown = subprocess.run(
        [*RALLY, "show", str(job.run_dir)],
        env=clean_environment(job.run_dir),
        capture_output=True,
        check=True,
    )
    assert f"    {told}\n" in shown.stdout.decode()


def test_what_comes_of_the_agents_signal_is_no_failure(rally: Rally, script: Script) -> None:
    """One raises in its handler, one has a traceback of an error that it had caught, one crashes."""
    worker = script("""
    import traceback
    rank = int(os.environ["RANK"])
    def handler(*_):
        if rank == 1:
            raise ConnectionResetError("connection reset by peer")
        if rank == 2:
            os.abort()
    if rank in (1, 2):
        signal.signal(signal.SIGTERM, handler)
    if rank == 3:
        try:
            1 / 0
        except ZeroDivisionError:
            traceback.print_exc()
    open(f"ready {rank}", "w").close()
    if rank:
        signal.pause()
    for other in (1, 2, 3):
        wait_for(f"ready {other}")
    sys.exit(17)
    """)
    job = rally("--standalone", "--nproc-per-node", "4", worker)
    assert job.wait() == 17, job.told()
    assert [(f.global_rank, f.first) for f in job.events(FailureRecorded)] == [(0, True)]
    assert all(event.stopped_by_agent for event in job.events(WorkerExited) if event.global_rank)


# -- what is told -----------------------------------------------------------------------------------------------


def test_a_traceback_needs_no_decorator_and_no_option(rally: Rally, script: Script) -> None:
    worker = script("""
    def step(n):
        raise ValueError(f"bad shape in step {n}")
    step(3)
    """)
    job = rally("--standalone", worker)
    assert job.wait() == 1, job.told()
    [failure] = job.events(FailureRecorded)
    assert failure.message == "ValueError: bad shape in step 3"
    assert failure.traceback.startswith("Traceback (most recent call last):\n")
    assert failure.traceback.count("File ") == 2
    assert job.stderr.count("ValueError: bad shape in step 3\n") >= 2, (
        "the worker's own words, and the report"
    )
    assert (failure.error_class, failure.hand) == ("own", "first")


def test_the_report_fits_a_screen(rally: Rally, script: Script) -> None:
    worker = script("""
    rank = int(os.environ["RANK"])
    def f(n):
        return f(n + 1) if n < 100 else open("/nowhere" + "/at" * n)
    if rank == 3:
        for other in {*range(8)} - {3}:  # or their lines stand between those of the report
            wait_for(f"told {other}")
        f(0)
    sys.stderr.write("RuntimeError: Connection closed by peer [127.0.0.1]:%d\\n" % rank)
    sys.stderr.flush()
    open(f"told {rank}", "w").close()
    signal.pause()
    """)
    job = rally("--standalone", "--nproc-per-node", "8", worker)
    assert job.wait() == 1, job.told()
    report = job.stderr[job.stderr.index("rally: giving up") :].splitlines()
    assert len(report) <= 40
    assert report[1].startswith("rally: failed first: rank 3 (local rank 3 on ")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"message": {"message": "Valu', "is truncated or no JSON"),
        ("", "is truncated or no JSON"),
        ("[1, 2]", "has no message"),
        ("null", "has no message"),
        ('{"message": 3}', "has no message"),
        ('{"message": {}}', ""),
        ('{"message": {"message": null, "extraInfo": []}}', ""),
        ('{"message": {"message": ["a"], "extraInfo": {"py_callstack": 7, "timestamp": {}}}}', ""),
        ('{"message": "\\ud800 half a character"}', "? half a character"),
        ('{"message": {"message": "x", "extraInfo": {"timestamp": 1e400}}}', "x"),
        ("[" * 100_000, "is truncated or no JSON"),
        ("\\0\\1\\2", "is truncated or no JSON"),
        ("huge", "is larger than"),
        ("fifo", ""),
        ("folder", ""),
        ("link", ""),
        ("loop", ""),
    ],
    ids=range(17),
)
def test_no_error_file_harms_the_agent(rally: Rally, script: Script, content: str, told: str) -> None:
    worker = script("""
    path, content = os.environ["TORCHELASTIC_ERROR_FILE"], sys.argv[1]
    match content:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            os.mkdir(path)
        case "link":
            os.symlink("/dev/zero", path)
        case "loop":
            os.symlink(path, path)
        case "huge":
            with open(path, "w") as file:
                file.write('{"message": "' + "x" * (5 << 20) + '"}')
        case _:
            with open(path, "wb") as file:
                file.write(content.replace("\\\\0", "\\0").encode("utf-8", "surrogatepass"))
    os.kill(os.getpid(), signal.SIGKILL) if sys.argv[2] == "kill" else sys.exit(5)
    """)
    for how, code in (("kill", 137), ("exit", 5)):
        job = rally("--standalone", worker, content, how)
        assert job.wait() == code, job.told()
        [failure] = job.events(FailureRecorded)
        assert told in failure.message
        assert job.timeline().state == "failed"


def test_a_worker_that_is_killed_while_it_writes_its_error_file_is_told_by_its_stderr(
    rally: Rally, script: Script
) -> None:
    worker = script("""
    with open(os.environ["TORCHELASTIC_ERROR_FILE"], "w") as file:
        file.write('{"message": {"mess')
    raise ValueError("bad shape")
    """)
    job = rally("--standalone", worker)
    assert job.wait() == 1, job.told()
    [failure] = job.events(FailureRecorded)
    assert failure.message == "ValueError: bad shape"
    assert "Traceback" in failure.traceback


def test_an_agent_that_is_a_worker_hands_the_failure_up(rally: Rally, script: Script, tmp_path: Path) -> None:
    """Also one that only stderr tells of; in the form of torch's error file."""
    script("raise ValueError('deep inside')", "inner.py")
    outer = script("""
    import subprocess
    words = ["-m", "toolkit.fronts.cli", "run", "--standalone", "--run-dir", "inner run", "inner.py"]
    sys.exit(subprocess.run([sys.executable, *words], stderr=subprocess.DEVNULL).returncode)
    """)
    job = rally("--standalone", "--log-dir", tmp_path / "logs", outer)
    assert job.wait() == 1, job.told()
    [failure] = job.events(FailureRecorded)
    assert failure.message == "ValueError: deep inside"
    assert "inner.py" in failure.traceback
    data = json.loads(Path(failure.error_file).read_text())
    assert data["message"]["extraInfo"]["py_callstack"] == failure.traceback


# -- gloo -----------------------------------------------------------------------------------------------------

GLOO = """
import torch
import torch.distributed as dist

def work(restarts):
    rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    dist.init_process_group("gloo")
    total = torch.tensor([rank + 1])
    dist.all_reduce(total)
    if attempt % 2 == rank:
        raise ValueError(f"loss is NaN in attempt {attempt}")
    dist.all_reduce(total)
    raise AssertionError("a collective of a crashed group was passed")
"""

DRIVER = """
import multiprocessing
import gloo_worker

if __name__ == "__main__":
    restarts = int(sys.argv[1])
    multiprocessing.set_forkserver_preload(["gloo_worker"])
    result = supervise(gloo_worker.work, restarts, restarts=restarts, start_method="forkserver")
    first = next(iter(result.failures.items()))
    say("first", first[0], first[1].summary())
"""


@pytest.mark.torch
def test_who_raised_is_the_culprit_and_not_whose_collective_broke(python: Python, script: Script) -> None:
    """20 times, with real workers of gloo, each of the two ranks in half of them."""
    pytest.importorskip("torch")
    script(GLOO, "gloo_worker.py")
    job = python(script(DRIVER, "driver.py", agent=True), "19")
    assert job.wait(180) == 0, job.told()
    assert_right(first_ranks(job), [attempt % 2 for attempt in range(20)])
    assert "first 1 ValueError: loss is NaN in attempt 19" in job.stdout


@pytest.mark.torch
def test_a_program_with_gloo_is_told_by_its_stderr(rally: Rally, script: Script) -> None:
    pytest.importorskip("torch")
    worker = script(GLOO + "\nwork(0)\n")
    job = rally("--standalone", "--nproc-per-node", "3", "--max-restarts", "1", worker)
    assert job.wait(120) != 0, job.told()
    assert first_ranks(job) == [0, 1]
    assert "ValueError: loss is NaN in attempt 1" in job.stderr.partition("rally: giving up")[2]


# -- the kernel -----------------------------------------------------------------------------------------------

MEMORY = Path("/sys/fs/cgroup/memory")
LIMIT_BYTES = 192 << 20


@pytest.fixture
def small() -> Iterator[Path]:
    """A memory cgroup with little room."""
    own = next(
        (
            line.split(":", 2)[2]
            for line in Path("/proc/self/cgroup").read_text().splitlines()
            if ":memory:" in line
        ),
        None,
    )
    root = Path("/sys/fs/cgroup")
    try:
        if own is not None:
            group = MEMORY / own.lstrip("/") / f"rally-test-{os.getpid()}"
            group.mkdir()
            (group / "memory.limit_in_bytes").write_text(str(LIMIT_BYTES))
        else:
            own = Path("/proc/self/cgroup").read_text().split("::", 1)[1].strip()
            group = root / own.lstrip("/") / f"rally-test-{os.getpid()}"
            group.mkdir()
            (group / "memory.max").write_text(str(LIMIT_BYTES))
    except (OSError, IndexError) as error:
        pytest.skip(f"no memory cgroup may be made here: {error}")
    try:
        yield group
    finally:
        until("the end of the cgroup's processes", lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_a_worker_that_the_kernel_kills_for_want_of_memory(rally: Rally, script: Script, small: Path) -> None:
    worker = script("""
    if os.environ["RANK"] == "1":
        held = []
        while True:
            held.append(bytearray(os.urandom(1 << 20)) * 8)
    signal.pause()
    """)
    procs = str(small / "cgroup.procs")

    def enter() -> None:
        with open(procs, "w") as file:
            file.write("0")

    job = rally("--standalone", "--nproc-per-node", "2", worker, before_exec=enter)
    assert job.wait(60) == 137, job.told()
    [failure] = job.events(FailureRecorded)
    assert (failure.global_rank, failure.signal, failure.error_class) == (1, "SIGKILL", "memory")
    assert failure.what == "killed by the kernel's OOM killer: its cgroup's limit is 192 MiB"
    assert "that is: killed by the kernel's OOM killer: its cgroup's limit is 192 MiB" in job.stderr
