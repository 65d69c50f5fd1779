"""The rendezvous of a node that is alone: no network, no torch, a fresh store and a fresh port each round.

Because each round has its own port, restarted workers can't read what their predecessors left in a store.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from toolkit.ports import Host, Reservation, Store


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where the workers' store listens. Has the fields of torch's `RendezvousStoreInfo`."""

    master_addr: str
    master_port: int


@dataclass(frozen=True, slots=True)
class RoundInfo:
    """What a rendezvous gives. Has the fields of torch's `RendezvousInfo`."""

    store: Any
    rank: int
    world_size: int
    bootstrap_store_info: StoreAddress


class SoloPorts(Protocol):
    """What this rendezvous asks of the world; `toolkit.ports.Ports` has it."""

    @property
    def host(self) -> Host: ...

    @property
    def new_store(self) -> Callable[[], Store]: ...


class SoloRendezvous:
    """Forms a group of one.

    Args:
        run_id: the job.
        ports: where ports and stores come from.
        master_addr: address that the workers use to reach each other.
        master_port: fixed port for the workers' store; None takes a fresh one each round.
    """

    #: nobody can join, so there is nothing to ask for again and again
    rings_bell = True
    #: rank 0 of the workers hosts their store
    use_agent_store = False

    def __init__(
        self, run_id: str, ports: SoloPorts, master_addr: str = "127.0.0.1", master_port: int | None = None
    ) -> None:
        self._run_id = run_id
        self._ports = ports
        self._master_addr = master_addr
        self._master_port = master_port
        self._reservation: Reservation | None = None
        self._closed = False

    def get_backend(self) -> str:
        """The name of this rendezvous."""
        return "solo"

    def get_run_id(self) -> str:
        """The job."""
        return self._run_id

    def next_rendezvous(self) -> RoundInfo:
        """Rank 0 of 1, at once, with a store that nobody has used."""
        address = StoreAddress(self._master_addr, self._master_port or self._fresh_port())
        return RoundInfo(self._ports.new_store(), 0, 1, address)

    def _fresh_port(self) -> int:
        # The new port is taken before the old one is given back: they differ for certain.
        fresh = self._ports.host.reserve_port()
        self._release()
        self._reservation = fresh
        return fresh.port

    def _release(self) -> None:
        if self._reservation is not None:
            self._reservation.release()
            self._reservation = None

    def is_closed(self) -> bool:
        """Whether `set_closed` was called."""
        return self._closed

    def set_closed(self) -> None:
        """Remember that the job has ended."""
        self._closed = True

    def num_nodes_waiting(self) -> int:
        """Always 0."""
        return 0

    def shutdown(self) -> bool:
        """Give the port back."""
        self._release()
        return True
