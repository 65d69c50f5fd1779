"""What workers have started ends with them: in their session or in one of its own, whoever its parent is."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest

from toolkit.adapters.leftovers import cgroup
from toolkit.core.events import SupervisionChanged, WorkersStopped, WorkerStarted

from .conftest import Python, Rally, Script
from .jobs import AFTERLIFE_S, Job, alive, children, marked, until

#: ways to leave a process behind: functions that return when it is there. None of them ends by itself.
WAYS = """
import subprocess

DEAF = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 3, 15)]; "
LASTING = "import os, pathlib, sys, signal; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); signal.pause()"


def python(words, path, **how):
    process = subprocess.Popen([sys.executable, "-c", words, path], **how)
    wait_for(path)
    return process


def in_group(path):
    python(LASTING, path)


def deaf_in_group(path):
    python(DEAF + LASTING, path)


def own_session(path):
    python(LASTING, path, start_new_session=True)


def deaf_daemon(path):
    daemon(path, deaf=True)


def daemon(path, deaf=False):
    # As daemons do it: a child that makes a session, and its child, which stays when the first one ends.
    first = os.fork()
    if first == 0:
        os.setsid()
        if os.fork() == 0:
            if deaf:
                for sig in (1, 2, 3, 15):
                    signal.signal(sig, signal.SIG_IGN)
            with open(path + ".part", "w") as file:
                file.write(str(os.getpid()))
            os.rename(path + ".part", path)
            while True:
                signal.pause()
        os._exit(0)
    os.waitpid(first, 0)
    wait_for(path)


def kept(path):
    python(LASTING, path, start_new_session=True, env={**os.environ, "RALLY_KEEP": "1"})


def nameless(path):
    python(LASTING, path, start_new_session=True, env={})


def unmarked(path):
    words = "import resource; resource.setrlimit(resource.RLIMIT_RTTIME, 2 * (resource.RLIM_INFINITY,)); "
    python(words + LASTING, path, start_new_session=True, env={})


def leave(way):
    path = os.path.abspath(f"left-{way}-{os.environ.get('RANK')}-{os.environ.get('TORCHELASTIC_RESTART_COUNT')}")
    globals()[way](path)
    while not (text := open(path).read()):
        time.sleep(0.005)
    say("left", way, text)


"""

ALL_WAYS = ("in_group", "deaf_in_group", "own_session", "daemon", "deaf_daemon", "nameless")


def leaving(script: Script, ways: tuple[str, ...], then: str, name: str = "worker.py") -> Path:
    """A worker that leaves something behind in each of these ways, and goes on."""
    lines = "".join(f"leave({way!r})\n" for way in ways)
    return script(WAYS + lines + 'say("up", os.getpid())\n' + then, name)


def left(job: Job, count: int) -> list[int]:
    """Pids of what was left, once there are so many."""
    return [int(line.split()[2]) for line in job.wait_for_lines("left", count)]


def gone(pids: list[int], within_s: float = AFTERLIFE_S) -> None:
    try:
        until(f"the end of {pids}", lambda: not any(alive(pid) for pid in pids), within_s)
    except AssertionError:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)
        raise


def supervisors(job: Job) -> list[int]:
    """The supervisor of an agent: the words behind its script begin with the agent's pid."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            script = next((at for at, word in enumerate(words) if word.endswith(b"/sweep.py")), None)
            if script is not None and words[script + 1] == str(job.pid).encode():
                found.append(int(entry.name))
    return found


# -- the agent is killed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ALL_WAYS)
def test_it_ends_with_an_agent_that_is_killed(rally: Rally, script: Script, way: str) -> None:
    job = rally("--standalone", "--nproc-per-node", "2", leaving(script, (way,), "signal.pause()"))
    pids = left(job, 2)
    job.wait_for_events(WorkerStarted, 2)
    assert all(alive(pid) for pid in pids)
    job.signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    gone(pids)


