"""`rally logs` of real runs: which output it shows, on a pipe and on a terminal, and how it follows a run."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from toolkit.core.events import WorkersStarted

from .conftest import Rally, Script
from .jobs import PATIENCE_S, RALLY, Job, clean_environment

#: says a line a stream; rank 1 fails once. The lines of stderr have times, those of rank 1 before those of rank 0.
WORKER = """
    rank, attempt = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
    os.write(1, f"out {rank} {attempt}\\nlast {rank}".encode())
    for n in range(3):
        os.write(2, f"2026-01-02 03:04:0{n}.{9 - int(rank)}00 err {rank} {attempt} {n}\\n  more {rank} {n}\\n".encode())
    open(f"up {rank} {attempt}", "w").close()
    if attempt == "0":
        wait_for("up 0 0")
        wait_for("up 1 0")
        if rank == "1":
            sys.exit(3)
        signal.pause()
"""


class Logs:
    """Calls `rally logs` on one run."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job = job
        self.folder = folder

    def __call__(self, *words: str, code: int = 0, stdout: int = subprocess.PIPE) -> tuple[str, str]:
        done = subprocess.run(
            [*RALLY, "logs", str(self.job.run_dir), *words],
            env=clean_environment(self.folder),
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=PATIENCE_S,
            check=False,
        )
        told = done.stderr.decode()
        assert done.returncode == code, told
        return (done.stdout or b"").decode(), told

    def start(
        self, *words: str, stdout: int = subprocess.PIPE, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*RALLY, "logs", str(self.job.run_dir), *words],
            env=clean_environment(self.folder) | dict(env or {}),
            stdout=stdout,
            stderr=subprocess.PIPE,
        )


@pytest.fixture
def logs(rally: Rally, script: Script, tmp_path: Path) -> Logs:
    job = rally(
        "--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "--redirects", "3", script(WORKER)
    )
    assert job.wait() == 0, job.told()
    return Logs(job, tmp_path)


def test_one_log_comes_as_it_is(logs: Logs) -> None:
    assert logs("--rank", "1", "--stdout") == ("out 1 1\nlast 1\n", "")
    assert logs("--rank", "1", "--stdout", "--previous")[0] == "out 1 0\nlast 1\n"
    assert logs("--rank", "0", "--stdout", "--incarnation", "0")[0] == "out 0 0\nlast 0\n"
    assert logs("--local-rank", "0", "--node", "", "--stdout")[0] == "out 0 1\nlast 0\n"


def test_several_logs_have_headings(logs: Logs) -> None:
    said, _ = logs("--stdout")
    heading = re.compile(r"==> rank (\d), start 1, stdout: \S+/attempt_1/\d/stdout\.log <==")
    first, *rest = said.splitlines()
    assert heading.fullmatch(first), first
    assert rest[:3] == ["out 0 1", "last 0", ""]
    assert heading.fullmatch(rest[3])
    assert rest[4:] == ["out 1 1", "last 1"]


def test_merged_by_the_times_in_the_lines(logs: Logs) -> None:
    said, _ = logs("--stderr", "--merge")
    expected = [
        f"[rank {rank}] {text}"
        for n in range(3)
        for rank in (1, 0)
        for text in (f"2026-01-02 03:04:0{n}.{9 - rank}00 err {rank} 1 {n}", f"  more {rank} {n}")
    ]
    assert said.splitlines() == expected
    assert logs("--stderr", "--merge", "--tail", "3")[0].splitlines() == expected[-3:]
    assert "[rank 1 err] " in logs("--merge")[0]


