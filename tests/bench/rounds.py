"""Rounds of many nodes over one real TCPStore on loopback: each node is a thread with connections of its own.

`python -m tests.bench.rounds ...` is one process with a share of the nodes, as `Cluster` starts it: threads of one
process take turns, so that the nodes are spread over as many processes as there are cores. The process of node 0 hosts
the store, for ours and for torch's handler alike. Both are used as their agents use them: ours wait for their bell,
torch's are asked ten times a second.
"""

from __future__ import annotations

import json
import os
import queue
import select
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from tests.ports import free_port

from .job import REPOSITORY, BenchError, NotInTime

OURS, TORCH = "ours", "torch"
_RUN_ID = "bench"
#: how often torch's agent asks its handler whether somebody waits (`monitor_interval`), in seconds
_TORCH_ASKS_S = 0.1
#: where the kernel's `struct tcp_info` (linux/tcp.h, since 4.1) has bytes_acked and bytes_received
_TCP_INFO_BYTES = struct.Struct("=120x2Q")

#: torch's server asks the name service for the name of each client that connects, and nobody else is answered meanwhile
#: (pytorch issue 159007). That is no part of what is measured here, so that it is to be short for both sides.
_ENVIRON = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "FATAL", "RES_OPTIONS": "timeout:1 attempts:1"}


@dataclass(frozen=True, slots=True)
class Round:
    """One restart of all nodes.

    Args:
        took_s: from the moment in which one node ends the round until the last one has its answer in the next.
        operations: of all nodes, meanwhile.
        wire_bytes: of all connections, both ways, meanwhile; payload of TCP.
    """

    took_s: float
    operations: int
    wire_bytes: int


# -- from outside -------------------------------------------------------------------------------------------


class Cluster:
    """All nodes, as `cluster` starts them."""

    def __init__(self, nodes: int, shards: list[subprocess.Popen[bytes]], stderr: Path) -> None:
        self.nodes = nodes
        self._shards = shards
        self._stderr = stderr

    def form(self, limit_s: float) -> None:
        """Wait until the first round has formed.

        Raises:
            NotInTime: it has not within `limit_s`.
            BenchError: a process ended.
        """
        self._hear(limit_s)

    def restart(self, limit_s: float) -> Round:
        """One node ends the round; wait until all are in the next one. Raises as `form` does."""
        before = self._counts()
        began_ns = time.monotonic_ns()
        self._say("restart")
        ended_ns = max(said["at_ns"] for said in self._hear(limit_s))
        after = self._counts()
        return Round((ended_ns - began_ns) / 1e9, after[0] - before[0], after[1] - before[1])

    def operations_per_s(self, seconds: float) -> float:
        """Let nothing happen for so long; returns what all nodes do meanwhile, in each second."""
        before, began_ns = self._counts()[0], time.monotonic_ns()
        time.sleep(seconds)
        after, ended_ns = self._counts()[0], time.monotonic_ns()
        return (after - before) / (ended_ns - began_ns) * 1e9

    def _counts(self) -> tuple[int, int]:
        self._say("count")
        said = self._hear(10.0)
        return sum(s["operations"] for s in said), sum(s["wire_bytes"] for s in said)

    def _say(self, word: str) -> None:
        for shard in self._shards:
            _pipe(shard.stdin).write(f"{word}\n".encode())
            _pipe(shard.stdin).flush()

    def _hear(self, limit_s: float) -> list[dict[str, int]]:
        """A line of each process."""
        deadline_s, said = time.monotonic() + limit_s, []
        for shard in self._shards:
            left_s = max(0.0, deadline_s - time.monotonic())
            if not select.select([_pipe(shard.stdout)], [], [], left_s)[0]:
                raise NotInTime(f"the nodes took more than {limit_s:g} s")
            line = _pipe(shard.stdout).readline()
            if not line:
                raise BenchError(f"a process with nodes ended: {self._stderr.read_text()[-1000:]}")
            said.append(json.loads(line))
        return said


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None, "it was asked for"
    return pipe


@contextmanager
def cluster(kind: str, nodes: int, environ: Mapping[str, str]) -> Iterator[Cluster]:
    """Start so many nodes, of ours or of torch's; on leaving all are gone."""
    port = free_port()
    count = min(os.cpu_count() or 1, nodes)
    bounds = [nodes * at // count for at in range(count + 1)]
    env = dict(environ) | _ENVIRON
    shards: list[subprocess.Popen[bytes]] = []
    with tempfile.NamedTemporaryFile(prefix="rally-bench-", dir=environ.get("TMPDIR")) as stderr:
        try:
            for first, end in pairwise(bounds):
                words = (kind, str(port), str(nodes), str(first), str(end))
                shards.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "tests.bench.rounds", *words],
                        cwd=REPOSITORY,
                        env=env,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=stderr,
                    )
                )
            yield Cluster(nodes, shards, Path(stderr.name))
        finally:
            for shard in shards:
                shard.kill()
                shard.wait()
                _pipe(shard.stdout).close()
                with suppress(OSError):  # what could not be flushed
                    _pipe(shard.stdin).close()


# -- one process with nodes ---------------------------------------------------------------------------------


class _Counter:
    """Store operations of the nodes of this process. Not exact to the last one: threads don't wait for each other."""

    def __init__(self) -> None:
        self._by_thread: dict[int, list[int]] = {}

    def count(self) -> None:
        self._by_thread.setdefault(threading.get_ident(), [0])[0] += 1

    def total(self) -> int:
        return sum(counted[0] for counted in list(self._by_thread.values()))


