"""The end of a stderr that goes through the agent is known as soon as its worker is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path
from subprocess import PIPE

import pytest

from toolkit.adapters.output import pump as pumps
from toolkit.adapters.output.last_words import BYTES_MAX, LastWords
from toolkit.adapters.output.pump import OutputPump

from .test_output import eventually, pipe_screen, plan, start, tty_screen


def dead(process: subprocess.Popen[bytes]) -> None:
    """Wait until it is, as the agent does: without reaping it."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def test_a_console_that_is_no_terminal_gets_all_and_the_end_is_kept() -> None:
    code = "import sys; sys.stderr.write('no end'); sys.stderr.write(chr(10) + 'the last'); print('out')"
    with pipe_screen() as (screen, console):
        pump = OutputPump(console, keep_words=True)
        for _ in range(20):
            worker = start(pump, plan(), code)
            dead(worker)
            text, at_ns = pump.last_words(0)
            assert text == "no end\nthe last", "whatever was on its way has been waited for"
            assert at_ns > 0
            worker.wait()
        pump.close()
    assert screen.end().count(b"no end\nthe last") == 20


@pytest.mark.parametrize("call", [1, 2], ids=["after a look", "before a look"])
def test_who_asks_in_the_very_moment_of_the_end_does_not_wait_for_others(
    monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """The stream that ends wakes the thread once; a second worker says nothing that would wake it again."""
    monkeypatch.setattr(pumps, "ON_ITS_WAY_S", 60.0)
    with pipe_screen() as (screen, console):
        pump = OutputPump(console, keep_words=True)
        silent = start(pump, plan(), "import time; time.sleep(300)")
        worker = start(pump, plan(1), "import sys; input(); sys.stderr.write('the last')", stdin=PIPE)
        held, go_on, push = threading.Event(), threading.Event(), console.push
        calls = iter(range(1, 1_000_000))

        def slow() -> object:
            if next(calls) == call:
                held.set()
                assert go_on.wait(60)
            return push()

        try:
            monkeypatch.setattr(console, "push", slow)
            os.eventfd_write(pump._wake_fd, 1)
            assert held.wait(60), "the thread has looked, or is about to"
            assert worker.stdin is not None, "it is a pipe"
            worker.stdin.write(b"go\n")
            worker.stdin.close()
            dead(worker)
            told: list[str] = []
            asking = threading.Thread(target=lambda: told.append(pump.last_words(1)[0]))
            asking.start()
            eventually(lambda: pump._waiting.is_wanted)
            go_on.set()
            asking.join(20)
            assert told == ["the last"]
        finally:
            go_on.set()
            silent.kill()
            silent.wait()
            worker.wait()
            pump.close()
    screen.end()


def test_the_words_of_a_teed_stream_are_kept_as_its_file_is(tmp_path: Path) -> None:
    path = tmp_path / "stderr.log"
    with pipe_screen() as (screen, console):
        pump = OutputPump(console)
        worker = start(pump, plan(stderr=path), "import sys; sys.stderr.write('x' * 200_000 + 'the last')")
        dead(worker)
        text, _ = pump.last_words(0)
        assert text == ("x" * 200_000 + "the last")[-BYTES_MAX:]
        assert path.read_text().endswith("the last")
        worker.wait()
        pump.close()
    screen.end()


def test_what_is_captured_of_a_terminal_is_kept() -> None:
    with tty_screen() as (screen, console):
        pump = OutputPump(console, capture_console=True, keep_words=True)
        worker = start(pump, plan(), "import sys; sys.stderr.write('the last')")
        dead(worker)
        assert pump.last_words(0)[0] == "the last"
        worker.wait()
        pump.close()
    screen.end()


def test_a_terminal_that_nobody_captures_stays_the_workers_own() -> None:
    with tty_screen() as (screen, console):
        pump = OutputPump(console, keep_words=True)
        assert pump.open(plan()).stderr is None
        assert pump.last_words(0) == ("", 0)
        pump.close()
    screen.end()


def test_a_child_that_holds_the_stream_and_a_stuck_console_hold_nobody_up() -> None:
    code = "import subprocess, sys; sys.stderr.write('the last'); subprocess.Popen(['sleep', '300'])"
    with pipe_screen(stuck=True) as (_, console):
        pump = OutputPump(console, keep_words=True)
        worker = start(pump, plan(), code)
        try:
            dead(worker)
            assert pump.last_words(0)[0] == "the last"
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
        pump.close()
        assert pump.last_words(0)[0] == "the last", "also when all is closed"


def test_memory_is_bounded() -> None:
    words = LastWords()
    for number in range(1000):
        words.add(b"%1000d" % number * 10)
    assert len(words.text()) == BYTES_MAX
    assert words.text().endswith(" 999")
    assert sum(map(len, words._chunks)) < BYTES_MAX + 10_000
    words.add(b"y" * 3 * BYTES_MAX)
    assert words.text() == "y" * BYTES_MAX


def test_a_whole_line_that_is_no_text_is_shown_as_such() -> None:
    words = LastWords()
    words.add(b"\xff\xfe\x00")
    assert words.text() == "\N{REPLACEMENT CHARACTER}" * 2 + "\x00"
