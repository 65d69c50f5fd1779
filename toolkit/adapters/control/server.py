"""The control endpoint of one agent: listens, and gives each connection a thread. Nothing here can hold the agent up.

Threads are daemons, and everything has a bound: connections, requests, watchers, orders, the time that a peer may take.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.adapters.control import place
from toolkit.adapters.control.feed import Feed
from toolkit.adapters.control.orders import Orders
from toolkit.adapters.control.roster import Peer, Roster
from toolkit.core.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl

    from toolkit.adapters.control.guard import Guard
    from toolkit.adapters.control.remote import Credentials

CONNECTIONS_MAX = 64
#: how long watchers may take for the last events at the end of a run, in seconds
FAREWELL_S = 0.5
_BACKLOG = 16
#: how long to wait when no connection can be accepted, as with no descriptors left, in seconds
_RETRY_S = 0.2


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """Where to listen besides, for other machines.

    Args:
        host: name or address.
        port: 0 takes any free one.
        token_file: holds what requests must bear; made if missing. None: everybody may read, nobody act.
        tls_cert: PEM file of the certificate, and of the key if `tls_key` is None; None speaks plain HTTP.
        tls_key: PEM file.
        tls_ca: certificates by which those of the job's other agents are checked; None takes `tls_cert`, which they
            share then.
    """

    host: str
    port: int
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None


class ControlServer:
    """What an agent says of itself, and what it may be told.

    Args:
        node: this agent, as events name it.
        recorded: the events file of the agent, for watchers that want what is not in memory any more.
        tell: takes sentences for people.
    """

    def __init__(self, node: str, recorded: Path | None, tell: Callable[[str], None]) -> None:
        self.feed = Feed(recorded)
        self.orders = Orders()
        self.me = Peer(node, "")
        self._token: bytes | None = None
        self._address: TcpAddress | None = None
        self.guard: Guard | None = None
        self.tell = tell
        self._place: place.Listening | None = None
        self._listeners: list[socket.socket] = []
        self._tls: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._closing = False
        #: where it listens for other machines, if it does
        self.tcp: tuple[str, int] | None = None

    @property
    def path(self) -> Path | None:
        """Of the Unix socket, if it listens there."""
        return None if self._place is None else self._place.path

    @property
    def url(self) -> str:
        """By which other machines reach it; empty if it does not listen for them."""
        return self.me.url

    @property
    def roster(self) -> Roster:
        """Of the agents whose round this one is in."""
        return self.orders.roster

    @property
    def credentials(self) -> Credentials:
        """For the other agents of the job: they are started alike, and take what this one takes."""
        from toolkit.adapters.control.remote import Credentials

        address = self._address
        ca = None if address is None else address.tls_ca or address.tls_cert
        return Credentials(self._token, ca, any_name=address is not None and address.tls_ca is None)

    def listen_in(self, run_directory: Path, near_by: Iterable[Path]) -> None:
        """Listen on a Unix socket in the run directory. A run goes on without, and says why."""
        try:
            self._place = place.listen(run_directory, self.me.node, near_by)
        except OSError as error:
            self.tell(f"nobody can watch this run: its socket can't be made: {error.strerror or error}")
            return
        self._begin(self._place.socket, "rally-control")

    def listen_on(self, address: TcpAddress, names: tuple[str, ...], reachable: str = "localhost") -> None:
        """Listen for other machines, too.

        Args:
            names: what this machine is called.
            reachable: by what others reach it, if it listens on all its addresses.

        Raises:
            ConfigurationError: it can't be.
        """
        from toolkit.adapters.control.guard import Guard, read_token  # few runs need it
        from toolkit.adapters.control.url import Url

        self._address = address
        token = self._token = None if address.token_file is None else read_token(address.token_file)
        if address.tls_cert is not None:
            self._tls = _tls_context(address.tls_cert, address.tls_key)
        try:
            found = socket.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, _, _, _, where = found[0]
            listener = socket.create_server(where[:2], family=family, backlog=_BACKLOG)
        except OSError as error:
            raise ConfigurationError(
                f"--control-addr {address.host}:{address.port} can't be listened on: {error.strerror or error}; "
                "give another address, or port 0 for any"
            ) from error
        here = listener.getsockname()
        self.tcp = (str(here[0]), int(here[1]))
        open_to_all = self.tcp[0] in ("0.0.0.0", "::")
        url = Url(reachable if open_to_all else self.tcp[0], self.tcp[1], self._tls is not None)
        self.me = Peer(self.me.node, str(url))
        self.orders.roster = Roster(self.me)
        self.guard = Guard(token, (address.host, reachable, *names), self.tell)
        self._begin(listener, "rally-control-tcp")

    def _begin(self, listener: socket.socket, name: str) -> None:
        self._listeners.append(listener)
        threading.Thread(target=self._accept_all, args=(listener,), name=name, daemon=True).start()

    # -- in the threads of the listeners --------------------------------------------------------------------

    def _accept_all(self, listener: socket.socket) -> None:
        while not self._closing:
            try:
                connection, address = listener.accept()
            except OSError:
                if self._closing or listener.fileno() < 0:
                    return
                time.sleep(_RETRY_S)
                continue
            self._take(connection, address)

    def _take(self, connection: socket.socket, address: Any) -> None:
        with self._lock:
            full = self._closing or len(self._connections) >= CONNECTIONS_MAX
            if not full:
                thread = threading.Thread(
                    target=self._serve, args=(connection, address), name="rally-control-peer", daemon=True
                )
                self._connections[connection] = thread
        if full or (not address and not _is_own(connection)):
            self._forget(connection)
            return
        try:
            thread.start()
        except RuntimeError:  # no more threads
            self._forget(connection)

    def _forget(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.pop(connection, None)
        with suppress(OSError):
            connection.close()

    # -- in the threads of the connections ------------------------------------------------------------------

    def _serve(self, connection: socket.socket, address: Any) -> None:
        from toolkit.adapters.control.handler import PATIENCE_S, serve

        try:
            connection.settimeout(PATIENCE_S)
            if address and self._tls is not None:
                with suppress(OSError), self._tls.wrap_socket(connection, server_side=True) as secure:
                    serve(secure, address, self)
                return
            serve(connection, address, self)
        finally:
            self._forget(connection)

    # -- the end --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Watchers get what is left, for a moment; then nobody is listened to any more. Never raises."""
        self._closing = True
        self.orders.close()
        self.feed.close()
        for listener in self._listeners:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes its thread
            with suppress(OSError):
                listener.close()
        if self._place is not None:
            self._place.close()
        until = time.monotonic() + FAREWELL_S
        with self._lock:
            left = dict(self._connections)
        for connection in left:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)  # ends the waits for another request
        for connection, thread in left.items():
            with suppress(RuntimeError):
                thread.join(max(0.0, until - time.monotonic()))
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # breaks off what is being sent to who does not read


def _is_own(connection: socket.socket) -> bool:
    """Whether the peer is this user or root. The mode of the socket says so already; some file systems have none."""
    from toolkit.adapters.control.handler import peer_of

    peer = peer_of(connection)
    return peer is None or peer[1] in (0, os.getuid())


def _tls_context(cert: Path, key: Path | None) -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"the certificate {cert}{f' with the key {key}' if key else ''} can't be used: {error}"
        ) from error
    return context
