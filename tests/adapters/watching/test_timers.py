"""torch's file timers: what its client writes is understood, and what is none hurts nobody."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.adapters.watching.timers import LINE_MAX, TimerPipe
from toolkit.core.errors import ConfigurationError

ME = os.getpid()


@pytest.fixture(params=["named", "without a name"])
def pipe(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TimerPipe]:
    made = TimerPipe(str(tmp_path / "pipe") if request.param == "named" else "")
    yield made
    made.close()


def write(pipe: TimerPipe, *lines: bytes) -> None:
    fd = os.open(pipe.path, os.O_WRONLY | os.O_NONBLOCK)
    for line in lines:
        os.write(fd, line + b"\n")
    os.close(fd)
    pipe.read()


def request(scope: str = "step", after_s: float = 0.0, signum: int = 9, **changes: Any) -> bytes:
    fields = {
        "version": 1, "pid": ME, "scope_id": scope, "expiration_time": time.time() + after_s, "signal": signum
    }  # fmt: skip
    return json.dumps(fields | changes).encode()


@pytest.mark.torch
def test_what_torchs_client_says_is_understood(pipe: TimerPipe) -> None:
    from torch.distributed.elastic import timer

    client = timer.FileTimerClient(pipe.path)
    client.acquire("long", time.time() + 100)
    client.acquire("short", time.time() - 2)
    client.acquire("done", time.time() - 1)
    client.release("done")
    pipe.read()
    assert pipe.next_s() == 0
    expired = pipe.expired({3: [1, ME]})
    assert (expired[3].pid, expired[3].scope, expired[3].signum) == (ME, "short", 9)
    assert 2 <= expired[3].ago_s < 60
    assert pipe.next_s() is None, "those of the same process are over"
    assert pipe.malformed == 0


def test_a_timer_that_is_renewed_or_released_does_not_expire(pipe: TimerPipe) -> None:
    write(pipe, request("a"), request("b"), request("a", 50), request("b", expiration_time=-1.0))
    left_s = pipe.next_s()
    assert left_s is not None and 40 < left_s <= 50
    assert pipe.expired({0: [ME]}) == {}


def test_the_first_timer_that_asks_for_a_signal_counts(pipe: TimerPipe) -> None:
    write(pipe, request("told", -9, 0), request("second", -4, 15), request("third", -2, 9))
    assert (pipe.expired({0: [ME]})[0].scope, pipe.malformed) == ("second", 0)
    write(pipe, request("told", -9, 0), request("also told", -8, -1))
    expired = pipe.expired({0: [ME]})[0]
    assert (expired.scope, expired.signum) == ("told", 0)


def test_timers_of_strangers_are_counted_and_those_of_the_dead_forgotten(pipe: TimerPipe) -> None:
    write(pipe, request(pid=os.getppid()), request(pid=4_000_000))
    assert pipe.expired({0: [ME]}) == {}
    assert pipe.next_s() is None
    assert pipe.malformed == 1


def test_what_is_no_timer_is_counted_and_lines_may_come_in_pieces(pipe: TimerPipe) -> None:
    bad = (
        b"", b"{", b"[]", b'{"pid": 1}', b"\xff", b"[" * 5_000, request(version=2), request(pid=0), request(pid="x"),
        request(signal=99), request(expiration_time="soon"), request(scope_id=None),
    )  # fmt: skip
    write(pipe, *bad)
    assert pipe.malformed == len(bad)
    whole = request("torn", -1) + b"\n"
    fd = os.open(pipe.path, os.O_WRONLY)
    os.write(fd, whole[:20])
    pipe.read()
    os.write(fd, whole[20:])
    os.close(fd)
    pipe.read()
    assert pipe.expired({0: [ME]})[0].scope == "torn"
    assert pipe.malformed == len(bad)


def test_a_line_without_end_is_given_up(pipe: TimerPipe) -> None:
    fd = os.open(pipe.path, os.O_WRONLY | os.O_NONBLOCK)
    for _ in range(3 * LINE_MAX // 4096):
        os.write(fd, b"x" * 4096)
        pipe.read()
    os.close(fd)
    assert pipe.malformed >= 1
    assert len(pipe._rest) <= LINE_MAX


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_nothing_that_is_written_hurts(lines: list[bytes]) -> None:
    pipe = TimerPipe()
    write(pipe, *lines)
    pipe.expired({0: [ME]})
    pipe.close()


def test_a_pipe_of_before_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    pipe = TimerPipe(str(path))
    assert path.is_fifo()
    pipe.close()
    assert not path.exists()
    pipe.close()
    path.write_text("data")
    with pytest.raises(ConfigurationError, match="give a path that is free"):
        TimerPipe(str(path))
    assert path.read_text() == "data"


def test_nothing_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        TimerPipe().close()
    assert len(os.listdir("/proc/self/fd")) == before
