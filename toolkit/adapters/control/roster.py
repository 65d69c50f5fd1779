"""Where the agents of one round listen for each other's watchers: each writes it into the store of the round."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import msgspec

from toolkit.adapters.control.url import Url, parse_url
from toolkit.core.errors import ConfigurationError

_ENTRY_MAX = 4096
#: how long to wait for the entry of an agent that is looked for, and between two looks, in seconds
FIND_S, _LOOK_S = 3.0, 0.1


class Peer(msgspec.Struct, frozen=True):
    """An agent of the same round.

    Args:
        node: its name in the events.
        url: where it listens.
    """

    node: str
    url: str

    @property
    def where(self) -> Url:
        """Its URL.

        Raises:
            ConfigurationError: it is none.
        """
        return parse_url(self.url)


class Roster:
    """Of one agent. Writes and reads in threads of its own or of watchers: no wait for the store holds the agent up.

    Args:
        me: this agent, or None where it listens for nobody elsewhere: then it says nothing, and knows nobody.
    """

    def __init__(self, me: Peer | None) -> None:
        self._me = me
        self._lock = threading.Lock()
        self._store: Any = None
        self._rank = -1
        self._size = 0
        self._known: dict[int, Peer] = {}

    def met(self, store: Any, group_rank: int, group_world_size: int) -> None:
        """This agent has its place in a round. Returns at once."""
        if self._me is None or group_world_size < 2:
            return
        with self._lock:
            self._store, self._rank, self._size = store, group_rank, group_world_size
            self._known = {group_rank: self._me}
        entry = msgspec.json.encode(self._me)

        def say() -> None:
            # A store that is gone is the rendezvous' to notice.
            with suppress(Exception):
                store.set(_key(group_rank), entry)

        with suppress(RuntimeError):  # no more threads: then it is not watched by way of others
            threading.Thread(target=say, name="rally-roster", daemon=True).start()

    def peers(self) -> list[Peer]:
        """The others of the latest round, as far as they have said where they listen. May wait for the store."""
        with self._lock:
            store, rank, size, known = self._store, self._rank, self._size, self._known
        for other in range(size):
            if other not in known:
                with suppress(Exception):
                    peer = _read(store, other)
                    if peer is not None:
                        known[other] = peer
        return [peer for other, peer in sorted(known.items()) if other != rank]

    def find(self, node: str) -> Peer | None:
        """The agent of that name, this one included. Waits a little for one that has just come into the round."""
        if self._me is not None and node == self._me.node:
            return self._me
        until_s = time.monotonic() + FIND_S
        while True:
            peers = self.peers()
            found = next((peer for peer in peers if peer.node == node), None)
            if found is not None or len(peers) >= self._size - 1 or time.monotonic() >= until_s:
                return found
            time.sleep(_LOOK_S)


def _read(store: Any, group_rank: int) -> Peer | None:
    if not store.check([_key(group_rank)]):
        return None
    data = bytes(store.get(_key(group_rank)))
    peer = msgspec.json.decode(data[:_ENTRY_MAX], type=Peer)
    with suppress(ConfigurationError):
        parse_url(peer.url)
        return peer
    return None


def _key(group_rank: int) -> str:
    return f"rally/control/{group_rank}"
