"""Rendezvous handlers of torch and of third parties in both agents, and both agents in one job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("torch")

from torch.distributed import HashStore
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.etcd_rendezvous import EtcdRendezvousHandler
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from tests.ports import free_port
from toolkit import wiring

from .scripted import ScriptedRendezvous
from .subjects import Subject, subject_named

pytestmark = pytest.mark.torch

REPOSITORY = Path(__file__).resolve().parents[2]
WAIT_S = 60.0

#: writes what a worker knows of itself to <folder>/<attempt>.<rank>
REPORT = (
    "import json, os, sys\n"
    "names = ('RANK', 'LOCAL_RANK', 'GROUP_RANK', 'WORLD_SIZE', 'GROUP_WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT',\n"
    "         'TORCHELASTIC_RUN_ID', 'TORCHELASTIC_RESTART_COUNT')\n"
    "me = {name: os.environ[name] for name in names}\n"
    "path = f\"{sys.argv[1]}/{me['TORCHELASTIC_RESTART_COUNT']}.{me['RANK']}\"\n"
    "open(path + '.part', 'w').write(json.dumps(me)); os.rename(path + '.part', path)\n"
)
#: after that: in the first attempt rank 0 fails and the others wait to be stopped
FAIL_ONCE = REPORT + (
    "import signal\n"
    "if me['TORCHELASTIC_RESTART_COUNT'] == '0':\n"
    "    if me['RANK'] == '0': sys.exit(3)\n"
    "    while True: signal.pause()\n"
)


def script(code: str, *args: Any) -> dict[str, Any]:
    """The fields of a spec for a Python program."""
    return {"entrypoint": sys.executable, "args": ("-c", code, *args)}


def reports(folder: Path, attempt: int) -> list[dict[str, str]]:
    """What the workers of one attempt wrote, by rank."""
    found = {
        path.name: json.loads(path.read_text())
        for path in folder.glob(f"{attempt}.*")
        if path.suffix != ".part"
    }
    return [found[f"{attempt}.{rank}"] for rank in range(len(found))]


def assert_consistent(workers: Sequence[dict[str, str]], run_id: str, nodes: int) -> None:
    """The workers know one job: one size, one address, each rank once."""
    assert [worker["RANK"] for worker in workers] == [str(rank) for rank in range(len(workers))]
    assert {worker["WORLD_SIZE"] for worker in workers} == {str(len(workers))}
    assert {worker["GROUP_WORLD_SIZE"] for worker in workers} == {str(nodes)}
    assert {worker["GROUP_RANK"] for worker in workers} == {str(rank) for rank in range(nodes)}
    assert len({(worker["MASTER_ADDR"], worker["MASTER_PORT"]) for worker in workers}) == 1
    assert {worker["TORCHELASTIC_RUN_ID"] for worker in workers} == {run_id}


def handler_of(
    subject: Subject,
    backend: str,
    endpoint: str,
    run_id: str,
    nodes: int = 1,
    nodes_min: int | None = None,
    **config: Any,
) -> Any:
    """A handler of torch's registry, made as each side makes it."""
    settings = {
        "backend": backend,
        "endpoint": endpoint,
        "run_id": run_id,
        "min_nodes": nodes_min or nodes,
        "max_nodes": nodes,
        "local_addr": "127.0.0.1",
    }
    if subject.name == "torch":
        return get_rendezvous_handler(RendezvousParameters(**settings, **config))
    return wiring.torch_rendezvous(**settings, config=config)


@pytest.fixture
def run_id() -> str:
    return f"job-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    folder = tmp_path / "seen"
    folder.mkdir()
    return folder


def run_together(agents: Sequence[Any]) -> list[Any]:
    """The results of agents that run at the same time, a thread each."""
    with ThreadPoolExecutor(len(agents)) as pool:
        return [future.result(timeout=WAIT_S) for future in [pool.submit(agent.run) for agent in agents]]


# -- one node ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", ["0", "1"], ids=["shared store", "own store"])
def test_c10d_on_any_port(
    local_subject: Subject,
    tmp_path: Path,
    seen: Path,
    run_id: str,
    monkeypatch: pytest.MonkeyPatch,
    shared: str,
) -> None:
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", shared)
    handler = handler_of(local_subject, "c10d", "127.0.0.1:0", run_id)
    agent = local_subject.local(
        handler, tmp_path / "logs", local_world_size=2, max_restarts=1, **script(FAIL_ONCE, seen)
    )
    assert agent.run().state == "SUCCEEDED"
    assert_consistent(reports(seen, 1), run_id, nodes=1)
    assert handler.shutdown()


