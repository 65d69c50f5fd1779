"""A store on the network: hosted by one process, used by others over connections that can stall, break or fall silent.

The semantics are `toolkit.core.keyvalue`'s; a connection does one operation at a time, as torch's TCPStore client does,
and what is sent on it is done in that order. What only writes is not answered, so nobody waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

from simulator.kernel import SECOND, Kernel, Task
from simulator.world import Node, Process, World
from toolkit.core.errors import RallyError, StoreError, StoreTimeoutError
from toolkit.core.keyvalue import KeyValues, pairs
from toolkit.core.words import late

#: when TCP gives up on a host that acknowledges nothing (Linux, tcp_retries2 = 15); TCPStore has no keep-alive
GIVE_UP_S = 924.0
_GIVE_UP_NS = int(GIVE_UP_S * SECOND)

#: of the keys of a wait, so many are named in the trace: it is hashed, and there may be thousands
_NAMED_MAX = 4


#: what a client says first; a connection is no operation
GREETING = "hello"


class StoreLost(StoreError, RuntimeError):
    """The connection to the store broke. Also a RuntimeError, which torch's code expects."""


@dataclass(slots=True, eq=False)
class _Request:
    """What is asked of a store.

    Args:
        client: on whose connection.
        what: for the trace.
        run: the operation.
        args: of it.
        keys: those that must be there before it is done.
        writes: those that it may make.
        task: who waits for the answer; None if there is none.
        takes_back: a wait that ends with this.
        number: counts the requests of a connection.
        looked_at: index of the key that it waits for; those before it have been there.
    """

    client: StoreClient
    what: str
    run: Callable[..., Any]
    args: tuple[Any, ...] = ()
    keys: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    task: Task | None = None
    takes_back: _Request | None = None
    number: int = 0
    looked_at: int = 0
    answered: bool = False
    answer: Any = None
    given_up: bool = False


