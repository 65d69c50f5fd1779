"""The contract of `Host`: names that are cheap to ask for, and ports that nobody else gets."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import pytest

from tests.agent.world import FakeHost
from toolkit.adapters.host import LocalHost
from toolkit.ports import Host, Reservation

from .worlds import SimWorld


def _simulated(environment: Mapping[str, str]) -> Host:
    world = SimWorld()
    from simulator.adapters.host import NodeHost

    return NodeHost(world.process, environment)


#: makes the host from the environment that its workers inherit
ADAPTERS: dict[str, Callable[[Mapping[str, str]], Host]] = {
    "local": LocalHost,
    "simulated": _simulated,
    "fake": FakeHost,
}
#: those whose ports are the kernel's
REAL = ["local"]


@pytest.fixture(params=ADAPTERS.values(), ids=list(ADAPTERS))
def host(request: pytest.FixtureRequest) -> Host:
    made: Host = request.param({"PATH": "/bin", "EMPTY": ""})
    return made


@pytest.fixture(params=REAL)
def real_host(request: pytest.FixtureRequest) -> Host:
    return ADAPTERS[request.param]({})


@contextmanager
def reserved(host: Host) -> Iterator[Reservation]:
    reservation = host.reserve_port()
    try:
        yield reservation
    finally:
        reservation.release()


def test_names(host: Host) -> None:
    assert host.hostname()
    assert host.fq_hostname()
    assert host.hostname() == host.hostname()
    assert host.fq_hostname() == host.fq_hostname()


def test_the_environment_is_as_given(host: Host) -> None:
    assert dict(host.environment()) == {"PATH": "/bin", "EMPTY": ""}


def test_the_pid_is_a_process_id(host: Host) -> None:
    assert host.pid() > 0


def test_reserved_ports_are_ports_and_differ(host: Host) -> None:
    with ExitStack() as stack:
        ports = [stack.enter_context(reserved(host)).port for _ in range(50)]
        assert all(1024 <= port < 65536 for port in ports)
        assert len(set(ports)) == 50


def test_a_reservation_knows_its_port_from_first_to_last(host: Host) -> None:
    with reserved(host) as reservation:
        port = reservation.port
        assert reservation.port == port
    assert reservation.port == port  # known, though no longer kept


def test_releasing_twice_does_no_harm(host: Host) -> None:
    reservation = host.reserve_port()
    reservation.release()
    reservation.release()


def test_real_names_and_pid(real_host: Host) -> None:
    assert real_host.pid() == os.getpid()
    assert real_host.hostname() == socket.gethostname()


FAMILIES = [
    pytest.param(socket.AF_INET, "127.0.0.1", id="ipv4"),
    pytest.param(socket.AF_INET, "", id="ipv4-any"),
    pytest.param(socket.AF_INET6, "::1", id="ipv6"),
    pytest.param(socket.AF_INET6, "::", id="ipv6-any"),
]


def needs(family: int) -> None:
    if family != socket.AF_INET6:
        return
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")


@pytest.mark.parametrize(("family", "address"), FAMILIES)
class TestRealPorts:
    def test_who_asks_for_the_port_plainly_does_not_get_it(
        self, real_host: Host, family: int, address: str
    ) -> None:
        needs(family)
        with (
            reserved(real_host) as reservation,
            socket.socket(family, socket.SOCK_STREAM) as other,
            pytest.raises(OSError, match="already in use"),
        ):
            other.bind((address, reservation.port))

    def test_who_asks_for_any_port_does_not_get_it(self, real_host: Host, family: int, address: str) -> None:
        needs(family)
        with ExitStack() as stack:
            kept = {stack.enter_context(reserved(real_host)).port for _ in range(100)}
            for _ in range(500):
                with socket.socket(family, socket.SOCK_STREAM) as other:
                    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    other.bind((address, 0))
                    assert other.getsockname()[1] not in kept

    def test_the_worker_listens_on_it_while_it_is_reserved(
        self, real_host: Host, family: int, address: str
    ) -> None:
        needs(family)
        with reserved(real_host) as reservation, socket.socket(family, socket.SOCK_STREAM) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address, reservation.port))
            server.listen()
            target = {"": "127.0.0.1", "::": "::1"}.get(address, address)
            with socket.create_connection((target, reservation.port), timeout=5):
                accepted, _ = server.accept()
                accepted.close()
            reservation.release()
            with socket.create_connection((target, reservation.port), timeout=5):
                accepted, _ = server.accept()
                accepted.close()

    def test_nobody_answers_on_it_before(self, real_host: Host, family: int, address: str) -> None:
        needs(family)
        target = {"": "127.0.0.1", "::": "::1"}.get(address, address)
        with reserved(real_host) as reservation, pytest.raises(ConnectionRefusedError):
            socket.create_connection((target, reservation.port), timeout=5)

    def test_after_release_anybody_gets_it(self, real_host: Host, family: int, address: str) -> None:
        needs(family)
        with reserved(real_host) as reservation:
            port = reservation.port
        with socket.socket(family, socket.SOCK_STREAM) as other:
            other.bind((address, port))


@pytest.mark.torch
def test_torch_hosts_its_store_on_a_reserved_port(real_host: Host) -> None:
    distributed = pytest.importorskip("torch.distributed")
    with reserved(real_host) as reservation:
        server = distributed.TCPStore("127.0.0.1", reservation.port, is_master=True, wait_for_workers=False)
        client = distributed.TCPStore("127.0.0.1", reservation.port, is_master=False)
        client.set("k", "1")
        assert server.get("k") == b"1"
