"""The URL of an agent."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from toolkit.core.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Url:
    """Where an agent listens.

    Args:
        host: name or address.
        port: of TCP.
        tls: whether it speaks TLS.
    """

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.tls else ''}://{host}:{self.port}"


def is_url(text: str) -> bool:
    """Whether somebody means an agent by its URL."""
    return text.startswith(("http://", "https://"))


def parse_url(text: str) -> Url:
    """The URL of an agent.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in ("http", "https") or not host or port is None or parts.path not in ("", "/"):
        raise ConfigurationError(f"{text!r} is no URL of an agent; give one such as http://gpu-a:9400")
    return Url(host, port, parts.scheme == "https")
