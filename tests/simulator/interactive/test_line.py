"""Messages over a socket: whole, whatever their size; with descriptors; and bounded."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.interactive import line
from simulator.interactive.line import Line, LineError


@pytest.fixture
def ends() -> Iterator[tuple[Line, Line]]:
    one, other = map(Line, socket.socketpair())
    yield one, other
    one.close()
    other.close()


def test_messages_come_whole_and_in_order(ends: tuple[Line, Line]) -> None:
    for message in (b"", b"a", b"b" * 1000):
        ends[0].send(message)
    assert [ends[1].receive()[0] for _ in range(3)] == [b"", b"a", b"b" * 1000]


def test_a_message_may_be_larger_than_what_a_socket_takes(ends: tuple[Line, Line]) -> None:
    message = os.urandom(5_000_000)
    sender = threading.Thread(target=ends[0].send, args=(message,))
    sender.start()
    assert ends[1].receive()[0] == message
    sender.join()


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8), st.integers(1, 9))
def test_where_the_kernel_cuts_them_is_no_matter(messages: list[bytes], piece: int) -> None:
    sending, receiving = socket.socketpair()
    data = b"".join(len(message).to_bytes(8, "big") + message for message in messages)
    came = Line(receiving)
    try:
        got: list[bytes] = []
        for start in range(0, len(data), piece):
            sending.sendall(data[start : start + piece])
            came._came.append(receiving.recvmsg(100))
            while (whole := came._taken()) is not None:
                got.append(whole[0])
        assert got == messages
    finally:
        sending.close()
        came.close()


def test_a_descriptor_goes_with_a_message(ends: tuple[Line, Line]) -> None:
    reading, writing = os.pipe()
    try:
        ends[0].send(b"here", (writing,))
        message, (copy,) = ends[1].receive()
        os.write(copy, b"x")
        os.close(copy)
        assert (message, os.read(reading, 1)) == (b"here", b"x")
    finally:
        os.close(reading)
        os.close(writing)


def test_the_end_of_the_line(ends: tuple[Line, Line]) -> None:
    ends[0].send(b"last")
    ends[0].close()
    assert ends[1].receive()[0] == b"last"
    with pytest.raises(EOFError):
        ends[1].receive()
    ends[0].close()


def test_a_message_has_a_bound(ends: tuple[Line, Line], monkeypatch: pytest.MonkeyPatch) -> None:
    ends[0].send(b"twelve bytes")
    monkeypatch.setattr(line, "MESSAGE_MAX", 10)
    with pytest.raises(LineError, match="a message of 12 bytes is announced; 10 are the most"):
        ends[1].receive()
    with pytest.raises(LineError, match="a message of 11 bytes is more than the 10 that one may have"):
        ends[0].send(b"x" * 11)
