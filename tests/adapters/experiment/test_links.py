"""Connections of an experiment's nodes: carried, cut, slowed, reset, and lost with a node's power."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from toolkit.adapters.experiment.links import Links

NODES = {"a": "127.0.0.1", "b": "127.0.0.2", "c": "127.0.0.3"}
#: how long a thing may take that takes milliseconds
PATIENCE_S = 10.0
#: how long to look for what must not come
LOOK_S = 0.15


class Echo:
    """Answers each line with the line, on an address of a node."""

    def __init__(self, host: str) -> None:
        self._listener = socket.create_server((host, 0))
        self.host, self.port = host, int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with suppress(OSError):
            while said := connection.recv(65536):
                connection.sendall(said)
        connection.close()

    def close(self) -> None:
        with suppress(OSError):  # the second time
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE_S)
        for connection in self._open:
            connection.close()


@pytest.fixture
def store() -> Iterator[Echo]:
    """The store of the job, on node a."""
    echo = Echo("127.0.0.1")
    yield echo
    echo.close()


@pytest.fixture
def links(store: Echo) -> Iterator[Links]:
    made = Links(NODES, ("a", store.host, store.port))
    yield made
    made.close()


@pytest.fixture
def client(links: Links) -> Iterator[socket.socket]:
    """A connection of node b to the store that has been answered once."""
    with connected(links.to_store["b"]) as connection:
        assert asked(connection, b"hello") == b"hello"
        yield connection


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE_S)


def asked(connection: socket.socket, words: bytes) -> bytes:
    connection.sendall(words)
    return heard(connection, len(words))


def heard(connection: socket.socket, count: int, timeout_s: float = PATIENCE_S) -> bytes:
    connection.settimeout(timeout_s)
    said = b""
    while len(said) < count and (more := connection.recv(count - len(said))):
        said += more
    return said


def says_nothing(connection: socket.socket) -> bool:
    with pytest.raises(TimeoutError):
        heard(connection, 1, LOOK_S)
    return True


def test_much_is_carried_whole_and_in_order(client: socket.socket) -> None:
    words = bytes(range(256)) * 8192
    sender = threading.Thread(target=client.sendall, args=(words,))
    sender.start()
    assert heard(client, len(words)) == words
    sender.join(PATIENCE_S)


def test_an_end_is_handed_on(client: socket.socket) -> None:
    client.sendall(b"last")
    client.shutdown(socket.SHUT_WR)
    assert heard(client, 100) == b"last"


def test_workers_name_whom_they_want(links: Links) -> None:
    peer = Echo("127.0.0.3")
    try:
        with connected(links.to_peers["b"]) as connection:
            connection.sendall(f"{peer.host} {peer.port}\n".encode())
            assert asked(connection, b"step 1\n") == b"step 1\n"
            links.settle([("c", "b")], {})
            connection.sendall(b"step 2\n")
            assert says_nothing(connection)
            links.settle([], {})
            assert heard(connection, 7) == b"step 2\n"
    finally:
        peer.close()


@pytest.mark.parametrize("wanted", [b"1.2.3.4 80\n", b"127.0.0.2\n", b"\xff\n", b"x" * 100_000 + b"\n"])
def test_nothing_leads_out_of_the_experiment(links: Links, wanted: bytes) -> None:
    with connected(links.to_peers["b"]) as connection:
        with suppress(ConnectionError):
            connection.sendall(wanted)
        with suppress(ConnectionError):
            assert heard(connection, 1) == b""


class TestCuts:
    def test_what_was_sent_meanwhile_arrives_afterwards(self, links: Links, client: socket.socket) -> None:
        links.settle([("a", "b"), ("b", "a")], {})
        client.sendall(b"later")
        assert says_nothing(client)
        links.settle([], {})
        assert heard(client, 5) == b"later"

    def test_one_way_loses_the_answer_only(self, links: Links, client: socket.socket, store: Echo) -> None:
        links.settle([("a", "b")], {})
        client.sendall(b"heard")
        assert says_nothing(client)
        with connected(links.to_store["c"]) as other:
            assert asked(other, b"c is not cut off") == b"c is not cut off"

    def test_the_end_of_a_peer_is_not_told(self, links: Links, client: socket.socket, store: Echo) -> None:
        links.settle([("a", "b"), ("b", "a")], {})
        for connection in store._open:
            connection.shutdown(socket.SHUT_RDWR)
        assert says_nothing(client)
        links.settle([], {})
        assert heard(client, 1) == b""

    def test_who_connects_meanwhile_hears_nothing_and_then_does(self, links: Links) -> None:
        links.settle([("b", "a")], {})
        with connected(links.to_store["b"]) as connection:
            connection.sendall(b"early")
            assert says_nothing(connection)
            links.settle([], {})
            assert heard(connection, 5) == b"early"


def test_a_slow_link_delays_each_way(links: Links, client: socket.socket) -> None:
    links.settle([], {("a", "b"): 0.1, ("b", "a"): 0.2})
    began = time.monotonic()
    for word in (b"1", b"2", b"3"):
        client.sendall(word)
    assert heard(client, 3) == b"123"
    took_s = time.monotonic() - began
    assert 0.3 <= took_s < 5, "all three are on their way at one time"
    links.settle([], {})


def test_a_reset_is_seen_at_once(links: Links, client: socket.socket) -> None:
    assert links.reset("c") == 0
    assert links.reset("b") == 1
    with pytest.raises(ConnectionResetError):
        heard(client, 1)
    with connected(links.to_store["b"]) as again:
        assert asked(again, b"again") == b"again"


def test_where_nobody_listens_the_connection_breaks(links: Links, store: Echo) -> None:
    store.close()
    with pytest.raises(ConnectionResetError), connected(links.to_store["b"]) as connection:
        heard(connection, 1)


class TestLostPower:
    def test_nobody_is_told(self, links: Links, client: socket.socket, store: Echo) -> None:
        links.lose("a")
        store.close()
        client.sendall(b"are you there")
        assert says_nothing(client)

    def test_new_connections_wait_until_it_is_back(self, links: Links, store: Echo) -> None:
        links.lose("a")
        with connected(links.to_store["b"]) as connection:
            connection.sendall(b"anybody")
            assert says_nothing(connection)
            links.restore("a")
            assert heard(connection, 7) == b"anybody"

    def test_old_connections_stay_dead(self, links: Links, client: socket.socket) -> None:
        links.lose("b")
        links.restore("b")
        client.sendall(b"still me")
        assert says_nothing(client)
        with connected(links.to_store["b"]) as again:
            assert asked(again, b"again") == b"again"


def test_nothing_is_left_open(store: Echo) -> None:
    before = set(threading.enumerate())
    links = Links(NODES, ("a", store.host, store.port))
    [thread] = set(threading.enumerate()) - before
    with connected(links.to_store["b"]) as held:
        assert asked(held, b"hello") == b"hello"
        links.settle([("b", "a")], {})
        held.sendall(b"on its way")
        links.close()
        links.close()
        with pytest.raises(ConnectionResetError):
            heard(held, 1)
    assert not thread.is_alive()
    with pytest.raises(ConnectionRefusedError):
        connected(links.to_store["b"])
