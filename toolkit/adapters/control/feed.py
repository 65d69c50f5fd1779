"""The events of an agent for those who watch it: the latest in memory, older ones from its recording.

`emit` appends and wakes; everything else is done by the threads of the watchers. There is one buffer for all of them,
and a watcher is a number into it: who falls behind its beginning is told so and reads on from the recording.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from toolkit.adapters.recording.reader import EventFile
from toolkit.core.events import AgentFinished, AnyEvent, Event
from toolkit.core.timeline import Timeline, fold_all

#: events that are kept in memory
RING_MAX = 4096
#: events that wait to be folded until somebody asks; with so many a thread does it, so that they can't grow for ever
UNFOLDED_MAX = 1024
#: events that one look gives at most
BATCH_MAX = 256


@dataclass(frozen=True, slots=True)
class Batch:
    """What one look at the feed gives.

    Args:
        events: of this agent, in their order.
        behind: whether what comes next is not in memory any more.
        over: whether nothing will follow.
    """

    events: tuple[Event, ...] = ()
    behind: bool = False
    over: bool = False


class Feed:
    """Implements `toolkit.ports.EventSink`.

    Args:
        recorded: the events file of this agent; None is for none, and what is old is lost then.
        ring_max: events that are kept in memory.
    """

    def __init__(self, recorded: Path | None, ring_max: int = RING_MAX) -> None:
        self._recorded = recorded
        # Re-entrant, as in the recording's writer: a signal handler may emit.
        self._changed = threading.Condition(threading.RLock())
        self._ring: deque[Event] = deque(maxlen=ring_max)
        self._unfolded: list[Event] = []
        self._first: Event | None = None
        self._closed = False
        self._folding = threading.Lock()
        self._timeline = Timeline()
        self._watchers = 0
        self._dropped = 0
        #: whether the agent has said that it ends
        self.finished = False

    def emit(self, event: Event) -> None:
        """Keep it, and wake the watchers. Never blocks, never raises."""
        with self._changed:
            self._first = self._first or event
            self._ring.append(event)
            self._unfolded.append(event)
            self.finished = self.finished or isinstance(event, AgentFinished)
            full = len(self._unfolded) % UNFOLDED_MAX == 0
            self._changed.notify_all()
        if full:
            with suppress(RuntimeError):  # no more threads: the next time, then
                threading.Thread(target=self.timeline, name="rally-control-fold", daemon=True).start()

    def close(self) -> None:
        """Nothing will follow; watchers end once they have read all."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def last_seq(self) -> int:
        """Number of the latest event; 0 before the first."""
        with self._changed:
            return self._ring[-1].seq if self._ring else 0

    @property
    def oldest_seq(self) -> int:
        """Number of the oldest event in memory; 0 if there is none."""
        with self._changed:
            return self._ring[0].seq if self._ring else 0

    def enter(self, watchers_max: int) -> bool:
        """Count one watcher more, if so many are not here yet."""
        with self._changed:
            if self._watchers >= watchers_max:
                return False
            self._watchers += 1
            return True

    def leave(self) -> None:
        """One of them is gone."""
        with self._changed:
            self._watchers -= 1

    def note_dropped(self) -> None:
        """A watcher was sent away, because it fell behind or the recording could not be read."""
        with self._changed:
            self._dropped += 1

    def timeline(self) -> Timeline:
        """All events so far, folded."""
        with self._folding:
            with self._changed:
                new, self._unfolded = self._unfolded, []
            self._timeline = fold_all(new, self._timeline)
            return self._timeline

    def look(self, after: int, timeout_s: float) -> Batch:
        """The events behind number `after`; waits up to `timeout_s` until there are some."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._next(after) is not None, timeout_s)
            start = self._next(after)
            if start is None:
                return Batch(over=self._closed)
            if start == 0 and self._ring[0] is not self._first and self._ring[0].seq > after + 1:
                return Batch(behind=True)
            return Batch(tuple(islice(self._ring, start, start + BATCH_MAX)))

    def _next(self, after: int) -> int | None:
        """Where in the ring the first event behind `after` is; None if there is none yet."""
        if not self._ring or self._ring[-1].seq <= after:
            return None
        # Numbers have no gaps, save where a test makes some; from the guess it is a step or none.
        at = min(max(0, after + 1 - self._ring[0].seq), len(self._ring) - 1)
        while at > 0 and self._ring[at - 1].seq > after:
            at -= 1
        return at

    def from_recording(self, after: int) -> Iterator[AnyEvent]:
        """The events behind `after` that are not in memory any more, and some that are.

        Raises:
            RecordingError: the recording can't be read.
        """
        first = self._first
        if self._recorded is None or first is None:
            return
        for event in EventFile(self._recorded, first.run_id).read_new():
            # An agent of before may have written into the same file: the clock tells them apart.
            if event.seq > after and event.mono_ns >= first.mono_ns:
                after = event.seq
                yield event

    def snapshot(self) -> tuple[Timeline, dict[str, Any]]:
        """The job as this agent knows it, and what there is to say of the feed itself."""
        timeline = self.timeline()
        with self._changed:
            said = {"watchers": self._watchers, "watchers_dropped": self._dropped}
        return timeline, said
