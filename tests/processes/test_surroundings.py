"""Odd places to be started in: what a scheduler, a shell or a supervisor leaves to its children."""

import os
import shlex
import signal
import subprocess
from pathlib import Path

from toolkit.adapters.recording.reader import read_run
from toolkit.core.events import WorkerExited
from toolkit.core.timeline import fold_all

from .conftest import Rally, Script
from .jobs import RALLY, clean_environment


def test_a_parent_that_ignores_its_children(rally: Rally, script: Script) -> None:
    """With SIGCHLD ignored the kernel reaps children itself, exit codes and all; a child inherits that."""

    def ignore_children() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    worker = script("sys.exit(3 if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0' else 4)")
    job = rally("--standalone", "--max-restarts", "1", worker, before_exec=ignore_children)
    assert job.wait() == 4, job.told()
    assert [event.exit_code for event in job.events(WorkerExited)] == [3, 4]


def test_closed_standard_streams(rally: Rally, script: Script) -> None:
    """What the workers print must not end up in whatever file got the number of the closed stream."""

    def close_all() -> None:
        for fd in range(3):
            os.close(fd)

    worker = script("""
        for fd in (1, 2):
            os.write(fd, b"to nobody\\n")
        os.write(2, b"the end\\n")  # which is told with the failure
        sys.exit(3)
    """)
    job = rally("--standalone", "--nproc-per-node", "2", worker, before_exec=close_all)
    assert job.wait() == 3, job.told()
    assert job.timeline().state == "failed"
    assert "to nobody" not in "".join(path.read_text() for path in job.run_dir.iterdir() if path.is_file())


def test_arguments_that_are_no_text(rally: Rally, script: Script) -> None:
    worker = script("os.write(1, os.fsencode(sys.argv[1]) + b'\\n')")
    job = rally("--standalone", worker, os.fsdecode(b"caf\xe9"))
    assert job.wait() == 0, job.told()
    assert (job.run_dir.parent / "job0.out").read_bytes() == b"caf\xe9\n"
    assert job.timeline().state == "succeeded"


def test_a_script_whose_name_has_spaces_and_signs(rally: Rally, script: Script) -> None:
    worker = script("say('up', sys.argv[1])", "my $other é; 'script'.py")
    job = rally("--standalone", worker, "$HOME")
    assert job.wait() == 0, job.told()
    assert job.lines == ["up $HOME"]


def test_a_stray_process_that_holds_the_output_open(rally: Rally, script: Script) -> None:
    """A daemon that left the worker's session, and is to stay, keeps its pipes; nobody waits for it."""
    worker = script("""
        import subprocess
        stray = subprocess.Popen(["/bin/sleep", "600"], start_new_session=True, env={**os.environ, "RALLY_KEEP": "1"})
        say("up", stray.pid)
    """)
    job = rally("--standalone", "--tee", "3", worker)
    code = job.wait(10)
    [line] = [line for line in job.lines if "up" in line]
    os.kill(int(line.split()[1]), signal.SIGKILL)
    assert code == 0, job.told()


def test_a_reader_that_goes_away(script: Script, tmp_path: Path) -> None:
    """`rally run ... | head -1`: the job may end or go on, but the agent neither hangs nor breaks."""
    worker = script("""
        for line in range(100_000):
            say("line", line)
    """)
    words = [*RALLY, "run", "--standalone", "--tee", "1", "--run-dir", "run", str(worker)]
    ended = subprocess.run(
        ["/bin/bash", "-c", f"{shlex.join(words)} | head -1"],
        cwd=tmp_path,
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.stdout == "[default0]:line 0\n"
    assert "Traceback" not in ended.stderr
    assert fold_all(read_run(tmp_path / "run").events()).state == "succeeded", (
        "the file takes what the reader left"
    )
