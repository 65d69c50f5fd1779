"""Names that are looked up, each by itself: a name service that hangs must not take the others along."""

from __future__ import annotations

import socket
import time

from toolkit.adapters.endpoint import resolve
from toolkit.adapters.host import hostname
from toolkit.core.doctor.facts import FqdnFacts, LocalhostFacts, Lookup, NameFacts, PeerNameFacts


def look_up(name: str, port: int = 0) -> Lookup:
    """The addresses of a name, and how long that took. Waits as long as the name service does."""
    start = time.monotonic()
    try:
        found, problem = [address.ip for address in resolve(name, port)], ""
    except OSError as error:
        found, problem = [], error.strerror or str(error)
    return Lookup(
        name=name,
        addresses=list(dict.fromkeys(found)),
        took_s=round(time.monotonic() - start, 4),
        problem=problem,
    )


def name() -> NameFacts:
    """Of this machine."""
    return NameFacts(hostname=look_up(hostname()))


def localhost() -> LocalhostFacts:
    """What everybody calls this machine."""
    return LocalhostFacts(localhost=look_up("localhost"))


def fqdn() -> FqdnFacts:
    """The full name; asks the name service for name and address, past our cache."""
    start = time.monotonic()
    full = socket.getfqdn(hostname())
    return FqdnFacts(fqdn=full, took_s=round(time.monotonic() - start, 4))


def peer_name(address: str) -> PeerNameFacts:
    """The name of an address of this machine, asked for as torch's store does.

    It asks for an IPv4 address in its IPv6 form, so that a line of /etc/hosts does not answer.
    """
    address = address or "127.0.0.1"
    asked = address if ":" in address else f"::ffff:{address}"
    start = time.monotonic()
    try:
        found, _ = socket.getnameinfo((asked, 0, 0, 0), socket.NI_NUMERICSERV)
    except OSError:
        found = address
    took_s = time.monotonic() - start
    return PeerNameFacts(address=address, name=found.removeprefix("::ffff:"), took_s=round(took_s, 4))
