"""Interfaces, ports, and the way to the rendezvous endpoint."""

from __future__ import annotations

import errno
import re
import socket
import time
from contextlib import closing
from pathlib import Path

import psutil

from toolkit.adapters.doctor.limits import text_in
from toolkit.adapters.doctor.names import look_up
from toolkit.adapters.endpoint import Address, is_own, port_problem
from toolkit.core.doctor.facts import EndpointFacts, Interface, Lookup, NetworkFacts

_PROC = Path("/proc")
_RDMA = Path("/sys/class/infiniband")
#: addresses that nobody has; they are only routed to, nothing is sent
_NOWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def network(rendezvous_port: int, master_port: int) -> NetworkFacts:
    """Interfaces and ports.

    Args:
        rendezvous_port: the default of the rendezvous.
        master_port: the default of torch's.
    """
    first, last = _ephemeral()
    return NetworkFacts(
        interfaces=_interfaces(),
        towards_world=towards_world(),
        ephemeral_first=first,
        ephemeral_last=last,
        ports_used=len([port for port in _ports_in_use() if first and last and first <= port <= last]),
        ipv6=is_own(Address(socket.AF_INET6, ("::1", 0, 0, 0))),
        rendezvous_port=rendezvous_port,
        rendezvous_port_problem=port_problem(rendezvous_port) or "",
        master_port=master_port,
        master_port_problem=port_problem(master_port) or "",
        infiniband=_infiniband(),
    )


def _interfaces() -> list[Interface]:
    stats = psutil.net_if_stats()
    found = []
    for name, addresses in psutil.net_if_addrs().items():
        state = stats.get(name)
        useful = [
            address.address
            for address in addresses
            if address.family in (socket.AF_INET, socket.AF_INET6) and not address.address.startswith("fe80:")
        ]
        found.append(
            Interface(
                name=name,
                up=state.isup if state else False,
                addresses=useful,
                speed_mbit=state.speed or None if state else None,
                mtu=state.mtu if state else None,
            )
        )
    return found


def towards_world() -> str:
    """The address of this machine that others see; empty if it has no route to anybody."""
    for family, address in _NOWHERE:
        try:
            with closing(socket.socket(family, socket.SOCK_DGRAM)) as sock:
                sock.connect((address, 9))
                return str(sock.getsockname()[0])
        except OSError:
            continue
    return ""


def _ephemeral() -> tuple[int | None, int | None]:
    words = (text_in(_PROC / "sys/net/ipv4/ip_local_port_range") or "").split()
    return (int(words[0]), int(words[1])) if len(words) == 2 else (None, None)


def _ports_in_use() -> set[int]:
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in (text_in(_PROC / "net" / table) or "").splitlines()[1:]:
            ports.add(int(line.split()[1].rpartition(":")[2], 16))
    return ports


def _infiniband() -> list[str]:
    """Each port of each device, with its state."""
    found = []
    for port in sorted(_RDMA.glob("*/ports/*")):
        state = re.sub(r"^\d+: ", "", text_in(port / "state") or "unknown")
        name = port.parts[-3]
        found.append(f"{name} {state}" if port.name == "1" else f"{name}:{port.name} {state}")
    return found


def endpoint(host: str, port: int, patience_s: float) -> EndpointFacts:
    """The endpoint, seen from here. Says nothing to who listens there.

    Args:
        patience_s: how long connecting may take.
    """
    lookup = look_up(host, port)
    if lookup.problem:
        return EndpointFacts(host=host, port=port, lookup=lookup)
    problem, refused, start = "", False, time.monotonic()
    for address in _addresses(lookup, port):
        left_s = max(patience_s - (time.monotonic() - start), 0.1)
        try:
            with closing(socket.socket(address.family, socket.SOCK_STREAM)) as sock:
                sock.settimeout(left_s)
                sock.connect(address.sockaddr)
                return EndpointFacts(
                    host=host,
                    port=port,
                    lookup=lookup,
                    own=is_own(address),
                    listening=True,
                    took_s=round(time.monotonic() - start, 4),
                    local_addr=str(sock.getsockname()[0]),
                )
        except OSError as error:
            refused = refused or error.errno == errno.ECONNREFUSED
            problem = (
                f"no answer in {left_s:.1f} s"
                if isinstance(error, TimeoutError)
                else error.strerror or str(error)
            )
    own = any(is_own(address) for address in _addresses(lookup, port))
    return EndpointFacts(
        host=host,
        port=port,
        lookup=lookup,
        own=own,
        problem=problem,
        refused=refused,
        local_addr=_towards(lookup, port),
    )


def _addresses(lookup: Lookup, port: int) -> list[Address]:
    return [
        Address(socket.AF_INET6, (ip, port, 0, 0)) if ":" in ip else Address(socket.AF_INET, (ip, port))
        for ip in lookup.addresses
    ]


def _towards(lookup: Lookup, port: int) -> str:
    """Our address on the way there, if there is a way; sends nothing."""
    for address in _addresses(lookup, port):
        try:
            with closing(socket.socket(address.family, socket.SOCK_DGRAM)) as sock:
                sock.connect(address.sockaddr)
                return str(sock.getsockname()[0])
        except OSError:
            continue
    return ""
