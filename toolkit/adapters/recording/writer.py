"""Events to a file, one JSON object a line. Never raises; holds its caller up for a bounded, short time only.

A thread writes. `emit` waits until its line is with the kernel, so that an agent killed in the next moment loses
nothing; but where the file is slow it stops waiting, and where it is full it counts what it drops. How the agent ended
is written even then, from a reserve.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from dataclasses import dataclass

import msgspec

from toolkit.adapters.recording.reserve import Reserve, kept_from
from toolkit.core.events import Event, EventsDropped, encode

#: how long one `emit` waits for its line to be written, in seconds
PATIENCE_S = 0.02
#: events that wait for a slow file; further ones are dropped
QUEUE_MAX = 10_000
#: bytes of one line; readers take no longer ones
LINE_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class _Line:
    """What waits to be written. `lost` counts the events that this line tells to be dropped; else it is 0."""

    event: Event
    data: bytes
    lost: int = 0


@dataclass(slots=True)
class _Loss:
    """Events that got lost since the last line: how many, the last of them, and why."""

    count: int
    last: Event
    reason: str

    def line(self) -> _Line:
        # It takes the header of the last event that was lost, and so its place in the numbering.
        header = {name: getattr(self.last, name) for name in Event.__struct_fields__}
        dropped = EventsDropped(**header, count=self.count, reason=self.reason)
        return _Line(self.last, encoded_line(dropped), self.count)


class JsonLinesSink:
    """Writes events to `fd`, which it then owns. Safe in any thread; not across a fork.

    Args:
        fd: open for appending.
        patience_s: how long one `emit` waits for its line to be written.
        queue_max: events that may wait for a slow file.
    """

    def __init__(self, fd: int, *, patience_s: float = PATIENCE_S, queue_max: int = QUEUE_MAX) -> None:
        self._fd = fd
        self._patience_s = patience_s
        self._queue_max = queue_max
        # Re-entrant: a signal handler may emit while the thread that it interrupts is in here.
        self._changed = threading.Condition(threading.RLock())
        self._queue: deque[_Line] = deque()
        self._loss: _Loss | None = None
        self._accepted = 0
        self._done = 0
        self._behind = False
        self._closing = False
        self._dropped = 0
        #: why the last of them was dropped, or empty
        self.reason = ""
        self._writer = _LineWriter(fd)
        self._thread = threading.Thread(target=self._write_all, name="rally-events", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Events that were not written, so far."""
        with self._changed:
            return self._dropped

    def emit(self, event: Event) -> None:
        """Write one event. Waits for up to `patience_s`, but not while the file is behind. Never raises."""
        try:
            data = encoded_line(event)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
            self._lose(event, f"can't be encoded: {error}")
            return
        with self._changed:
            problem = self._refusal(data)
            if problem:
                self._lose(event, problem)
                return
            self._queue_loss()
            ticket = self._put(_Line(event, data))
            self._await_written(ticket)

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what waits, for up to `timeout_s`, and close the file. Later events are dropped.

        A file that blocks even then is left to the thread, which ends with the process.
        """
        with self._changed:
            self._queue_loss()
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)

    # -- in the caller's thread, with the lock --------------------------------------------------------------

    def _refusal(self, data: bytes) -> str:
        """Why a line is not taken, or an empty string."""
        if self._closing:
            return "the file is closed"
        if len(data) >= LINE_MAX:
            return f"a line of {len(data)} bytes is too long"
        # One place is kept for the line that tells what was dropped.
        return "the file is too slow" if len(self._queue) >= self._queue_max - 1 else ""

    def _put(self, line: _Line) -> int:
        self._queue.append(line)
        self._accepted += 1
        self._changed.notify_all()
        return self._accepted

    def _lose(self, event: Event, reason: str) -> None:
        with self._changed:
            self._dropped += 1
            self.reason = reason
            self._loss = _Loss((self._loss.count if self._loss else 0) + 1, event, reason)
            self._changed.notify_all()

    def _queue_loss(self) -> None:
        if self._loss is not None and not self._closing:
            self._put(self._loss.line())
            self._loss = None

    def _await_written(self, ticket: int) -> None:
        if self._behind:
            return
        if not self._changed.wait_for(lambda: self._done >= ticket, self._patience_s):
            self._behind = True

    # -- in the thread --------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        while (line := self._take()) is not None:
            lost = self._writer.write(line)
            with self._changed:
                self._done += 1
                self._dropped += lost
                self.reason = self._writer.problem or self.reason
                self._changed.notify_all()
        self._writer.finish()
        os.close(self._fd)

    def _take(self) -> _Line | None:
        with self._changed:
            if not self._queue:
                self._behind = False
                self._changed.wait_for(lambda: self._queue or self._closing or self._loss)
            if not self._queue and not self._closing:
                self._queue_loss()
            return self._queue.popleft() if self._queue else None


class _LineWriter:
    """Writes lines whole, or tells later how many it could not write. Used by one thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._reserve = Reserve(fd)
        self._loss: _Loss | None = None
        # Set after a part of a line was written: what follows must begin on a line of its own.
        self._torn = False

    @property
    def problem(self) -> str:
        """Why lines can't be written now, or an empty string."""
        return self._loss.reason if self._loss is not None else ""

    def write(self, line: _Line) -> int:
        """Write `line`, after what is to be told of those before it. Returns how many events are newly lost."""
        kept = kept_from(line.event)
        self._tell_loss(kept)
        # While nothing can be told of the loss nothing else is written either: the numbering stays in order.
        problem = self._loss.reason if self._loss is not None else self._append(line.data, kept)
        if not problem:
            return 0
        earlier = self._loss.count if self._loss is not None else 0
        self._loss = _Loss(earlier + (line.lost or 1), line.event, problem)
        return 0 if line.lost else 1

    def finish(self) -> None:
        """Tell of a loss a last time, if it can be told now."""
        self._tell_loss(0)
        self._reserve.give_back()

    def _tell_loss(self, kept: int) -> None:
        if self._loss is not None:
            problem = self._append(self._loss.line().data, kept)
            self._loss = None if not problem else _Loss(self._loss.count, self._loss.last, problem)

    def _append(self, data: bytes, kept: int) -> str:
        """Write one line with one call, and leave `kept` bytes of the reserve. Returns what went wrong, or ""."""
        whole = b"\n" + data + b"\n" if self._torn else data + b"\n"
        if problem := self._reserve.refuses(len(whole), kept):
            return problem
        written = 0
        try:
            while written < len(whole):
                written += os.write(self._fd, whole[written:])
        except OSError as error:
            self._torn = self._torn or written > 0
            return error.strerror or type(error).__name__
        finally:
            self._reserve.written(written)
        self._torn = False
        return ""


def encoded_line(event: Event) -> bytes:
    """One line without its newline, as it is recorded.

    Raises:
        msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError: it has a value that is no JSON.
    """
    try:
        return encode(event)
    except UnicodeEncodeError:
        # A path or message that was no UTF-8 comes with surrogates; the event is worth more than these.
        return encode(msgspec.structs.replace(event, **_printable_strings(event)))


def _printable_strings(event: Event) -> dict[str, str]:
    fields = ((name, getattr(event, name)) for name in event.__struct_fields__)
    return {n: v.encode("utf-8", "backslashreplace").decode() for n, v in fields if isinstance(v, str)}
