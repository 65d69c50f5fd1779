"""Code beside a simulated agent's loop: tasks of its process. No task is interrupted, so that a lock is nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from simulator.adapters.bell import TaskBell
from simulator.adapters.clock import NodeClock
from simulator.world import Process


class ProcessTasks:
    """Implements `toolkit.ports.Tasks`."""

    def __init__(self, process: Process, clock: NodeClock) -> None:
        self._process = process
        self._clock = clock

    def spawn(self, run: Callable[[], None], name: str) -> None:
        """Start a task of the process; it ends with it."""
        self._process.spawn(run, name)

    def new_bell(self) -> TaskBell:
        """A bell for a task."""
        return TaskBell(self._process.node.world.kernel, self._clock)

    def new_lock(self) -> AbstractContextManager[Any]:
        """Nothing to hold: tasks give way only where they wait."""
        return nullcontext()
