"""The contract of `EventSink`: events arrive in order, and emitting neither raises nor blocks for long."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.agent.world import Recorded
from toolkit.adapters.recording.writer import JsonLinesSink
from toolkit.adapters.sinks import FanOut, LoggingSink, logger
from toolkit.core import events as ev
from toolkit.ports import EventSink

from .worlds import SimWorld

#: how long one `emit` may take on a busy machine, in seconds
SOON_S = 5.0

#: a sink, and what it took so far as a function to be called after the last event
Opened = tuple[EventSink, Callable[[], "list[ev.Event]"]]


@contextmanager
def _json_lines(directory: Path) -> Iterator[Opened]:
    path = directory / "events.jsonl"
    sink = JsonLinesSink(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC))

    def taken() -> list[ev.Event]:
        sink.close(SOON_S)
        return _decoded(path.read_bytes().splitlines())

    try:
        yield sink, taken
    finally:
        sink.close(SOON_S)


@contextmanager
def _fan_out(directory: Path) -> Iterator[Opened]:
    (directory / "first").mkdir()
    (directory / "second").mkdir()
    with _json_lines(directory / "first") as first, _json_lines(directory / "second") as second:

        def taken() -> list[ev.Event]:
            in_first, in_second = first[1](), second[1]()
            # Each keeps the order of a thread; between threads the two may differ.
            assert sorted(_seqs(in_first)) == sorted(_seqs(in_second))
            return in_first

        yield FanOut([first[0], second[0]]), taken


class _Lines(logging.Handler):
    """Keeps the messages."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[bytes] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage().encode())


@contextmanager
def _logging(directory: Path) -> Iterator[Opened]:
    handler = _Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield LoggingSink(), lambda: _decoded(handler.lines)
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


@contextmanager
def _simulated(directory: Path) -> Iterator[Opened]:
    world = SimWorld()
    from simulator.adapters.sink import WorldSink

    yield WorldSink(world.process), lambda: list(world.cluster.events)
    world.close()


@contextmanager
def _fake(directory: Path) -> Iterator[Opened]:
    recorded = Recorded()
    yield recorded, lambda: list(recorded.events)


def _decoded(lines: Sequence[bytes]) -> list[ev.Event]:
    # What can't be encoded may be left out, or told in other words than JSON.
    decoded = [ev.decode(line) for line in lines if line.startswith(b"{")]
    return [event for event in decoded if event is not None]


def _seqs(events: Sequence[ev.Event]) -> list[int]:
    return [event.seq for event in events]


ADAPTERS: dict[str, Callable[[Path], AbstractContextManager[Opened]]] = {
    "json-lines": _json_lines,
    "fan-out": _fan_out,
    "logging": _logging,
    "simulated": _simulated,
    "fake": _fake,
}


@pytest.fixture(params=ADAPTERS.values(), ids=list(ADAPTERS))
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    with request.param(tmp_path) as made:
        yield made


def event(seq: int, error: Any = "e") -> ev.Event:
    return ev.RendezvousFailed(run_id="job", node="a", seq=seq, error=error)


def test_events_arrive_whole_and_in_order(opened: Opened) -> None:
    sink, taken = opened
    emitted = [event(seq, f"line one\nline {seq} é") for seq in range(1, 101)]
    for each in emitted:
        sink.emit(each)
    assert taken() == emitted


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param("\udcff of a path that is no UTF-8", id="surrogate"),
        pytest.param(object(), id="no-json"),
        pytest.param("x" * (2 << 20), id="huge"),
    ],
)
def test_an_odd_event_neither_raises_nor_costs_the_others(opened: Opened, odd: object) -> None:
    sink, taken = opened
    sink.emit(event(1))
    sink.emit(event(2, odd))
    sink.emit(event(3))
    seqs = _seqs(taken())
    assert seqs[0] == 1
    assert seqs[-1] == 3


def test_emitting_takes_a_short_time(opened: Opened) -> None:
    sink, _ = opened
    began = time.monotonic()
    for seq in range(1, 101):
        sink.emit(event(seq))
    assert time.monotonic() - began < SOON_S


def test_threads_may_emit_together(opened: Opened) -> None:
    sink, taken = opened

    def emit_some(first: int) -> None:
        for seq in range(first, first + 100):
            sink.emit(event(seq))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(emit_some, range(0, 400, 100)))
    seqs = _seqs(taken())
    assert sorted(seqs) == list(range(400))
    for first in range(0, 400, 100):
        assert [seq for seq in seqs if first <= seq < first + 100] == list(range(first, first + 100))


def test_a_signal_handler_may_emit_while_the_same_thread_does(opened: Opened) -> None:
    sink, taken = opened
    from_handler = iter(range(10_000, 100_000))
    before = signal.signal(signal.SIGALRM, lambda signum, frame: sink.emit(event(next(from_handler))))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        for seq in range(500):
            sink.emit(event(seq))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    seqs = _seqs(taken())
    assert [seq for seq in seqs if seq < 10_000] == list(range(500))
    # A handler may be interrupted by the next one when it has taken its number, but not emitted yet.
    assert sorted(seq for seq in seqs if seq >= 10_000) == list(range(10_000, next(from_handler)))


def test_emitting_after_the_end_does_not_raise(opened: Opened) -> None:
    sink, taken = opened
    sink.emit(event(1))
    assert _seqs(taken()) == [1]
    sink.emit(event(2))


def test_a_simulated_agent_that_is_dead_says_nothing_more() -> None:
    world = SimWorld()
    from simulator.adapters.sink import WorldSink

    sink = WorldSink(world.process)
    sink.emit(event(1))
    world.node.crash()
    sink.emit(event(2))
    assert _seqs(world.cluster.events) == [1]


def test_a_simulated_disk_that_is_full_costs_events_and_they_are_counted() -> None:
    world = SimWorld()
    from simulator.adapters.sink import WorldSink

    sink = WorldSink(world.process)
    world.node.disk_full = True
    sink.emit(event(1))
    world.node.disk_full = False
    sink.emit(event(2))
    assert (_seqs(world.cluster.events), sink.dropped) == ([2], 1)
