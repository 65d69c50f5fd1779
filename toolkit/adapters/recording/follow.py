"""A recording that may still grow, read on and on: what is new each time, of all nodes, in the order of the clocks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from toolkit.adapters.recording.catalog import is_live
from toolkit.adapters.recording.layout import is_events_file, text_of
from toolkit.adapters.recording.reader import (
    DEFAULT_LIMITS,
    Counters,
    EventFile,
    Limits,
    in_order,
    interleaved,
    read_run,
)
from toolkit.core.errors import RecordingError
from toolkit.core.events import AnyEvent
from toolkit.core.timeline import Timeline


class FollowedRun:
    """A run directory, followed.

    Args:
        path: of the directory.
        limits: bounds of what is read.

    Raises:
        RecordingError: it is not a recording, or can't be read.
    """

    def __init__(self, path: Path, limits: Limits = DEFAULT_LIMITS) -> None:
        recording = read_run(path, limits)
        self.path = path
        self.run = recording.run
        self._limits = limits
        self._files: dict[str, EventFile] = {}
        self._reading: Iterator[AnyEvent] | None = None
        #: why something could not be read, in words; the rest is followed
        self.problem = ""

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
        """What was read so far, and what was not taken."""
        return sum((file.counters for file in self._files.values()), Counters())

    def read_new(self, events_max: int) -> list[AnyEvent]:
        """Events that were not read before, at most so many. Empty when there is nothing new now. Never raises."""
        if self._reading is None:
            self._find_files()
            self._reading = interleaved([in_order(file.read_new()) for file in self._files.values()])
        try:
            found = list(islice(self._reading, events_max))
        except RecordingError as error:
            self.problem, found = str(error), []
        if len(found) < events_max:
            self._reading = None
        return found

    def _find_files(self) -> None:
        try:
            names = sorted(entry.name for entry in self.path.iterdir() if is_events_file(entry.name))
        except OSError as error:
            self.problem = f"{self.path} can't be read: {error.strerror}"
            return
        for name in names[: self._limits.nodes]:
            if name not in self._files:
                self._files[name] = EventFile(self.path / name, self.run_id or None, self._limits)

    def is_live(self, timeline: Timeline) -> bool | None:
        """Whether an agent of this run still runs; None if all of them are on other machines."""
        return is_live(timeline)
