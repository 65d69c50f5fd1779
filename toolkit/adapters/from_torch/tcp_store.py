"""Connections to the one TCPStore where the nodes of a job meet, and the server itself on the node that hosts it.

torch's constructor retries with pages of warnings where it meets anything but a TCPStore, and blocks for good where it
meets silence. So a plain socket looks first who is there; the constructor runs when a TCPStore has answered, and in a
thread that can be left behind. torch is imported by `load_torch`, not by this module.

No thread may be inside torch when the process ends: the interpreter ends a thread that comes back from C++ by unwinding
its stack, which C++ takes for an error of its own and aborts the process ("terminate called without an active
exception"). So operations are counted, and `close` breaks off those that do not end.
"""

from __future__ import annotations

import atexit
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

from toolkit.adapters.endpoint import (
    RESOLVE_TIMEOUT_S,
    Address,
    is_own,
    listener_of,
    port_problem,
    resolve_within,
)
from toolkit.core.errors import ConfigurationError, StoreError
from toolkit.core.words import host_and_port

#: How long an operation waits for a missing key. A wait that ends by its time-out writes warnings to stderr (2.13), so
#: none ever does: it ends by being answered, or with its connection.
FOR_EVER = timedelta(days=30)

#: the environment variable that says how much torch's C++ code logs, and what keeps broken connections out of stderr.
#: Read once, when torch is imported.
LOG_LEVEL, LOG_LEVEL_QUIET = "TORCH_CPP_LOG_LEVEL", "ERROR"

# What a client says first, and the server repeats the last four bytes: QueryType VALIDATE with its magic number, then
# PING with a number. torch/csrc/distributed/c10d/TCPStore.cpp (validate, ping) and TCPStoreBackend.hpp, 2.6 to 2.13.
_HELLO, _NONCE_BYTES = b"\x00" + (0x3C85F7CE).to_bytes(4, "little") + b"\x0d", 4
#: what makes a server of lines of text, such as HTTP, answer. A slow TCPStore answers the greeting first.
_NUDGE = b"\r\n\r\n"
_NUDGE_AFTER_S, _GREETING_S, _LOOK_S = 1.0, 5.0, 2.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
#: torch's constructor takes its time-out for a connection; this one has just been made once
_CONSTRUCTOR_MIN_S = 1.0
_BACKLOG = 4096
#: how long operations may take to end by themselves when the store is closed, and after they were broken off
_CLOSE_S, _BREAK_OFF_S = 0.5, 5.0
_OPEN_FILES = Path("/proc/self/fd")


def load_torch() -> None:
    """Import what this module needs of torch.

    Raises:
        ConfigurationError: torch can't be imported.
    """
    try:
        from torch.distributed import TCPStore  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"the rendezvous of several nodes meets in a store of torch, and torch can't be imported ({error}); "
            "pip install torch, or use --standalone for one node"
        ) from error


