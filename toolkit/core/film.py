"""All events of a run in a small place, and the timeline at any moment of it. Pure.

Scrubbing needs the past: whole timelines of it would take gigabytes, and the events of a million as objects, too. So
events are kept in compressed blocks, and a few timelines stand between them; to see a moment, the events since the last
of these are folded again. With more events the timelines stand further apart: there are never more than
`CHECKPOINTS_MAX`, and fewer of large jobs.
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence

import msgspec

from toolkit.core import events
from toolkit.core.events import AnyEvent
from toolkit.core.timeline import Timeline, fold_all

#: events of one block, and timelines that are kept
BLOCK, CHECKPOINTS_MAX = 1_000, 64
#: nodes in all timelines that are kept: with its readings one takes up to 30 kB (measured at 8 workers on 8 GPUs)
NODES_MAX = 5_000


class Film:
    """The events of a run in the order in which they came, and the time of each.

    Times are those of the wall clocks, which nobody should trust: a node's clock may jump, so that only its first
    event in a life is taken from it, and the rest is counted by its monotonic clock; and no event is earlier than what
    came before it. So times never fall, and a moment is a number of events.
    """

    def __init__(self) -> None:
        self._blocks: list[bytes | list[AnyEvent]] = []
        self._open: list[AnyEvent] = []
        self._times = array("q")
        self._latest = Timeline()
        self._checkpoints: dict[int, Timeline] = {0: Timeline()}
        self._spacing = BLOCK
        #: of each node, its wall clock at zero of its monotonic one, in the life that it has now
        self._offsets: dict[str, int] = {}
        #: the moment that was looked at last, and the block that was read last: scrubbing goes in small steps
        self._seen: tuple[int, Timeline] = 0, Timeline()
        self._read: tuple[int, list[AnyEvent]] = -1, []

    def __len__(self) -> int:
        return len(self._times)

    @property
    def latest(self) -> Timeline:
        """After all events."""
        return self._latest

    @property
    def started_ns(self) -> int:
        """Wall time of the first event; 0 if there is none."""
        return self._times[0] if self._times else 0

    @property
    def ended_ns(self) -> int:
        """Wall time of the last event; 0 if there is none."""
        return self._times[-1] if self._times else 0

    def add(self, new: Sequence[AnyEvent]) -> None:
        """Take events that follow on those that there are."""
        done = 0
        while done < len(new):
            part = new[done : done + self._spacing - len(self) % self._spacing]
            for event in part:
                self._times.append(self._time_of(event))
                self._open.append(event)
                if len(self._open) == BLOCK:
                    self._close_block()
            self._latest = fold_all(part, self._latest)
            done += len(part)
            if len(self) % self._spacing == 0:
                self._keep_checkpoint()

    def copy(self) -> Film:
        """The same events, on which others may follow. What can't change any more is shared."""
        other = Film()
        other._blocks, other._open, other._times = self._blocks[:], self._open[:], self._times[:]
        other._latest, other._offsets = self._latest, dict(self._offsets)
        other._checkpoints, other._spacing = dict(self._checkpoints), self._spacing
        return other

    def _time_of(self, event: AnyEvent) -> int:
        if event.node not in self._offsets or isinstance(event, events.AgentStarted):
            self._offsets[event.node] = event.wall_ns - event.mono_ns
        time_ns = self._offsets[event.node] + event.mono_ns
        time_ns = min(max(time_ns, -_TIME_MAX), _TIME_MAX)
        return max(time_ns, self._times[-1]) if self._times else time_ns

    def _close_block(self) -> None:
        try:
            self._blocks.append(zlib.compress(_encode(self._open), 1))
        except OverflowError:
            self._blocks.append(self._open)  # a recording may hold numbers of more than 64 bits
        self._open = []

    def _keep_checkpoint(self) -> None:
        self._checkpoints[len(self)] = self._latest
        if len(self._checkpoints) > min(
            CHECKPOINTS_MAX, max(NODES_MAX // max(len(self._latest.nodes), 1), 4)
        ):
            self._spacing *= 2
            self._checkpoints = {n: kept for n, kept in self._checkpoints.items() if n % self._spacing == 0}

    # -- a moment of it -------------------------------------------------------------------------------------

    def count_at(self, time_ns: int) -> int:
        """How many events there were by then."""
        return bisect_right(self._times, time_ns)

    def time_of(self, index: int) -> int:
        """Wall time of one event, by its place."""
        return self._times[index]

    def after(self, count: int) -> Timeline:
        """The timeline after so many events."""
        count = min(max(count, 0), len(self))
        if count == len(self):
            return self._latest
        start, timeline = max(
            (item for item in (*self._checkpoints.items(), self._seen) if item[0] <= count),
            key=lambda item: item[0],
        )
        if start < count:
            timeline = fold_all(self.between(start, count), timeline)
        self._seen = count, timeline
        return timeline

    def at(self, time_ns: int) -> Timeline:
        """The timeline at a moment: a fold of all events until then."""
        return self.after(self.count_at(time_ns))

    def between(self, start: int, end: int) -> Iterator[AnyEvent]:
        """The events from one place to another, the latter not included."""
        start, end = max(start, 0), min(end, len(self))
        while start < end:
            block, within = divmod(start, BLOCK)
            found = self._events_of(block)
            yield from found[within : min(len(found), end - block * BLOCK)]
            start = (block + 1) * BLOCK

    def _events_of(self, block: int) -> list[AnyEvent]:
        if block == len(self._blocks):
            return self._open
        if self._read[0] != block:
            kept = self._blocks[block]
            self._read = block, kept if isinstance(kept, list) else _decode(zlib.decompress(kept))
        return self._read[1]


#: what 64 bits hold with room to add to
_TIME_MAX = 1 << 62


# Not JSON: a recording may hold numbers that it has no words for.
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[AnyEvent]).decode
