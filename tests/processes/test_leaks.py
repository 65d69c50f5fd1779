"""An agent that restarts its workers again and again holds no more than at first, and one that waits does nothing."""

import signal
from pathlib import Path

import pytest

from toolkit.core.events import GroupStateChanged, WorkersStarted

from .conftest import Python, Rally, Script
from .jobs import Job, children, until

#: tells of its incarnation, and in all but the last waits for leave to crash
STEP = """
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    say("up", attempt)
    if attempt < 20:
        wait_for(f"crash {attempt}")
        sys.exit(1)
    wait_for("end")
"""


def holdings(pid: int) -> dict[str, int]:
    """What a process holds."""
    process = Path(f"/proc/{pid}")
    return {
        "descriptors": len(list((process / "fd").iterdir())),
        "threads": len(list((process / "task").iterdir())),
        "children": len(children(pid)),
    }


@pytest.mark.parametrize("logs", ["console", "files", "tee"])
def test_twenty_restarts_leave_nothing_behind(
    rally: Rally, script: Script, tmp_path: Path, logs: str
) -> None:
    words = {"console": (), "files": ("--redirects", "3"), "tee": ("--tee", "3")}[logs]
    job = rally("--standalone", "--max-restarts", "20", *words, script(STEP), env={"TMPDIR": str(tmp_path)})
    at_rest(job, 0)
    before = holdings(job.pid)
    assert before["children"] == 1
    for attempt in range(20):
        (tmp_path / f"crash {attempt}").touch()
        at_rest(job, attempt + 1)
    until(f"no more than {before}", lambda: holdings(job.pid) == before, 5)
    (tmp_path / "end").touch()
    assert job.wait() == 0, job.told()
    assert job.timeline().restarts_used == 20
    assert [
        path.name for path in tmp_path.iterdir() if path.name.startswith(("rally", "tmp", "torchelastic"))
    ] == []


#: crashes again and again, each time leaving a daemon behind; waits where it is told to, and in the last incarnation
CRASHES = """#!/bin/sh
setsid sleep 600 &
case " $WAITS_AT " in
    *" $TORCHELASTIC_RESTART_COUNT "*)
        echo up $TORCHELASTIC_RESTART_COUNT
        while [ ! -e "go $TORCHELASTIC_RESTART_COUNT" ]; do sleep 0.01; done
esac
test "$TORCHELASTIC_RESTART_COUNT" = 200
"""


def test_two_hundred_restarts_leave_nothing_behind(rally: Rally, tmp_path: Path) -> None:
    """No process, descriptor, thread or file more than after the first twenty, and less than 5 MB of memory."""
    worker = tmp_path / "crashes.sh"
    worker.write_text(CRASHES)
    worker.chmod(0o755)
    words = ("--standalone", "--nproc-per-node", "2", "--max-restarts", "200", "--tee", "3", "--no-python")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    env = {"TMPDIR": str(scratch), "WAITS_AT": "20 200"}
    job = rally(*words, worker, env=env)

    def held(attempt: int) -> tuple[dict[str, int], int, list[str], int]:
        until(f"attempt {attempt}", lambda: f"up {attempt}" in job.stdout, 150)
        at_rest(job, attempt)
        ours = processes_below(job)
        until("no more than the workers and theirs", lambda: len(processes_below(job)) <= 2 * 3, 10)
        memory = int(Path(f"/proc/{job.pid}/status").read_text().split("VmRSS:")[1].split()[0])
        return holdings(job.pid), memory, sorted(path.name for path in scratch.iterdir()), len(ours)

    before = held(20)
    (tmp_path / "go 20").touch()
    after = held(200)
    until(
        f"no more than {before}",
        lambda: all(count <= before[0][what] for what, count in holdings(job.pid).items()),
    )
    print("after 20 restarts", before, "after 200", after)
    assert after[1] - before[1] < 5_000, "kB"
    assert after[2] == before[2] == []
    (tmp_path / "go 200").touch()
    assert job.wait() == 0, job.told()
    assert job.timeline().restarts_used == 200


def processes_below(job: Job) -> set[int]:
    """All that descend from the agent, by their parents."""
    found, waiting = set(), [job.pid]
    while waiting:
        try:
            new = children(waiting.pop())
        except FileNotFoundError:
            continue
        found.update(new)
        waiting += new
    return found


def at_rest(job: Job, attempt: int) -> None:
    """Wait until that incarnation is up and the agent waits for it."""
    until(f"incarnation {attempt}", lambda: len(job.events(WorkersStarted)) > attempt)
    until("the healthy state", lambda: [e.after for e in job.events(GroupStateChanged)][-1:] == ["HEALTHY"])


def test_an_agent_that_waits_does_nothing(rally: Rally, script: Script) -> None:
    """No poll: while the workers run for three seconds it is woken hardly ever. One at 0.1 s would be 30 times.

    Readings are the exception, and not of its loop.
    """
    worker = script("""
        say("up")
        time.sleep(3)
        say("slept")
        wait_for("end")
    """)
    words = ("--nproc-per-node", "2", "--monitor-interval", "0.01", "--readings-interval", "0")
    job = rally("--standalone", *words, worker)
    job.wait_for_lines("up", 2)
    at_rest(job, 0)
    before = effort(job.pid)
    job.wait_for_lines("slept", 2)
    ticks, switches = (after - earlier for after, earlier in zip(effort(job.pid), before, strict=True))
    assert switches <= 15, "times that it slept and was woken, over all threads"
    assert ticks <= 5, "hundredths of a second on a CPU"
    (job.run_dir.parent / "end").touch()
    assert job.wait() == 0, job.told()


def effort(pid: int) -> tuple[int, int]:
    """CPU time in ticks, and voluntary context switches of all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    switches = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = (task / "status").read_text()
        switches += int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return int(fields[11]) + int(fields[12]), switches


def test_an_agent_uses_no_torch_on_one_node(python: Python, script: Script) -> None:
    """What `rally run --standalone` imports to the end of a job that failed and was started anew."""
    driver = script("""
        from pathlib import Path
        from toolkit.fronts.run import run_command
        argv = ["--standalone", "--max-restarts", "1", "--run-dir", os.environ["RUN_DIR"], "--no-python", "/bin/false"]
        code = run_command(argv, dict(os.environ), Path.cwd(), sys.executable)
        assert code == 1, code
        say(sorted({"torch", "numpy", "textual", "asyncio", "multiprocessing"} & set(sys.modules)))
    """)
    job = python(driver)
    assert job.wait() == 0, job.told()
    assert job.lines == ["[]"]


def test_the_agent_is_small_and_alone(rally: Rally, script: Script) -> None:
    """No child but the workers; no more memory than a Python program of its size needs."""
    job = rally("--standalone", "--nproc-per-node", "2", script("say('up'); signal.pause()"))
    job.wait_for_lines("up", 2)
    at_rest(job, 0)
    held = holdings(job.pid)
    assert held["children"] == 2
    own = "its own, one each for the recording, output, readings, hangs and whoever watches"
    assert held["threads"] <= 6, own
    resident_kb = int(Path(f"/proc/{job.pid}/status").read_text().split("VmRSS:")[1].split()[0])
    assert resident_kb < 66_000, "0.3 of torchrun's 220 MB"
    job.signal(signal.SIGTERM)
    assert job.wait() == 128 + signal.SIGTERM
