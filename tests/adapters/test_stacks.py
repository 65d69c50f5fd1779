"""The stacks of real processes, read from outside; and what is said where that can't be."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from toolkit.adapters.stacks import PySpy, decoded, installed_py_spy
from toolkit.core.stacks import Stacks, Target, Unread

SLEEPER = """\
import threading, time

def waits_for_ever():
    print("there", flush=True)
    time.sleep(600)

def another():
    threading.Event().wait()

threading.Thread(target=another, name="helper", daemon=True).start()
waits_for_ever()
"""
NEEDS_PY_SPY = pytest.mark.skipif(not installed_py_spy(), reason="py-spy is not installed")


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    script = tmp_path / "sleeper.py"
    script.write_text(SLEEPER)
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def target(pid: int, host: str | None = None) -> Target:
    return Target(0, host or os.uname().nodename, pid, time.time_ns())


def read(pid: int) -> Stacks:
    """What py-spy reads, where the kernel lets it."""
    [answer] = PySpy().dump([target(pid)])
    if isinstance(answer, Unread) and answer.why.startswith("may not be read"):
        pytest.skip(f"pid {pid} {answer.why}")
    assert isinstance(answer, Stacks), answer
    return answer


@NEEDS_PY_SPY
def test_a_process_is_seen_where_it_sleeps_thread_by_thread(sleeper: subprocess.Popen[str]) -> None:
    main, helper = read(sleeper.pid).threads
    assert (main.main, main.number, main.idle) == (True, sleeper.pid, True)
    assert [frame.function for frame in main.frames] == ["waits_for_ever", "<module>"], "innermost first"
    assert (Path(main.frames[0].file).name, main.frames[0].line) == ("sleeper.py", 5)
    assert not helper.main
    assert helper.name == "helper"
    assert "another" in [frame.function for frame in helper.frames]


@NEEDS_PY_SPY
def test_it_goes_on_unharmed_and_is_not_stopped(sleeper: subprocess.Popen[str]) -> None:
    read(sleeper.pid)
    assert sleeper.poll() is None
    assert psutil.Process(sleeper.pid).status() == psutil.STATUS_SLEEPING


@NEEDS_PY_SPY
def test_several_are_read_in_the_order_in_which_they_are_asked_for(sleeper: subprocess.Popen[str]) -> None:
    read(sleeper.pid)
    here, away, here_too = PySpy().dump([target(sleeper.pid), target(7, "gpu-b"), target(sleeper.pid)])
    assert here == here_too
    assert isinstance(here, Stacks)
    assert away == Unread("runs on gpu-b: `rally top` there can read it")


@NEEDS_PY_SPY
def test_what_is_no_python_is_said_so() -> None:
    process = subprocess.Popen(["sleep", "600"])
    try:
        [answer] = PySpy().dump([target(process.pid)])
    finally:
        process.kill()
        process.wait()
    assert isinstance(answer, Unread)
    assert "is it a Python process?" in answer.why or "may not be read" in answer.why


def test_a_process_that_is_gone_or_has_its_pid_by_accident_is_not_read(
    sleeper: subprocess.Popen[str],
) -> None:
    ended = Unread("has ended since: the next events will say how")
    long_ago = Target(0, os.uname().nodename, sleeper.pid, 1)
    assert PySpy().dump([long_ago]) == [ended]
    sleeper.kill()
    sleeper.wait()
    assert PySpy().dump([target(sleeper.pid)]) == [ended]
    [answer] = PySpy().dump([target(0)])
    assert answer == Unread("has no process that its agent knows the pid of")


def program(folder: Path, text: str) -> str:
    path = folder / "py-spy"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo 'Permission Denied: Try running again' >&2; exit 1", "may not be read"),
        ("echo 'Error: Failed to find python version.' >&2; exit 1", "Failed to find python version; is it"),
        ("echo nonsense", "py-spy answered something else than stacks"),
        ("exec sleep 600", "py-spy did not answer within 1 s; try again"),
        ("exit 3", "it said nothing"),
    ],
)
def test_each_failure_is_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    [answer] = PySpy(program(tmp_path, text), one_s=1.0).dump([target(os.getpid())])
    assert isinstance(answer, Unread)
    assert said in answer.why
    assert "\n" not in answer.why


def test_without_py_spy_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.adapters.stacks.installed_py_spy", lambda: "")
    [answer] = PySpy().dump([target(os.getpid())])
    assert answer == Unread("can't be read without py-spy: pip install 'rallypoint[stacks]'")


def test_closing_ends_what_is_being_asked(tmp_path: Path) -> None:
    spy = PySpy(program(tmp_path, f"touch {tmp_path}/began; exec sleep 600"))
    began_s = time.monotonic()

    def close() -> None:
        while not (tmp_path / "began").exists():
            time.sleep(0.01)
        spy.close()

    from threading import Thread

    closing = Thread(target=close)
    closing.start()
    [answer] = spy.dump([target(os.getpid())])
    closing.join()
    assert isinstance(answer, Unread)
    assert time.monotonic() - began_s < 5


def test_what_py_spy_says_may_lack_all_but_the_frames() -> None:
    assert decoded(b'[{"frames": []}]', 5).threads[0].frames == ()
    with pytest.raises(msgspec.DecodeError):
        decoded(b'{"frames": 1}', 5)


def test_a_torn_stack_is_read_again(tmp_path: Path) -> None:
    def thread(*functions: str) -> str:
        frames = [{"name": name, "filename": "a.py", "line": 1} for name in functions]
        return msgspec.json.encode([{"os_thread_id": os.getpid(), "frames": frames}]).decode()

    torn, whole = thread("f"), thread("f", "g", "<module>")
    text = f"if mkdir {tmp_path}/first 2>/dev/null; then echo '{torn}'; else echo '{whole}'; fi"
    [answer] = PySpy(program(tmp_path, text)).dump([target(os.getpid())])
    assert isinstance(answer, Stacks)
    assert [frame.function for frame in answer.main] == ["f", "g", "<module>"]
    [answer] = PySpy(program(tmp_path, f"echo '{torn}'")).dump([target(os.getpid())])
    assert isinstance(answer, Stacks)
    assert [frame.function for frame in answer.main] == ["f"], "the most that could be read"