def test_since_tail_and_grep(logs: Logs) -> None:
    one = ("--rank", "1", "--stderr")
    lines = logs(*one)[0].splitlines()
    assert logs(*one, "--tail", "2")[0].splitlines() == lines[-2:]
    assert logs(*one, "--tail", "0") == ("", "")
    assert logs(*one, "--since", "2026-01-02T03:04:01")[0].splitlines() == lines[2:]
    assert logs(*one, "--since", "10m") == ("", "")
    assert logs(*one, "--grep", r"err \d 1 [02]$")[0].splitlines() == [lines[0], lines[4]]
    assert logs(*one, "--grep", "err", "--tail", "1")[0].splitlines() == [lines[4]], "the last that matches"
    assert logs("--rank", "1", "--stdout", "--since", "10m")[0] == "out 1 1\nlast 1\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--rank", "9"], "this run has no rank 9; it has ranks 0-1"),
        (["--rank", "one"], "--rank is 'one'; give ranks such as 3 or 0,4-7"),
        (["--rank", "3-1"], "--rank has '3-1'; give the lower rank first"),
        (["--node", "nobody"], "no node of this run begins with 'nobody'; there are "),
        (["--incarnation", "7"], "have no incarnation 7; there are 0, 1"),
        (["--grep", "a("], "--grep is 'a(': missing ), unterminated subpattern at position 1"),
        (["--since", "soon"], "--since is 'soon'; give an age such as"),
        (["--tail", "-1"], "--tail is -1; give 0 or more lines"),
        (["--follow", "--previous"], "leave --previous"),
        (["--nonsense"], "`rally logs --help` has the options"),
    ],
)
def test_what_can_not_be_shown_is_said(logs: Logs, words: list[str], told: str) -> None:
    said, error = logs(*words, code=2)
    assert said == ""
    assert told in error
    assert "Traceback" not in error


def test_output_that_is_in_no_file(rally: Rally, script: Script, tmp_path: Path) -> None:
    job = rally("--standalone", script("say('to the console')"))
    assert job.wait() == 0
    said, told = Logs(job, tmp_path)(code=2)
    assert said == ""
    assert "went to the console and is in no file; `rally run --tee 3`" in told
    said, told = Logs(job, tmp_path)("--previous", code=2)
    assert "started only once" in told


