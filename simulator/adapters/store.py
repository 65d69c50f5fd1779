"""A store on the network: hosted by one process, used by others over connections that can stall, break or fall silent.

The semantics are `toolkit.core.keyvalue`'s; a connection does one operation at a time, as torch's TCPStore client does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from simulator.kernel import Kernel, Task
from simulator.world import Node, Process
from toolkit.core.errors import StoreError, StoreTimeoutError
from toolkit.core.keyvalue import KeyValues

#: what a client's TCP stack takes to give up on a host that does not answer, in nanoseconds
CONNECT_TIMEOUT_NS = 60_000_000_000


class StoreLost(StoreError, RuntimeError):
    """The connection to the store broke. Also a RuntimeError, which torch's code expects."""


@dataclass(slots=True)
class _Request:
    run: Callable[[KeyValues], Any]
    keys: tuple[str, ...]
    answer: Callable[[Any], None]


@dataclass(slots=True)
class StoreServer:
    """The store itself.

    Args:
        process: who hosts it; it dies with that process.
        port: where it listens.
    """

    process: Process
    port: int
    data: KeyValues = field(default_factory=KeyValues)
    stalled_until_ns: int = 0
    operations: int = 0
    _waiting: list[_Request] = field(default_factory=list)

    def listen(self) -> StoreServer:
        """Open it to the network, under the node's address and its loopback."""
        world, node = self.process.node.world, self.process.node
        places = [(node.address, self.port), (f"{node.name}:loopback", self.port)]
        for place in places:
            assert place not in world.listeners, f"port {self.port} is in use on {node.name}"
            world.listeners[place] = self
        self.process.on_gone.append(self._close)
        return self

    def _close(self) -> None:
        listeners = self.process.node.world.listeners
        for place in [place for place, server in listeners.items() if server is self]:
            del listeners[place]

    @property
    def kernel(self) -> Kernel:
        """Of the world."""
        return self.process.node.world.kernel

    def handle(self, request: _Request) -> None:
        """Do one operation, now or when the stall or the pause is over."""
        if not self.process.alive:
            return
        if self.process.paused or self.kernel.now_ns < self.stalled_until_ns:
            later_ns = max(self.stalled_until_ns - self.kernel.now_ns, 10_000_000)
            self.kernel.call_after(later_ns, "store stalls", lambda: self.handle(request))
            return
        self.operations += 1
        if request.keys and self.data.missing(request.keys):
            self._waiting.append(request)
            return
        self._run(request)
        self._wake_waiters()

    def _run(self, request: _Request) -> None:
        try:
            request.answer(request.run(self.data))
        except StoreError as error:
            request.answer(error)

    def _wake_waiters(self) -> None:
        ready = [request for request in self._waiting if not self.data.missing(request.keys)]
        for request in ready:
            self._waiting.remove(request)
            self._run(request)

    def forget(self, request: _Request) -> None:
        """The client gave up."""
        if request in self._waiting:
            self._waiting.remove(request)


