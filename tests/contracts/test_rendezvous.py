"""The contract of `toolkit.ports.Rendezvous`: ours and torch's handlers give the agent the same things."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.ports import free_port
from toolkit.adapters.from_torch.rendezvous import RendezvousSettings, make_handler
from toolkit.ports import Rendezvous
from toolkit.wiring import RallyRendezvous, SoloRendezvous


def torchs(backend: str, **config: Any) -> Callable[[], Any]:
    def make() -> Any:
        pytest.importorskip("torch")
        return make_handler(
            RendezvousSettings(backend, f"127.0.0.1:{free_port()}", "job", 1, 1, "127.0.0.1", config)
        )

    return make


def ours() -> Any:
    pytest.importorskip("torch")
    return RallyRendezvous(f"127.0.0.1:{free_port()}", "job", 1, local_addr="127.0.0.1")


ADAPTERS: dict[str, Callable[[], Any]] = {
    "solo": lambda: SoloRendezvous("job"),
    "rally": ours,
    "c10d": torchs("c10d", join_timeout="20"),
    "static": torchs("static", rank=0, timeout=20),
}


@pytest.fixture(params=[pytest.param(n, marks=[pytest.mark.torch] if n != "solo" else []) for n in ADAPTERS])
def handler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rendezvous]:
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    made = ADAPTERS[request.param]()
    yield made
    with suppress(Exception):
        made.shutdown()


def test_it_says_what_it_is(handler: Rendezvous) -> None:
    assert handler.get_run_id() == "job"
    assert handler.get_backend() in ADAPTERS
    assert handler.use_agent_store in (True, False)


def test_a_node_alone_is_rank_0_of_1_and_told_where_workers_meet(handler: Rendezvous) -> None:
    info = handler.next_rendezvous()
    assert (info.rank, info.world_size) == (0, 1)
    assert info.bootstrap_store_info.master_addr == "127.0.0.1"
    assert 0 < int(info.bootstrap_store_info.master_port) < 65536


def test_the_store_has_what_the_rank_exchange_needs(handler: Rendezvous) -> None:
    store = handler.next_rendezvous().store
    store.set("a", b"1")
    store.multi_set(["b", "c"], ["2", "3"])
    assert store.multi_get(["a", "b", "c"]) == [b"1", b"2", b"3"]
    assert store.add("n", 1) == 1
    assert store.check(["a", "n"])


def test_nobody_waits_and_nothing_is_closed(handler: Rendezvous) -> None:
    handler.next_rendezvous()
    assert handler.num_nodes_waiting() == 0
    assert not handler.is_closed()


def test_a_next_round_can_be_formed(handler: Rendezvous) -> None:
    first, second = handler.next_rendezvous(), handler.next_rendezvous()
    assert (second.rank, second.world_size) == (0, 1)
    if handler.get_backend() != "static":  # torch's static handler has one store and one address for ever
        assert second.bootstrap_store_info.master_port != first.bootstrap_store_info.master_port
        assert not second.store.check(["left by the first round"])


def test_shutting_down_is_told(handler: Rendezvous) -> None:
    handler.next_rendezvous()
    assert handler.shutdown() is True
