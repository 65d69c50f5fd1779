"""The contract of `StoreConnector`: one store for all, hosted by one; a store that is not there is an error in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.ports import free_port
from toolkit.core.errors import StoreError
from toolkit.ports import StoreConnector

from .worlds import RealWorld, SimWorld, World

#: how long a host that is not there is waited for, in seconds
PATIENCE_S = 1.0
#: how long something that should happen at once may take on a busy machine, in seconds
SOON_S = 20.0


class TcpNodes:
    """Two agents of this machine: the first to connect hosts."""

    def __init__(self, world: World) -> None:
        pytest.importorskip("torch")
        self.port = free_port()
        self.made: list[Any] = []

    def agent(self) -> StoreConnector:
        return self._made("127.0.0.1", None)

    def agent_of_a_dead_host(self) -> StoreConnector:
        return self._made("127.0.0.1", False)

    def _made(self, host: str, may_host: bool | None) -> StoreConnector:
        from toolkit.adapters.from_torch.tcp_store import TcpStoreConnector

        self.made.append(TcpStoreConnector(host, self.port, may_host=may_host))
        return self.made[-1]

    def close(self) -> None:
        for connector in self.made:
            connector.close()


class SimNodes:
    """Agents of a simulated cluster: the one on node0 hosts."""

    def __init__(self, world: SimWorld) -> None:
        self.world = world
        self.processes = iter((world.process, world.other_node.start_process("agent")))

    def agent(self) -> StoreConnector:
        from simulator.adapters.connector import SimConnector

        return SimConnector(next(self.processes), "node0", 29400)

    def agent_of_a_dead_host(self) -> StoreConnector:
        from simulator.adapters.connector import SimConnector

        self.world.other_node.crash()
        return SimConnector(self.world.process, "node1", 29400)

    def close(self) -> None:
        pass


ADAPTERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "tcp": (RealWorld, TcpNodes),
    "simulated": (SimWorld, SimNodes),
}


@pytest.fixture(
    params=[pytest.param(n, marks=[pytest.mark.torch] if n == "tcp" else []) for n in ADAPTERS], ids=str
)
def world(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = ADAPTERS[request.param][0]()
    made.adapter = request.param
    yield made
    made.close()


@pytest.fixture
def nodes(world: Any) -> Iterator[Any]:
    made = ADAPTERS[world.adapter][1](world)
    yield made
    made.close()


def test_all_connections_are_to_one_store(world: Any, nodes: Any) -> None:
    first, second = nodes.agent(), nodes.agent()
    stores = [first.connect(SOON_S), second.connect(SOON_S), first.connect(SOON_S), second.connect(SOON_S)]
    for at, store in enumerate(stores):
        store.set(f"key {at}", f"value {at}")
    expected = [b"value 0", b"value 1", b"value 2", b"value 3"]
    assert [store.multi_get(["key 0", "key 1", "key 2", "key 3"]) for store in stores] == [expected] * 4


def test_one_hosts_and_each_knows_where_it_is(world: Any, nodes: Any) -> None:
    first, second = nodes.agent(), nodes.agent()
    first.connect(SOON_S)
    second.connect(SOON_S)
    assert (first.hosting, second.hosting) == (True, False)
    assert first.where == second.where
    assert all(connector.local_address for connector in (first, second))


def test_connections_are_separate(world: Any, nodes: Any) -> None:
    """One that waits holds up no other."""
    connector = nodes.agent()
    waiting, working = connector.connect(SOON_S), connector.connect(SOON_S)
    answer = world.start(lambda: waiting.get("late"))
    working.set("other", "1")
    assert not answer.done()
    working.set("late", "there")
    assert answer.result(SOON_S) == b"there"


def test_a_host_that_is_not_there_is_an_error_in_time(world: Any, nodes: Any) -> None:
    connector = nodes.agent_of_a_dead_host()
    began = world.now_s()
    with pytest.raises(StoreError) as caught:
        connector.connect(PATIENCE_S)
    assert connector.where in str(caught.value)
    assert not connector.hosting
    # As long as it was to take; a busy machine may need some more.
    assert PATIENCE_S * 0.5 <= world.now_s() - began <= PATIENCE_S + 5


def test_it_can_be_closed_before_and_after(world: Any, nodes: Any) -> None:
    connector, unused = nodes.agent(), nodes.agent()
    unused.close()
    connector.connect(SOON_S)
    connector.close()
    connector.close()
