"""A run that is looked at: its film, the moment that is shown, and how that moves. No screen in it."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from toolkit.core.events import AnyEvent, FailureRecorded, LeaseLost
from toolkit.core.film import Film
from toolkit.core.history import Timeline
from toolkit.views.telling import Told, told
from toolkit.views.wording import duration_in_words

#: events that one tick takes at the most, so that the screen stays alive while a long recording is read
TAKEN_MAX = 5_000
#: news that are kept as lines, so that the latest need not be looked up
_LINES_KEPT = 2_000
SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
#: how often it is asked whether agents live, in nanoseconds
_ASK_NS = 2_000_000_000

Mode = Literal["LIVE", "REPLAY", "SIM"]


class Source(Protocol):
    """Where events come from: `FollowedRun` of `adapters.recording`, or `WatchedJob` of `adapters.control`."""

    @property
    def problem(self) -> str: ...
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
        film: with what the source has said before, of which nothing is listed as news; None is an empty one.
    """

    def __init__(
        self, source: Source, simulated: str, wall_ns: Callable[[], int], film: Film | None = None
    ) -> None:
        self.film = Film() if film is None else film
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
        #: places of what is news, and of failures: to find them again in a million of readings takes seconds
        self._news, self._failures = array("q"), array("q")
        #: the latest that are news, and those that were listed last, after so many events
        self._latest_lines: deque[Line] = deque(maxlen=_LINES_KEPT)
        self._lines: tuple[int, list[Line]] = 0, []

    # -- time passes ----------------------------------------------------------------------------------------

    def tick(self, passed_s: float) -> bool:
        """Read what is new and play on. Returns whether what is shown has changed.

        Args:
            passed_s: since the last tick, by the screen's own clock.
        """
        new = self._source.read_new(TAKEN_MAX)
        if new:
            self._take(new)
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

    def _take(self, new: list[AnyEvent]) -> None:
        first = len(self.film)
        self.film.add(new)
        for place, event in enumerate(new, first):
            words = told(event)
            if words is not None:
                self._news.append(place)
                self._latest_lines.append(Line(place, self.film.time_of(place), event.node, words))
            if isinstance(event, FailureRecorded | LeaseLost):
                self._failures.append(place)

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
            last_s = (self.film.ended_ns - self.film.started_ns) / 1e9
            return (
                "no agent of this run lives any more, and none said how it ended; the last word came "
                f"{duration_in_words(last_s)} after the start"
            )
        return ""

    def lines(self, most: int) -> list[Line]:
        """The latest events that are news, oldest first."""
        count = self.count
        if self._lines[0] == count and self._lines[1]:
            return self._lines[1]
        last = bisect_left(self._news, count)
        known = {line.place: line for lines in (self._lines[1], self._latest_lines) for line in lines}
        found = [known.get(place) or self._line(place) for place in self._news[max(last - most, 0) : last]]
        self._lines = count, found
        return found

    def _line(self, place: int) -> Line:
        event = next(self.film.between(place, place + 1))
        words = told(event)
        assert words is not None, "it is news"
        return Line(place, self.film.time_of(place), event.node, words)

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
        here = bisect_right(self._news, place) if by > 0 else bisect_left(self._news, place) - 1
        while 0 <= here < len(self._news) and self.film.time_of(self._news[here]) == self.shown_ns:
            here += by
        place = -1 if here < 0 else len(self.film) if here >= len(self._news) else self._news[here]
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
        here_ns, here = self.shown_ns, bisect_left(self._failures, self.count)
        if by > 0:
            found = self._failures[here] if here < len(self._failures) else None
        else:
            before = (place for place in reversed(self._failures[:here]))
            found = next((place for place in before if self.film.time_of(place) < here_ns), None)
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
