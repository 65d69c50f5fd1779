"""Asks an agent of another machine, over TCP: by its URL, with the token, over TLS if the URL says so."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from toolkit.adapters.control.asking import TIMEOUT_S, AgentClient
from toolkit.adapters.control.url import Url
from toolkit.core.errors import AgentGoneError, ConfigurationError, ControlError

#: how long a connection may take to be made, in seconds
_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Credentials:
    """What agents of other machines want to see, and what is believed of theirs.

    Args:
        token: None bears none.
        tls_ca: certificates by which theirs are checked, PEM; None takes those of the system.
        any_name: whether a certificate may be for another name than that of the URL: agents that share one.
    """

    token: bytes | None = None
    tls_ca: Path | None = None
    any_name: bool = False

    def context(self) -> ssl.SSLContext:
        """For TLS.

        Raises:
            ConfigurationError: the certificates can't be used.
        """
        try:
            made = ssl.create_default_context(cafile=self.tls_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"the certificates in {self.tls_ca} can't be used: {error}") from error
        made.check_hostname = not self.any_name
        # A certificate that signs itself, or is trusted as it is, needs no authority above it.
        made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return made


class RemoteClient(AgentClient):
    """One agent.

    Args:
        url: where it listens.
        credentials: for it.
        timeout_s: how long it may take to answer.

    Raises:
        ConfigurationError: the certificates can't be used.
    """

    def __init__(self, url: Url, credentials: Credentials, *, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(f"the agent at {url}", timeout_s)
        self.url = url
        self._context = credentials.context() if url.tls else None
        token = credentials.token
        self.headers: Mapping[str, str] = (
            {} if token is None else {"Authorization": f"Bearer {token.decode('ascii', 'replace')}"}
        )

    def connect(self, timeout_s: float) -> http.client.HTTPConnection:
        """A connection.

        Raises:
            AgentGoneError: nobody listens.
            ControlError: the agent can't be asked.
        """
        url = self.url
        made: http.client.HTTPConnection
        if self._context is not None:
            made = http.client.HTTPSConnection(url.host, url.port, timeout=_CONNECT_S, context=self._context)
        else:
            made = http.client.HTTPConnection(url.host, url.port, timeout=_CONNECT_S)
        try:
            made.connect()
        except ssl.SSLError as error:
            made.close()
            raise ControlError(f"{self.name} can't be trusted, or speaks no TLS: {error}") from error
        except OSError as error:
            made.close()
            raise self.gone(f"can't be reached: {error.strerror or error}") from error
        made.timeout = timeout_s
        made.sock.settimeout(timeout_s)
        return made

    def gone(self, why: str) -> AgentGoneError:
        """The error for an agent that is not there."""
        return AgentGoneError(f"{self.name} {why}")