@pytest.mark.parametrize("option", [(), ("--log-max-size", "64kB")], ids=["whole", "in pieces"])
def test_it_follows_a_run_over_its_restart_to_its_end(
    rally: Rally, script: Script, tmp_path: Path, option: tuple[str, ...]
) -> None:
    worker = script("""
        rank, attempt = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
        for number in range(3000):
            say(attempt, rank, f"{number:06}", "x" * 50)
            if number % 500 == 0:
                wait_for(f"go {attempt} {number}")
        if rank == "1" and attempt == "0":
            sys.exit(3)
        wait_for(f"end {attempt}")
    """)
    job = rally(
        *("--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "--tee", "1", *option),
        *("--local-ranks-filter", "0", worker),
    )
    job.wait_for_events(WorkersStarted)
    logs = Logs(job, tmp_path)
    with ended(logs.start("--rank", "1", "--stdout", "--follow")) as one:
        assert one.stdout is not None
        got = []
        for attempt in range(2):
            for number in range(3000):
                if number % 500 == 0:
                    # It has come here before the worker goes on: no piece is deleted unread.
                    got.append(one.stdout.readline())
                    (tmp_path / f"go {attempt} {number}").touch()
                else:
                    got.append(one.stdout.readline())
        (tmp_path / "end 1").touch()
        assert one.wait(PATIENCE_S) == 0
        assert one.stdout.read() == b""
        assert one.stderr is not None
        assert b"rank 1 was started again, stdout of start 1 follows" in one.stderr.read()
    assert got == [b"%d 1 %06d %s\n" % (a, n, b"x" * 50) for a in range(2) for n in range(3000)]
    assert job.wait() == 0, job.told()


def test_following_several_ranks_gives_each_line_its_rank(
    rally: Rally, script: Script, tmp_path: Path
) -> None:
    worker = script("""
        say("up"); wait_for("go"); say("done")
    """)
    job = rally("--standalone", "--nproc-per-node", "2", "--redirects", "3", worker)
    job.wait_for_events(WorkersStarted)
    with ended(Logs(job, tmp_path).start("-f")) as every:
        assert every.stdout is not None
        assert sorted(every.stdout.readline() for _ in range(2)) == [b"[rank 0] up\n", b"[rank 1] up\n"]
        (tmp_path / "go").touch()
        assert sorted(every.stdout) == [b"[rank 0] done\n", b"[rank 1] done\n"]
        assert every.wait(PATIENCE_S) == 0


def test_ctrl_c_and_a_reader_that_goes_away_are_no_errors(
    rally: Rally, script: Script, tmp_path: Path
) -> None:
    worker = script("""
        for n in range(200_000):
            sys.stdout.write(f"line {n}\\n")
        sys.stdout.flush()
        open("written", "w").close()
        wait_for("go")
    """)
    job = rally("--standalone", "--redirects", "1", worker)
    job.wait_for_events(WorkersStarted)
    logs = Logs(job, tmp_path)
    with ended(logs.start("-f", "--stdout")) as one:
        assert one.stdout is not None and one.stderr is not None
        assert one.stdout.readline() == b"[rank 0] line 0\n"
        one.stdout.close()
        assert one.wait(PATIENCE_S) == 141
        assert one.stderr.read() == b""
    with ended(logs.start("-f", "--stdout", "--tail", "1")) as one:
        assert one.stdout is not None and one.stderr is not None
        assert one.stdout.readline().startswith(b"[rank 0] line ")
        one.send_signal(signal.SIGINT)
        assert one.wait(PATIENCE_S) == 130
        assert one.stderr.read() == b""
    (tmp_path / "go").touch()
    assert job.wait() == 0


@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_terminal_gets_colours_and_nothing_else_that_commands_it(
    rally: Rally, script: Script, tmp_path: Path, no_color: str
) -> None:
    worker = script(r"""
        os.write(1, b"\x1b[31mred\x1b[0m \x1b]0;title\x07\x1b[2J10%\r\x1b[1Abar 20%\nbell\x07\xff\n")
    """)
    job = rally("--standalone", "--nproc-per-node", "2", "--redirects", "3", worker)
    assert job.wait() == 0
    master, slave = os.openpty()
    found: list[bytes] = []

    def read() -> None:
        while True:
            try:
                part = os.read(master, 4096)
            except OSError:
                part = b""
            if not part:
                return
            found.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    with ended(
        Logs(job, tmp_path).start("--merge", stdout=slave, env={"NO_COLOR": no_color, "TERM": "xterm"})
    ) as one:
        assert one.wait(PATIENCE_S) == 0
    os.close(slave)
    reader.join(PATIENCE_S)
    os.close(master)
    shown = b"".join(found)
    if no_color:
        assert b"\x1b" not in shown
        assert shown.splitlines()[0] == b"[rank 0] bar 20%"
    else:
        assert shown.splitlines()[0] == b"\x1b[36m[rank 0] \x1b[0mbar 20%\x1b[0m"
    assert shown.count(b"bell\xff") == 2
    raw, _ = Logs(job, tmp_path)("--rank", "0", "--stdout", "--grep", "bar")
    assert raw == "\x1b[31mred\x1b[0m \x1b]0;title\x07\x1b[2J10%\r\x1b[1Abar 20%\n", (
        "a pipe gets what was written"
    )


def test_the_end_of_a_huge_log_needs_neither_time_nor_memory(logs: Logs) -> None:
    [log] = (logs.job.run_dir / "logs").rglob("attempt_1/0/stdout.log")
    with log.open("r+b") as file:
        file.truncate(3 << 30)  # holes: zeros that take no room
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + b"".join(b"line %d\n" % n for n in range(100)))
    limit = 400 << 20
    done = subprocess.run(
        [*RALLY, "logs", str(logs.job.run_dir), "--rank", "0", "--stdout", "--tail", "10"],
        env=clean_environment(logs.folder),
        capture_output=True,
        timeout=PATIENCE_S,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        check=True,
    )
    assert done.stdout == b"".join(b"line %d\n" % n for n in range(90, 100))


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        with process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        assert process.returncode is not None
