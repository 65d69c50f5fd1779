"""The workers of one incarnation that are watched: what the agent's thread and the watching one share of them."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from toolkit.adapters.watching.shared import SharedNotes
from toolkit.core.hanging.watched import Condemned, WatchedWorker
from toolkit.ports import Bell, SayWhile

if TYPE_CHECKING:
    from toolkit.adapters.watching.timers import TimerPipe


class WatchedGroup:
    """Safe in any thread.

    Args:
        workers: by local rank.
        alone: whether this node is the whole group.
        notes: what they tell of their steps.
        timers: torch's, if they are heard.
        wake_fd: readable once the watch is to end; closed by `close`.
    """

    def __init__(
        self,
        incarnation: int,
        workers: Mapping[int, WatchedWorker],
        alone: bool,
        say: SayWhile,
        bell: Bell,
        notes: SharedNotes,
        timers: TimerPipe | None,
        started_wall_ns: int,
        wake_fd: int,
    ) -> None:
        self.incarnation, self.workers, self.alone = incarnation, workers, alone
        self.say, self.bell, self.notes, self.timers = say, bell, notes, timers
        self.started_wall_ns, self.wake_fd = started_wall_ns, wake_fd
        self._lock = threading.Lock()
        self._condemned: dict[int, Condemned] = {}
        self._over = self._closed = False
        self._on_end: list[Callable[[], None]] = []

    def runs(self) -> bool:
        """Whether it is still to be watched."""
        return not self._over

    def wait(self, timeout_s: float) -> bool:
        """Wait until the watch is to end. Returns whether it is."""
        poller = select.poll()  # not select, which descriptors from 1024 on break
        poller.register(self.wake_fd, select.POLLIN)
        poller.poll(timeout_s * 1000)
        return self._over

    def condemn(self, doomed: Mapping[int, Condemned]) -> None:
        """Have the agent kill them."""
        with self._lock:
            self._condemned.update(doomed)
        self.bell.ring()

    def condemned(self) -> tuple[Condemned, ...]:
        """Whom the agent is to kill."""
        with self._lock:
            return tuple(self._condemned.values())

    def when_over(self, do: Callable[[], None]) -> None:
        """Have something done by whoever ends the watch. It must neither wait nor raise."""
        with self._lock:
            if not self._over:
                self._on_end.append(do)
                return
        do()

    def end(self) -> None:
        """Have the watch end, by the agent."""
        with self._lock:
            self._over = True
            if not self._closed:
                os.eventfd_write(self.wake_fd, 1)
            todo, self._on_end = self._on_end, []
        for do in todo:
            do()

    def close(self) -> None:
        """The watch has ended: release what it held. By its thread."""
        with self._lock:
            self._over = self._closed = True
            os.close(self.wake_fd)
        if self.timers is not None:
            self.timers.close()
