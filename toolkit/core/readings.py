"""What a node's workers and GPUs use: the latest reading, and curves of those before. Pure.

Curves are kept as half-precision numbers, three digits each, so that those of 10,000 ranks take some megabytes, and
may be in many timelines at a time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping

import msgspec

from toolkit.core.events import GpuReading, ReadingsTaken, WorkerReading
from toolkit.core.moment import Moment

#: points of one curve
SAMPLES_MAX = 120
#: bounds for hostile recordings: curves of one kind on one node
CURVES_MAX = 4_096

_HALF = struct.Struct("<e")
_LARGEST = 65504.0
_MISSING = _HALF.pack(math.nan)

#: by local rank, or index of the GPU: halves, oldest first, the latest one of the latest reading
_Curves = Mapping[int, bytes]


class Readings(msgspec.Struct, frozen=True, kw_only=True):
    """What one node has said of what it uses, as of its latest reading.

    A curve has up to `SAMPLES_MAX` points, oldest first; its last one is of the latest reading, and None stands for
    readings that say nothing of this rank or GPU. Readings are as far apart as the node takes them.
    """

    latest: ReadingsTaken
    at: Moment
    cpu: _Curves = {}
    rss: _Curves = {}
    util: _Curves = {}

    def worker(self, local_rank: int) -> WorkerReading | None:
        """What the latest reading says of a worker."""
        return next((worker for worker in self.latest.workers if worker.local_rank == local_rank), None)

    def gpus_of(self, local_rank: int) -> list[GpuReading]:
        """What the latest reading says of the GPUs on which this worker has a process."""
        return [gpu for gpu in self.latest.gpus if local_rank in gpu.local_ranks]

    def cpu_percent(self, local_rank: int) -> list[float | None]:
        """The curve of a worker's CPU, in percent of one core."""
        return _points(self.cpu.get(local_rank, b""))

    def rss_bytes(self, local_rank: int) -> list[float | None]:
        """The curve of a worker's resident memory."""
        return [None if gib is None else gib * 2**30 for gib in _points(self.rss.get(local_rank, b""))]

    def util_percent(self, index: int) -> list[float | None]:
        """The curve of how busy a GPU was."""
        return _points(self.util.get(index, b""))


def after(before: Readings | None, event: ReadingsTaken, at: Moment) -> Readings:
    """What is known after one more reading. Never raises."""
    workers, gpus = event.workers[:CURVES_MAX], event.gpus[:CURVES_MAX]
    return Readings(
        latest=event,
        at=at,
        cpu=_extended(before.cpu if before else {}, ((w.local_rank, w.cpu_percent) for w in workers)),
        rss=_extended(before.rss if before else {}, ((w.local_rank, _gib(w.rss_bytes)) for w in workers)),
        util=_extended(before.util if before else {}, ((g.index, g.util_percent) for g in gpus)),
    )


def _gib(number: int) -> float:
    return min(number, 2**60) / 2**30


def _extended(curves: _Curves, values: Iterable[tuple[int, float | None]]) -> _Curves:
    """Each curve with one more point. A curve without any value ends."""
    new = {key: _half(value) for key, value in values}
    longer = {key: (curve + new.pop(key, _MISSING))[-2 * SAMPLES_MAX :] for key, curve in curves.items()}
    # Bounded before the new ones come: whoever says ever new ranks loses those that are said no more.
    kept = {
        key: curve
        for key, curve in longer.items()
        if not curve.endswith(_MISSING) or curve != _MISSING * (len(curve) // 2)
    }
    if not new:
        return kept
    room = CURVES_MAX - len(kept)
    return {**kept, **{key: half for key, half in list(new.items())[: max(room, 0)] if half != _MISSING}}


def _half(value: float | None) -> bytes:
    return _MISSING if value is None else _HALF.pack(min(max(value, 0.0), _LARGEST))


def _points(curve: bytes) -> list[float | None]:
    return [None if math.isnan(value) else value for (value,) in _HALF.iter_unpack(curve)]
