"""The options for watching a run from other machines: `--control-addr` and what belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.core.errors import ConfigurationError
from toolkit.fronts.command_line.option import Option
from toolkit.fronts.command_line.rendezvous_settings import Endpoint

_GROUP = "control from other machines"

OPTIONS: tuple[Option, ...] = (
    Option(
        "control-addr",
        "Serve events, metrics and actions there, too; port 0 takes any. Default: only the run directory's socket.",
        "HOST:PORT",
        ours=True,
        group=_GROUP,
    ),
    Option(
        "control-token-file",
        "File with the bearer token of --control-addr, mode 0600; made if missing. Without it nobody may act.",
        "FILE",
        ours=True,
        group=_GROUP,
    ),
    Option(
        "control-tls-cert",
        "Certificate for --control-addr, PEM; with it only TLS is spoken.",
        "FILE",
        ours=True,
        group=_GROUP,
    ),
    Option(
        "control-tls-key",
        "Its key, if that is in another file.",
        "FILE",
        ours=True,
        group=_GROUP,
    ),
    Option(
        "control-tls-ca",
        "Certificates, PEM, to check the job's other agents by. Default: --control-tls-cert, which all share then.",
        "FILE",
        ours=True,
        group=_GROUP,
    ),
)


@dataclass(frozen=True, slots=True)
class ControlOptions:
    """Where other machines may watch a run.

    Args:
        address: to listen on; port 0 takes any.
        token_file: holds what requests must bear, or None.
        tls_cert: PEM file, or None for plain HTTP.
        tls_key: PEM file, or None.
        tls_ca: PEM file, or None.
    """

    address: Endpoint
    token_file: str | None
    tls_cert: str | None
    tls_key: str | None
    tls_ca: str | None


def control_options(values: Any, sources: Mapping[str, str]) -> ControlOptions | None:
    """Read them. None if nobody is to watch from elsewhere.

    Args:
        values: of all options, by dest.
        sources: dest -> where the value came from.

    Raises:
        ConfigurationError: a value that can't be, or an address that others reach without a token.
    """
    if not values.control_addr:
        for dest in ("control_token_file", "control_tls_cert", "control_tls_key", "control_tls_ca"):
            if getattr(values, dest):
                raise ConfigurationError(
                    f"{sources[dest]} is for --control-addr, which is not given; give both"
                )
        return None
    name = sources["control_addr"]
    address = _address(values.control_addr, name)
    for dest in ("control_tls_key", "control_tls_ca"):
        if getattr(values, dest) and not values.control_tls_cert:
            raise ConfigurationError(f"{sources[dest]} needs --control-tls-cert; give both")
    if not values.control_token_file and not _only_here(address.host):
        raise ConfigurationError(
            f"{name} is {values.control_addr!r}, which other machines reach: give a file for the token with "
            "--control-token-file, or listen on 127.0.0.1"
        )
    return ControlOptions(
        address,
        values.control_token_file or None,
        values.control_tls_cert or None,
        values.control_tls_key or None,
        values.control_tls_ca or None,
    )


def _only_here(host: str) -> bool:
    from toolkit.adapters.control.guard import is_loopback  # few runs need it

    return is_loopback(host)


def _address(text: str, name: str) -> Endpoint:
    host, colon, port = text.strip().rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ConfigurationError(f"{name} is {text!r}; give HOST:PORT such as 127.0.0.1:9400")
    if ":" in bare and bare == host:
        raise ConfigurationError(f"{name} is {text!r}; write an IPv6 address in brackets: [{host}]:{port}")
    return Endpoint(bare, int(port))
