"""Network addresses before a run: which are this machine's, which can be reached, which ports are free.

Every wait has a limit, and every refusal names the addresses that were tried.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.core.errors import ConfigurationError
from toolkit.core.words import host_and_port

#: How long to ask for a name that nobody knows. A typo never comes; the name of a node that is just starting
#: does, once the name service has forgotten that it was not there (30 s in Kubernetes).
RESOLVE_TIMEOUT_S = 40.0

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
_CONNECT_TIMEOUT_S, _LAST_CONNECT_S = 5.0, 1.0
_WILDCARDS = ("0.0.0.0", "::")
_PROC = Path("/proc")
_TCP_LISTEN = "0A"

#: told, after each attempt that failed, how long it has been waiting (seconds) and for what
OnWait = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Address:
    """One address that a name resolved to.

    Args:
        family: AF_INET or AF_INET6.
        sockaddr: as `socket.connect` takes it.
    """

    family: socket.AddressFamily
    sockaddr: tuple[Any, ...]

    @property
    def ip(self) -> str:
        """The address alone."""
        return str(self.sockaddr[0])


@dataclass(frozen=True, slots=True)
class Reached:
    """What is known of an endpoint.

    Args:
        own: whether it is an address of this machine.
        listening: whether somebody listens there now.
        local_addr: what peers can call this machine.
    """

    own: bool
    listening: bool
    local_addr: str


def resolve(host: str, port: int) -> tuple[Address, ...]:
    """The addresses of `host`, in the order in which the system would try them.

    Raises:
        socket.gaierror: there are none. Does not retry.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except UnicodeError as error:  # a label that is empty or too long
        raise socket.gaierror(socket.EAI_NONAME, "not a valid host name") from error
    unique = dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found)
    return tuple(Address(family, sockaddr) for family, sockaddr in unique)


def is_own(address: Address) -> bool:
    """Whether this machine has the address, on whatever interface: only then can a socket be bound to it."""
    try:
        with closing(socket.socket(address.family, socket.SOCK_STREAM)) as sock:
            sock.bind((address.ip, 0, *address.sockaddr[2:]))
    except OSError:
        return False
    return True


def check_endpoint(
    host: str,
    port: int,
    timeout_s: float,
    on_wait: OnWait,
    *,
    may_be_own: bool = True,
    resolve_timeout_s: float = RESOLVE_TIMEOUT_S,
) -> Reached:
    """Make sure that the nodes can meet at `host:port`: it is this machine, or it answers.

    Args:
        timeout_s: how long to try; 0 tries once. The last attempt may take a second longer for each address.
        on_wait: called after each attempt that failed.
        may_be_own: whether an agent is to listen there, so that an address of this machine needs no listener
            yet; False for a service that must already run.
        resolve_timeout_s: how long to ask for a name that nobody knows, within `timeout_s`.

    Raises:
        ConfigurationError: the name has no address, or no address answered in time.
    """
    start = time.monotonic()
    addresses = resolve_within(host, port, min(timeout_s, resolve_timeout_s), on_wait)
    own = any(is_own(address) for address in addresses)
    for _ in _attempts(start, timeout_s):
        remaining_s = max(timeout_s - (time.monotonic() - start), _LAST_CONNECT_S)
        problems = {}
        for address in addresses:
            local = _local_end(address, min(_CONNECT_TIMEOUT_S, remaining_s))
            if isinstance(local, str):
                return Reached(own, listening=True, local_addr=_own_name(host, local) if own else local)
            problems[address.ip] = local.strerror or type(local).__name__
        if own and may_be_own:
            return Reached(own, listening=False, local_addr=_own_name(host, addresses[0].ip))
        why = ", ".join(f"{ip}: {problem}" for ip, problem in problems.items())
        on_wait(time.monotonic() - start, f"{host_and_port(host, port)} does not answer ({why})")
    raise ConfigurationError(
        f"{host_and_port(host, port)} can't be reached, tried for {time.monotonic() - start:.1f} s ({why}); check "
        "the address, the port and the firewall, and that the agent or the service there has been started"
    )


