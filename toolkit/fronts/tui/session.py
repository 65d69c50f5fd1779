"""A run that is looked at: its film, the moment that is shown, and how that moves. No screen in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from toolkit.core.events import AnyEvent, FailureRecorded, LeaseLost
from toolkit.core.film import Film
from toolkit.core.history import Timeline
from toolkit.fronts.tui.telling import Told, told

#: events that one tick takes at the most, so that the screen stays alive while a long recording is read
TAKEN_MAX = 5_000
SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
#: how often it is asked whether agents live, in nanoseconds
_ASK_NS = 2_000_000_000

Mode = Literal["LIVE", "REPLAY", "SIM"]


class Source(Protocol):
    """Where events come from: `toolkit.adapters.recording.follow.FollowedRun`."""

    problem: str

    def read_new(self, events_max: int) -> list[AnyEvent]: ...
    def is_live(self, timeline: Timeline) -> bool | None: ...


@dataclass(frozen=True, slots=True)
class Line:
    """An event as it stands in a list."""

    place: int
    at_ns: int
    node: str
    told: Told


class Session:
    """One run.

    Args:
        source: of its events.
        simulated: what it is a simulation of, such as "moved-rank-0 seed 1"; empty for real runs.
        wall_ns: the wall clock, for ages in live runs.
    """

    def __init__(self, source: Source, simulated: str, wall_ns: Callable[[], int]) -> None:
        self.film = Film()
        self.simulated = simulated
        self._source = source
        self._wall_ns = wall_ns
        #: the moment that is shown; None is the latest
        self._cursor_ns: int | None = None
        #: of a run that is held while it goes on: what comes later may be of the same moment, by its clock
        self._held_at: int | None = None
        self.playing = False
        self.speed = 1.0
        self._live: bool | None = None
        self._asked_ns = -_ASK_NS
        self._lines: tuple[int, list[Line]] = 0, []

    # -- time passes ----------------------------------------------------------------------------------------

    def tick(self, passed_s: float) -> bool:
        """Read what is new and play on. Returns whether what is shown has changed.

        Args:
            passed_s: since the last tick, by the screen's own clock.
        """
        new = self._source.read_new(TAKEN_MAX)
        if new:
            self.film.add(new)
        self._ask_whether_it_lives()
        if self._cursor_ns is None:
            return bool(new)
        if not self.playing:
            return False
        before = self.count
        self._cursor_ns += int(passed_s * 1e9 * self.speed)
        self._held_at = None
        if self._cursor_ns >= self.film.ended_ns:
            self._cursor_ns = None
            self.playing = False
        return self.count != before

    def _ask_whether_it_lives(self) -> None:
        now_ns = self._wall_ns()
        if not self.simulated and len(self.film) and abs(now_ns - self._asked_ns) >= _ASK_NS:
            self._asked_ns = now_ns
            self._live = self._source.is_live(self.film.latest)

    # -- what is shown --------------------------------------------------------------------------------------

    @property
    def mode(self) -> Mode:
        """What this is; always on the screen."""
        if self.simulated:
            return "SIM"
        return "LIVE" if self._live is not False and not self.film.latest.result else "REPLAY"

    @property
    def at_edge(self) -> bool:
        """Whether the latest is shown."""
        return self._cursor_ns is None

    @property
    def count(self) -> int:
        """How many events are shown."""
        if self._cursor_ns is None:
            return len(self.film)
        return self.film.count_at(self._cursor_ns) if self._held_at is None else self._held_at

    @property
    def timeline(self) -> Timeline:
        """At the moment that is shown."""
        return self.film.after(self.count)

    @property
    def now_ns(self) -> int:
        """The moment that is shown; the wall clock where that is the present."""
        if self._cursor_ns is not None:
            return self._cursor_ns
        if self.mode == "LIVE":
            return max(self._wall_ns(), self.film.ended_ns)
        return self.film.ended_ns

    @property
    def problem(self) -> str:
        """Why something can't be read, or that nobody answers for the run any more."""
        if self._source.problem:
            return self._source.problem
        if self._live is False and len(self.film) and not self.film.latest.result and not self.simulated:
            return "no agent of this run lives any more, and none said how it ended"
        return ""

    def lines(self, most: int) -> list[Line]:
        """The latest events that are news, oldest first."""
        count = self.count
        if self._lines[0] == count and self._lines[1]:
            return self._lines[1]
        found: list[Line] = []
        known = {line.place: line for line in self._lines[1]}
        for place, event in self.film.backwards(count):
            line = known.get(place)
            if line is None and (words := told(event)) is not None:
                line = Line(place, self.film.time_of(place), event.node, words)
            if line is not None:
                found.append(line)
                if len(found) >= most:
                    break
        found.reverse()
        self._lines = count, found
        return found

    # -- moving through time --------------------------------------------------------------------------------

    def seek(self, time_ns: int) -> None:
        """Show a moment; the end, and whatever is behind it, is the latest."""
        start_ns, end_ns = self.film.started_ns, self.film.ended_ns
        self._cursor_ns = None if time_ns >= end_ns else max(time_ns, start_ns)
        self._held_at = None

    def to_edge(self) -> None:
        """Show the latest, and stay there."""
        self._cursor_ns, self._held_at, self.playing = None, None, False

    def to_start(self) -> None:
        """Show the moment of the first event."""
        self.seek(self.film.started_ns)

    def move(self, share: float) -> None:
        """Go on or back by a share of the run."""
        length_ns = self.film.ended_ns - self.film.started_ns
        here_ns = self.film.ended_ns if self._cursor_ns is None else self._cursor_ns
        self.seek(here_ns + int(length_ns * share))

    def step(self, by: int) -> None:
        """Go to the next, or the previous, event that is news."""
        place = self.count - 1
        while 0 <= (place := place + by) < len(self.film):
            event = next(self.film.between(place, place + 1))
            if told(event) is not None and self.film.time_of(place) != self.shown_ns:
                break
        if place >= len(self.film):
            self.to_edge()
        else:
            self.seek(self.film.time_of(max(place, 0)))
        self.playing = False

    @property
    def shown_ns(self) -> int:
        """The moment that is shown, in the time of the film."""
        return self.film.ended_ns if self._cursor_ns is None else self._cursor_ns

    def to_failure(self, by: int) -> bool:
        """Go to the next, or the previous, failure or loss. Returns whether there is one."""
        here_ns, count = self.shown_ns, self.count
        if by > 0:
            places = enumerate(self.film.between(count, len(self.film)), count)
            found = next((p for p, event in places if isinstance(event, FailureRecorded | LeaseLost)), None)
        else:
            found = next(
                (
                    place
                    for place, event in self.film.backwards(count)
                    if isinstance(event, FailureRecorded | LeaseLost) and self.film.time_of(place) < here_ns
                ),
                None,
            )
        if found is not None:
            self.seek(self.film.time_of(found))
            self.playing = False
        return found is not None

    def play_or_pause(self) -> None:
        """Play on from here; at the end of what is over, from the start. What goes on is held."""
        if self.playing:
            self.playing = False
        elif self._cursor_ns is None and self.mode == "LIVE":
            self._cursor_ns, self._held_at = self.film.ended_ns, len(self.film)
        else:
            if self._cursor_ns is None:
                self.to_start()
            self.playing = True

    def faster(self, by: int) -> None:
        """Play at the next speed, or the one before."""
        place = min(max(SPEEDS.index(self.speed) + by, 0), len(SPEEDS) - 1)
        self.speed = SPEEDS[place]
