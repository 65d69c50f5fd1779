"""Recordings read back. They are hostile input: nothing in them is trusted, and everything has a bound.

Files are read in portions, only if they are regular and no links, and only what fits the schema comes out.
The rest is counted.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import msgspec

from toolkit.adapters.recording.layout import RUN_FILE, is_events_file, open_regular, read_run_file, text_of
from toolkit.adapters.recording.writer import LINE_MAX
from toolkit.core.errors import RecordingError
from toolkit.core.events import AgentStarted, AnyEvent, EventsDropped, decode
from toolkit.core.timeline import Timeline, fold_all

_CHUNK_MIN, _CHUNK_MAX = 1 << 12, 1 << 16
#: bytes that all files of one recording may hold in memory while they are read
_CHUNKS_TOTAL = 1 << 26
#: a node's events are put in order within so many: threads may hand them in one before the other
_REORDERED_MAX = 32
_TYPES = frozenset(kind.__struct_config__.tag for kind in get_args(AnyEvent))


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what is read.

    Args:
        file_bytes: of one events file.
        nodes: events files of one recording.
    """

    file_bytes: int = 1 << 30
    nodes: int = 10_000


DEFAULT_LIMITS = Limits()


@dataclass(slots=True)
class Counters:
    """What was read, and what was not taken.

    Args:
        events: taken.
        torn: lines that are no JSON: cut off by a crash, or never events. A last line without its end is one.
        unknown: lines of a type that this version does not know.
        invalid: lines that break the schema.
        foreign: lines of another run or node than the rest of their file.
        oversized: lines over the limit.
        dropped: events that an agent could not write, as it says itself.
    """

    events: int = 0
    torn: int = 0
    unknown: int = 0
    invalid: int = 0
    foreign: int = 0
    oversized: int = 0
    dropped: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    @property
    def left_out(self) -> int:
        """Lines that were not taken."""
        return self.torn + self.unknown + self.invalid + self.foreign + self.oversized


class _Tagged(msgspec.Struct):
    type: str = ""


class EventFile:
    """One events file, read on as it grows. Holds no file open between reads.

    Args:
        path: of the file.
        run_id: events of other runs are left out; None takes the run of the first event.
        limits: bounds of what is read.
        chunk_bytes: how much is read at once.
    """

    def __init__(
        self,
        path: Path,
        run_id: str | None = None,
        limits: Limits = DEFAULT_LIMITS,
        chunk_bytes: int = _CHUNK_MAX,
    ) -> None:
        self.path = path
        self.node: str | None = None
        self.run_id = run_id
        self._limits = limits
        self._chunk_bytes = chunk_bytes
        self._counters = Counters()
        self._offset = 0
        self._buffer = b""
        self._position = 0
        self._skipping = False

    @property
    def counters(self) -> Counters:
        """What was read so far. A last line that is not complete counts as torn until it is."""
        return self._counters + Counters(torn=int(self._position < len(self._buffer)))

    @property
    def bytes_read(self) -> int:
        """Bytes of the lines that were read so far, and of those that were skipped."""
        return self._offset - len(self._buffer) + self._position

    def size(self) -> int:
        """Bytes that the file has now.

        Raises:
            RecordingError: it can't be read.
        """
        fd = open_regular(self.path)
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def read_new(self) -> Iterator[AnyEvent]:
        """The events of all lines that were completed since the last call, in their order.

        A generator; what is not taken from it comes with the next call.

        Raises:
            RecordingError: the file can't be read, or is larger than the limit.
        """
        while (line := self._next_line()) is not None:
            event = self._event_in(line)
            if event is not None:
                yield event

    def skip_to_last(self, size_bytes: int) -> None:
        """Go on `size_bytes` before the end of the file, at the next line that begins there."""
        target = self.size() - size_bytes
        if target <= self._offset:
            return
        self._offset, self._buffer, self._position = target, b"", 0
        # What comes first is the rest of some line.
        self._skipping = True

    def _next_line(self) -> bytes | None:
        while True:
            end = self._buffer.find(b"\n", self._position)
            if end >= 0:
                line, self._position = self._buffer[self._position : end], end + 1
                if not self._skipping:
                    return line
                self._skipping = False
            elif not self._read_chunk():
                return None

    def _read_chunk(self) -> bool:
        """Read on. Returns whether there was something."""
        rest = b"" if self._skipping else self._buffer[self._position :]
        if len(rest) > LINE_MAX:
            self._counters.oversized += 1
            rest, self._skipping = b"", True
        chunk = self._read_at_offset()
        self._offset += len(chunk)
        self._buffer, self._position = rest + chunk, 0
        return bool(chunk)

    def _read_at_offset(self) -> bytes:
        fd = open_regular(self.path)
        try:
            size, size_max = os.fstat(fd).st_size, self._limits.file_bytes
            if size > size_max:
                raise RecordingError(f"{self.path} has {size} bytes; at most {size_max} are read")
            return os.pread(fd, self._chunk_bytes, self._offset)
        except OSError as error:
            raise RecordingError(f"{self.path} can't be read: {error.strerror}") from error
        finally:
            os.close(fd)

    def _event_in(self, line: bytes) -> AnyEvent | None:
        if not line or line.isspace():
            return None
        if len(line) > LINE_MAX:
            self._counters.oversized += 1
            return None
        event = decode(line)
        if event is None:
            self._count_unreadable(line)
        elif not self._belongs(event):
            self._counters.foreign += 1
            return None
        else:
            self._counters.events += 1
            self._counters.dropped += max(event.count, 0) if isinstance(event, EventsDropped) else 0
        return event

    def _count_unreadable(self, line: bytes) -> None:
        try:
            kind = msgspec.json.decode(line, type=_Tagged).type
        except msgspec.ValidationError:
            self._counters.invalid += 1
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._counters.torn += 1
        else:
            if kind in _TYPES:
                self._counters.invalid += 1
            else:
                self._counters.unknown += 1

    def _belongs(self, event: AnyEvent) -> bool:
        if self.node is None:
            self.node = event.node
        if self.run_id is None:
            self.run_id = event.run_id
        return event.node == self.node and event.run_id == self.run_id


