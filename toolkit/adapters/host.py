"""This machine: its names, its ports, the environment that workers inherit."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from functools import cache

from toolkit.core.errors import ConfigurationError


class PortReservation:
    """A port that is bound but not listened on.

    A worker can listen on it all the same, because both set SO_REUSEADDR, as libuv and with it torch's TCPStore do;
    the kernel gives it to nobody who asks for any free port.
    """

    def __init__(self) -> None:
        self._socket = _bound_socket()
        self._port = int(self._socket.getsockname()[1])

    @property
    def port(self) -> int:
        """The port; still known after `release`."""
        return self._port

    def release(self) -> None:
        """Give it back. Harmless the second time."""
        self._socket.close()


def _bound_socket() -> socket.socket:
    # Both families at once where there is IPv6, so that a listener of either kind finds the port free.
    if socket.has_ipv6:
        try:
            return _bind(socket.AF_INET6, "::")
        except OSError:
            pass  # compiled in, but switched off on this machine
    try:
        return _bind(socket.AF_INET, "")
    except OSError as error:
        full = error.errno in (errno.EMFILE, errno.ENFILE)
        remedy = "raise the limit of open files (ulimit -n)" if full else "see net.ipv4.ip_local_port_range"
        raise ConfigurationError(f"no free TCP port: {error.strerror}; {remedy}") from error


def _bind(family: socket.AddressFamily, address: str) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((address, 0))
    except OSError:
        sock.close()
        raise
    return sock


#: by what name this process goes instead of the machine's, if by another
_stand_in: list[str] = []


def stand_for(node: str) -> None:
    """From now on this process takes itself to be on a machine of that name: experiments have many nodes here."""
    _stand_in[:] = [node]


def hostname() -> str:
    """The short name of this machine; asks no name service."""
    return _stand_in[0] if _stand_in else socket.gethostname()


@cache
def fq_hostname() -> str:
    """The fully qualified name of this machine. Asks the name service, once per process."""
    return _stand_in[0] if _stand_in else socket.getfqdn(socket.gethostname())


class LocalHost:
    """Implements `toolkit.ports.Host`.

    Args:
        environment: what workers inherit; kept by reference, so later changes count.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def hostname(self) -> str:
        """The short name; asks no name service."""
        return hostname()

    def fq_hostname(self) -> str:
        """The fully qualified name."""
        return fq_hostname()

    def pid(self) -> int:
        """Of this process."""
        return os.getpid()

    def environment(self) -> Mapping[str, str]:
        """What workers inherit."""
        return self._environment

    def reserve_port(self) -> PortReservation:
        """A free port, kept until it is released.

        Raises:
            ConfigurationError: there is none.
        """
        return PortReservation()
