"""Our rendezvous for torch's own launcher: `torchrun --rdzv-backend rally`. Loaded by torch's registry of handlers.

torch's agent knows less than ours: it exchanges ranks by itself, counts restarts for itself, and takes a failure
elsewhere for a node that waits. What it gets is the counted seats, the leases and the stable ranks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from torch.distributed.elastic import rendezvous as torchs
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from toolkit import wiring
from toolkit.agent.rendezvous import Offer, RallyRendezvous
from toolkit.core import rally_conf
from toolkit.core.errors import RendezvousError, StoreError
from toolkit.ports import Store

_SOURCE = "rdzv_configs"
#: what torchrun puts into the settings of every backend
_TORCHRUNS_OWN = ("timeout",)


def creator() -> Callable[[torchs.RendezvousParameters], torchs.RendezvousHandler]:
    """What torch's registry asks an entry point of the group "torchrun.handlers" for."""
    return create


def create(params: torchs.RendezvousParameters) -> torchs.RendezvousHandler:
    """A handler for these parameters.

    Raises:
        ConfigurationError (ValueError): a setting that can't be.
        ValueError: an endpoint that can't be.
    """
    unread = [key for key in params.config if key not in (*rally_conf.KEYS, *_TORCHRUNS_OWN)]
    if unread:
        logging.getLogger(__name__).warning(
            "the rendezvous backend rally does not read %s", ", ".join(unread)
        )
    settings = rally_conf.job_settings(
        params.config, min_nodes=params.min_nodes, max_nodes=params.max_nodes, name=_SOURCE
    )
    host, port = parse_rendezvous_endpoint(params.endpoint, rally_conf.DEFAULT_PORT)
    # torch's agents tell each other role and number of their workers.
    offer = Offer("default", 1, address=params.local_addr, spare=rally_conf.wants_to_wait(params.config))
    return RallyHandler(
        wiring.rally_rendezvous(
            host,
            port,
            may_host=rally_conf.may_host(params.config),
            run_id=params.run_id,
            settings=settings,
            offer=offer,
            ports=wiring.system_ports(),
        )
    )


class RallyHandler(torchs.RendezvousHandler):  # type: ignore[misc]
    """Our rendezvous with torch's types around it. The methods are those of torch's class."""

    def __init__(self, ours: RallyRendezvous) -> None:
        self._ours = ours

    @property
    def use_agent_store(self) -> bool:
        """The workers of each round have a store of their own."""
        return self._ours.use_agent_store

    def get_backend(self) -> str:
        """The name of this rendezvous."""
        return self._ours.get_backend()

    def get_run_id(self) -> str:
        """The job."""
        return self._ours.get_run_id()

    def next_rendezvous(self) -> torchs.RendezvousInfo:
        """Wait for a place in the next round. Raises torch's errors."""
        with _errors_as_torchs():
            found = self._ours.next_rendezvous()
        address = found.bootstrap_store_info
        return torchs.RendezvousInfo(
            AgentStore(found.store),
            found.rank,
            found.world_size,
            torchs.RendezvousStoreInfo(address.master_addr, address.master_port),
        )

    def is_closed(self) -> bool:
        """Whether the job has ended."""
        with _errors_as_torchs():
            return self._ours.is_closed()

    def set_closed(self) -> None:
        """This agent takes no further part."""
        with _errors_as_torchs():
            self._ours.set_closed()

    def num_nodes_waiting(self) -> int:
        """More than 0 if the round is over."""
        with _errors_as_torchs():
            return self._ours.num_nodes_waiting()

    def shutdown(self) -> bool:
        """Leave the job."""
        return self._ours.shutdown()


@contextmanager
def _errors_as_torchs() -> Iterator[None]:
    """Our errors have the names of torch's, and torch's agent knows its own: one of them is no failure."""
    try:
        yield
    except RendezvousError as error:
        raise getattr(torchs, type(error).__name__, torchs.RendezvousError)(str(error)) from error
    except StoreError as error:
        raise torchs.RendezvousConnectionError(str(error)) from error


class AgentStore:
    """A store with a time-out of its own, as torch's `synchronize` and `barrier` set one.

    Args:
        store: waits for a missing key without an end, if nobody says how long.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.timeout = timedelta(seconds=300)

    def set_timeout(self, timeout: timedelta) -> None:
        """How long to wait for missing keys."""
        self.timeout = timeout

    def get(self, key: str) -> bytes:
        """The value; waits for the key."""
        self.wait([key])
        return self._store.get(key)

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """Several values; waits for all."""
        self.wait(keys)
        return self._store.multi_get(keys)

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """Block until all exist. Raises torch's error after the time-out."""
        self._store.wait(keys, self.timeout if timeout is None else timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
