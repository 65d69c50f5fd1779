"""The bell of a simulated agent."""

from __future__ import annotations

from simulator.adapters.clock import NodeClock
from simulator.kernel import Kernel, Task


class TaskBell:
    """Implements `toolkit.ports.Bell`."""

    def __init__(self, kernel: Kernel, clock: NodeClock) -> None:
        self._kernel = kernel
        self._clock = clock
        self._rung = False
        self._waiter: Task | None = None

    def ring(self) -> None:
        """Wake the waiter, now or at its next wait."""
        self._rung = True
        if self._waiter is not None:
            self._kernel.wake(self._waiter)

    def wait(self, timeout_s: float | None) -> bool:
        """Block until rung, or for `timeout_s` seconds of this node."""
        if not self._rung:
            self._waiter = self._kernel.current
            try:
                timeout_ns = None if timeout_s is None else self._clock.kernel_ns(timeout_s)
                self._kernel.park("the bell", timeout_ns)
            finally:
                self._waiter = None
        rung, self._rung = self._rung, False
        return rung