class TcpStoreConnector:
    """Implements `toolkit.ports.StoreConnector` over torch's TCPStore.

    Args:
        host: name or address of the machine that hosts the store; an IPv6 address without brackets.
        port: where, from 1.
        may_host: True if this agent must host it, False if it must not; None: the first agent on that machine does.
    """

    def __init__(self, host: str, port: int, *, may_host: bool | None) -> None:
        self._host, self._port = host, port
        self._may_host = may_host
        self._server: Any = None
        #: whether it is settled who hosts. Decided once: an agent that lost the store must not open an empty one.
        self._settled = False
        #: several of an agent's tasks may connect at one time
        self._settling = threading.Lock()
        self._calls = _Calls(self.where)
        self._peers: set[Address] = set()
        self._local_address = ""

    @property
    def where(self) -> str:
        """Host and port."""
        return host_and_port(self._host, self._port)

    @property
    def hosting(self) -> bool:
        """Whether this agent hosts the store. Known after `connect`."""
        return self._server is not None

    @property
    def local_address(self) -> str:
        """What the others can call this machine; known after `connect`.

        On the machine of the endpoint it is the endpoint's own name or address, since that is how the others get here
        (its address as seen from here may be 127.0.1.1); elsewhere this end of the connection, an IP address.
        """
        assert self._local_address, f"nobody has connected to {self.where} yet"
        return self._local_address

    def connect(self, timeout_s: float) -> Any:
        """A connection of its own; hosts the store first where that is this agent's part.

        Does not hold up Python's signal handlers. Tries again where nobody listens yet.

        Raises:
            StoreError: nobody answered within `timeout_s`, or who did is no TCPStore; names the endpoint.
        """
        deadline = time.monotonic() + timeout_s
        atexit.register(self.close)
        try:
            return _bounded(lambda: self._connect(deadline), timeout_s, self.where)
        except ConfigurationError as error:
            raise StoreError(f"the store at {self.where}: {error}") from error

    def close(self) -> None:
        """Let go of the store: all connections end, and the server if this agent hosts it.

        Operations that are under way have half a second to end, and raise then. Harmless the second time; called at
        the end of the process in any case.
        """
        self._calls.drained(_CLOSE_S)
        self._calls.forbid()
        if not self._calls.drained(0):
            self._break_off()
            self._calls.drained(_BREAK_OFF_S)
        self._server = None
        atexit.unregister(self.close)

    def _break_off(self) -> None:
        """End the connections under torch's hands; whoever waits on one gets an error."""
        there = {(_plain(address.ip), self._port) for address in self._peers}
        for entry in list(_OPEN_FILES.iterdir()):
            try:
                with closing(_socket_of(int(entry.name))) as sock:
                    ip, port, *_ = sock.getpeername()
                    if (_plain(ip), port) in there:
                        sock.shutdown(socket.SHUT_RDWR)
            except (OSError, ValueError, TypeError):
                pass  # no socket, one of another kind, not connected, or closed meanwhile

    # -- in a thread ------------------------------------------------------------------------------------------

    def _connect(self, deadline: float) -> Any:
        left_s = deadline - time.monotonic()
        addresses = resolve_within(self._host, self._port, min(left_s, RESOLVE_TIMEOUT_S), _nothing)
        own = any(is_own(address) for address in addresses)
        with self._settling, self._calls:
            if not self._settled:
                self._settle(own)
        # Around what stands between: a cluster's service need not lead a machine back to itself.
        there = (_loopback(self._port),) if self._server is not None else addresses
        address, local = self._find(there, deadline, own)
        self._peers.add(address)
        self._local_address = self._name_of_here(addresses[0], local, own)
        return self._client(address, deadline)

    def _settle(self, own: bool) -> None:
        """Host the store, if that is this agent's part."""
        if self._may_host or (self._may_host is None and own):
            try:
                self._server = serve(self._port)
            except OSError as error:
                # Of several agents here the first one hosts; that this is another service will be seen.
                if self._may_host:
                    problem = port_problem(self._port) or error.strerror
                    raise StoreError(
                        f"the store at {self.where} can't be hosted here: port {self._port} is {problem}; "
                        "give another port, the same on every node"
                    ) from error
        self._settled = True

    def _name_of_here(self, endpoint: Address, local: str, own: bool) -> str:
        if own:
            return self._host if self._host not in ("0.0.0.0", "::") else local
        return local if self._server is None else _local_end_of_route(endpoint)

    def _find(self, addresses: Sequence[Address], deadline: float, own: bool) -> tuple[Address, str]:
        """The address at which a TCPStore answers, and this end of a connection to it."""
        start, pause_s = time.monotonic(), _FIRST_PAUSE_S
        while True:
            problems = []
            for address in addresses:
                left_s = max(deadline - time.monotonic(), _FIRST_PAUSE_S)
                try:
                    return address, _greet(address, min(left_s, _GREETING_S))
                except _Foreign as error:
                    raise StoreError(self._foreign(str(error), own)) from error
                except OSError as error:
                    problems.append(f"{address.ip}: {error.strerror or error or type(error).__name__}")
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise StoreError(
                    f"no store answers at {self.where}, tried for {time.monotonic() - start:.1f} s "
                    f"({', '.join(problems)}); check the address, the port and the firewall, and that the agent "
                    "on that machine runs"
                )
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _foreign(self, says: str, own: bool) -> str:
        holder = listener_of(self._port) if own else None
        who = f"; here it is {holder}" if holder else ""
        return (
            f"something answers at {self.where}, but it is no TCPStore: it says {says}{who}; "
            "give another port, the same on every node"
        )

    def _client(self, address: Address, deadline: float) -> Any:
        from torch.distributed import TCPStore

        left = timedelta(seconds=max(deadline - time.monotonic(), _CONSTRUCTOR_MIN_S))
        try:
            with self._calls:
                client = TCPStore(
                    address.ip, self._port, is_master=False, wait_for_workers=False, timeout=left
                )
        except (RuntimeError, ValueError) as error:  # torch's network errors are RuntimeErrors
            reason = (str(error).splitlines() or [type(error).__name__])[0]  # a C++ stack trace is below it
            raise StoreError(f"the store at {self.where} can't be used: {reason}") from error
        client.set_timeout(FOR_EVER)
        return TcpStoreConnection(client, self._calls)


class _Calls:
    """Counts the calls of torch that are under way."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._changed = threading.Condition()
        self._under_way = 0
        self._forbidden = False

    def __enter__(self) -> None:
        with self._changed:
            if self._forbidden:
                raise StoreError(f"the store at {self._where} was closed by this agent")
            self._under_way += 1

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()

    def forbid(self) -> None:
        """From now on a call raises."""
        with self._changed:
            self._forbidden = True

    def drained(self, timeout_s: float) -> bool:
        """Wait until none is under way; whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self._under_way == 0, timeout_s)


class TcpStoreConnection:
    """A client of torch, with all its methods; a call raises StoreError once the store is closed here."""

    def __init__(self, client: Any, calls: _Calls) -> None:
        self._client = client
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found

        def call(*args: Any, **options: Any) -> Any:
            with self._calls:
                return found(*args, **options)

        setattr(self, name, call)
        return call