@pytest.mark.parametrize("start", ["2 programs", "8 programs", "spawn", "fork", "forkserver"])
def test_without_a_cgroup_it_does_even_if_it_has_dropped_session_and_environment(
    python: Python, script: Script, start: str
) -> None:
    """As in most containers. Programs in number are started another way than a few."""
    workers, _, kind = start.partition(" ")
    head = """
        from toolkit.adapters.leftovers import cgroup
        cgroup.own_folder = lambda: ("", "none here")
    """
    if kind:
        worker = leaving(script, ("nameless",), "signal.pause()")
        words = ["--standalone", "--nproc-per-node", workers, str(worker)]
        job = python(
            script(
                textwrap.dedent(head)
                + "from pathlib import Path\nfrom toolkit.fronts.run import run_command\n"
                + f"argv = ['--run-dir', os.environ['RUN_DIR'], *{words!r}]\n"
                + "sys.exit(run_command(argv, dict(os.environ), Path.cwd(), sys.executable))\n",
                "driver.py",
            )
        )
    else:
        text = f"""
def work():
    leave("nameless")
    say("up", os.getpid())
    signal.pause()


if __name__ == "__main__":
    supervise(work, workers=2, start_method={start!r})
"""
        job = python(script(WAYS + textwrap.dedent(head) + text, agent=True))
    count = int(workers) if kind else 2
    pids = left(job, count)
    job.wait_for_lines("up", count)
    assert not any("/rally-" in Path(f"/proc/{pid}/cgroup").read_text() for pid in pids)
    job.signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    gone(pids)


@pytest.mark.skipif(not cgroup.own_folder()[0], reason="no cgroup v2 can be made here")
def test_in_a_cgroup_it_does_even_if_it_has_shaken_off_all_else(rally: Rally, script: Script) -> None:
    job = rally("--standalone", leaving(script, ("unmarked",), "signal.pause()"))
    pids = left(job, 1)
    job.wait_for_lines("up")
    assert "/rally-" in Path(f"/proc/{pids[0]}/cgroup").read_text()
    job.signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    gone(pids)


@pytest.mark.skipif(not cgroup.own_folder()[0], reason="no cgroup v2 can be made here")
@pytest.mark.parametrize("entrypoint", ["program", "function"])
def test_a_worker_is_in_its_cgroup_from_the_first_line_though_the_supervisor_is_late(
    rally: Rally, python: Python, script: Script, tmp_path: Path, entrypoint: str
) -> None:
    work = """
def work():
    say("in", *open("/proc/self/cgroup").read().split())
    wait_for("go-" + os.environ["TORCHELASTIC_RESTART_COUNT"])
    sys.exit(7)


"""
    if entrypoint == "program":
        job = rally("--standalone", "--max-restarts", "1", script(work + "work()"))
    else:
        start = "if __name__ == '__main__':\n    supervise(work, workers=1, restarts=1)\n"
        job = python(script(work + start, agent=True))
    job.wait_for_lines("in")
    [supervisor] = until("the supervisor", lambda: supervisors(job))
    os.kill(supervisor, signal.SIGSTOP)
    try:
        (tmp_path / "go-0").touch()
        assert "/rally-" in job.wait_for_lines("in", 2)[1]
    finally:
        os.kill(supervisor, signal.SIGCONT)
    (tmp_path / "go-1").touch()
    job.wait()


@pytest.mark.skipif(not cgroup.own_folder()[0], reason="no cgroup v2 can be made here")
def test_no_cgroup_is_left_by_an_agent_that_nobody_supervises_at_its_end(
    python: Python, script: Script
) -> None:
    driver = script("""
        import signal
        from toolkit.adapters.leftovers.supervisor import STARTS_MAX, Supervisor

        it = Supervisor("of-a-test", os.environ)
        for _ in range(STARTS_MAX):
            it.start()
            assert os.path.exists(it.cgroup_procs)
            os.kill(it.pid, signal.SIGKILL)
            while it.check():
                time.sleep(0.001)
        folder = os.path.dirname(it.cgroup_procs)
        it.close()
        say("left", os.path.exists(folder))
        os._exit(0)
    """)
    job = python(driver)
    assert job.wait_for_lines("left") == ["left False"]
    assert job.wait() == 0


@pytest.mark.parametrize("start_method", ["spawn", "fork", "forkserver"])
def test_what_functions_have_left_ends_with_an_agent_that_is_killed(
    python: Python, script: Script, start_method: str
) -> None:
    text = f"""
def work():
    for way in {ALL_WAYS}:
        leave(way)
    say("up", os.getpid())
    signal.pause()


if __name__ == "__main__":
    supervise(work, workers=1, start_method={start_method!r})
"""
    job = python(script(WAYS + text, agent=True))
    pids = left(job, len(ALL_WAYS))
    job.wait_for_lines("up")
    job.signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    gone(pids)


# -- its worker or its incarnation ends -----------------------------------------------------------------------


def test_it_ends_with_a_worker_that_fails(rally: Rally, script: Script) -> None:
    job = rally("--standalone", leaving(script, ALL_WAYS, "sys.exit(7)"))
    pids = left(job, len(ALL_WAYS))
    assert job.wait() == 7, job.told()
    assert not any(alive(pid) for pid in pids), "gone before the agent"
    [stopped] = job.events(WorkersStopped)
    assert len(stopped.escaped) == 4, "those that had left the session"
    assert "ended daemons that workers had left" in job.stderr


