"""An agent's control endpoint without the agent: a recording, a server on a real Unix socket, a loop that answers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from toolkit.adapters.control.client import ControlClient
from toolkit.adapters.control.feed import Feed
from toolkit.adapters.control.place import PATH_MAX, socket_path
from toolkit.adapters.control.server import ControlServer
from toolkit.adapters.recording.directory import open_for_writing
from toolkit.core import events as ev
from toolkit.core.actions import Action, Outcome

NODE = "gpu-a_7"
SOON_S = 10.0

_T = TypeVar("_T")


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """pytest's, or a short one in /tmp where a socket's path would not fit, as below a long TMPDIR."""
    if len(os.fsencode(socket_path(tmp_path / "run", NODE))) <= PATH_MAX:
        yield tmp_path
        return
    short = Path(tempfile.mkdtemp(prefix="rally-test-", dir="/tmp"))
    yield short
    shutil.rmtree(short)


def until(what: str, look: Callable[[], _T], timeout_s: float = SOON_S) -> _T:
    deadline = time.monotonic() + timeout_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.005)
    return seen


class Endpoint:
    """The endpoint of an agent that says what a test has it say.

    Args:
        folder: where the run directory is made.
        node: the agent.
        ring_max: events that are kept in memory.
        recorded: whether there is a recording.
    """

    def __init__(
        self, folder: Path, ring_max: int = 4096, *, recorded: bool = True, node: str = NODE
    ) -> None:
        self.node = node
        self.directory = open_for_writing(folder / "run", "job", {}, started_wall_ns=1)
        self.sink = self.directory.open_sink(node)
        self.told: list[str] = []
        path = self.directory.events_path(node) if recorded else None
        self.server = ControlServer(node, path, self.told.append)
        self.server.feed = Feed(path, ring_max)
        self.near_by = [folder]
        self.seq = 0
        self.done: list[Action] = []
        self._loop_ends = threading.Event()
        self._loop: threading.Thread | None = None

    @property
    def run(self) -> Path:
        return self.directory.path

    def listen(self) -> Endpoint:
        self.server.listen_in(self.run, self.near_by)
        return self

    def say(self, kind: type[ev.Event] = ev.LogsLost, **fields: Any) -> float:
        """One event; returns how long the endpoint took to take it, in seconds."""
        if kind is ev.LogsLost:
            fields = {"incarnation": 0, "problem": "x", **fields}
        self.seq += 1
        header = {
            "run_id": "job",
            "node": self.node,
            "seq": self.seq,
            "mono_ns": self.seq,
            "wall_ns": self.seq,
        }
        event = kind(**(header | fields))
        self.sink.emit(event)
        began = time.perf_counter()
        self.server.feed.emit(event)
        return time.perf_counter() - began

    def start(self, workers: int = 2) -> None:
        """A run whose workers are up."""
        self.say(
            ev.AgentStarted,
            pid=7,
            hostname=self.node.partition("_")[0],
            role="trainer",
            local_world_size=workers,
            restarts_max=3,
            backend="solo",
            entrypoint="train.py",
        )
        self.say(ev.WorkersStarting, incarnation=0, count=workers)
        for rank in range(workers):
            self.say(
                ev.WorkerStarted,
                incarnation=0,
                local_rank=rank,
                global_rank=rank,
                role_rank=rank,
                world_size=workers,
                worker_id=str(100 + rank),
                pid=100 + rank,
            )
        self.say(ev.WorkersStarted, incarnation=0)

    def finish(self) -> None:
        self.say(ev.AgentFinished, result="SUCCEEDED", reason="all workers succeeded", duration_s=1.0)

    def answer_orders(self, outcome: Outcome | None = None) -> None:
        """A loop that takes orders and answers them."""
        bell = threading.Event()
        self.server.orders.rings(bell.set)

        def loop() -> None:
            while not self._loop_ends.is_set():
                if bell.wait(0.05):
                    bell.clear()
                while (order := self.server.orders.take()) is not None:
                    self.done.append(order.action)
                    order.answer(outcome or Outcome(outcome="done"))

        self._loop = threading.Thread(target=loop, daemon=True)
        self._loop.start()

    def client(self, **options: Any) -> ControlClient:
        return ControlClient(self.run, self.node, **options)

    def connect(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(SOON_S)
        assert self.server.path is not None
        made.connect(str(self.server.path))
        return made

    def raw(self, data: bytes) -> tuple[int, bytes]:
        """What is answered to these bytes: status and all of it."""
        with self.connect() as peer:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            answer = read_all(peer)
        return status_of(answer), answer

    def get(self, path: str, *headers: str) -> tuple[int, bytes]:
        lines = [f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *headers]
        status, answer = self.raw(("\r\n".join(lines) + "\r\n\r\n").encode())
        return status, answer.partition(b"\r\n\r\n")[2]

    def post(self, body: Any, path: str = "/actions") -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
        status, answer = self.raw(head.encode() + data)
        return status, json.loads(answer.partition(b"\r\n\r\n")[2])

    def close(self) -> None:
        self._loop_ends.set()
        if self._loop is not None:
            self._loop.join(SOON_S)
        self.server.close()
        self.sink.close()


@contextmanager
def endpoint(folder: Path, ring_max: int = 4096, **options: Any) -> Iterator[Endpoint]:
    made = Endpoint(folder, ring_max, **options)
    try:
        yield made.listen()
    finally:
        made.close()


def read_all(peer: socket.socket) -> bytes:
    parts = []
    while part := peer.recv(65536):
        parts.append(part)
    return b"".join(parts)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0


def dechunked(data: bytes) -> bytes:
    """The body of a chunked answer, which must be whole."""
    body, rest = b"", data
    while True:
        size, _, rest = rest.partition(b"\r\n")
        count = int(size, 16)
        if count == 0:
            return body
        body, rest = body + rest[:count], rest[count + 2 :]


def new_certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key; skips where they can't be made."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = (
        "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    try:
        subprocess.run(
            ["openssl", *words.split(), "-keyout", str(key), "-out", str(cert)],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no openssl")
    return cert, key
