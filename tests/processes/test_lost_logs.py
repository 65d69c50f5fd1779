"""A full disk costs lines, not the job: of logs and of the recording. It is counted, and told while it happens."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolkit.adapters.recording.reader import read_run
from toolkit.core.events import LogsLost, WorkerExited

from .conftest import Rally, Script
from .jobs import RALLY, clean_environment

#: twice what the disk holds, in lines of 64 bytes, then wait for the word
WORDY = """
    for number in range(32_768):
        print(f"{number:063}")
    sys.stdout.flush()
    os.write(2, b"all said\\n")
    wait_for("go on")
    print("the last line", flush=True)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    where = tmp_path / "disk"
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(where)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


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
    shown = subprocess.run(
        [*RALLY, "show", str(job.run_dir)], env=clean_environment(tmp_path), capture_output=True, check=True
    ).stdout.decode()
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
    _fill(small_disk)
    (tmp_path / "go on").touch()
    assert job.wait() == 0, job.told()
    job.wait_for_lines("[default0]:up", 2)
    assert [event.exit_code for event in job.events(WorkerExited)] == [3, 0]


def test_a_recording_on_a_full_disk_ends_as_it_should_and_says_so(
    rally: Rally, script: Script, small_disk: Path, tmp_path: Path
) -> None:
    worker = script("""
        say("up")
        wait_for("go on")
        sys.exit(7)
    """)
    job = rally("--standalone", "--max-restarts", "3", "--redirects", "2", worker, run_dir=small_disk / "run")
    job.wait_for_lines("up")
    _fill(small_disk)
    (tmp_path / "go on").touch()
    assert job.wait() == 7, job.told()
    assert len(job.wait_for_lines("up", 4)) == 4
    assert f"cannot record in {small_disk}" in job.stderr
    assert "events could not be recorded in" in job.stderr
    assert job.stderr.count("No space left on device; the run goes on") == 1, "once, and a count at the end"
    assert read_run(small_disk / "run").counters.invalid == 0


def _fill(disk: Path) -> None:
    """Until not a byte more fits."""
    with (disk / "filler").open("wb", buffering=0) as filler:
        for size in (4096, 1):
            try:
                while True:
                    filler.write(b"x" * size)
            except OSError:
                pass
    assert os.statvfs(disk).f_bavail == 0
