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
from toolkit.core.errors import RallyError, StoreError, StoreTimeoutError
from toolkit.core.keyvalue import KeyValues
from toolkit.core.words import late

#: when TCP gives up on a host that acknowledges nothing (Linux, tcp_retries2 = 15); TCPStore has no keep-alive
GIVE_UP_S = 924.0


class StoreLost(StoreError, RuntimeError):
    """The connection to the store broke. Also a RuntimeError, which torch's code expects."""


@dataclass(slots=True, eq=False)
class _Request:
    run: Callable[[KeyValues], Any]
    keys: tuple[str, ...]
    answer: Callable[[Any], None]
    answers: list[Any] = field(default_factory=list)
    given_up: bool = False


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
    #: what came while the process was paused
    _held: list[_Request] = field(default_factory=list)

    def listen(self) -> StoreServer:
        """Open it to the network, under the node's address and its loopback."""
        world, node = self.process.node.world, self.process.node
        places = [(node.address, self.port), (f"{node.name}:loopback", self.port)]
        for place in places:
            assert place not in world.listeners, f"port {self.port} is in use on {node.name}"
            world.listeners[place] = self
        self.process.on_gone.append(self._close)
        self.process.on_resume.append(self._take_up)
        return self

    def _close(self) -> None:
        listeners = self.process.node.world.listeners
        for place in [place for place, server in listeners.items() if server is self]:
            del listeners[place]
        for request in (*self._waiting, *self._held):
            self._refuse(request)

    def _refuse(self, request: _Request) -> None:
        """The process is gone: the operating system resets its connections, if it is still there."""
        if self.process.node.up:
            where = f"{self.process.node.address}:{self.port}"
            request.answer(StoreLost(f"the store at {where} is gone: connection reset by peer"))

    @property
    def kernel(self) -> Kernel:
        """Of the world."""
        return self.process.node.world.kernel

    def handle(self, request: _Request) -> None:
        """Do one operation, now or when the stall or the pause is over."""
        if not self.process.alive:
            self._refuse(request)
            return
        if self.process.paused:
            self._held.append(request)
            return
        if self.kernel.now_ns < self.stalled_until_ns:
            self.kernel.call_at(self.stalled_until_ns, "the store's stall ends", lambda: self.handle(request))
            return
        self.operations += 1
        self.process.node.world.operations += 1
        try:
            if request.keys and self.data.missing(request.keys):
                self._waiting.append(request)
                return
        except TypeError as error:
            request.answer(error)
            return
        self._run(request)
        self._wake_waiters()

    def _take_up(self) -> None:
        held, self._held = self._held, []
        for request in held:
            self.handle(request)

    def _run(self, request: _Request) -> None:
        try:
            answer = request.run(self.data)
        except (RallyError, TypeError) as error:
            answer = error  # the client's mistake, and raised there
        request.answer(answer)

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
        check_signals: called when an operation has ended; raises if a signal came. As in torch's C++, a signal does
            not end an operation; `watch` is broken off by one.
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
        process.connections.append(self)

    @property
    def busy(self) -> bool:
        """Whether an operation is under way."""
        return self._holder is not None

    def reaches(self, node: Node) -> bool:
        """Whether it goes from or to that node."""
        return node is self._process.node or node is self._server_node()

    @property
    def host(self) -> str:
        """Address of the store, as torch's `TCPStore.host`."""
        return self._address

    @property
    def port(self) -> int:
        """Port of the store, as torch's `TCPStore.port`."""
        return self._port

    def reset(self, why: str) -> None:
        """It breaks, also under an operation; it stays broken."""
        self.broken = self.broken or f"the store at {self._address}:{self._port} is gone: {why}"
        if self._holder is not None:
            self._kernel.wake(self._holder)

    # -- torch's interface ----------------------------------------------------------------------------------

    @property
    def timeout(self) -> timedelta:
        """How long an operation may take."""
        return timedelta(seconds=self._timeout_s)

    def set_timeout(self, timeout: timedelta) -> None:
        """Change it."""
        self._timeout_s = timeout.total_seconds()

    def has_extended_api(self) -> bool:
        """Whether `append`, `multi_get` and `multi_set` work: they do."""
        return True

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
        self._call(f"wait for {', '.join(map(str, keys))}", lambda data: None, tuple(keys), timeout_s)

    def watch(self, keys: list[str], timeout: timedelta, check_signals: Callable[[], None]) -> None:
        """Block until all are there, or `check_signals`, called after each wake-up, raises.

        It holds the connection for nobody: what production does by asking again and again, this does by a wait on a
        connection of its own.
        """
        self._check_whole()
        other = self.clone()
        what = f"wait for {', '.join(map(str, keys))}"
        other._take_turn(what)
        try:
            other._exchange(
                what,
                lambda data: None,
                tuple(keys),
                timeout.total_seconds(),
                check_signals,
            )
        finally:
            self._process.connections.remove(other)

    def delete_key(self, key: str) -> bool:
        """Delete a key; whether it was there."""
        return self._call(f"delete {key}", lambda data: data.delete_key(key))  # type: ignore[no-any-return]

    def num_keys(self) -> int:
        """How many there are."""
        return self._call("num_keys", lambda data: data.num_keys())  # type: ignore[no-any-return]

    def clone(self) -> StoreClient:
        """Another connection to the same store."""
        return StoreClient(self._process, self._address, self._port, self._timeout_s, self._check_signals)

    def greet(self, timeout_s: float) -> None:
        """Find out whether anybody answers.

        Raises:
            StoreTimeoutError: nobody does.
            StoreLost: nobody listens there.
        """
        request = self._ask("hello", lambda data: None, ())
        if not self._await(request, "an answer to its greeting", timeout_s):
            self._give_up(request)
            raise StoreTimeoutError("there is silence")
        _answer_of(request)

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
            # Measured on torch 2.13, the server stopped for 10 s, the client's timeout 2 s: add, compare_set and check
            # took 10 s and were done; get and wait raised after 10 s. The timeout is only for keys that are missing.
            limit_s = GIVE_UP_S if not keys else self._timeout_s if timeout_s is None else timeout_s
            return self._exchange(what, run, keys, limit_s)
        finally:
            self._give_turn()
            self._check_signals()

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
        self,
        what: str,
        run: Callable[[KeyValues], Any],
        keys: tuple[str, ...],
        timeout_s: float,
        check_signals: Callable[[], None] = lambda: None,
    ) -> Any:
        self._check_whole()
        request = self._ask(what, run, keys)
        try:
            there = self._await(request, what, timeout_s, check_signals)
            if not there and keys:
                self._cancel(request, timeout_s)
                there = self._await(request, f"{what}, to be taken back", GIVE_UP_S, check_signals)
            if not there:
                self.reset("connection timed out")
                self._check_whole()
        except BaseException:
            self._give_up(request)
            raise
        if isinstance(request.answers[0], StoreLost):
            self.broken = self.broken or str(request.answers[0])
        return _answer_of(request)

    def _ask(self, what: str, run: Callable[[KeyValues], Any], keys: tuple[str, ...]) -> _Request:
        """Send a request. Its answer is put into it, and wakes the calling task."""
        task = self._kernel.current
        assert task is not None, "the store is used by tasks"

        def answer(value: Any) -> None:
            self._send(self._server_node(), self._process.node, "store answers", lambda: arrive(value))

        def arrive(value: Any) -> None:
            if not request.answers and not request.given_up:
                request.answers.append(value)
                self._kernel.wake(task)

        request = _Request(run, keys, answer)
        self._send(self._process.node, self._server_node(), what, lambda: self._deliver(request, arrive))
        return request

    def _await(
        self,
        request: _Request,
        what: str,
        timeout_s: float,
        check_signals: Callable[[], None] = lambda: None,
    ) -> bool:
        """Park until the answer is there, or the time is over. Returns whether it is there."""
        deadline_ns = self._kernel.now_ns + int(timeout_s * 1e9)
        while not request.answers:
            self._check_whole()
            left_ns = deadline_ns - self._kernel.now_ns
            if left_ns <= 0 or not self._kernel.park(f"the store: {what}", left_ns):
                break
            check_signals()
        return bool(request.answers)

    def _cancel(self, request: _Request, timeout_s: float) -> None:
        """Take a wait back. Its error, too, comes from the store: without an answer there is none."""

        def raise_late(_data: KeyValues) -> None:
            raise StoreTimeoutError(
                f"{late(request.keys, timeout_s)} (the store at {self._address}:{self._port})"
            )

        def arrive() -> None:
            self._forget(request)
            self._deliver(cancel, request.answer)  # an answer that is under way already comes first

        cancel = _Request(raise_late, (), request.answer)
        self._send(self._process.node, self._server_node(), "a wait is taken back", arrive)

    def _check_whole(self) -> None:
        if self.broken:
            raise StoreLost(self.broken)

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
        self._process.node.world.network.send(source, target, what, arrive)

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

    def _give_up(self, request: _Request) -> None:
        request.given_up = True
        self._forget(request)

    def _forget(self, request: _Request) -> None:
        server = self._server()
        if server is not None:
            server.forget(request)


def _answer_of(request: _Request) -> Any:
    if isinstance(request.answers[0], Exception):
        raise request.answers[0]
    return request.answers[0]


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
            client.greet((deadline_ns - kernel.now_ns) / 1e9)
        except (StoreLost, StoreTimeoutError) as error:
            process.connections.remove(client)
            if kernel.now_ns >= deadline_ns:
                raise StoreTimeoutError(
                    f"no store answered at {address}:{port} within {timeout_s:g} s ({error})"
                ) from error
            pause_ns = min(500_000_000, deadline_ns - kernel.now_ns)
            kernel.sleep(pause_ns, f"somebody to listen at {address}:{port}")
            check_signals()
        else:
            return client
