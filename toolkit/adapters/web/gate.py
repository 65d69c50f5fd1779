"""Who may open the page: whoever has the token, by this machine's own name, from no other site's page.

Rule: it decides, and touches neither sockets nor aiohttp.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from toolkit.adapters.control.guard import Refusal, Tries

#: what somebody without the token is told to do
_REMEDY = "open the address that `rally web` has printed"


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a request decides whether it is answered.

    Args:
        hosts: its Host headers; there should be one.
        origins: its Origin headers; browsers send one with each websocket.
        token: from the address, or else from the cookie; None if it bears none.
        peer: address that it comes from.
        websocket: whether it asks for one.
    """

    hosts: Sequence[str]
    origins: Sequence[str]
    token: str | None
    peer: str
    websocket: bool


class Gate:
    """Looks at every request, for pages, files and the websocket alike.

    Args:
        token: that they must bear.
        host: the address that is listened on.
        tell: takes sentences for people.
    """

    def __init__(self, token: str, host: str, tell: Callable[[str], None]) -> None:
        self._token = token.encode()
        self._names = frozenset({host.lower(), "localhost"})
        self._tries = Tries("the page", tell)

    def refusal(self, asked: Asked) -> Refusal | None:
        """Why a request is not answered; None lets it through."""
        # The port is not looked at: behind `ssh -L` it is another one. The name is what a rebound DNS entry can't fake.
        if len(asked.hosts) != 1 or _name_in(asked.hosts[0]) not in self._names:
            said = ", ".join(asked.hosts)[:60]
            return Refusal(403, f"the Host {said!r} is not the address of this page; {_REMEDY}")
        # The origin must have the port, too: other ports of this machine may be other people's.
        if any(origin.lower() != f"http://{asked.hosts[0].lower()}" for origin in asked.origins):
            return Refusal(403, f"pages of {asked.origins[0][:60]!r} are not answered")
        if asked.websocket and not asked.origins:
            return Refusal(403, "a websocket without an Origin is not answered")
        if asked.token is not None and self._is_right(asked.token):
            # Also after many wrong ones. The token can't be guessed, and all users of this machine share one address:
            # any of them could keep its owner out.
            return None
        if asked.token is None:
            return Refusal(401, f"the token is missing; {_REMEDY}")
        return self._tries.refusal(asked.peer, right=False, remedy=_REMEDY)

    def _is_right(self, token: str) -> bool:
        return hmac.compare_digest(token.encode("utf-8", "replace"), self._token)


def _name_in(host: str) -> str:
    """The name in a Host header, without its port; an empty string if there is none."""
    name, _, port = host.rpartition(":")
    if not name or port.endswith("]"):
        name = host
    elif not (port.isascii() and port.isdecimal()):
        return ""
    return name.removeprefix("[").removesuffix("]").lower()


def address_of(host: str) -> str:
    """The numeric form of a loopback address that a user may have called "localhost"."""
    return "127.0.0.1" if host == "localhost" else str(ipaddress.ip_address(host)).partition("%")[0]


def bracketed(host: str) -> str:
    """An address as it stands in a URL."""
    return f"[{host}]" if ":" in host else host
