"""A full disk costs lines, not the job: of logs and of the recording. It is counted, and told while it happens."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.disks import fill
from toolkit.adapters.recording.reader import read_run
from toolkit.core.events import AgentFinished, EventsDropped, LogsLost, WorkerExited, WorkersStarted

from .conftest import Rally, Script
from .jobs import RALLY, Job, clean_environment

#: twice what the disk holds, in lines of 64 bytes, then wait for the word
WORDY = """
    for number in range(32_768):
        print(f"{number:063}")
    sys.stdout.flush()
    os.write(2, b"all said\\n")
    wait_for("go on")
    print("the last line", flush=True)
"""


@pytest.mark.parametrize("option", ["--redirects", "--tee"])
def test_a_full_disk_costs_lines_and_not_the_job(
    rally: Rally, script: Script, small_disk: Path, tmp_path: Path, option: str
) -> None:
    job = rally("--standalone", "--log-dir", small_disk, option, "1", script(WORDY))
    [first] = job.wait_for_events(LogsLost)
    assert not job.events(WorkerExited), "it is told while the workers run"
    assert "No space left on device" in first.problem
    (tmp_path / "go on").touch()
    assert job.wait() == 0, job.told()
    [log] = small_disk.rglob("stdout.log")
    last = job.events(LogsLost)[-1]
    assert last.path == str(log)
    whole = b"".join(b"%063d\n" % number for number in range(32_768)) + b"the last line\n"
    kept = log.read_bytes()
    assert whole.startswith(kept)
    assert len(kept) > 900_000
    assert last.lost_bytes == len(whole) - len(kept)
    assert last.lost_lines == whole.count(b"\n") - kept.count(b"\n")
    assert "lines (" in job.stderr
    assert " lost so far, the workers go on" in job.stderr
    assert (
        f"{last.lost_lines} lines (1.0 MB) of the workers' output are lost in all, in 1 log\n" in job.stderr
    )
    if option == "--tee":
        assert job.stdout.count("[default0]:") == 32_769, "the console has them all"
    shown = _shown(job, tmp_path)
    assert f"{last.lost_lines} lines (1.0 MB) of output are lost" in shown, shown
    assert str(log) in shown


def test_a_restart_on_a_full_disk_goes_on(
    rally: Rally, script: Script, small_disk: Path, tmp_path: Path
) -> None:
    worker = script("""
        say("up")
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            wait_for("go on")
            sys.exit(3)
    """)
    job = rally("--standalone", "--max-restarts", "1", "--log-dir", small_disk, "--tee", "3", worker)
    job.wait_for_lines("[default0]:up")
    fill(small_disk)
    (tmp_path / "go on").touch()
    assert job.wait() == 0, job.told()
    job.wait_for_lines("[default0]:up", 2)
    assert [event.exit_code for event in job.events(WorkerExited)] == [3, 0]


def test_a_recording_on_a_full_disk_still_tells_who_failed(
    rally: Rally, script: Script, small_disk: Path, tmp_path: Path
) -> None:
    worker = script("""
        say("up")
        wait_for("go on")
        sys.exit(7)
    """)
    job = rally("--standalone", "--max-restarts", "3", "--redirects", "2", worker, run_dir=small_disk / "run")
    job.wait_for_lines("up")
    fill(small_disk)
    (tmp_path / "go on").touch()
    assert job.wait() == 7, job.told()
    assert len(job.wait_for_lines("up", 4)) == 4
    assert [event.exit_code for event in job.events(WorkerExited)] == [7] * 4
    [finished] = job.events(AgentFinished)
    assert finished.result == "FAILED"
    assert job.timeline().state == "failed"
    shown = _shown(job, tmp_path)
    assert shown.count("exited with code 7") == 4, shown
    assert "vanished" not in shown


def test_a_recording_that_has_used_up_its_reserve_still_tells_the_end(
    rally: Rally, tmp_path: Path, small_disk: Path
) -> None:
    worker = tmp_path / "worker.sh"
    worker.write_text(f"""\
#!/bin/sh
[ "$RANK" = 0 ] || exec sleep 600
echo up
until [ -e "{tmp_path}/go on" ]; do sleep 0.05; done
exit 7
""")
    worker.chmod(0o755)
    job = rally(
        *("--standalone", "--nproc-per-node", "64", "--max-restarts", "9", "--no-python", worker),
        run_dir=small_disk / "run",
    )
    job.wait_for_events(WorkersStarted)
    fill(small_disk)
    (tmp_path / "go on").touch()
    assert job.wait() == 7, job.told()
    assert f"cannot record in {small_disk}" in job.stderr
    assert "events could not be recorded in" in job.stderr
    assert job.stderr.count("No space left on device; the run goes on") == 1, "once, and a count at the end"
    assert read_run(small_disk / "run").counters.invalid == 0
    [dropped] = job.events(EventsDropped)
    assert f"{dropped.count} events could not be recorded in" in job.stderr
    [finished] = job.events(AgentFinished)
    assert finished.result == "FAILED"
    assert job.timeline().state == "failed"
    assert "vanished" not in _shown(job, tmp_path)


def _shown(job: Job, tmp_path: Path) -> str:
    """What `rally show` says of it."""
    return subprocess.run(
        [*RALLY, "show", str(job.run_dir)], env=clean_environment(tmp_path), capture_output=True, check=True
    ).stdout.decode()