def test_it_ends_with_a_worker_that_succeeds(rally: Rally, script: Script) -> None:
    job = rally("--standalone", leaving(script, ALL_WAYS, ""))
    pids = left(job, len(ALL_WAYS))
    assert job.wait() == 0, job.told()
    assert not any(alive(pid) for pid in pids), "gone before the agent"


def test_it_ends_before_the_workers_start_again(rally: Rally, script: Script) -> None:
    then = """
for path in os.listdir("."):
    if path.startswith("left-") and not path.endswith(os.environ["TORCHELASTIC_RESTART_COUNT"]):
        try:
            os.kill(int(open(path).read()), 0)
        except ProcessLookupError:
            pass
        else:
            say("still there", path)
sys.exit(1 if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" else 0)
"""
    job = rally("--standalone", "--max-restarts", "1", leaving(script, ALL_WAYS, then))
    assert job.wait() == 0, job.told()
    assert len(left(job, 2 * len(ALL_WAYS))) == 2 * len(ALL_WAYS)
    assert not [line for line in job.lines if line.startswith("still")]


def test_it_ends_with_an_agent_that_is_told_to(rally: Rally, script: Script) -> None:
    worker = leaving(script, ALL_WAYS, "signal.pause()")
    job = rally("--standalone", worker)
    pids = left(job, len(ALL_WAYS))
    job.wait_for_lines("up")
    job.signal(signal.SIGTERM)
    assert job.wait() == 128 + signal.SIGTERM, job.told()
    assert not any(alive(pid) for pid in pids), "gone before the agent, also without a mark"


@pytest.mark.parametrize("start_method", ["spawn", "fork", "forkserver"])
def test_it_ends_with_a_function_that_fails(python: Python, script: Script, start_method: str) -> None:
    text = f"""
def work():
    for way in {ALL_WAYS}:
        leave(way)
    raise ValueError


if __name__ == "__main__":
    result = supervise(work, workers=1, start_method={start_method!r})
    say("result", result.state.name)
"""
    job = python(script(WAYS + text, agent=True))
    assert job.wait() == 0, job.told()
    pids = left(job, len(ALL_WAYS))
    assert not any(alive(pid) for pid in pids), "gone before the agent"
    assert "result FAILED" in job.lines


def test_who_asks_to_stay_stays(rally: Rally, script: Script) -> None:
    job = rally("--standalone", leaving(script, ("kept", "own_session"), "sys.exit(3)"))
    [staying, leaving_] = left(job, 2)
    try:
        assert job.wait() == 3, job.told()
        assert alive(staying)
        assert not alive(leaving_)
    finally:
        os.kill(staying, signal.SIGKILL)
    gone([staying])


def test_who_asks_to_stay_stays_even_if_the_agent_is_killed(rally: Rally, script: Script) -> None:
    job = rally("--standalone", leaving(script, ("kept", "own_session"), "signal.pause()"))
    [staying, leaving_] = left(job, 2)
    try:
        [supervisor] = until("the supervisor", lambda: supervisors(job))
        job.signal(signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL
        gone([leaving_, supervisor])
        assert alive(staying)
    finally:
        os.kill(staying, signal.SIGKILL)
    gone([staying])


def test_a_program_under_a_shell_has_the_whole_grace(rally: Rally, script: Script, tmp_path: Path) -> None:
    """The shell dies of SIGTERM at once; what it runs saves its state."""
    script(
        """
        def save(*_):
            say("saving")
            wait_for("disk")
            say("saved")
            os._exit(0)

        signal.signal(signal.SIGTERM, save)
        say("up")
        while True:
            signal.pause()
        """,
        "program.py",
    )
    shell = tmp_path / "run.sh"
    shell.write_text(f"#!/bin/sh\n{sys.executable} program.py\necho never\n")
    shell.chmod(0o755)
    job = rally("--standalone", "--no-python", shell)
    job.wait_for_lines("up")
    job.signal(signal.SIGTERM)
    job.wait_for_lines("saving")
    until("the end of the shell", lambda: not shells(job, shell))
    (tmp_path / "disk").touch()
    assert job.wait() == 128 + signal.SIGTERM, job.told()
    assert "saved" in job.lines


def shells(job: Job, path: Path) -> list[int]:
    """Children of the agent that run this script."""
    return [
        pid
        for pid in children(job.pid)
        if alive(pid) and str(path).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def test_orphans_that_end_by_themselves_are_collected(rally: Rally, script: Script, tmp_path: Path) -> None:
    worker = script("""
        for n in range(20):
            if os.fork() == 0:
                if os.fork() == 0:
                    time.sleep(0.05)  # by then its parent has ended
                os._exit(0)
            os.wait()
        say("up")
        wait_for("end")
    """)
    job = rally("--standalone", worker)
    job.wait_for_lines("up")
    until("no child but the worker", lambda: len(children(job.pid)) == 1)
    (tmp_path / "end").touch()
    assert job.wait() == 0, job.told()


# -- the supervisor -------------------------------------------------------------------------------------------


def test_the_supervisor_is_nobodys_child_and_ends_with_the_agent(
    rally: Rally, script: Script, tmp_path: Path
) -> None:
    job = rally("--standalone", script("say('up'); wait_for('end')"))
    job.wait_for_lines("up")
    [pid] = supervisors(job)
    assert pid not in children(job.pid)
    assert os.getsid(pid) != os.getsid(job.pid)
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
        os.kill(pid, sig)
    assert supervisors(job) == [pid]
    resident_kb = int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])
    assert resident_kb < 4_000
    (tmp_path / "end").touch()
    assert job.wait() == 0, job.told()
    gone([pid])
    assert job.events(SupervisionChanged) == []


