"""Names that are looked up, each by itself: a name service that hangs must not take the others along."""

from __future__ import annotations

import socket
import time

from toolkit.adapters.endpoint import resolve
from toolkit.adapters.host import hostname
from toolkit.core.doctor.facts import FqdnFacts, LocalhostFacts, Lookup, NameFacts


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
