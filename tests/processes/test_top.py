"""`rally top` in a real terminal over a real job: watch, filter, kill a rank, see it come back; then the recording."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")

WORKER = """
import os, time
while True:
    print("rank", os.environ["RANK"], "works", flush=True)
    time.sleep(0.2)
"""
SOON_S = 60.0


def _run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, check=False, capture_output=True, text=True, env=env, timeout=60)


class Terminal:
    """A terminal of its own."""

    def __init__(self, folder: Path, width: int = 120, height: int = 36) -> None:
        self._name = f"rally-{uuid.uuid4().hex[:8]}"
        self._size = ["-x", str(width), "-y", str(height)]
        self._folder = folder
        self._open: set[str] = set()

    def _tmux(self, *words: str) -> str:
        done = _run("tmux", "-L", self._name, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, window: str, *words: str) -> None:
        """Start a program; the window stays when it ends."""
        path, state = shlex.quote(os.environ.get("PYTHONPATH", "")), shlex.quote(str(self._folder))
        line = f"PYTHONPATH={path} XDG_STATE_HOME={state} {shlex.join(words)}; echo ended with $?; sleep 600"
        self._tmux("new-session", "-d", *self._size, "-s", window, f"unset COLUMNS LINES; {line}")
        self._open.add(window)

    def press(self, window: str, *keys: str) -> None:
        self._tmux("send-keys", "-t", window, *keys)

    def text(self, window: str) -> str:
        return self._tmux("capture-pane", "-t", window, "-p")

    def wait_for(self, window: str, there: Callable[[str], bool] | str) -> str:
        """Wait until the screen shows something."""
        holds = (lambda text: there in text) if isinstance(there, str) else there
        until_s = time.monotonic() + SOON_S
        while not holds(text := self.text(window)):
            assert time.monotonic() < until_s, f"it never came; the screen:\n{text}"
            time.sleep(0.1)
        return text

    def close(self) -> None:
        if self._open:
            _run("tmux", "-L", self._name, "kill-server")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path)
    yield made
    made.close()


def rally(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "toolkit.fronts.cli", *words)


def test_a_job_is_watched_shot_at_and_looked_back_on(terminal: Terminal, tmp_path: Path) -> None:
    pytest.importorskip("textual")
    script, folder = tmp_path / "train.py", tmp_path / "a run"
    script.write_text(WORKER)
    terminal.run(
        "job",
        *rally("run", "--standalone", "--nproc-per-node", "4", "--max-restarts", "3", "--redirects", "3"),
        *("--run-dir", str(folder), str(script)),
    )
    until_s = time.monotonic() + SOON_S
    while not any(folder.glob("control-*.sock")):
        assert time.monotonic() < until_s, terminal.text("job")
        time.sleep(0.1)
    terminal.run("top", *rally("top"))
    screen = terminal.wait_for("top", "4 of 4 ranks running")
    assert "LIVE" in screen and "0 of 3 used" in screen

    terminal.press("top", "3")
    terminal.wait_for("top", "RANK")
    terminal.press("top", "/", *"rank>=2", "Enter")
    terminal.wait_for("top", lambda text: "/ rank>=2" in text and text.count("● running") >= 2)
    terminal.press("top", "K")
    screen = terminal.wait_for("top", "Kill rank 2?")
    assert "SIGKILL to rank 2: pid" in screen and "3 restarts left" in screen
    terminal.press("top", "Right")
    terminal.press("top", "Enter")
    terminal.wait_for("top", "restarts 1/3")
    terminal.press("top", "Escape")
    terminal.wait_for("top", lambda text: "/ rank>=2" not in text)
    terminal.press("top", "1")
    terminal.wait_for("top", "4 of 4 ranks running")
    terminal.press("top", "5")
    terminal.wait_for("top", "did SIGKILL to local rank 2: rally top")
    terminal.press("top", "6")
    terminal.press("top", "e")
    terminal.wait_for("top", "works")
    terminal.press("top", "S")
    terminal.wait_for("top", "Stop the job?")
    terminal.press("top", "Right")
    terminal.press("top", "Enter")
    terminal.wait_for("job", "ended with")
    terminal.press("top", "1")
    terminal.wait_for("top", "REPLAY")
    terminal.press("top", "q")
    terminal.wait_for("top", "ended with 0")

    terminal.run("again", *rally("top", str(folder)))
    terminal.wait_for("again", "REPLAY")
    terminal.press("again", "Home", "x")
    screen = terminal.wait_for("again", "PAST")
    assert "restarts 0/3" in screen and "1 failed" in screen
    terminal.press("again", "End")
    terminal.wait_for("again", lambda text: "PAST" not in text)
    terminal.press("again", "q")
    terminal.wait_for("again", "ended with 0")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nosuchrun",), "no run 'nosuchrun' is recorded"),
        (("--screenshot", "x.svg"), "no run is recorded under"),
        (("--size", "5x5", "--screenshot", "x.svg"), "--size 5x5 is no size"),
        (("--plain", "/etc"), "not a recording"),
    ],
)
def test_what_can_not_be_shown_is_said_in_words(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    done = _run(*rally("top", *words), env=env)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    pytest.importorskip("greenlet")
    path = tmp_path / "a crash"
    words = rally("sim", "worker-crash", "--seed", "1", "--run-dir", str(path))
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    return path


def test_no_screen_is_drawn_where_nobody_could_see_it_or_quit(recorded: Path, tmp_path: Path) -> None:
    """Neither of one run, nor to pick one: for want of a terminal it would wait for a key for ever."""
    pick = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    runs = tmp_path / "state" / "rallypoint" / "runs" / "a crash"
    runs.parent.mkdir(parents=True)
    recorded.rename(runs)
    for words in (("top",), ("top", str(runs)), ("sim", "worker-crash", "--top")):
        done = _run(*rally(*words), env=pick)
        assert done.returncode == 2
        assert done.stderr.splitlines() == [
            "rally top: stdout is no terminal; give --plain for lines, or --screenshot FILE.svg for a picture"
        ]


def test_lines_for_pipes(recorded: Path) -> None:
    done = _run(*rally("top", "--plain", str(recorded)))
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert lines[0] == "# SIM worker-crash seed 1 sim"
    assert any("was killed by SIGKILL" in line for line in lines)
    assert lines[-1].endswith("agent ends SUCCEEDED: all workers succeeded")
    half = _run(*rally("top", "--plain", "--at", "50%", str(recorded)))
    assert lines[: len(half.stdout.splitlines())] == half.stdout.splitlines()
    assert 10 < len(half.stdout.splitlines()) < len(lines)


def test_a_picture_without_a_terminal(recorded: Path, tmp_path: Path) -> None:
    pytest.importorskip("textual")
    file = tmp_path / "picture.svg"
    words = rally("top", str(recorded), "--screenshot", str(file), "--view", "timeline", "--at", "30s")
    done = _run(*words)
    assert (done.returncode, done.stderr) == (0, "")
    picture = file.read_text()
    assert picture.startswith("<svg") and "worker-crash" in picture and "PAST" in picture
    elsewhere = _run(*words[:-6], "--screenshot", "/nonexistent/x.svg")
    assert elsewhere.returncode == 2 and "can't be written" in elsewhere.stderr


def test_a_pipe_is_no_screen(recorded: Path) -> None:
    done = _run(*rally("top", str(recorded)))
    assert done.returncode == 2 and "--plain" in done.stderr


def test_a_simulation_opens_in_it(terminal: Terminal) -> None:
    pytest.importorskip("textual")
    pytest.importorskip("greenlet")
    terminal.run("sim", *rally("sim", "silent-node-loss", "--seed", "1", "--top"))
    terminal.wait_for("sim", "SIM silent-node-loss seed 1")
    terminal.press("sim", "4")
    terminal.wait_for("sim", "round 2")
    terminal.press("sim", "q")
    terminal.wait_for("sim", "ended with 0")
