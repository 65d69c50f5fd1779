"""A simulated process in which Python code runs that knows nothing of the simulator: torch's.

Its time, its signals and its waits; `torch_names` gives them the names of Python's modules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulator.adapters.clock import NodeClock
from simulator.adapters.store import StoreServer
from simulator.kernel import Kernel, Task
from simulator.world import Node, Process


class Guest:
    """A simulated process in which torch's code runs.

    Args:
        process: which.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self.node: Node = process.node
        self.kernel: Kernel = process.node.world.kernel
        self.clock = NodeClock(process.node)
        self.environment: dict[str, str] = {}
        #: the task that is Python's main thread there: the one that handles signals
        self.main: Task | None = self.kernel.current
        #: called in the main task when a blocking call has ended: handles a signal that came meanwhile
        self.handle_signals: Callable[[], None] = lambda: None
        #: what `signal.signal` installed
        self.handlers: dict[int, Callable[[int, None], None]] = {}
        #: errors that ended a thread, as Python prints them and goes on
        self.thread_errors: list[Exception] = []
        #: how the last exit barrier ended, if it did by an error; torch's agent swallows that
        self.barrier_error: Exception | None = None
        #: starts one worker, for torch's process context
        self.start_worker: Callable[..., Any] | None = None
        #: makes the agent of this process, for torch's launcher
        self.make_agent: Callable[..., Any] | None = None
        #: torch's numbers of rendezvous handlers, which start at 0 in each process
        self.descriptions: Any = None
        self._servers: dict[int, StoreServer] = {}

    def sleep(self, seconds: float) -> None:
        """`time.sleep`: a signal's handler runs at once, and if it doesn't raise, the sleep goes on."""
        until_ns = self.kernel.now_ns + self.clock.kernel_ns(seconds)
        while (left_ns := until_ns - self.kernel.now_ns) > 0:
            self.kernel.park("sleep", left_ns)
            self.handle_signals()

    def monotonic(self) -> float:
        """Seconds of the node's monotonic clock."""
        return self.clock.now_ns() / 1e9

    def wall(self) -> float:
        """Seconds since the epoch by the node's wall clock."""
        return self.clock.wall_ns() / 1e9

    def wait_until(
        self, is_so: Callable[[], bool], queue: list[Task], why: str, timeout: float | None
    ) -> bool:
        """Park until `is_so`; whoever makes it so wakes the tasks in `queue`. Returns whether it is."""
        task = self.kernel.current
        assert task is not None, f"only a task waits ({why})"
        until_ns = None if timeout is None else self.kernel.now_ns + self.clock.kernel_ns(timeout)
        queue.append(task)
        try:
            while not is_so():
                left_ns = None if until_ns is None else until_ns - self.kernel.now_ns
                if left_ns is not None and left_ns <= 0:
                    return False
                self.kernel.park(why, left_ns)
                self.handle_signals()
            return True
        finally:
            queue.remove(task)

    def serve(self, port: int) -> StoreServer:
        """The store server of this process at a port: torch's `multi_tenant=True`.

        Raises:
            RuntimeError: another process listens there.
        """
        if port in self._servers:
            return self._servers[port]
        if (self.node.address, port) in self.node.world.listeners:
            raise RuntimeError(f"the server socket can't listen on port {port}: address already in use")
        server = self._servers[port] = StoreServer(self.process, port).listen()
        return server
