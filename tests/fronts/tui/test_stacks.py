"""Stacks on the screen: of one rank, and of all by where they are; only where something runs, in the present."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from tests.fronts.tui.conftest import app_of, drive, shown
from toolkit.core.stacks import Alike, Answer, Frame, Stacks, Target, Thread, Unread
from toolkit.fronts.tui.app import TopApp
from toolkit.fronts.tui.screens import Reading
from toolkit.fronts.tui.stacks import FRAMES_MAX, StackReading, group_lines, thread_lines

Runs = Callable[..., Path]
REDUCE = (Frame("all_reduce", "/site/dist.py", 12), Frame("train", "train.py", 40))
LOAD = (Frame("read", "data.py", 7), Frame("train", "train.py", 31))


class FakeDumper:
    """Implements Dumper: rank 1 loads data, and rank 2 can't be read."""

    def __init__(self) -> None:
        self.asked: list[list[Target]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def dump(self, targets: Sequence[Target]) -> list[Answer]:
        self.asked.append(list(targets))
        self.may_answer.wait(30)
        return [self._answer(target) for target in targets]

    def close(self) -> None:
        self.may_answer.set()

    def _answer(self, target: Target) -> Answer:
        if target.global_rank == 2:
            return Unread("runs on gpu-b: `rally top` there can read it")
        main = Thread(
            "MainThread", target.pid, LOAD if target.global_rank == 1 else REDUCE, main=True, idle=True
        )
        return Stacks((main, Thread("pin_memory", 77, (Frame("get", "queue.py", 171),), idle=True)))


@pytest.fixture
def dumper() -> FakeDumper:
    return FakeDumper()


@pytest.fixture
def running(runs: Runs, tmp_path: Path, dumper: FakeDumper) -> TopApp:
    """A live run whose workers run: a recording without its end."""
    path = tmp_path / "live"
    shutil.copytree(runs("worker-crash"), path)
    for file in path.glob("events-*.jsonl"):
        lines = file.read_bytes().splitlines(keepends=True)
        started = [place for place, line in enumerate(lines) if b"workers_started" in line]
        file.write_bytes(b"".join(lines[: started[0] + 1]))
    app = app_of(path, live=True)
    app._dumper = dumper
    return app


async def answered(pilot: Pilot[Any]) -> None:
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


def test_d_shows_the_threads_of_the_selected_rank(running: TopApp, dumper: FakeDumper) -> None:
    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("3", "d")
        await answered(pilot)
        text = shown(running)
        assert "Stacks of rank 0, pid" in text
        assert text.index("main thread") < text.index("all_reduce") < text.index("pin_memory"), text
        assert "/site/dist.py:12" in text
        await pilot.press("escape")
        assert len(running.screen_stack) == 1

    drive(running, steps)
    [[target]] = dumper.asked
    assert target.global_rank == 0


def test_d_without_a_rank_says_where_to_select_one(running: TopApp, dumper: FakeDumper) -> None:
    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("1", "d")
        await pilot.pause()
        assert "select a rank that runs" in shown(running)

    drive(running, steps)
    assert not dumper.asked


def test_all_ranks_stand_in_groups_and_the_odd_one_first(running: TopApp, dumper: FakeDumper) -> None:
    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("A")
        await answered(pilot)
        text = shown(running)
        assert "rank 1  in read, data.py:7" in text
        assert "6 ranks 0, 3-7  in all_reduce, /site/dist.py:12" in text
        assert "! rank 2 runs on gpu-b" in text
        assert text.index("rank 1  in") < text.index("6 ranks") < text.index("! rank 2")

    drive(running, steps)
    assert len(dumper.asked[0]) == 8


def test_it_is_asked_again_in_the_same_place(running: TopApp, dumper: FakeDumper) -> None:
    async def steps(pilot: Pilot[Any]) -> None:
        for _ in range(3):
            await pilot.press("A")
            await answered(pilot)
            assert isinstance(running.screen, StackReading)
            assert len(running.screen_stack) == 2

    drive(running, steps)
    assert len(dumper.asked) == 3


def test_the_screen_lives_while_it_asks_and_after_it_was_left(running: TopApp, dumper: FakeDumper) -> None:
    dumper.may_answer.clear()

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("A")
        await pilot.pause()
        assert "asking 8 workers" in shown(running)
        await pilot.press("escape", "2")
        assert not isinstance(running.screen, Reading)
        dumper.may_answer.set()
        await answered(pilot)

    drive(running, steps)


def test_leaving_ends_what_is_asked(running: TopApp, dumper: FakeDumper) -> None:
    dumper.may_answer.clear()

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("A")
        await pilot.press("q", "q")

    drive(running, steps)
    assert dumper.may_answer.is_set(), "closed"


def test_there_are_no_stacks_of_recordings_and_of_the_past(
    runs: Runs, running: TopApp, dumper: FakeDumper
) -> None:
    recorded = app_of(runs("worker-crash"))
    recorded._dumper = dumper

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("3", "home", "d", "A")
        await pilot.pause()
        assert len(pilot.app.screen_stack) == 1
        names = {command.title for command in pilot.app.get_system_commands(pilot.app.screen)}
        assert not {"Stack", "Stacks of all"} & names

    drive(recorded, steps)
    drive(running, steps)
    assert not dumper.asked


def test_what_processes_say_can_not_command_the_terminal() -> None:
    evil = Frame("a\x1b[2Jb", "\x07.py", 3)
    text = "\n".join(
        line.plain
        for line in (
            *thread_lines(0, Stacks((Thread("\x1bname", 1, (evil,)),))),
            *group_lines([Alike((0,), (evil,)), Alike((1, 2), Unread("runs on \x1b]0;x\x07"))]),
        )
    )
    assert "\x1b" not in text and "\x07" not in text
    assert "2 ranks 1-2 run on" in text


def test_a_recursion_without_end_is_cut() -> None:
    deep = Stacks((Thread("", 1, (Frame("f", "f.py", 1),) * 1000, main=True),))
    lines = thread_lines(0, deep)
    assert len(lines) == FRAMES_MAX + 3
    assert "and 940 more" in lines[-2].plain


def test_nothing_in_python_is_said_so() -> None:
    assert "no thread that runs Python" in thread_lines(0, Stacks(()))[0].plain
    assert "in no Python" in group_lines([Alike((0,), ())])[0].plain