class StoreClient:
    """One connection to a store, with the interface of torch's Store.

    Args:
        process: whose connection it is.
        address: of the node that hosts the store.
        port: of the store.
        timeout_s: how long an operation may take.
        check_signals: called after each wait; raises if a signal is to break it off.
    """

    def __init__(
        self,
        process: Process,
        address: str,
        port: int,
        timeout_s: float = 300.0,
        check_signals: Callable[[], None] = lambda: None,
    ) -> None:
        self._process = process
        self._kernel = process.node.world.kernel
        self._address, self._port = address, port
        self._timeout_s = timeout_s
        self._check_signals = check_signals
        self._holder: Task | None = None
        self._queue: list[Task] = []
        self.broken = ""

    # -- torch's interface ----------------------------------------------------------------------------------

    @property
    def timeout(self) -> timedelta:
        """How long an operation may take."""
        return timedelta(seconds=self._timeout_s)

    def set_timeout(self, timeout: timedelta) -> None:
        """Change it."""
        self._timeout_s = timeout.total_seconds()

    def set(self, key: str, value: str | bytes) -> None:
        """Set a key."""
        self._call("set", lambda data: data.set(key, value))

    def get(self, key: str) -> bytes:
        """The value of a key; waits for it."""
        return self._call(f"get {key}", lambda data: data.get(key), (key,))  # type: ignore[no-any-return]

    def add(self, key: str, amount: int) -> int:
        """Add to a counter."""
        return self._call(f"add {key}", lambda data: data.add(key, amount))  # type: ignore[no-any-return]

    def append(self, key: str, value: str | bytes) -> None:
        """Append to a value."""
        self._call(f"append {key}", lambda data: data.append(key, value))

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> bytes:
        """Set if the value is as expected; returns what it is then."""
        return self._call(f"compare_set {key}", lambda data: data.compare_set(key, expected, desired))  # type: ignore[no-any-return]

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """Several values; waits for all."""
        return self._call(f"multi_get of {len(keys)}", lambda data: data.multi_get(keys), tuple(keys))  # type: ignore[no-any-return]

    def multi_set(self, keys: list[str], values: list[str] | list[bytes]) -> None:
        """Several keys at once."""
        self._call(f"multi_set of {len(keys)}", lambda data: data.multi_set(keys, values))

    def check(self, keys: list[str]) -> bool:
        """Whether all are there."""
        return self._call("check", lambda data: data.check(keys))  # type: ignore[no-any-return]

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """Block until all are there."""
        timeout_s = self._timeout_s if timeout is None else timeout.total_seconds()
        self._call(f"wait for {', '.join(keys)}", lambda data: None, tuple(keys), timeout_s)

    def delete_key(self, key: str) -> bool:
        """Delete a key; whether it was there."""
        return self._call(f"delete {key}", lambda data: data.delete_key(key))  # type: ignore[no-any-return]

    def num_keys(self) -> int:
        """How many there are."""
        return self._call("num_keys", lambda data: data.num_keys())  # type: ignore[no-any-return]

    def clone(self) -> StoreClient:
        """Another connection to the same store."""
        return StoreClient(self._process, self._address, self._port, self._timeout_s, self._check_signals)

    # -- the connection -------------------------------------------------------------------------------------

    def _call(
        self,
        what: str,
        run: Callable[[KeyValues], Any],
        keys: tuple[str, ...] = (),
        timeout_s: float | None = None,
    ) -> Any:
        self._take_turn(what)
        try:
            return self._exchange(what, run, keys, self._timeout_s if timeout_s is None else timeout_s)
        finally:
            self._give_turn()

    def _take_turn(self, what: str) -> None:
        task = self._kernel.current
        assert task is not None, "the store is used by tasks"
        while self._holder is not None:
            self._queue.append(task)
            self._kernel.park(f"its turn on the connection ({what})")
            if task in self._queue:
                self._queue.remove(task)
        self._holder = task

    def _give_turn(self) -> None:
        self._holder = None
        if self._queue:
            self._kernel.wake(self._queue.pop(0))

    def _exchange(
        self, what: str, run: Callable[[KeyValues], Any], keys: tuple[str, ...], timeout_s: float
    ) -> Any:
        if self.broken:
            raise StoreLost(self.broken)
        answers: list[Any] = []
        task = self._kernel.current
        assert task is not None

        def answer(value: Any) -> None:
            self._send(self._server_node(), self._process.node, "store answers", lambda: arrive(value))

        def arrive(value: Any) -> None:
            if not answers:
                answers.append(value)
                self._kernel.wake(task)

        request = _Request(run, keys, answer)
        self._send(self._process.node, self._server_node(), what, lambda: self._deliver(request, arrive))
        deadline_ns = self._kernel.now_ns + int(timeout_s * 1e9)
        while not answers:
            left_ns = deadline_ns - self._kernel.now_ns
            if left_ns <= 0 or not self._kernel.park(f"the store: {what}", left_ns):
                self._forget(request)
                raise StoreTimeoutError(
                    f"{what} took longer than {timeout_s:g} s at {self._address}:{self._port}"
                )
            self._check_signals()
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    def _server_node(self) -> Node | None:
        world = self._process.node.world
        return (
            self._process.node
            if self._address in ("localhost", "127.0.0.1")
            else world.node_at(self._address)
        )

    def _send(self, source: Node | None, target: Node | None, what: str, arrive: Callable[[], None]) -> None:
        if source is None or target is None:
            return  # an address that nobody has: silence
        latency_ns = self._process.node.world.network.latency_ns(source, target)
        if latency_ns is not None:
            self._kernel.call_after(latency_ns, what, arrive)

    def _server(self) -> StoreServer | None:
        node = self._server_node()
        if node is None:
            return None
        server: StoreServer | None = node.world.listeners.get((node.address, self._port))
        return server

    def _deliver(self, request: _Request, arrive: Callable[[Any], None]) -> None:
        server = self._server()
        if server is not None:
            server.handle(request)
            return
        node = self._server_node()
        if node is not None and node.up:
            # The host is there, the process is not: the kernel there resets the connection.
            self.broken = f"the store at {self._address}:{self._port} is gone: connection reset by peer"
            self._send(node, self._process.node, "connection reset", lambda: arrive(StoreLost(self.broken)))

    def _forget(self, request: _Request) -> None:
        server = self._server()
        if server is not None:
            server.forget(request)


def connect(
    process: Process,
    address: str,
    port: int,
    timeout_s: float,
    check_signals: Callable[[], None] = lambda: None,
) -> StoreClient:
    """A connection to a store that must answer within `timeout_s` seconds.

    Raises:
        StoreTimeoutError: nobody listened there in time.
    """
    kernel = process.node.world.kernel
    deadline_ns = kernel.now_ns + int(timeout_s * 1e9)
    while True:
        client = StoreClient(process, address, port, timeout_s, check_signals)
        try:
            client.check([])
        except StoreLost as error:
            if kernel.now_ns >= deadline_ns:
                raise StoreTimeoutError(
                    f"no store answered at {address}:{port} within {timeout_s:g} s ({error})"
                ) from error
            kernel.sleep(500_000_000, f"somebody to listen at {address}:{port}")
            check_signals()
        else:
            return client
