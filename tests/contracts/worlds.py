"""Where a suite runs: with real time and threads, as a task of a simulated process, or on the fakes' virtual time.

A test whose fixtures make a `world` has its body run by it (see conftest.py), and asks it for the time and for
whatever else is to happen meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import pytest

from tests.agent.world import Time

#: how long a simulated body may take, in virtual seconds; a body that waits for ever ends so
_SIMULATED_MAX_S = 3600.0


class Running(Protocol):
    """Something that runs beside the test's body."""

    def done(self) -> bool: ...

    def result(self, timeout: float) -> Any:
        """What it returned, or raise what it raised; TimeoutError if it takes longer than `timeout` seconds."""
        ...


class World(Protocol):
    """Time, and what happens in it."""

    def now_s(self) -> float:
        """Seconds on a monotonic clock."""
        ...

    def later(self, after_s: float, what: Callable[[], Any]) -> None:
        """Have `what` done elsewhere after some seconds. It must not block."""
        ...

    def start(self, run: Callable[[], Any]) -> Running:
        """Run something beside the body; it may block."""
        ...

    def run(self, body: Callable[[], Any]) -> None:
        """Run the body of a test."""
        ...

    def close(self) -> None:
        """Nothing of it is left."""
        ...


class RealWorld:
    """This machine: threads and the monotonic clock."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(8)
        self._timers: list[threading.Timer] = []

    def now_s(self) -> float:
        return time.monotonic()

    def later(self, after_s: float, what: Callable[[], Any]) -> None:
        timer = threading.Timer(after_s, what)
        self._timers.append(timer)
        timer.start()

    def start(self, run: Callable[[], Any]) -> Future[Any]:
        return self._threads.submit(run)

    def run(self, body: Callable[[], Any]) -> None:
        body()

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
            timer.join()
        self._threads.shutdown()


class FakeWorld:
    """The virtual time of `tests.agent.world`: it passes while the body waits, and nothing runs beside it."""

    def __init__(self) -> None:
        self.time = Time()

    def now_s(self) -> float:
        return self.time.now_ns() / 1e9

    def later(self, after_s: float, what: Callable[[], Any]) -> None:
        self.time.at(after_s, what)

    def start(self, run: Callable[[], Any]) -> Running:
        raise NotImplementedError("nothing runs beside the body here")

    def run(self, body: Callable[[], Any]) -> None:
        body()

    def close(self) -> None:
        pass


class SimWorld:
    """A simulated cluster of two nodes; the body runs as a task of the agent's process on the first one.

    Args:
        seed: draws latencies and the order of ties.
    """

    def __init__(self, seed: int = 0) -> None:
        pytest.importorskip("greenlet")
        from simulator.kernel import SECOND, Kernel, Limits
        from simulator.rng import Tape
        from simulator.world import World as Cluster

        self.kernel = Kernel(Tape(seed), Limits(time_ns=int(_SIMULATED_MAX_S) * SECOND))
        self.cluster = Cluster(self.kernel, ["node0", "node1"])
        self.node, self.other_node = self.cluster.nodes.values()
        self.process = self.node.start_process("agent")

    def now_s(self) -> float:
        return self.kernel.now_ns / 1e9

    def later(self, after_s: float, what: Callable[[], Any]) -> None:
        self.kernel.call_after(int(after_s * 1e9), "what the test wants", what)

    def start(self, run: Callable[[], Any]) -> SimRunning:
        return SimRunning(self, run)

    def run(self, body: Callable[[], Any]) -> None:
        """Run the body, and raise what it raises.

        Raises:
            LimitReached: it takes longer than an hour of virtual time.
            AssertionError: it waits for something that never happens.
        """
        running = SimRunning(self, body)
        finished = self.kernel.run(running.done)
        waiting = [f"{task.name} for {task.waits_for}" for task in self.kernel.waiting()]
        assert finished, f"nothing is left to happen, and these wait: {'; '.join(waiting)}"
        running.value()

    def close(self) -> None:
        for node in self.cluster.nodes.values():
            for process in list(node.processes.values()):
                process.vanish()
        self.kernel.close()


class SimRunning:
    """Implements Running: a task of the world's process."""

    def __init__(self, world: SimWorld, run: Callable[[], Any]) -> None:
        self._world = world
        self._run = run
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._waiters: list[Any] = []
        world.process.spawn(self._body, "body")

    def _body(self) -> None:
        from simulator.kernel import TaskKilled

        try:
            self._value = self._run()
        except TaskKilled:
            raise
        except BaseException as error:
            self._error = error
        self._done = True
        for waiter in self._waiters:
            self._world.kernel.wake(waiter)

    def done(self) -> bool:
        return self._done

    def value(self) -> Any:
        """Once it is done."""
        if self._error is not None:
            raise self._error
        return self._value

    def result(self, timeout: float) -> Any:
        if not self._done:
            self._waiters.append(self._world.kernel.current)
            if not self._world.kernel.park("what runs beside the body", int(timeout * 1e9)):
                raise TimeoutError
        return self.value()


#: the three of them, for tables
WORLDS: dict[str, Callable[[], World]] = {"real": RealWorld, "simulated": SimWorld, "fake": FakeWorld}