class Recording:
    """A run directory as it can be read.

    Args:
        path: of the directory.
        run: what `run.json` says; empty if it is not there.
        events_files: their paths, in the order of their names.
        limits: bounds of what is read.
    """

    def __init__(
        self,
        path: Path,
        run: Mapping[str, Any],
        events_files: tuple[Path, ...],
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.path = path
        self.run = run
        self.events_files = events_files
        self._limits = limits
        self._files: list[EventFile] = []

    @property
    def name(self) -> str:
        """The name of the directory."""
        return self.path.name

    @property
    def run_id(self) -> str:
        """The job, as `run.json` has it, or an empty string."""
        return text_of(self.run, "run_id")

    @property
    def counters(self) -> Counters:
        """Of the last reading; complete once its events have all been taken."""
        return sum((file.counters for file in self._files), Counters())

    def size(self) -> int:
        """Bytes of all events files.

        Raises:
            RecordingError: one of them can't be read.
        """
        return sum(file.size() for file in self._fresh_files())

    def events(self) -> Iterator[AnyEvent]:
        """All events, read anew: each node's in their order, the nodes interleaved by their wall clocks.

        Raises:
            RecordingError: a file can't be read, or is larger than the limit.
        """
        self._files = self._fresh_files()
        yield from interleaved([in_order(file.read_new()) for file in self._files])

    def ends(self, head_bytes: int, tail_bytes: int) -> Iterator[AnyEvent]:
        """The events in the first and last bytes of each file; else as `events`.

        Raises:
            RecordingError: a file can't be read.
        """
        self._files = self._fresh_files()
        yield from interleaved([in_order(_ends(file, head_bytes, tail_bytes)) for file in self._files])

    def timeline(self) -> Timeline:
        """All events folded.

        Raises:
            RecordingError: a file can't be read, or is larger than the limit.
        """
        return fold_all(self.events())

    def _fresh_files(self) -> list[EventFile]:
        run_id = self.run_id or None
        chunk_bytes = max(_CHUNK_MIN, min(_CHUNK_MAX, _CHUNKS_TOTAL // max(len(self.events_files), 1)))
        return [EventFile(path, run_id, self._limits, chunk_bytes) for path in self.events_files]


def _ends(file: EventFile, head_bytes: int, tail_bytes: int) -> Iterator[AnyEvent]:
    for event in file.read_new():
        yield event
        if file.bytes_read >= head_bytes:
            file.skip_to_last(tail_bytes)
            break
    yield from file.read_new()


def in_order(of: Iterable[AnyEvent]) -> Iterator[AnyEvent]:
    """One node's events by their numbers, of which neighbours may have changed places."""
    waiting: list[tuple[int, int, AnyEvent]] = []
    highest = 0
    for count, event in enumerate(of):
        if isinstance(event, AgentStarted) or event.seq < highest - _REORDERED_MAX:
            # Another life of the agent: its numbers begin anew.
            yield from _drained(waiting)
            highest = 0
        highest = max(highest, event.seq)
        heapq.heappush(waiting, (event.seq, count, event))
        if len(waiting) > _REORDERED_MAX:
            yield heapq.heappop(waiting)[2]
    yield from _drained(waiting)


def _drained(waiting: list[tuple[int, int, AnyEvent]]) -> Iterator[AnyEvent]:
    while waiting:
        yield heapq.heappop(waiting)[2]


def interleaved(of_nodes: list[Iterator[AnyEvent]]) -> Iterator[AnyEvent]:
    # A merge takes the first of one of the nodes each time: a clock that jumps can't disturb a node's order.
    return heapq.merge(*of_nodes, key=lambda event: event.wall_ns)


def read_run(path: Path, limits: Limits = DEFAULT_LIMITS) -> Recording:
    """The recording in the directory `path`. Its events are read when they are asked for.

    Raises:
        RecordingError: it is not a recording, or one that can't be read.
    """
    try:
        names = sorted(entry.name for entry in path.iterdir() if is_events_file(entry.name))
    except OSError as error:
        raise RecordingError(f"{path} can't be read: {error.strerror}") from error
    if len(names) > limits.nodes:
        raise RecordingError(f"{path} has {len(names)} events files; at most {limits.nodes} are read")
    run = read_run_file(path)
    if not names and not run:
        raise RecordingError(f"{path} is not a recording: it has neither {RUN_FILE} nor events")
    return Recording(path, run, tuple(path / name for name in names), limits)
