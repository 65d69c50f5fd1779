"""Simulated stand-ins for what torch's elastic modules use of Python and of torch's C++: modules, classes, functions.

Each has only what torch uses of it, so that anything else is noticed. They look up the process of the current task.
"""

from __future__ import annotations

import posixpath
import signal
import socket
import weakref
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from simulator.adapters.prefix_store import SimPrefixStore
from simulator.adapters.store import StoreClient, connect
from simulator.guest import Guest
from simulator.kernel import Task

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class StillTime:
    """The module `time` where it does not matter."""

    @staticmethod
    def time() -> float:
        """Always the same."""
        return 0.0


class Time:
    """The module `time`."""

    def __init__(self, guest: Callable[[], Guest]) -> None:
        self._guest = guest

    def sleep(self, seconds: float) -> None:
        self._guest().sleep(seconds)

    def monotonic(self) -> float:
        return self._guest().monotonic()

    def perf_counter(self) -> float:
        return self._guest().monotonic()

    def time(self) -> float:
        return self._guest().wall()


class Datetime:
    """The class `datetime`, as far as it reads a clock."""

    def __init__(self, guest: Callable[[], Guest]) -> None:
        self._guest = guest

    def now(self, zone: tzinfo | None = None) -> datetime:
        # A real datetime: it is compared with real ones, and pickled.
        now = _EPOCH + timedelta(microseconds=self._guest().clock.wall_ns() // 1000)
        return now.replace(tzinfo=None) if zone is None else now.astimezone(zone)


class Random:
    """The module `random`, from the choice tape."""

    def __init__(self, guest: Callable[[], Guest]) -> None:
        self._guest = guest

    def uniform(self, low: float, high: float) -> float:
        guest = self._guest()
        return low + (high - low) * guest.kernel.tape.fraction(f"random/{guest.node.name}")


class Path:
    """The module `os.path`; no file of this machine exists in the simulated one."""

    join = staticmethod(posixpath.join)
    basename = staticmethod(posixpath.basename)

    @staticmethod
    def isfile(_path: str) -> bool:
        return False


class Os:
    """The module `os`."""

    path = Path

    def __init__(self, guest: Callable[[], Guest]) -> None:
        self._guest = guest

    @property
    def environ(self) -> dict[str, str]:
        return self._guest().environment

    def getenv(self, name: str, default: str | None = None) -> str | None:
        return self._guest().environment.get(name, default)

    def getpid(self) -> int:
        return self._guest().process.pid


class Socket:
    """The module `socket`, as far as it knows names."""

    gaierror = socket.gaierror
    IPPROTO_TCP = socket.IPPROTO_TCP
    AI_CANONNAME = socket.AI_CANONNAME

    def __init__(self, guest: Callable[[], Guest]) -> None:
        self._guest = guest

    def gethostname(self) -> str:
        return self._guest().node.name

    def getfqdn(self, name: str = "") -> str:
        guest = self._guest()
        node = guest.node.world.node_at(name) if name else guest.node
        return name if node is None else node.full_name

    def getaddrinfo(self, host: str, _port: Any, **_: Any) -> list[tuple[Any, ...]]:
        node = self._guest().node.world.node_at(host)
        if node is None:
            raise socket.gaierror(socket.EAI_NONAME, f"nobody is called {host}")
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, node.full_name, (node.address, 0))]


class Signal:
    """The module `signal`: its constants are real, `signal()` is the simulated process's."""

    def __init__(self, guest: Callable[[], Guest]) -> None:
        self._guest = guest

    def signal(self, signum: int, handler: Callable[[int, None], None]) -> None:
        self._guest().handlers[int(signum)] = handler

    def __getattr__(self, name: str) -> Any:
        return getattr(signal, name)


class Lock:
    """`threading.Lock`; in the main task a signal's handler that raises ends the wait, as in Python."""

    def __init__(self, guest: Callable[[], Guest]) -> None:
        self._guest = guest
        self._held = False
        self._queue: list[Task] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._held:
            if not blocking:
                return False
            limit = None if timeout < 0 else timeout
            if not self._guest().wait_until(lambda: not self._held, self._queue, "a lock", limit):
                return False
        self._held = True
        return True

    def release(self) -> None:
        self._held = False
        if self._queue:
            self._guest().kernel.wake(self._queue[0])

    def locked(self) -> bool:
        return self._held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Event:
    """`threading.Event`."""

    def __init__(self, guest: Callable[[], Guest]) -> None:
        self._guest = guest
        self._set = False
        self._queue: list[Task] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        for task in self._queue:
            self._guest().kernel.wake(task)

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        return self._set or self._guest().wait_until(lambda: self._set, self._queue, "an event", timeout)


