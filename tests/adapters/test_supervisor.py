"""What a supervisor is told while it does not listen."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from toolkit.adapters.leftovers.supervisor import Supervisor


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    it = Supervisor("a token of nobody", dict(os.environ))
    it.start()
    yield it
    it.close()


@pytest.fixture
def heard(supervisor: Supervisor) -> Iterator[socket.socket]:
    """Takes the place of the process."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    # So that a few hundred messages are more than it holds.
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    real, supervisor._socket = supervisor._socket, ours
    yield theirs
    supervisor._socket = real
    ours.close()
    theirs.close()


def all_of(heard: socket.socket) -> bytes:
    said = b""
    heard.setblocking(False)
    try:
        while piece := heard.recv(65536):
            said += piece
    except BlockingIOError:
        pass
    return said


def test_nothing_is_lost_or_torn_by_a_busy_one(supervisor: Supervisor, heard: socket.socket) -> None:
    began_s = time.monotonic()
    pids = range(4_000_000, 4_002_000)
    for pid in pids:
        supervisor.take(pid)
    assert time.monotonic() - began_s < 5, "it waited for it once"
    said = all_of(heard)
    assert said.count(b"\n") < len(pids), "more than it could hold"
    while supervisor._unsent:
        supervisor._send()
        said += all_of(heard)
    assert said == b"".join(b"+ %d\n" % pid for pid in pids)


def test_what_holds_now_takes_the_place_of_what_waits(supervisor: Supervisor, heard: socket.socket) -> None:
    pids = range(4_000_000, 4_002_000)
    for pid in pids:
        supervisor.take(pid)
    for pid in pids[:-2]:
        supervisor.forget([pid])
    assert len(supervisor._unsent) < 1000
    said = all_of(heard)
    while supervisor._unsent:
        supervisor._send()
        said += all_of(heard)
    lines = said.splitlines()
    assert lines[-1] == b"= %d %d" % (pids[-2], pids[-1])
    assert all(line.startswith((b"+ ", b"= ")) and line.count(b"+") + line.count(b"=") == 1 for line in lines)
    supervisor.forget(pids)


def test_a_stopped_one_holds_up_the_agent_once(supervisor: Supervisor) -> None:
    os.kill(supervisor.pid, signal.SIGSTOP)
    try:
        began_s = time.monotonic()
        for pid in range(4_000_000, 4_002_000):
            supervisor.take(pid)
        assert time.monotonic() - began_s < 5
        assert supervisor._unsent
    finally:
        supervisor.forget(range(4_000_000, 4_002_000))
        os.kill(supervisor.pid, signal.SIGCONT)
    limit_s = time.monotonic() + 20
    while supervisor._unsent:
        assert time.monotonic() < limit_s
        supervisor._send()
        time.sleep(0.01)
    assert supervisor.check()
