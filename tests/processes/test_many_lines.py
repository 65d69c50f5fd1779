"""16 workers print 100,000 lines each, as fast as they can: none is lost, none is torn, wherever they go."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from toolkit.core.events import LogsLost

from .conftest import Python, Rally, Script

WORKERS, LINES = 16, 100_000
#: 1.6 million lines on a machine that does other things, too
LONG_S = 240.0

#: even lines are written in large blocks, odd ones with a call each; lines have different lengths
WORKER = f"""
    rank = os.environ["RANK"]
    for number in range({LINES}):
        line = f"{{rank}} {{number}} {{'x' * (number * 7 % 50)}}.\\n"
        (sys.stderr if number % 2 else sys.stdout).write(line)
"""

#: runs the command with a console of its own, and keeps all that comes out of it
CONSOLE = """
    import pty, subprocess
    kind, kept, *command = sys.argv[1:]
    ours, theirs = os.openpty() if kind == "terminal" else os.pipe()
    job = subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL)
    os.close(theirs)
    with open(kept, "wb") as file:
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:
                break
            if not part:
                break
            file.write(part)
    sys.exit(job.wait())
"""


@pytest.mark.parametrize("option", ["--redirects", "--tee"])
def test_in_files(rally: Rally, script: Script, option: str) -> None:
    job = rally("--standalone", "--nproc-per-node", str(WORKERS), option, "3", script(WORKER))
    assert job.wait(LONG_S) == 0, job.stderr[-2000:]
    assert not job.events(LogsLost)
    [logs] = (job.run_dir / "logs").iterdir()
    for rank in range(WORKERS):
        for odd, name in enumerate(("stdout", "stderr")):
            with (logs / f"attempt_0/{rank}/{name}.log").open("rb") as file:
                assert list(file) == [expected(rank, number) for number in range(odd, LINES, 2)]
    if option == "--tee":
        # The test's console is two files.
        for odd, text in enumerate((job.stdout, job.stderr)):
            told = [line for line in text.splitlines() if not line.startswith("rally: ")]
            check(told, odd)


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_on_a_console_that_is(python: Python, script: Script, tmp_path: Path, kind: str) -> None:
    worker, console = script(WORKER), script(CONSOLE, "console.py")
    words = (
        "run",
        "--run-dir",
        tmp_path / "run",
        "--standalone",
        "--nproc-per-node",
        str(WORKERS),
        "--tee",
        "3",
    )
    job = python(console, kind, tmp_path / "kept", sys.executable, "-m", "toolkit.fronts.cli", *words, worker)
    assert job.wait(LONG_S) == 0, job.told()
    # A status line is drawn below the output, and erased before there is more.
    shown = (tmp_path / "kept").read_bytes().decode().replace("\r\n", "\n").split("\n")
    lines = [line for text in shown if (line := text.rpartition("\r\x1b[2K")[2]).startswith("[default")]
    check([line for line in lines if int(line.split()[1]) % 2 == 0], 0)
    check([line for line in lines if int(line.split()[1]) % 2], 1)


def expected(rank: int, number: int) -> bytes:
    return b"%d %d %s.\n" % (rank, number, b"x" * (number * 7 % 50))


def check(told: Iterable[str], odd: int) -> None:
    """Every line of each rank is there, whole, once, and in its order."""
    following = dict.fromkeys(range(WORKERS), odd)
    for line in told:
        prefix, _, text = line.partition(":")
        rank = int(prefix.removeprefix("[default").removesuffix("]"))
        assert text.encode() + b"\n" == expected(rank, following[rank]), line
        following[rank] += 2
    assert set(following.values()) == {LINES + odd}