def resolve_within(host: str, port: int, timeout_s: float, on_wait: OnWait) -> tuple[Address, ...]:
    """The addresses of `host`, asked for again and again for `timeout_s`.

    Raises:
        ConfigurationError: there are none in that time.
    """
    start = time.monotonic()
    for _ in _attempts(start, timeout_s):
        try:
            return resolve(host, port)
        except socket.gaierror as error:
            why = error.strerror or str(error)
        on_wait(time.monotonic() - start, f"the name {host!r} has no address ({why})")
    raise ConfigurationError(
        f"the host name {host!r} can't be resolved, tried for {time.monotonic() - start:.1f} s ({why}); check "
        "its spelling, or give the IP address"
    )


def _attempts(start: float, timeout_s: float) -> Iterator[None]:
    """Once now, then again and again with growing pauses until `timeout_s` after `start`."""
    pause_s = _FIRST_PAUSE_S
    yield
    while (left_s := timeout_s - (time.monotonic() - start)) > 0:
        time.sleep(min(pause_s, left_s))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        yield


def _local_end(address: Address, timeout_s: float) -> str | OSError:
    """This machine's address in a connection to `address`, or why there is none."""
    try:
        with closing(socket.socket(address.family, socket.SOCK_STREAM)) as sock:
            sock.settimeout(timeout_s)
            sock.connect(address.sockaddr)
            return str(sock.getsockname()[0])
    except TimeoutError:
        return TimeoutError(errno.ETIMEDOUT, f"no answer within {timeout_s:.1f} s")
    except OSError as error:
        return error


def _own_name(host: str, ip: str) -> str:
    """What peers can call the machine that has the endpoint: what they call it already."""
    return ip if host in _WILDCARDS else host


def local_address_towards(host: str, port: int, timeout_s: float = _CONNECT_TIMEOUT_S) -> str:
    """What peers that meet at `host:port` can call this machine.

    For an endpoint of this machine that is `host` itself: peers use that name to get here. (Its address as
    seen from here may be 127.0.1.1, an entry that many systems make for their own name.) Otherwise it is this
    end of a connection to the endpoint.

    Raises:
        ConfigurationError: the name has no address, or nothing answers there within `timeout_s`.
    """
    return check_endpoint(host, port, timeout_s, lambda _elapsed_s, _why: None).local_addr


def port_problem(port: int) -> str | None:
    """Why nobody can listen on `port` here now, with who holds it if that can be seen; None if it is free."""
    for family, wildcard in _wildcard_families():
        with closing(socket.socket(family, socket.SOCK_STREAM)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind((wildcard, port))
                sock.listen(1)
            except OSError as error:
                return _in_words(error, port)
    return None


def _wildcard_families() -> list[tuple[socket.AddressFamily, str]]:
    families = [(socket.AF_INET, "0.0.0.0")]
    if socket.has_ipv6 and is_own(Address(socket.AF_INET6, ("::1", 0, 0, 0))):
        families.append((socket.AF_INET6, "::"))
    return families


def _in_words(error: OSError, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            holder = listener_of(port)
            return f"in use by {holder}" if holder else "in use by another process"
        case errno.EACCES:
            return "only for root (ports below 1024 are)"
        case _:
            return error.strerror or str(error)


def listener_of(port: int) -> str | None:
    """The process that listens on a TCP port here, as "name (pid N)"; None if it can't be seen.

    Reads /proc; sees other users' processes only as root.
    """
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not sockets:
        return None
    for process in _PROC.iterdir():
        if process.name.isdecimal() and sockets & _open_files(process):
            return f"{_name_of(process)} (pid {process.name})"
    return None


def _listening_inodes(port: int) -> Iterator[str]:
    for table in (_PROC / "net/tcp", _PROC / "net/tcp6"):
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in (line.split() for line in lines):
            if fields[3] == _TCP_LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _open_files(process: Path) -> set[str]:
    found = set()
    try:
        with os.scandir(process / "fd") as descriptors:
            for descriptor in descriptors:
                found.add(os.readlink(descriptor.path))  # noqa: PTH115 a string to compare, not a path
    except OSError:
        pass  # ended meanwhile, or not ours to see
    return found


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "a process"
