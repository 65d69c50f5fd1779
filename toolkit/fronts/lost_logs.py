"""Output that did not reach its log, in `rally show` and its JSON; and a recording that can't be written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import msgspec

from toolkit.core.events import Event, LogsLost
from toolkit.core.history import Node
from toolkit.core.lost_logs import after
from toolkit.core.lost_output import lost_in_words
from toolkit.core.words import plural

#: logs that are told one by one
_TOLD_MAX = 4
#: between two times that the sum is told
TOLD_AGAIN_NS = 60 * 10**9


class LostLogSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What one log lost in one incarnation. `path` is empty where it is not about one log."""

    node: str
    incarnation: int
    path: str
    lost_lines: int
    lost_bytes: int
    problem: str


def lost_logs(nodes: Iterable[Node]) -> list[LostLogSummary]:
    """Of all nodes, as they were told."""
    return [
        LostLogSummary(
            node=node.name,
            incarnation=loss.incarnation,
            path=loss.path,
            lost_lines=loss.lost_lines,
            lost_bytes=loss.lost_bytes,
            problem=loss.problem,
        )
        for node in nodes
        for loss in node.lost_logs
    ]


def lost_in_sentences(lost: list[LostLogSummary]) -> Iterator[str]:
    """One for each log that lost most, and one for the others."""
    by_size = sorted(lost, key=lambda log: -log.lost_bytes)
    for log in by_size[:_TOLD_MAX]:
        if log.lost_bytes:
            yield f"{lost_in_words(log.lost_lines, log.lost_bytes)} of output are lost: {_why(log.problem)}"
        else:
            yield log.problem
    rest = by_size[_TOLD_MAX:]
    if rest:
        size, lines = sum(log.lost_bytes for log in rest), sum(log.lost_lines for log in rest)
        yield f"{plural(len(rest), 'more log')} lost {lost_in_words(lines, size)}; --json has them all"


def _why(problem: str) -> str:
    return problem.partition("; ")[0]


class LossNarration:
    """Tells of lost output while a run goes on: the first loss at once, then the sum of all, once a minute.

    A full disk is full for all ranks: a line for each of them would hide everything else.

    Args:
        say: takes a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._lost: tuple[LogsLost, ...] = ()
        self._told_ns: int | None = None
        self._told = (0, 0)

    def tell(self, event: LogsLost) -> None:
        """One more loss."""
        first = self._told_ns is None
        self._lost = after(self._lost, event)
        if first or not event.lost_bytes:
            self._say(event.problem)
        elif event.mono_ns - (self._told_ns or 0) >= TOLD_AGAIN_NS:
            self._say_sum("so far")
        else:
            return
        self._told_ns = event.mono_ns
        self._told = self._sum()

    def end(self) -> None:
        """The run is over: the sum, if it is more than was told."""
        if self._told != self._sum():
            self._say_sum("in all")

    def _sum(self) -> tuple[int, int]:
        return sum(log.lost_lines for log in self._lost), sum(log.lost_bytes for log in self._lost)

    def _say_sum(self, how_far: str) -> None:
        lines, size = self._sum()
        logs = plural(len(self._lost), "log")
        self._say(f"{lost_in_words(lines, size)} of the workers' output are lost {how_far}, in {logs}")


class _Recording(Protocol):
    @property
    def dropped(self) -> int: ...

    reason: str


class RecordingNotice:
    """Implements `toolkit.ports.EventSink`: says when the recording can't be written, once, and how much is missing.

    Args:
        recording: the sink that writes it; it must have had each event before this.
        where: its path, for people.
        say: takes a line.
    """

    def __init__(self, recording: _Recording, where: str, say: Callable[[str], None]) -> None:
        self._recording = recording
        self._where = where
        self._say = say
        self._said = False

    def emit(self, event: Event) -> None:
        """Say it, if it is so and was not said."""
        if self._recording.dropped and not self._said:
            self._said = True
            self._say(f"cannot record in {self._where}: {self._recording.reason}; the run goes on")

    def close(self) -> None:
        """Say how many events are missing."""
        dropped = self._recording.dropped
        if dropped:
            events = plural(dropped, "event")
            self._say(f"{events} could not be recorded in {self._where}: {self._recording.reason}")
