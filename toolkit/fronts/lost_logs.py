"""Output that did not reach its log, in `rally show` and its JSON; and a recording that can't be written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import msgspec

from toolkit.core.events import Event
from toolkit.core.history import Node
from toolkit.core.lost_output import lost_in_words
from toolkit.core.words import plural

#: logs that are told one by one
_TOLD_MAX = 4


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