def _plain(ip: str) -> str:
    """An address without its interface, and as IPv4 where torch has made it IPv6."""
    return ip.partition("%")[0].removeprefix("::ffff:")


def _socket_of(descriptor: int) -> socket.socket:
    """Another handle of an open socket. Raises OSError: it is none."""
    own = os.dup(descriptor)
    try:
        return socket.socket(fileno=own)
    except OSError:
        os.close(own)
        raise


def _nothing(_waited_s: float, _why: str) -> None:
    """What is told of a wait."""


def _bounded(run: Callable[[], Any], timeout_s: float, where: str) -> Any:
    """What `run` returns or raises; it is left behind where it takes longer than it should.

    Raises:
        StoreError: it did.
    """
    outcome: list[Any] = []
    errors: list[BaseException] = []
    ended = threading.Event()

    def body() -> None:
        try:
            outcome.append(run())
        except BaseException as error:  # noqa: BLE001 - the edge of a thread: the caller raises it
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=body, name="rally-store-connect", daemon=True).start()
    # The thread watches the time itself; a little later it is known to be held up.
    if not ended.wait(timeout_s + min(0.25 + timeout_s / 10, 1.0)):
        raise StoreError(
            f"the store at {where} has not answered within {timeout_s:.1f} s; "
            "its host has stopped, or the network or the name service is down"
        )
    if errors:
        raise errors[0]
    return outcome[0]


def serve(port: int) -> Any:
    """A TCPStore server on all addresses of this machine.

    The socket is bound here and handed over, so that of several agents exactly one gets it, whoever is first.

    Raises:
        OSError: the port is taken, or not for us.
    """
    from torch.distributed import TCPStore

    listening = _listening(port)
    timeout = timedelta(seconds=_GREETING_S)
    return TCPStore(
        "127.0.0.1",
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timeout,
        master_listen_fd=listening.detach(),
    )


def _listening(port: int) -> socket.socket:
    if socket.has_ipv6:
        try:
            return _listening_on(socket.AF_INET6, "::", port)
        except OSError:
            if is_own(Address(socket.AF_INET6, ("::1", 0, 0, 0))):
                raise  # otherwise it is compiled in, but switched off on this machine
    return _listening_on(socket.AF_INET, "0.0.0.0", port)


def _listening_on(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of an agent that has ended linger; two that listen are refused all the same.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((address, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _loopback(port: int) -> Address:
    return Address(socket.AF_INET, ("127.0.0.1", port))


def _local_end_of_route(address: Address) -> str:
    """This machine's address on the way to another. Sends nothing."""
    with closing(socket.socket(address.family, socket.SOCK_DGRAM)) as sock:
        sock.connect(address.sockaddr)
        return str(sock.getsockname()[0])


def foreign_service(host: str, port: int) -> str | None:
    """Who answers there and is no TCPStore, in words; None if nobody does, or one that may be. Takes seconds at most.

    Asks for the host's name again and again only for as long.
    """
    try:
        for address in resolve_within(host, port, _LOOK_S, _nothing):
            _greet(address, _LOOK_S)
    except _Foreign as error:
        return f"something that is no TCPStore; it says {error}"
    except (OSError, ConfigurationError):
        pass  # whoever connects will see
    return None


class _Foreign(Exception):
    """Who answers is no TCPStore; says what it said."""


def _greet(address: Address, timeout_s: float) -> str:
    """Find out whether a TCPStore is there; returns this end of the connection.

    Raises:
        _Foreign: something else answered.
        OSError: nobody did, within `timeout_s`.
    """
    nonce = os.urandom(_NONCE_BYTES)
    deadline = time.monotonic() + timeout_s
    with closing(socket.socket(address.family, socket.SOCK_STREAM)) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(address.sockaddr)
        except TimeoutError as error:
            raise TimeoutError(f"no answer within {timeout_s:.1f} s") from error
        try:
            sock.sendall(_HELLO + nonce)
            said = _first_words(sock, deadline)
        except TimeoutError as error:
            raise TimeoutError(
                "it accepts connections and says nothing: its host is stopped, or it is no TCPStore"
            ) from error
        except ConnectionError as error:
            raise ConnectionError(_CLOSES) from error
        if said[:_NONCE_BYTES] == nonce:
            return str(sock.getsockname()[0])
        if not said:
            raise ConnectionError(_CLOSES)
        raise _Foreign(repr(said.decode("ascii", "replace").split("\n")[0].strip()[:60]))


_CLOSES = "it closes the connection at once: it is ending, or it is no TCPStore"


def _first_words(sock: socket.socket, deadline: float) -> bytes:
    """At least four bytes, or fewer if the other side ends there."""
    said, nudged = b"", False
    while len(said) < _NONCE_BYTES:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        sock.settimeout(left_s if nudged else min(left_s, _NUDGE_AFTER_S))
        try:
            more = sock.recv(256)
        except TimeoutError:
            if nudged:
                raise
            nudged = True
            sock.sendall(_NUDGE)
            continue
        if not more:
            break
        said += more
    return said
