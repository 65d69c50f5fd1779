"""Death signals to a simulated agent, and its blocking calls, which they break off."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from simulator.kernel import Task
from simulator.world import Process
from toolkit.core.errors import SignalException
from toolkit.ports import Bell


class ProcessInterrupts:
    """Implements `toolkit.ports.Interrupts` for the main task of a process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._kernel = process.node.world.kernel
        self._pending: deque[int] = deque()
        self._count = 0
        self._bell: Bell | None = None
        self._interruptible = False
        self._main: Task | None = None

    @contextmanager
    def handling(self, bell: Bell) -> Iterator[None]:
        """From here on signals are counted and ring the bell, instead of ending the process."""
        if self._bell is not None:
            yield
            return
        self._bell, self._main = bell, self._kernel.current
        self._process.on_signal = self._arrive
        try:
            yield
        finally:
            self._process.on_signal, self._bell = None, None

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Blocking calls in here are broken off by a signal."""
        self._interruptible = True
        try:
            self.raise_pending()
            yield
        finally:
            self._interruptible = False

    def _arrive(self, signum: int) -> None:
        self._count += 1
        self._pending.append(signum)
        if self._bell is not None:
            self._bell.ring()
        if self._interruptible and self._main is not None:
            self._kernel.wake(self._main)

    def raise_pending(self) -> None:
        """Raise SignalException if a signal is pending and the calling task is in an interruptible call."""
        if self._interruptible and self._kernel.current is self._main and self._pending:
            self._interruptible = False
            raise SignalException.of(self._process.pid, self._pending.popleft())

    def take(self) -> int | None:
        """The oldest signal that nobody took yet."""
        return self._pending.popleft() if self._pending else None

    def count(self) -> int:
        """Signals so far."""
        return self._count

    def take_forwarded(self) -> Sequence[int]:
        """Nobody sends such signals here."""
        return ()
