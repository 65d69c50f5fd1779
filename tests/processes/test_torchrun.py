"""Our rendezvous as a plug-in of torch's own launcher: `torchrun --rdzv-backend rally`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest

from .conftest import Python, Script

api = pytest.importorskip("torch.distributed.elastic.rendezvous")
pytestmark = pytest.mark.torch

LONG_S = 120.0


def parameters(port: int, nodes: int = 1, **config: Any) -> Any:
    return api.RendezvousParameters("rally", f"127.0.0.1:{port}", "job", nodes, nodes, None, **config)


@pytest.fixture
def handler(port: int) -> Iterator[Any]:
    made = entry_points(group="torchrun.handlers")["rally"].load()()(parameters(port, timeout=900))
    yield made
    made.shutdown()


def test_the_handler_is_torchs_kind(handler: Any) -> None:
    assert isinstance(handler, api.RendezvousHandler)
    assert (handler.get_backend(), handler.get_run_id(), handler.use_agent_store) == ("rally", "job", False)


def test_a_node_alone_gets_torchs_values(handler: Any) -> None:
    info = handler.next_rendezvous()
    assert isinstance(info, api.RendezvousInfo)
    assert (info.rank, info.world_size) == (0, 1)
    assert info.bootstrap_store_info.master_addr == "127.0.0.1"
    assert (handler.num_nodes_waiting(), handler.is_closed()) == (0, False)


def test_its_store_does_what_torchs_agents_ask_of_one(handler: Any) -> None:
    from torch.distributed.elastic.utils import store as torchs_ways

    store = handler.next_rendezvous().store
    assert torchs_ways.synchronize(store, b"mine", 0, 1, "ranks/", timeout=20) == [b"mine"]
    torchs_ways.barrier(store, 1, "end", barrier_timeout=20)
    assert store.timeout.total_seconds() == 300


def test_settings_that_cant_be_are_refused_by_name(port: int) -> None:
    create = entry_points(group="torchrun.handlers")["rally"].load()()
    with pytest.raises(ValueError, match="rdzv_configs has lease=soon; lease must be a number of seconds"):
        create(parameters(port, lease="soon"))
    with pytest.raises(ValueError, match="rdzv_configs: a lease of 1 s is too short"):
        create(parameters(port, lease="1"))


def test_our_errors_are_torchs(port: int) -> None:
    handler = entry_points(group="torchrun.handlers")["rally"].load()()(
        parameters(port, is_host="0", store_timeout="0.5", lease="0.3", beat="0.1")
    )
    with pytest.raises(api.RendezvousConnectionError, match=f"127.0.0.1:{port}"):
        handler.next_rendezvous()
    handler.shutdown()


def test_two_nodes_of_torchrun_meet_and_come_back_after_a_crash(
    python: Python, script: Script, port: int
) -> None:
    worker = script("""
        say("up", os.environ["RANK"], os.environ["WORLD_SIZE"], os.environ["MASTER_PORT"])
        if not os.path.exists("failed"):
            if os.environ["RANK"] == "1":
                # Only when rank 0 has seen that nobody has failed: torch's agent does not come back from its barrier.
                wait_for("rank 0 waits")
                open("failed", "w").close()
                sys.exit(7)
            open("rank 0 waits", "w").close()
            signal.pause()
    """)
    meeting = ("--rdzv-backend", "rally", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "job")
    nodes = [
        python("-m", "torch.distributed.run", "--nnodes", "2", "--max-restarts", "2", *meeting, worker)
        for _ in range(2)
    ]
    for node in nodes:
        assert node.wait(LONG_S) == 0, node.told()
    said = [line.split() for node in nodes for line in node.lines if line.startswith("up")]
    assert sorted(rank for _, rank, _, _ in said)[-2:] == ["1", "1"]
    assert {world for _, _, world, _ in said} == {"2"}
    assert len({meeting_port for *_, meeting_port in said}) == 2, "each round has a store of its own"
    assert not any("terminate called" in node.stderr for node in nodes)
    assert not any("TCPStore.cpp" in node.stderr for node in nodes), "it leaves without a noise"