class Thread:
    """`threading.Thread` as a task of its process."""

    def __init__(self, guest: Callable[[], Guest], *, target: Callable[..., Any], **how: Any) -> None:
        self._guest = guest
        self._target = target
        self._args: tuple[Any, ...] = how.get("args", ())
        self._kwargs: dict[str, Any] = how.get("kwargs") or {}
        self.name: str = how.get("name") or "Thread"
        self._ended = False
        self._queue: list[Task] = []

    def start(self) -> None:
        guest = self._guest()
        guest.process.spawn(lambda: self._run(guest), self.name)

    def _run(self, guest: Guest) -> None:
        try:
            self._target(*self._args, **self._kwargs)
        except Exception as error:  # noqa: BLE001 - the edge of a thread: Python prints it, and the process goes on
            guest.thread_errors.append(error)
        self._ended = True
        for task in self._queue:
            guest.kernel.wake(task)

    def is_alive(self) -> bool:
        return not self._ended

    def join(self, timeout: float | None = None) -> None:
        if not self._ended:
            self._guest().wait_until(lambda: self._ended, self._queue, f"thread {self.name} to end", timeout)


class Threading:
    """The module `threading`."""

    def __init__(self, guest: Callable[[], Guest]) -> None:
        self._guest = guest

    def Lock(self) -> Lock:  # noqa: N802 - torch's spelling
        return Lock(self._guest)

    def main_thread(self) -> Task | None:
        return self._guest().main

    def current_thread(self) -> Task | None:
        return self._guest().kernel.current


class Finalizer:
    """`weakref.finalize`, but only when called: garbage is not collected at a moment that means anything."""

    def __init__(self, _owner: object, call: Callable[..., Any], *args: Any) -> None:
        self._call: Callable[[], Any] | None = lambda: call(*args)
        self.atexit = True

    def __call__(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


class Weakref:
    """The module `weakref`."""

    ref = weakref.ref
    finalize = Finalizer


class Quiet:
    """A logger, or anything else whose calls only report."""

    def isEnabledFor(self, _level: int) -> bool:  # noqa: N802 - logging's spelling
        return False

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return nothing


def nothing(*_: Any, **__: Any) -> None:
    return None


class Distributed:
    """The names of `torch.distributed` that the rendezvous uses."""

    PrefixStore = SimPrefixStore

    def __init__(self, guest: Callable[[], Guest]) -> None:
        self._guest = guest

    def TCPStore(  # noqa: N802 - torch's spelling
        self,
        host_name: str,
        port: int = 0,
        *,
        is_master: bool = False,
        timeout: timedelta = timedelta(seconds=300),
        multi_tenant: bool = False,
    ) -> StoreClient:
        """A connection to the store at that place, which is opened there first if `is_master`."""
        assert multi_tenant, "torch's rendezvous shares its servers within a process"
        guest = self._guest()
        if is_master:
            port = guest.serve(port or guest.node.free_port()).port
        return connect(guest.process, host_name, port, timeout.total_seconds(), guest.handle_signals)


class Barriers:
    """`torch.distributed.elastic.utils.store`, which remembers how a barrier failed."""

    def __init__(self, guest: Callable[[], Guest], real: Any) -> None:
        self._guest = guest
        self._real = real

    def barrier(self, **how: Any) -> None:
        guest = self._guest()
        guest.barrier_error = None
        try:
            self._real.barrier(**how)
        except Exception as error:
            guest.barrier_error = error
            raise


class Descriptions:
    """`_NodeDescGenerator` is one for all in torch's class; here it is one for each process, as in reality."""

    def __init__(self, guest: Callable[[], Guest], real: Callable[[], Any]) -> None:
        self._guest = guest
        self._real = real

    def generate(self, local_addr: str | None = None) -> Any:
        guest = self._guest()
        if guest.descriptions is None:
            guest.descriptions = self._real()
        return guest.descriptions.generate(local_addr)
