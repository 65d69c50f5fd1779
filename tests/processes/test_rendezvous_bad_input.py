"""Our rendezvous and those that do not belong to it: told why, in bounded time, and the others are unharmed."""

import http.server
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from toolkit.agent.rendezvous.keys import Keys
from toolkit.core.events import JoinRefused, LeaseLost, RoundFormed, SeatTaken

from .conftest import Meet, Script
from .jobs import Job, Nodes, Up

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

KEYS = Keys("job")
SOON = {"beat": 0.5, "lease": 2, "join_window": 0, "last_call_timeout": 1}
#: what a start of an agent may take, in seconds
START_S = 30.0


@pytest.fixture
def worker(script: Script) -> Path:
    """Runs until there is a file `end`."""
    return script(Up.SCRIPT + 'wait_for("end")\n')


def end(nodes: Nodes, *strangers: Job, whole: bool = True) -> None:
    """Let the workers finish; all agents but the strangers succeed."""
    (nodes.run_dir.parent / "end").touch()
    nodes.assert_all_end_with(0, [job for job in nodes.jobs if job not in strangers])
    nodes.assert_promises_held(whole=whole)


def test_who_differs_is_refused_and_the_others_meet(meet: Meet, worker: Path) -> None:
    nodes = meet("2", "--max-restarts", "3", **SOON)
    host = nodes.start("--node-rank", "0", worker)
    nodes.wait_for_events(SeatTaken)
    strangers = {
        nodes.start("--node-rank", "0", worker): "it has node rank 0, and so has",
        nodes.start("--max-restarts", "4", worker): "max_restarts is 3 there and 4 here",
        nodes.start("--nnodes", "2:3", worker): "max_nodes is 2 there and 3 here",
        nodes.start(worker, lease=3): "lease_s is 2.0 there and 3.0 here",
    }
    for job, why in strangers.items():
        assert job.wait(START_S) in (1, 2), nodes.told()
        assert "does not take this node: it" in job.stderr, job.told()
        assert why in job.stderr, job.told()
        assert "Traceback" not in job.stderr
        assert f"_{job.pid} is refused: " in host.stderr, host.told()
        assert why in host.stderr
    nodes.start("--node-rank", "1", worker)
    ups = nodes.world(2, [host, nodes.jobs[-1]])
    assert [up.group_rank for up in ups] == [0, 1]
    end(nodes, *strangers)


def test_two_jobs_in_one_store_know_nothing_of_each_other(meet: Meet, worker: Path) -> None:
    nodes, others = meet("1:2", **SOON), meet("1:2", run_id="other", **SOON)
    nodes.start(worker)
    nodes.ups()
    others.start(worker, is_host=0)
    [other] = others.ups()
    assert (other.rank, other.world_size) == (0, 1)
    os.kill(other.pid, signal.SIGKILL)
    others.assert_all_end_with(128 + signal.SIGKILL)
    end(nodes)
    assert nodes.starts() == [1]
    others.assert_promises_held()


@pytest.fixture
def web_server(port: int) -> Iterator[None]:
    """Something else where the nodes are to meet."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), http.server.BaseHTTPRequestHandler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield
        finally:
            server.shutdown()
            serving.join()


def test_a_foreign_service_where_the_nodes_are_to_meet(
    meet: Meet, worker: Path, port: int, web_server: None
) -> None:
    nodes = meet("2", store_timeout=5, lease=2)
    host, guest = nodes.start(worker, is_host=1), nodes.start(worker, is_host=0)
    for job, why in ((host, f"port {port} of the rendezvous endpoint is in use"), (guest, "is no TCPStore")):
        assert job.wait(START_S) in (1, 2), nodes.told()
        assert why in job.stderr
        assert f"{port}" in job.stderr
        assert "Traceback" not in job.stderr


def test_a_run_id_that_something_else_uses(meet: Meet, worker: Path, port: int) -> None:
    store = served(port)
    store.set(KEYS.born, "0")
    store.set(KEYS.mark("0"), "1")
    store.set(KEYS.pulse, "?")
    store.set(KEYS.head, '{"step": 7}')
    job = meet("2", **SOON).start(worker, is_host=0)
    assert job.wait(START_S) == 1, job.told()
    assert "give another --rdzv-id" in job.stderr
    assert f"127.0.0.1:{port}" in job.stderr
    assert "Traceback" not in job.stderr
    assert store.get(KEYS.head) == b'{"step": 7}', "what others own is left as it is"


def served(port: int, *, host: bool = True) -> Any:
    """A store, or a connection to one."""
    from torch.distributed import TCPStore

    return TCPStore("127.0.0.1", port, is_master=host, wait_for_workers=False)


def write_card(store: Any, data: bytes) -> int:
    """Announce a card and write it, as a node does; returns its number."""
    seat = int(store.add(KEYS.joins, 1)) - 1
    store.set(KEYS.card(seat), data)
    return seat


def card(**changes: Any) -> bytes:
    """The card of a node that is not there, written by hand."""
    settings = {"min_nodes": 2, "max_nodes": 3, "max_restarts": 1, "beat_s": 0.5, "lease_s": 2.0}
    settings |= {"join_window_s": 0.0, "last_call_s": 1.0}
    place = {"node": "ghost", "host": "nowhere", "address": "127.0.0.1", "port": 1}
    whole = {"v": 1, **place, "role": "default", "local_world_size": 1, "settings": settings}
    return json.dumps({**whole, **changes}).encode()


JUNK = (
    b"",
    b"\xff\xfe",
    b"not json",
    b"[" * 10_000,
    b"{}",
    b'{"v": 1, "node": "ghost"}',
    b"x" * 1_000_000,
    card(v=99),
    card(node=None),
    card(local_world_size=0),
    card(port=-1),
    card(topology="x" * 20_000),
    card(settings={"min_nodes": 5, "max_nodes": 1}),
)


def test_cards_that_make_no_sense(meet: Meet, worker: Path, port: int) -> None:
    """Before the first round and while one runs; a restart after that goes as ever."""
    nodes = meet("2:3", "--max-restarts", "1", **SOON)
    nodes.start(worker)
    nodes.wait_for_events(SeatTaken)
    store = served(port, host=False)
    for junk in JUNK:
        write_card(store, junk)
    store.add(KEYS.joins, 1)  # announced and never written
    nodes.start(worker)
    first = nodes.ups()
    for junk in JUNK:
        write_card(store, junk)
    os.kill(first[1].pid, signal.SIGKILL)
    second = nodes.ups(2)
    assert [up[:4] for up in second] == [(*up[:3], 1) for up in first]
    end(nodes)
    refused = [event.reason for event in nodes.events(JoinRefused)]
    assert sum("malformed" in reason for reason in refused) >= 12, refused
    assert sum("16,384 are allowed" in reason for reason in refused) == 4, refused
    assert sum("version 99" in reason for reason in refused) == 1, refused
    assert all(len(event.members) == 2 for event in nodes.events(RoundFormed))


def test_a_card_of_nobody(meet: Meet, worker: Path, port: int) -> None:
    """It is complete, and nothing beats for it."""
    nodes = meet("2:3", "--max-restarts", "1", **SOON)
    nodes.start_several(2, worker)
    nodes.ups()
    write_card(served(port, host=False), card())
    nodes.wait_for_events(LeaseLost)
    ups = nodes.world(2, nodes.jobs)
    assert {up.restarts for up in ups} == {0}
    end(nodes, whole=False)