class _CountedStore:
    """A store whose operations are counted, those that wait included."""

    def __init__(self, store: Any, counter: _Counter) -> None:
        self._store = store
        self._counter = counter

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._store, name)

        def call(*args: Any) -> Any:
            self._counter.count()
            return operation(*args)

        setattr(self, name, call)
        return call


class _CountedConnector:
    """A connector whose connections count."""

    def __init__(self, connector: Any, counter: _Counter) -> None:
        self._connector = connector
        self._counter = counter

    def connect(self, timeout_s: float) -> Any:
        return _CountedStore(self._connector.connect(timeout_s), self._counter)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connector, name)


@dataclass(frozen=True, slots=True)
class _Node:
    """What a node's thread does.

    Args:
        next_round: forms the next round.
        wait: what its agent does until the round is over.
    """

    next_round: Callable[[], Any]
    wait: Callable[[], None]


def _our_node(
    port: int, nodes: int, index: int, counter: _Counter, ports: Any, go: threading.Semaphore
) -> _Node:
    from toolkit.adapters.from_torch.tcp_store import TcpStoreConnector
    from toolkit.adapters.tasks import ThreadBell
    from toolkit.agent.rendezvous import Offer, RallyRendezvous
    from toolkit.core.rounds import Settings

    bell = ThreadBell()
    connector: Any = _CountedConnector(TcpStoreConnector("127.0.0.1", port, may_host=index == 0), counter)
    settings = Settings(min_nodes=nodes, max_nodes=nodes)
    handler = RallyRendezvous(_RUN_ID, settings, Offer("worker", 1), connector, replace(ports, bell=bell))

    def wait() -> None:
        if index == nodes - 1:
            go.acquire()  # this node ends each round
            return
        while handler.over() is None:
            bell.wait(handler.patience_s())

    return _Node(handler.next_rendezvous, wait)


def _torch_node(
    port: int, nodes: int, index: int, counter: _Counter, _ports: Any, go: threading.Semaphore
) -> _Node:
    from datetime import timedelta

    from torch.distributed import TCPStore
    from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import (
        DynamicRendezvousHandler,
        RendezvousTimeout,
    )

    class Backend(C10dRendezvousBackend):
        def _call_store(self, store_op: str, *args: Any, **kwargs: Any) -> Any:
            counter.count()
            return super()._call_store(store_op, *args, **kwargs)

    store = TCPStore("127.0.0.1", port, is_master=index == 0, wait_for_workers=False)
    handler = DynamicRendezvousHandler.from_backend(
        _RUN_ID,
        store,
        Backend(store, _RUN_ID),
        nodes,
        nodes,
        "127.0.0.1",
        RendezvousTimeout(join=timedelta(hours=1), last_call=timedelta(seconds=1)),
    )

    def wait() -> None:
        while not go.acquire(timeout=_TORCH_ASKS_S):
            handler.num_nodes_waiting()

    return _Node(handler.next_rendezvous, wait)


def _serve(kind: str, port: int, nodes: int, first: int, end: int) -> None:
    """Run these nodes and do what the lines of stdin say."""
    import torch.distributed  # noqa: F401 - once, and not by all threads at a time

    from toolkit import wiring

    counter, ports = _Counter(), wiring.system_ports()
    arrived: queue.SimpleQueue[int] = queue.SimpleQueue()
    go = threading.Semaphore(0)
    make = _our_node if kind == OURS else _torch_node

    def live(index: int) -> None:
        if index != 0:
            _wait_for_listener(port)
        node = make(port, nodes, index, counter, ports, go)
        while True:
            node.next_round()
            arrived.put(time.monotonic_ns())
            node.wait()

    for index in range(first, end):
        threading.Thread(target=_or_end, args=(live, index), daemon=True).start()

    def tell_when_all_are_there() -> None:
        while True:
            said = {"at_ns": max(arrived.get() for _ in range(first, end))}
            print(json.dumps(said), flush=True)

    threading.Thread(target=tell_when_all_are_there, daemon=True).start()
    for line in sys.stdin:
        if line.strip() == "restart":
            # One of ours says so to all others; of torch's everybody is told, which saves them the second that they
            # would take to notice.
            go.release(end - first if kind == TORCH else 1)
        else:
            said = {"operations": counter.total(), "wire_bytes": _wire_bytes(port)}
            print(json.dumps(said), flush=True)


def _or_end(run: Callable[[int], None], index: int) -> None:
    try:
        run(index)
    except BaseException as error:
        sys.stderr.write(f"node {index}: {type(error).__name__}: {error}\n")
        sys.stderr.flush()
        os._exit(1)


def _wait_for_listener(port: int) -> None:
    """So that no connection is refused, and none is retried after a pause."""
    while True:
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)


def _wire_bytes(port: int) -> int:
    """Payload that has gone over all connections to the store that this process hosts, both ways; 0 without one."""
    total = 0
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # closed meanwhile, or not connected
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            with closing(socket.socket(fileno=os.dup(descriptor))) as sock:
                if sock.getsockname()[1:2] == (port,) and sock.getpeername():
                    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES.size)
                    total += sum(_TCP_INFO_BYTES.unpack(info))
    return total


if __name__ == "__main__":
    _kind, *_numbers = sys.argv[1:]
    _serve(_kind, *map(int, _numbers))
