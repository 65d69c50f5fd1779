"""`--forward-signals`: a signal to the agent goes on to its workers, each once, and nobody dies of it."""

import signal
from pathlib import Path

from toolkit.core.events import FailureRecorded, SignalForwarded, SignalReceived, WorkersStopping

from .conftest import Rally, Script
from .jobs import RALLY, Job, alive, clean_environment

FORWARD = ("--standalone", "--nproc-per-node", "2", "--forward-signals", "SIGUSR1,SIGUSR2")
#: says which signals it gets
LISTENER = """
    rank = os.environ["RANK"]
    def note(signum, frame):
        say("got", rank, signal.Signals(signum).name)
    for sig in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(sig, note)
    say("up", rank)
    wait_for("end")
"""


def end(job: Job, code: int = 0) -> None:
    (job.run_dir.parent / "end").touch()
    assert job.wait() == code, job.told()
    assert "Traceback" not in job.stderr


def test_each_worker_gets_it_once(rally: Rally, script: Script) -> None:
    job = rally(*FORWARD, script(LISTENER))
    job.wait_for_lines("up", 2)
    job.signal(signal.SIGUSR1)
    assert sorted(job.wait_for_lines("got", 2)) == ["got 0 SIGUSR1", "got 1 SIGUSR1"]
    job.signal(signal.SIGUSR2)
    assert sorted(job.wait_for_lines("got", 4))[1::2] == ["got 0 SIGUSR2", "got 1 SIGUSR2"]
    end(job)
    assert len(job.wait_for_lines("got", 4)) == 4
    told = [(went.signal, went.local_ranks, went.waiting) for went in job.events(SignalForwarded)]
    assert told == [("SIGUSR1", [0, 1], []), ("SIGUSR2", [0, 1], [])]
    assert job.events(SignalReceived) == [], "it is no death signal"
    assert "rally: SIGUSR1 went on to local ranks 0-1" in job.stderr
    [node] = job.timeline().nodes.values()
    assert [went.name for went in node.forwarded] == ["SIGUSR1", "SIGUSR2"]


def test_who_has_no_handler_yet_gets_it_later(rally: Rally, script: Script) -> None:
    """A worker that still imports must not die of it."""
    job = rally(*FORWARD, script("say('begins'); wait_for('go on')\n" + "if True:" + LISTENER))
    job.wait_for_lines("begins", 2)
    job.signal(signal.SIGUSR1)
    [first] = job.wait_for_events(SignalForwarded)
    assert (first.local_ranks, first.waiting) == ([], [0, 1])
    (job.run_dir.parent / "go on").touch()
    assert sorted(job.wait_for_lines("got", 2)) == ["got 0 SIGUSR1", "got 1 SIGUSR1"]
    end(job)
    assert sorted(rank for went in job.events(SignalForwarded) for rank in went.local_ranks) == [0, 1]
    assert job.events(FailureRecorded) == []


def test_who_never_has_a_handler_lives_on(rally: Rally, script: Script) -> None:
    job = rally(*FORWARD, script("say('up'); wait_for('end')"))
    job.wait_for_lines("up", 2)
    job.signal(signal.SIGUSR1)
    job.wait_for_events(SignalForwarded)
    end(job)
    assert len(job.events(SignalForwarded)) == 1
    assert "local ranks 0-1 have no handler for SIGUSR1" in job.stderr


def test_helpers_of_a_worker_get_nothing(rally: Rally, script: Script) -> None:
    """They are in its process group, and would die."""
    worker = script(
        LISTENER.replace(
            'wait_for("end")',
            """import subprocess
    child = subprocess.Popen(["/bin/sleep", "600"])
    say("child", child.pid)
    wait_for("end")""",
        )
    )
    job = rally(*FORWARD, worker)
    pids = [int(line.split()[1]) for line in job.wait_for_lines("child", 2)]
    job.signal(signal.SIGUSR1)
    job.wait_for_lines("got", 2)
    assert all(alive(pid) for pid in pids)
    end(job)


def test_a_shell_script_gets_it(rally: Rally, tmp_path: Path) -> None:
    """As Slurm's users have it: the script is what was started, and it traps the signal."""
    shell = tmp_path / "train.sh"
    shell.write_text("#!/bin/sh\ntrap 'echo warned; exit 0' USR1\necho up\nwhile :; do sleep 0.05; done\n")
    shell.chmod(0o755)
    job = rally(*FORWARD, "--no-python", shell)
    job.wait_for_lines("up", 2)
    job.signal(signal.SIGUSR1)
    assert job.wait() == 0, job.told()
    assert job.lines.count("warned") == 2


def test_what_comes_while_workers_are_stopped_is_for_the_next(rally: Rally, script: Script) -> None:
    worker = script("""
        def leave(signum, frame):
            wait_for("sent")
            sys.exit(0)
        def note(signum, frame):
            say("got", os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"])
        signal.signal(signal.SIGTERM, leave)
        signal.signal(signal.SIGUSR1, note)
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            if os.environ["RANK"] == "1":
                wait_for("ready")
                sys.exit(3)
            open("ready", "w").close()
        wait_for("end")
    """)
    job = rally(*FORWARD, "--max-restarts", "1", worker)
    job.wait_for_events(WorkersStopping)
    job.signal(signal.SIGUSR1)
    (job.run_dir.parent / "sent").touch()
    assert sorted(job.wait_for_lines("got", 2)) == ["got 0 1", "got 1 1"]
    end(job)


def test_without_the_option_it_ends_the_agent_as_ever(rally: Rally, script: Script) -> None:
    job = rally("--standalone", script("say('up'); wait_for('end')"))
    job.wait_for_lines("up")
    job.signal(signal.SIGUSR1)
    assert job.wait() == -signal.SIGUSR1


def test_show_tells_of_it(rally: Rally, script: Script, tmp_path: Path) -> None:
    import subprocess

    job = rally(*FORWARD, script(LISTENER))
    job.wait_for_lines("up", 2)
    job.signal(signal.SIGUSR1)
    job.wait_for_lines("got", 2)
    end(job)
    shown = subprocess.run(
        [*RALLY, "show", str(job.run_dir)],
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "SIGUSR1 went on to local ranks 0-1, at " in shown.stdout
