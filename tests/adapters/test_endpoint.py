"""Addresses are held against the real network of this machine."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.ports import free_port
from toolkit.adapters.endpoint import (
    Reached,
    check_endpoint,
    is_own,
    listener_of,
    local_address_towards,
    port_problem,
    resolve,
)
from toolkit.core.errors import ConfigurationError

NOBODYS = "192.0.2.77"  # TEST-NET-1


def silent(_elapsed_s: float, _why: str) -> None:
    pass


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


@pytest.fixture(name="free_port")
def _free_port() -> int:
    return free_port()


def test_an_own_address_needs_no_listener(free_port: int) -> None:
    assert check_endpoint("127.0.0.1", free_port, 0, silent) == Reached(True, False, "127.0.0.1")
    host = socket.gethostname()
    if any(is_own(address) for address in resolve(host, free_port)):
        assert check_endpoint(host, free_port, 0, silent) == Reached(True, False, host)


def test_an_own_address_with_a_listener(listener: socket.socket) -> None:
    assert check_endpoint("localhost", port_of(listener), 0, silent) == Reached(True, True, "localhost")
    assert local_address_towards("127.0.0.1", port_of(listener)) == "127.0.0.1"


def test_a_service_must_listen_and_is_waited_for(free_port: int) -> None:
    waits: list[tuple[float, str]] = []
    server: list[socket.socket] = []

    def start_it(elapsed_s: float, why: str) -> None:
        waits.append((elapsed_s, why))
        if len(waits) == 2:
            server.append(socket.create_server(("127.0.0.1", free_port)))

    reached = check_endpoint("127.0.0.1", free_port, 30, start_it, may_be_own=False)
    server[0].close()
    assert reached.listening
    assert len(waits) == 2
    assert waits[0][0] <= waits[1][0]
    assert waits[0][1] == f"127.0.0.1:{free_port} does not answer (127.0.0.1: Connection refused)"


def test_a_service_that_does_not_come_is_given_up(free_port: int) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_endpoint("127.0.0.1", free_port, 0.2, silent, may_be_own=False)
    message = (
        f"127.0.0.1:{free_port} can't be reached, tried for 0.2 s (127.0.0.1: Connection refused); check"
    )
    assert str(caught.value).startswith(message)


def test_anothers_address_must_answer() -> None:
    with pytest.raises(
        ConfigurationError, match=rf"{NOBODYS}:80 can't be reached, tried for .*\({NOBODYS}: "
    ):
        check_endpoint(NOBODYS, 80, 0, silent)


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "x" * 70])
def test_a_name_without_an_address(host: str) -> None:
    waits: list[str] = []
    with pytest.raises(ConfigurationError, match=f"the host name '{host}' can't be resolved, tried for 0"):
        check_endpoint(host, 80, 30, lambda _elapsed_s, why: waits.append(why), resolve_timeout_s=0.1)
    assert waits
    assert waits[0].startswith(f"the name {host!r} has no address (")


def test_waiting_can_be_broken_off_by_who_is_told() -> None:
    class Enough(Exception):
        pass

    def stop(_elapsed_s: float, _why: str) -> None:
        raise Enough

    with pytest.raises(Enough):
        check_endpoint("nowhere.invalid", 80, 600, stop)


def test_own_addresses() -> None:
    assert all(is_own(address) for address in resolve("localhost", 1))
    assert not is_own(resolve(NOBODYS, 1)[0])


def test_ports(listener: socket.socket, free_port: int) -> None:
    assert port_problem(free_port) is None
    problem = port_problem(port_of(listener))
    assert problem is not None
    assert problem.startswith("in use by ")
    assert problem.endswith(f"(pid {os.getpid()})")
    assert listener_of(free_port) is None


def test_a_port_that_is_only_reserved_counts_as_free() -> None:
    with closing(socket.socket()) as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("", 0))
        assert port_problem(port_of(reserved)) is None


@pytest.mark.torch
def test_looking_at_a_store_of_torch_does_not_disturb_it() -> None:
    pytest.importorskip("torch")
    source = (
        "from torch.distributed import TCPStore; import datetime, sys\n"
        "store = TCPStore('127.0.0.1', 0, None, True, wait_for_workers=False)\n"
        "print(store.port, flush=True); sys.stdin.readline()\n"
        "client = TCPStore('127.0.0.1', store.port, None, False, datetime.timedelta(seconds=20))\n"
        "client.set('a', 'b'); print(store.get('a').decode())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as agent:
        stop = threading.Timer(60, agent.kill)
        stop.start()
        try:
            assert agent.stdout is not None
            port = int(agent.stdout.readline())
            for _ in range(20):
                assert check_endpoint("127.0.0.1", port, 0, silent).listening
            answer, _ = agent.communicate("go on\n")
        finally:
            stop.cancel()
            agent.kill()
    assert answer.strip() == "b"