def test_whose_store_the_workers_use_over_c10d(
    subject: Subject, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE")
    handler = handler_of(subject, "c10d", "127.0.0.1:0", run_id)
    assert handler.use_agent_store == subject.expects("workers use the agents' store over c10d")


def test_a_closed_c10d_rendezvous(subject: Subject, tmp_path: Path, run_id: str) -> None:
    handler = handler_of(subject, "c10d", "127.0.0.1:0", run_id)
    handler.set_closed()
    with pytest.raises(RendezvousClosedError):
        subject.local(handler, tmp_path, **script("pass")).run()


def test_static(local_subject: Subject, tmp_path: Path, seen: Path, run_id: str) -> None:
    port = free_port()
    handler = handler_of(local_subject, "static", f"127.0.0.1:{port}", run_id, rank=0, timeout=20)
    agent = local_subject.local(handler, tmp_path / "logs", max_restarts=1, **script(FAIL_ONCE, seen))
    assert agent.run().state == "SUCCEEDED"
    (worker,) = reports(seen, 1)
    assert (worker["MASTER_ADDR"], worker["MASTER_PORT"]) == ("127.0.0.1", str(port))


@pytest.fixture
def out_of_tree() -> Iterator[str]:
    """The name of a backend that somebody outside torch has registered."""
    made: list[ScriptedRendezvous] = []

    def make(parameters: RendezvousParameters) -> ScriptedRendezvous:
        assert parameters.get_as_int("shelf") == 7
        made.append(ScriptedRendezvous())
        return made[-1]

    rendezvous_handler_registry.register("scripted", make)
    yield "scripted"
    del rendezvous_handler_registry._registry["scripted"]
    assert len(made) == 1


def test_a_handler_that_is_registered_with_torch(
    subject: Subject, tmp_path: Path, seen: Path, out_of_tree: str
) -> None:
    handler = handler_of(subject, out_of_tree, "somewhere", "parity-run", shelf="7")
    result = subject.local(handler, tmp_path / "logs", **script(REPORT, seen)).run()
    assert result.state == "SUCCEEDED"
    assert_consistent(reports(seen, 0), "parity-run", nodes=1)


class EtcdStandIn:
    """What torch's EtcdRendezvousHandler asks of etcd, over a HashStore: no etcd server is needed.

    The handler above it is torch's own.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._version = 0
        self._closed = False

    def rendezvous_barrier(self) -> tuple[int, int, int]:
        self._version += 1
        return self._version, 0, 1

    def setup_kv_store(self, rdzv_version: int) -> HashStore:
        assert rdzv_version == self._version
        return HashStore()

    def get_rdzv_state(self) -> tuple[None, dict[str, Any]]:
        return None, {"status": "closed" if self._closed else "final", "num_workers_waiting": 0}

    def set_closed(self) -> None:
        self._closed = True


def test_torchs_etcd_handler(local_subject: Subject, tmp_path: Path, seen: Path, run_id: str) -> None:
    handler = EtcdRendezvousHandler(EtcdStandIn(run_id), "127.0.0.1")
    agent = local_subject.local(handler, tmp_path / "logs", max_restarts=1, **script(FAIL_ONCE, seen))
    assert agent.run().state == "SUCCEEDED"
    assert_consistent(reports(seen, 1), run_id, nodes=1)
    assert handler.shutdown()
    assert handler.is_closed()


# -- two nodes --------------------------------------------------------------------------------------------------

PAIRS = [("torch", "torch"), ("rally", "rally"), ("torch", "rally"), ("rally", "torch"), ("rebased", "rally")]
pairs = pytest.mark.parametrize("pair", PAIRS, ids="+".join)


def two_agents(
    pair: Sequence[str], handlers: Callable[[Subject, int], Any], logs: Path, **fields: Any
) -> list[Any]:
    sides = [subject_named(name) for name in pair]
    return [
        side.local(handlers(side, node), logs / str(node), {"exit_barrier_timeout": 30}, **fields)
        for node, side in enumerate(sides)
    ]


@pairs
def test_two_nodes_over_c10d_restart_together(
    pair: Sequence[str], tmp_path: Path, seen: Path, run_id: str
) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    agents = two_agents(
        pair,
        lambda side, _: handler_of(side, "c10d", endpoint, run_id, nodes=2),
        tmp_path / "logs",
        local_world_size=2,
        max_restarts=2,
        **script(FAIL_ONCE_ON_ALL_NODES, seen),
    )
    results = run_together(agents)
    assert [result.state for result in results] == ["SUCCEEDED", "SUCCEEDED"]
    assert_consistent(reports(seen, 1), run_id, nodes=2)
    assert sorted(rank for result in results for rank in result.return_values) == [0, 1, 2, 3]
    ranks = {agent.get_worker_group().group_rank for agent in agents}
    assert ranks == {0, 1}


#: in the first attempt one worker of each node fails, so that both nodes spend a restart
FAIL_ONCE_ON_ALL_NODES = FAIL_ONCE.replace("me['RANK'] == '0'", "me['LOCAL_RANK'] == '0'")


#: ends only in a job of two nodes
UNTIL_TWO = REPORT + ("import signal\nwhile me['GROUP_WORLD_SIZE'] == '1': signal.pause()\n")


@pytest.mark.parametrize("pair", [("torch", "torch"), ("torch", "rally"), ("rally", "torch")], ids="+".join)
def test_a_second_node_joins_over_c10d(pair: Sequence[str], tmp_path: Path, seen: Path, run_id: str) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    first, second = two_agents(
        pair,
        lambda side, _: handler_of(
            side, "c10d", endpoint, run_id, nodes=2, nodes_min=1, last_call_timeout="1"
        ),
        tmp_path / "logs",
        monitor_interval=0.1,
        **script(UNTIL_TWO, seen),
    )
    with ThreadPoolExecutor(2) as pool:
        alone = pool.submit(first.run)
        wait_until((seen / "0.0").exists)
        assert_consistent(reports(seen, 0), run_id, nodes=1)
        joined = pool.submit(second.run)
        assert [run.result(timeout=WAIT_S).state for run in (alone, joined)] == ["SUCCEEDED", "SUCCEEDED"]
    # A change of membership costs no restart: both rounds are attempt 0.
    assert_consistent(reports(seen, 0), run_id, nodes=2)
    assert first._remaining_restarts == 0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S} s in vain"
        time.sleep(0.01)


@pairs
def test_two_nodes_over_static(pair: Sequence[str], tmp_path: Path, seen: Path, run_id: str) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    agents = two_agents(
        pair,
        lambda side, node: handler_of(side, "static", endpoint, run_id, nodes=2, rank=node, timeout=20),
        tmp_path / "logs",
        **script(REPORT, seen),
    )
    assert [result.state for result in run_together(agents)] == ["SUCCEEDED", "SUCCEEDED"]
    workers = reports(seen, 0)
    assert_consistent(workers, run_id, nodes=2)
    assert [worker["GROUP_RANK"] for worker in workers] == ["0", "1"]


# -- one job of torchrun and rally run, as people start them ------------------------------------------------------

COMMANDS = {
    "torch": (sys.executable, "-m", "torch.distributed.run"),
    "rally": (sys.executable, "-m", "toolkit.fronts.cli", "run"),
}


@pytest.mark.parametrize("pair", [("torch", "rally"), ("rally", "torch")], ids="+".join)
def test_torchrun_and_rally_run_in_one_job(
    pair: Sequence[str], tmp_path: Path, seen: Path, run_id: str
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(FAIL_ONCE_ON_ALL_NODES)
    endpoint = f"127.0.0.1:{free_port()}"
    flags = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}"]
    flags += [f"--rdzv-id={run_id}", "--local-addr=127.0.0.1", "--max-restarts=1"]
    # Both with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, or they disagree about the workers' store from round 2 on.
    assert os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": str(REPOSITORY)}
    processes = [
        subprocess.Popen(
            [*COMMANDS[name], *flags, str(worker), str(seen)],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for name in pair
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=WAIT_S)[0] for process in processes]
    finally:
        for process in processes:
            end(process)
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    assert_consistent(reports(seen, 1), run_id, nodes=2)


def end(process: subprocess.Popen[str]) -> None:
    """Kill the process and what it has started, if it is still there."""
    if process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        for child in children:
            child.kill()
        process.kill()
        process.communicate()
