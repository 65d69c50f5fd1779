"""How a simulated agent comes to the store of its job: the node that the endpoint names serves it."""

from __future__ import annotations

from datetime import timedelta

from simulator.adapters.store import StoreClient, StoreServer, connect
from simulator.world import Process
from toolkit.core.errors import StoreError, StoreTimeoutError

#: a wait for a key ends by being answered, or with its connection; torch's clients are given as long
FOR_EVER = timedelta(days=30)


class SimConnector:
    """Implements `toolkit.ports.StoreConnector`.

    Args:
        process: the agent's.
        host: name of the node that serves the store.
        port: where.
    """

    def __init__(self, process: Process, host: str, port: int) -> None:
        self._process = process
        self._host, self._port = host, port
        self._server: StoreServer | None = None

    @property
    def where(self) -> str:
        """The store in words."""
        return f"{self._host}:{self._port}"

    @property
    def hosting(self) -> bool:
        """Whether this agent serves it."""
        return self._server is not None

    @property
    def local_address(self) -> str:
        """Of this node."""
        return self._process.node.address

    def connect(self, timeout_s: float) -> StoreClient:
        """A connection; serves the store first, if this is the node and nobody does.

        Raises:
            StoreError: nobody answered in time.
        """
        node = self._process.node
        if node.name == self._host and (node.address, self._port) not in node.world.listeners:
            self._server = StoreServer(self._process, self._port).listen()
        try:
            # What is waited for is bounded by who waits: see `toolkit.agent.rendezvous.link`.
            client = connect(self._process, self._host, self._port, timeout_s)
        except StoreTimeoutError as error:
            raise StoreError(str(error)) from error
        client.set_timeout(FOR_EVER)
        return client

    def close(self) -> None:
        """The server ends with the process."""
