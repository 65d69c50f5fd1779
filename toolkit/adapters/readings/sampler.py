"""Readings of the workers that run, once a second, from a thread beside the agent.

Rule: it never raises into the agent and never holds it up. Which workers run it learns from the events themselves;
while its lock is held it says nothing and looks at nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from toolkit.adapters.readings.gpus import GpuDriver, GpuWatch
from toolkit.adapters.readings.nvml import open_nvml
from toolkit.adapters.readings.processes import WorkerProcesses
from toolkit.core import events as ev
from toolkit.ports import SayWhile

#: how long a look that goes on may hold up the end, in seconds
CLOSE_S = 0.2
#: the driver of the GPUs has this share of the interval to answer
GPU_PATIENCE = 0.5
#: the first look at an incarnation comes after this share of the interval
FIRST_LOOK = 0.2
#: so many workers and GPUs are read on every beat, then on every tenth, then on every sixtieth only: a recording of
#: weeks stays readable. A million of them are some 100 MB, and 10 hours of 8 workers on 8 GPUs.
SPARSER_AFTER = ((1_000_000, 10), (2_000_000, 60))
#: workers that used no CPU time in so many readings one after the other sleep; they are read on every so many-th beat
#: then, until one of them wakes, so that an agent with nothing to do does next to nothing
ASLEEP_AFTER, ASLEEP_EVERY = 4, 20
#: CPU time of a worker that sleeps, in percent of one core, at the most
ASLEEP_PERCENT = 0.5


@dataclass(slots=True)
class _Group:
    """The workers of one incarnation that run, by local rank."""

    incarnation: int
    pids: dict[int, int] = field(default_factory=dict)
    begun: bool = False
    over: bool = False
    #: of the sampler's thread only
    processes: WorkerProcesses = field(default_factory=WorkerProcesses)

    def runs(self) -> bool:
        return self.begun and not self.over and bool(self.pids)


class ReadingsSampler:
    """Implements `toolkit.ports.EventSink`: watches which workers run, and says what they use.

    Args:
        interval_s: between two readings; above 0.
        note: told in words, once, if GPUs can't be read; must not raise.
        open_driver: of the GPUs; None if there are none.
    """

    def __init__(
        self,
        interval_s: float,
        note: Callable[[str], None],
        open_driver: Callable[[], GpuDriver | None] = open_nvml,
    ) -> None:
        assert interval_s > 0, f"an interval of {interval_s} s; without readings there is no sampler"
        self._interval_s = interval_s
        self._say: SayWhile | None = None
        self._steps: Callable[[], Mapping[int, int]] = dict
        self._changed = threading.Condition()
        self._group = _Group(-1)
        self._hurry = False
        self._closing = False
        self._thread: threading.Thread | None = None
        # Of the thread only:
        self._gpus = GpuWatch(open_driver, note)
        self._read = 0
        self._asleep = 0

    def begin(self, say: SayWhile) -> None:
        """From now on readings are said, as soon as workers run."""
        self._say = say

    def ask_for_steps(self, steps: Callable[[], Mapping[int, int]]) -> None:
        """Readings have the steps, too, that workers tell.

        Args:
            steps: the last one of each, by local rank; must not wait.
        """
        self._steps = steps

    def emit(self, event: ev.Event) -> None:
        """Learn which workers run."""
        match event:
            case ev.WorkersStarting():
                self._replace(_Group(event.incarnation))
            case ev.WorkerStarted() if event.pid > 0:
                self._started(event)
            case ev.WorkersStarted():
                self._all_started()
            case ev.WorkerExited():
                self._exited(event)
            case ev.WorkersStopped() | ev.AgentFinished():
                self._replace(_Group(-1))
            case _:
                pass

    def close(self) -> None:
        """No more readings. Waits for one that goes on, but hardly."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_S)
        self._gpus.close(CLOSE_S)

    # -- in the thread of who emits -------------------------------------------------------------------------

    def _replace(self, group: _Group) -> None:
        with self._changed:
            self._group.over = True
            self._group = group
            self._changed.notify_all()

    def _started(self, event: ev.WorkerStarted) -> None:
        with self._changed:
            if event.incarnation == self._group.incarnation:
                self._group.pids[event.local_rank] = event.pid

    def _all_started(self) -> None:
        with self._changed:
            self._group.begun = True
            if self._thread is None and self._say is not None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="rally-readings", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _exited(self, event: ev.WorkerExited) -> None:
        with self._changed:
            if event.incarnation != self._group.incarnation:
                return
            self._group.pids.pop(event.local_rank, None)
            # What the others did when one failed is worth more than what they do while they are stopped.
            self._hurry = self._hurry or (event.exit_code != 0 and not event.stopped_by_agent)
            self._changed.notify_all()

    # -- in the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (group := self._next_group()) is not None:
            self._asleep = 0
            # The first look yields nothing; it is there for the next one to compare with.
            due_s = time.monotonic() + self._interval_s * FIRST_LOOK
            while self._wait_until(due_s, group):
                self._beat(group)
                if (now_s := time.monotonic()) >= due_s:
                    # A beat that took too long is not caught up with.
                    due_s = max(due_s + self._pause_s(), now_s + self._interval_s / 2)

    def _next_group(self) -> _Group | None:
        """The next one that runs; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._group.runs() or self._closing)
            self._hurry = False
            return None if self._closing else self._group

    def _wait_until(self, due_s: float, group: _Group) -> bool:
        """Wait for the next beat. Returns whether there is one: the group still runs."""

        def over() -> bool:
            return self._closing or not group.runs()

        with self._changed:
            self._changed.wait_for(lambda: over() or self._hurry, max(0.0, due_s - time.monotonic()))
            self._hurry = False
            return not over()

    def _pause_s(self) -> float:
        beats = max((every for count, every in SPARSER_AFTER if self._read >= count), default=1)
        if self._asleep >= ASLEEP_AFTER:
            beats = max(beats, ASLEEP_EVERY)
        return self._interval_s * beats

    def _beat(self, group: _Group) -> None:
        try:
            self._take(group)
        except Exception:  # noqa: BLE001 - the edge of the thread; a reading is not worth a job
            return

    def _take(self, group: _Group) -> None:
        with self._changed:
            pids = dict(group.pids)
        workers = group.processes.take(pids, time.monotonic_ns())
        if not workers or self._say is None:
            return
        steps = self._steps()
        workers = (
            [replace(worker, step=steps.get(worker.local_rank)) for worker in workers] if steps else workers
        )
        gpus = self._gpus.take(group.processes.families, self._interval_s * GPU_PATIENCE)
        self._read += len(workers) + 2 * len(gpus) + 2
        # A worker that waits for its GPU may use no CPU time.
        sleep = not gpus and all(worker.cpu_percent <= ASLEEP_PERCENT for worker in workers)
        self._asleep = self._asleep + 1 if sleep else 0
        self._say(group.runs, ev.ReadingsTaken, incarnation=group.incarnation, workers=workers, gpus=gpus)