def test_a_supervisor_that_dies_is_replaced_and_the_new_one_does_the_same(
    rally: Rally, script: Script
) -> None:
    job = rally("--standalone", leaving(script, ("own_session", "daemon"), "signal.pause()"))
    pids = left(job, 2)
    job.wait_for_lines("up")
    [first] = supervisors(job)
    os.kill(first, signal.SIGKILL)
    [told] = job.wait_for_events(SupervisionChanged)
    assert told.what == f"the supervisor (pid {first}) has ended; another one was started"
    [second] = until("another one", lambda: [pid for pid in supervisors(job) if pid != first])
    job.signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    gone([*pids, second])


def test_a_supervisor_that_was_replaced_is_nothing_that_workers_have_left(
    rally: Rally, script: Script
) -> None:
    """It is a child of the agent, as are the orphans that this takes in."""
    job = rally("--standalone", script("say('up'); wait_for('go')"))
    job.wait_for_lines("up")
    [first] = until("the supervisor", lambda: supervisors(job))
    os.kill(first, signal.SIGKILL)
    job.wait_for_events(SupervisionChanged)
    (job.run_dir.parent / "go").touch()
    assert job.wait() == 0, job.told()
    [stopped] = job.events(WorkersStopped)
    assert len(job.events(SupervisionChanged)) == 1
    assert stopped.escaped == []


def test_without_a_shell_the_run_goes_on_and_says_what_is_missing(python: Python, script: Script) -> None:
    driver = script("""
        from pathlib import Path
        from toolkit.adapters.leftovers import supervisor
        from toolkit.fronts.run import run_command
        supervisor.SHELL = "/no/such/shell"
        argv = ["--standalone", "--run-dir", os.environ["RUN_DIR"], "--no-python", "/bin/true"]
        sys.exit(run_command(argv, dict(os.environ), Path.cwd(), sys.executable))
    """)
    job = python(driver)
    assert job.wait() == 0, job.told()
    [told] = job.events(SupervisionChanged)
    assert told.what.startswith("no supervisor (")
    assert "will outlive this agent if it is killed" in job.stderr


def test_an_agent_inside_a_worker_goes_with_what_it_has_started(
    rally: Rally, script: Script, mark: str
) -> None:
    inner = leaving(script, ("daemon", "own_session"), "signal.pause()", "inner.py")
    words = ["-m", "toolkit", "run", "--standalone", "--run-dir", "inner", str(inner)]
    outer = script(f"os.execv(sys.executable, [sys.executable, *{words!r}])", "outer.py")
    job = rally("--standalone", outer)
    pids = left(job, 2)
    job.wait_for_lines("up")
    job.signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    gone(pids)
    until("nobody left", lambda: not marked(mark), AFTERLIFE_S)


def test_the_supervisor_of_an_agent_inside_a_worker_is_no_daemon_of_the_users(
    rally: Rally, script: Script
) -> None:
    inner = script("print('up', flush=True); signal.pause()", "inner.py")
    words = ["-m", "toolkit", "run", "--standalone", "--run-dir", "inner", str(inner)]
    outer = script(f"os.execv(sys.executable, [sys.executable, *{words!r}])", "outer.py")
    job = rally("--standalone", outer)
    job.wait_for_lines("up")
    job.signal(signal.SIGTERM)
    assert job.wait() == 128 + signal.SIGTERM, job.told()
    assert [event.escaped for event in job.events(WorkersStopped)] == [[]]