@dataclass(slots=True, eq=False)
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
    _world: World = field(init=False)
    #: by key, who waits for it, in the order they came. Who waits for several keys waits for one after the other, so
    #: that a key which comes is looked up once for each that waits for it, and nobody else is looked at.
    _waiting: dict[str, dict[_Request, None]] = field(default_factory=dict)
    #: what came during a stall or a pause, by connection
    _held: dict[StoreClient, list[_Request]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._world = self.process.node.world

    def listen(self) -> StoreServer:
        """Open it to the network, under the node's address and its loopback."""
        world, node = self.process.node.world, self.process.node
        places = [(node.address, self.port), (f"{node.name}:loopback", self.port)]
        for place in places:
            assert place not in world.listeners, f"port {self.port} is in use on {node.name}"
            world.listeners[place] = self
        self.process.on_gone.append(self._close)
        self.process.on_resume.append(self._take_up_all)
        return self

    def _close(self) -> None:
        listeners = self.process.node.world.listeners
        for place in [place for place, server in listeners.items() if server is self]:
            del listeners[place]
        for requests in (*self._waiting.values(), *self._held.values()):
            for request in requests:
                request.client.refuse()

    @property
    def kernel(self) -> Kernel:
        """Of the world."""
        return self.process.node.world.kernel

    def handle(self, request: _Request) -> None:
        """Do one operation, now or when the stall or the pause is over, after what came before on its connection."""
        if self._held and request.client in self._held:
            self._held[request.client].append(request)
        elif self.process.paused:
            self._held[request.client] = [request]
        elif self.stalled_until_ns and self.kernel.now_ns < self.stalled_until_ns:
            self._held[request.client] = [request]
            self._take_up_later(request.client)
        else:
            self._do(request)

    def _take_up_later(self, client: StoreClient) -> None:
        self.kernel.call_at(self.stalled_until_ns, "the store's stall ends", partial(self._take_up, client))

    def _take_up_all(self) -> None:
        for client in list(self._held):
            self._take_up(client)

    def _take_up(self, client: StoreClient) -> None:
        """Do what came on a connection meanwhile."""
        if client not in self._held or self.process.paused or not self.process.alive:
            return
        if self.kernel.now_ns < self.stalled_until_ns:
            self._take_up_later(client)
            return
        for request in self._held.pop(client):
            self._do(request)

    def _do(self, request: _Request) -> None:
        if request.what != GREETING:
            self.operations += 1
            self._world.operations += 1
        if request.takes_back is not None:
            self._take_back(request.takes_back, request)
        elif not request.keys:
            self._run(request)
        else:
            self._do_when_all_are_there(request)

    def _do_when_all_are_there(self, request: _Request) -> None:
        if self.data.holds(request.keys):
            self._run(request)
            return
        try:
            missing = self.data.missing(request.keys)
        except TypeError as error:
            request.client.answer(request, error)
            return
        if not request.given_up:
            self._wait_at(request, request.keys.index(missing[0]))

    def _run(self, request: _Request) -> None:
        try:
            answer = request.run(self.data, *request.args)
        except (RallyError, TypeError) as error:
            answer = error  # the client's mistake, and raised there
        if request.task is not None:
            request.client.answer(request, answer)
        for key in request.writes:
            if key in self._waiting:
                self._has_come(key, request.run is KeyValues.compare_set)

    # -- who waits for a key --------------------------------------------------------------------------------

    def _has_come(self, key: str, compared: bool) -> None:
        """Measured on torch 2.13 with libuv: a comparison wakes the waiters also if the key stays missing."""
        if self.data.get(key) is not None:
            for request in self._waiting.pop(key):
                self._look_again(request)
        elif compared:
            for request in self._waiting.pop(key):
                self._wake_for_nothing(request)

    def _wake_for_nothing(self, request: _Request) -> None:
        position = self._next_missing(request, request.looked_at + 1)
        if position is None:
            request.run = partial(_or_empty, request.run)
            self._run(request)
        else:
            self._wait_at(request, position)

    def _look_again(self, request: _Request) -> None:
        """Do it, or have it wait for the next key; from the beginning if one was deleted that had been there."""
        position = self._next_missing(request, request.looked_at)
        if position is None and request.looked_at:
            position = self._next_missing(request, 0)
        if position is None:
            self._run(request)
        else:
            self._wait_at(request, position)

    def _next_missing(self, request: _Request, first: int) -> int | None:
        for position in range(first, len(request.keys)):
            if self.data.get(request.keys[position]) is None:
                return position
        return None

    def _wait_at(self, request: _Request, position: int) -> None:
        request.looked_at = position
        self._waiting.setdefault(request.keys[position], {})[request] = None

    def _take_back(self, request: _Request, by: _Request) -> None:
        # If it does not wait any more, its answer is on its way, and there is no other.
        if self.forget(request):
            request.client.answer(request, by.answer)

    def forget(self, request: _Request) -> bool:
        """The client gave up. Returns whether the request was waiting for a key."""
        key = request.keys[request.looked_at] if request.keys else ""
        waiters = self._waiting.get(key, {})
        if request not in waiters:
            return False
        del waiters[request]
        if not waiters:
            del self._waiting[key]
        return True


def _or_empty(run: Callable[..., Any], data: KeyValues, *args: Any) -> Any:
    """What is read of keys that need not be there."""
    found = run(data, *args)
    if isinstance(found, list):
        return [b"" if value is None else value for value in found]
    return b"" if found is None and run is KeyValues.get else found


def _nothing(_data: KeyValues) -> None:
    """An operation that only waits."""


def _no_signals() -> None:
    """Nobody looks for signals."""


class StoreClient:
    """One connection to a store, with the interface of torch's Store.

    `set`, `multi_set` and `append` return when they are sent, as TCPStore's do (measured on torch 2.13 with the server
    stopped). What is sent when the connection breaks is lost, and the next operation tells.

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
        check_signals: Callable[[], None] = _no_signals,
    ) -> None:
        self._process = process
        self._world = process.node.world
        self._kernel = self._world.kernel
        self._address, self._port = address, port
        self._timeout_s = timeout_s
        self._check_signals = check_signals
        self._target = self._target_node()
        #: the ways there and back
        self._there = self._back = None
        if self._target is not None:
            network, node = self._world.network, process.node
            self._there, self._back = network.route(node, self._target), network.route(self._target, node)
        self._holder: Task | None = None
        self._queue: deque[Task] = deque()
        #: what is awaited
        self._pending: _Request | None = None
        self.broken = ""
        #: who took the first request: the connection is to that server, and not to one that comes after it
        self._server: StoreServer | None = None
        self._boots = self._target.boots if self._target is not None else 0
        #: how many requests were sent, and how many have come, in this order; when the last one came, or was sent
        #: while all that were sent before had come
        self._sent = self._arrived = self._moved_ns = 0
        #: those that came before one that was sent earlier, by number
        self._early: dict[int, _Request] = {}
        self._asks = f"{process.name} asks the store: "
        self._hears = f"the store answers {process.name}: "
        process.connections.append(self)

    @property
    def busy(self) -> bool:
        """Whether an operation is under way."""
        return self._holder is not None

    def reaches(self, node: Node) -> bool:
        """Whether it goes from or to that node."""
        return node is self._process.node or node is self._target

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
        if self._pending is not None and self._pending.task is not None:
            self._kernel.wake(self._pending.task)

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
        """Set a key. Does not wait for the store."""
        self._tell(f"set {key}", KeyValues.put, (pairs((key,), (value,)),), (key,))

    def get(self, key: str) -> bytes:
        """The value of a key; waits for it."""
        return self._ask(f"get {key}", KeyValues.get, (key,), keys=(key,))  # type: ignore[no-any-return]

    def add(self, key: str, amount: int) -> int:
        """Add to a counter."""
        return self._ask(f"add {key}", KeyValues.add, (key, amount), writes=(key,))  # type: ignore[no-any-return]

    def append(self, key: str, value: str | bytes) -> None:
        """Append to a value. Does not wait for the store."""
        self._tell(f"append {key}", KeyValues.append, pairs((key,), (value,))[0], (key,))

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> bytes:
        """Set if the value is as expected; returns what it is then."""
        args = (key, expected, desired)
        return self._ask(f"compare_set {key}", KeyValues.compare_set, args, writes=(key,))  # type: ignore[no-any-return]

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """Several values; waits for all."""
        all_keys = tuple(keys)
        return self._ask(_listed("multi_get", all_keys), KeyValues.multi_get, (all_keys,), keys=all_keys)  # type: ignore[no-any-return]

    def multi_set(self, keys: list[str], values: list[str] | list[bytes]) -> None:
        """Several keys at once. Does not wait for the store."""
        all_keys = tuple(keys)
        self._tell(_listed("multi_set", all_keys), KeyValues.put, (pairs(all_keys, values),), all_keys)

    def check(self, keys: list[str]) -> bool:
        """Whether all are there."""
        all_keys = tuple(keys)
        return self._ask(_listed("check", all_keys), KeyValues.check, (all_keys,))  # type: ignore[no-any-return]

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """Block until all are there."""
        all_keys = tuple(keys)
        timeout_s = self._timeout_s if timeout is None else timeout.total_seconds()
        self._ask(_listed("wait for", all_keys), _nothing, keys=all_keys, timeout_s=timeout_s)

    def watch(self, keys: list[str], timeout: timedelta, check_signals: Callable[[], None]) -> None:
        """Block until all are there, or `check_signals`, called after each wake-up, raises.

        It holds the connection for nobody: what production does by asking again and again, this does by a wait on a
        connection of its own.
        """
        self._check_whole()
        other = self.clone()
        all_keys = tuple(keys)
        what = _listed("wait for", all_keys)
        task = other._take_turn(what)
        try:
            request = _Request(other, what, _nothing, keys=all_keys, task=task)
            other._exchange(request, timeout.total_seconds(), check_signals)
        finally:
            self._process.connections.remove(other)

    def delete_key(self, key: str) -> bool:
        """Delete a key; whether it was there."""
        return self._ask(f"delete {key}", KeyValues.delete_key, (key,))  # type: ignore[no-any-return]

    def num_keys(self) -> int:
        """How many there are."""
        return self._ask("num_keys", KeyValues.num_keys)  # type: ignore[no-any-return]

    def clone(self) -> StoreClient:
        """Another connection to the same store."""
        return StoreClient(self._process, self._address, self._port, self._timeout_s, self._check_signals)

    def greet(self, timeout_s: float) -> None:
        """Find out whether anybody answers.

        Raises:
            StoreTimeoutError: nobody does.
            StoreLost: nobody listens there.
        """
        request = self._pending = _Request(self, GREETING, _nothing, task=self._kernel.current)
        try:
            self._send(request)
            if not self._await(request, "an answer to its greeting", timeout_s):
                raise StoreTimeoutError("there is silence")
        finally:
            self._pending = None
            request.given_up = True

    # -- operations -----------------------------------------------------------------------------------------

    def _ask(
        self,
        what: str,
        run: Callable[..., Any],
        args: tuple[Any, ...] = (),
        *,
        keys: tuple[str, ...] = (),
        writes: tuple[str, ...] = (),
        timeout_s: float | None = None,
    ) -> Any:
        """Do an operation that is answered."""
        task = self._take_turn(what)
        try:
            # Measured on torch 2.13, the server stopped for 10 s, the client's timeout 2 s: add, compare_set and check
            # took 10 s and were done; get and wait raised after 10 s. The timeout is only for keys that are missing.
            limit_s = GIVE_UP_S if not keys else self._timeout_s if timeout_s is None else timeout_s
            return self._exchange(_Request(self, what, run, args, keys, writes, task), limit_s, _no_signals)
        finally:
            self._give_turn()
            self._check_signals()

    def _tell(
        self, what: str, run: Callable[..., Any], args: tuple[Any, ...], writes: tuple[str, ...]
    ) -> None:
        """Do an operation that is not answered; what is wrong with it was raised before."""
        self._take_turn(what)
        try:
            self._check_whole()
            self._send(_Request(self, what, run, args, (), writes))
        finally:
            self._give_turn()
            self._check_signals()

    def _take_turn(self, what: str) -> Task:
        task = self._kernel.current
        assert task is not None, "the store is used by tasks"
        while self._holder is not None:
            self._queue.append(task)
            self._kernel.park(f"its turn on the connection ({what})")
            if task in self._queue:
                self._queue.remove(task)
        self._holder = task
        return task

    def _give_turn(self) -> None:
        self._holder = None
        if self._queue:
            self._kernel.wake(self._queue.popleft())

    def _exchange(self, request: _Request, timeout_s: float, check_signals: Callable[[], None]) -> Any:
        self._check_whole()
        self._pending = request
        try:
            self._send(request)
            why = f"the store: {request.what}"
            there = self._await(request, why, timeout_s, check_signals)
            if not there and request.keys:
                self._cancel(request, timeout_s)
                there = self._await(request, f"{why}, to be taken back", GIVE_UP_S, check_signals)
            if not there:
                self.reset("connection timed out")
                self._check_whole()
        except BaseException:
            self._give_up(request)
            raise
        finally:
            self._pending = None
        if isinstance(request.answer, Exception):
            raise request.answer
        return request.answer

    def _await(
        self, request: _Request, why: str, timeout_s: float, check_signals: Callable[[], None] = _no_signals
    ) -> bool:
        """Park until the answer is there, or the time is over. Returns whether it is there."""
        kernel = self._kernel
        deadline_ns = kernel.now_ns + int(timeout_s * 1e9)
        while not request.answered:
            if self.broken:
                raise StoreLost(self.broken)
            left_ns = deadline_ns - kernel.now_ns
            if left_ns <= 0:
                return False
            if self._sent != self._arrived:
                self._check_whole()
                left_ns = min(left_ns, self._moved_ns + _GIVE_UP_NS - kernel.now_ns)
            if kernel.park(why, left_ns):
                check_signals()
        return True

    def _cancel(self, request: _Request, timeout_s: float) -> None:
        """Take a wait back. Its error, too, comes from the store: without an answer there is none."""
        error = StoreTimeoutError(
            f"{late(request.keys, timeout_s)} (the store at {self._address}:{self._port})"
        )
        self._send(_Request(self, f"take back: {request.what}", _nothing, takes_back=request, answer=error))

    def _give_up(self, request: _Request) -> None:
        request.given_up = True
        if self._server is not None:
            self._server.forget(request)

    # -- the connection -------------------------------------------------------------------------------------

    def _check_whole(self) -> None:
        if self._sent != self._arrived and self._kernel.now_ns - self._moved_ns >= _GIVE_UP_NS:
            self.reset("connection timed out")
        if self.broken:
            raise StoreLost(self.broken)

    def _target_node(self) -> Node | None:
        if self._address in ("localhost", "127.0.0.1"):
            return self._process.node
        return self._world.node_at(self._address)

    def _send(self, request: _Request) -> None:
        if self._sent == self._arrived:
            self._moved_ns = self._kernel.now_ns
        self._sent += 1
        request.number = self._sent
        if self._there is None:
            return  # an address that nobody has: silence
        self._there.send(self._asks + request.what, partial(self._arrive, request))
        self._process.did_operation()

    def _arrive(self, request: _Request) -> None:
        """A request has come to the store's host."""
        assert self._target is not None, "it has come somewhere"
        if self.broken:
            return  # what was on its way is lost with the connection
        if self._server is None and self._target.boots == self._boots:
            self._server = self._world.listeners.get((self._target.address, self._port))
        server = self._server
        if server is None or not server.process.alive:
            self.refuse()
            return
        self._early[request.number] = request
        # Each message has a latency of its own, and may have been lost once: as TCP, wait for what was sent before.
        while (following := self._early.pop(self._arrived + 1, None)) is not None:
            self._arrived += 1
            self._moved_ns = self._kernel.now_ns
            server.handle(following)

    def refuse(self) -> None:
        """The server is gone. The operating system of its host, if that is still there, resets the connection."""
        if self._back is not None:
            reset = partial(self.reset, "connection reset by peer")
            self._back.send(f"a connection of {self._process.name} is reset", reset)

    def answer(self, request: _Request, answer: Any) -> None:
        """The server answers."""
        assert self._back is not None, "somebody answers"
        self._back.send(self._hears + request.what, partial(self._hear, request, answer))

    def _hear(self, request: _Request, answer: Any) -> None:
        if request.answered or request.given_up:
            return
        request.answered, request.answer = True, answer
        assert request.task is not None, "somebody waits for it"
        self._kernel.go_on(request.task)


def _listed(verb: str, keys: Sequence[str]) -> str:
    if len(keys) <= _NAMED_MAX:
        return f"{verb} {', '.join(map(str, keys))}"
    return f"{verb} {', '.join(map(str, keys[:_NAMED_MAX]))} and {len(keys) - _NAMED_MAX} more"


def connect(
    process: Process,
    address: str,
    port: int,
    timeout_s: float,
    check_signals: Callable[[], None] = _no_signals,
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
