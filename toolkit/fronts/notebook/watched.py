"""A run that is watched from Python: what a launched job, a recorded one and a simulated cluster have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from toolkit.adapters.watch_thread import lock
from toolkit.core.errors import ConfigurationError
from toolkit.core.events import AnyEvent
from toolkit.core.history import Failure, Timeline
from toolkit.core.words import did_you_mean, failing, plural, without_tokens
from toolkit.fronts.notebook.frames import frame
from toolkit.views import html, tables
from toolkit.views.failure_report import details
from toolkit.views.html import NOTHING_SAID, Said
from toolkit.views.rows import RankRow, RowMaker
from toolkit.views.session import Session
from toolkit.views.svg import LANES_MAX, timeline_svg
from toolkit.views.wording import harmless_lines

#: what `events` may be asked for
EVENT_TYPES = tuple(str(kind.__struct_config__.tag) for kind in get_args(AnyEvent))


def one_of(given: object, known: Sequence[str]) -> str:
    """What somebody may have meant who gave what there is not."""
    return did_you_mean(str(given), known, f"there are {', '.join(known)}")


class Watched:
    """A run, and what is known of it so far. Safe in several threads.

    Args:
        session: of the run.
        name: what it is called.
    """

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self._lock = lock()
        self.name = name
        #: told by whatever moves or looks at it
        self._watchers: list[Callable[..., None]] = []

    # -- for those that show it -----------------------------------------------------------------------------

    def subscribe(self, tell: Callable[..., None]) -> None:
        """Have `tell(over, settled=...)` called again and again, the last time with True: it is over.

        `settled` says that what moved it has ended, so that what is shown now will stand for a while.
        """
        with self._lock:
            self._watchers.append(tell)

    def unsubscribe(self, tell: Callable[..., None]) -> None:
        """Call it no more."""
        with self._lock:
            if tell in self._watchers:
                self._watchers.remove(tell)

    def _tell_watchers(self, over: bool, *, settled: bool = False) -> None:
        with self._lock:
            watchers = list(self._watchers)
        for tell in watchers:
            tell(over, settled=settled)

    # -- what is known --------------------------------------------------------------------------------------

    @property
    def now(self) -> Timeline:
        """All that is known now, as a frozen value: nodes, ranks, rounds, restarts, failures."""
        with self._lock:
            return self._session.film.latest

    @property
    def state(self) -> str:
        """What the job does, or how it ended: "running", "restarting", "succeeded", "failed", ..."""
        return self.now.state

    @property
    def mode(self) -> str:
        """LIVE, REPLAY, or SIM and of what."""
        with self._lock:
            simulated = self._session.simulated
            return f"SIM {simulated}" if simulated else self._session.mode

    @property
    def now_ns(self) -> int:
        """Wall time of the moment that is shown, in nanoseconds; that of the simulated world in a simulation."""
        with self._lock:
            return self._session.now_ns

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first event; virtual ones in a simulation."""
        with self._lock:
            return max(self.now_ns - self._session.film.started_ns, 0) / 1e9

    def events(self, kind: str | None = None) -> Any:
        """Everything that was said, one row each, in order.

        Args:
            kind: only events of this type, such as "worker_exited"; None is all.

        Returns:
            A DataFrame if pandas is installed, else a list of dicts.

        Raises:
            ConfigurationError: there is no such type.
        """
        if kind is not None and kind not in EVENT_TYPES:
            raise ConfigurationError(f"there is no event {kind!r}; {one_of(kind, EVENT_TYPES)}")
        with self._lock:
            film = self._session.film
            rows = tables.event_rows(film.between(0, len(film)), film.started_ns)
        return frame([row for row in rows if kind in (None, row["type"])], tables.EVENT_COLUMNS)

    def raw_events(self) -> list[AnyEvent]:
        """Everything that was said, as typed events."""
        with self._lock:
            return list(self._session.film.between(0, len(self._session.film)))

    def _rows(self, wanted: Sequence[int] | None) -> list[RankRow]:
        with self._lock:
            rows = RowMaker().ranks(self._session.film.latest)
        if wanted is None:
            return rows
        known = {row.now.global_rank: row for row in rows}
        missing = [rank for rank in wanted if rank not in known]
        if missing:
            there = f"there are 0 to {max(known)}" if known else "no worker runs yet"
            raise ConfigurationError(f"there is no rank {missing[0]}; {there}")
        return [known[rank] for rank in dict.fromkeys(wanted)]

    def ranks(self) -> Any:
        """The ranks as they are now, one row each: a DataFrame if pandas is installed, else a list of dicts."""
        return frame(tables.rank_rows(self.now), tables.RANK_COLUMNS)

    def restarts(self) -> Any:
        """The restarts, with what each of their phases took in seconds."""
        return frame(tables.restart_rows(self.now), tables.RESTART_COLUMNS)

    @property
    def failures(self) -> Failures:
        """The workers that failed, the earliest first; shows itself with tracebacks."""
        return Failures(self.now)

    def timeline(
        self,
        by: str = "auto",
        lanes_max: int = LANES_MAX,
        *,
        at_s: float | None = None,
        between_s: tuple[float, float] | None = None,
    ) -> TimelinePicture:
        """The timeline as a picture.

        Args:
            by: a lane for each of the "nodes" or "ranks"; "auto" takes ranks if there are few.
            lanes_max: at the most; those that something happened to come first.
            at_s: as it stood so many seconds after the start; None is now.
            between_s: only this stretch of it, in seconds from the start; None is the whole run.

        Raises:
            ConfigurationError: no such lanes, or a stretch that ends before it begins.
        """
        with self._lock:
            film, now_ns = self._session.film, self.now_ns
            start_ns = film.started_ns
            if at_s is not None:
                now_ns = start_ns + int(at_s * 1e9)
            timeline = film.latest if at_s is None else film.at(now_ns)
        span_ns = None
        if between_s is not None:
            low, high = _stretch(between_s)
            span_ns = start_ns + int(low * 1e9), start_ns + int(high * 1e9)
        return TimelinePicture(timeline, now_ns, by, lanes_max, span_ns)

    # -- how it shows itself --------------------------------------------------------------------------------

    def notes(self) -> Sequence[str]:
        """What stands below the head of its picture."""
        with self._lock:
            problem, known = self._session.problem, self._session.film.latest
        why = without_tokens(known.reason) if known.result not in ("", "SUCCEEDED") else ""
        return [note for note in (problem, why) if note]

    def html(self) -> str:
        """As it stands now, as HTML without script."""
        with self._lock:
            timeline, now_ns = self._session.film.latest, self.now_ns
        return html.job_html(
            timeline,
            now_ns,
            name=self.name,
            mode=self.mode,
            notes=self.notes(),
            said=self.said(),
            state=self.state,
        )

    def said(self) -> Said:
        """What workers have said last, of a job that is small enough to show it."""
        return NOTHING_SAID

    def __repr__(self) -> str:
        with self._lock:
            words = ", ".join(html.job_facts(self._session.film.latest, self.now_ns))
        said = f"{self.state}{', ' if words else ''}{words}{f' ({self.mode})' if self.mode else ''}"
        lines = (f"{type(self).__name__} {self.name}: {said}", *self.notes())
        return harmless_lines("\n  ".join(lines))


def _stretch(between_s: Any) -> tuple[float, float]:
    two = tuple(between_s) if isinstance(between_s, Iterable) else ()
    if len(two) != 2 or not all(isinstance(moment, int | float) for moment in two):
        raise ConfigurationError(f"between_s is {between_s!r}; give two moments in seconds, such as (10, 20)")
    if not two[0] < two[1]:
        raise ConfigurationError(f"between_s is {between_s}; give the earlier moment first")
    return two[0], two[1]


def global_ranks(given: Any) -> list[int]:
    """Global ranks: one, or several.

    Raises:
        ConfigurationError: these are no ranks.
    """
    several = [given] if isinstance(given, int | str | None) else given
    ranks = list(several) if isinstance(several, Iterable) else [several]
    wrong = [rank for rank in ranks if isinstance(rank, bool) or not isinstance(rank, int)]
    if wrong or not ranks:
        raise ConfigurationError(f"rank is {given!r}; give a global rank such as 2, or a list of them")
    return ranks


class TimelinePicture:
    """A timeline, drawn. Shows itself in a notebook; `svg` is the picture, `save` writes it."""

    def __init__(
        self,
        timeline: Timeline,
        now_ns: int,
        by: str = "auto",
        lanes_max: int = LANES_MAX,
        span_ns: tuple[int, int] | None = None,
    ) -> None:
        if by not in ("auto", "nodes", "ranks"):
            raise ConfigurationError(f"by is {by!r}; give nodes, ranks or auto")
        self.value = timeline
        self._now_ns, self._by, self._lanes_max, self._span_ns = now_ns, by, lanes_max, span_ns

    @property
    def svg(self) -> str:
        """The picture alone; colours come from the page around it."""
        return timeline_svg(
            self.value, self._now_ns, by=self._by, lanes_max=self._lanes_max, span_ns=self._span_ns
        )

    def save(self, path: str | Path) -> None:
        """Write a picture that stands for itself, with colours for light and dark.

        Raises:
            ConfigurationError: it can't be written there.
        """
        try:
            Path(path).write_text(html.standing_alone(self.svg), encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(
                f"{path} can't be written: {error.strerror}; give another path"
            ) from error

    def __repr__(self) -> str:
        nodes = plural(len(self.value.nodes), "node")
        return f"Timeline of {self.value.run_id or 'no run'}: {self.value.state}, {nodes}, round {self.value.rounds}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        page = html.card(self.svg if self.value.nodes else html.facts("no events yet"))
        return {"text/plain": repr(self), "text/html": page}


class Failures(Sequence[Failure]):
    """Failures of workers, the earliest first."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._all = sorted(timeline.failures.values(), key=lambda each: each.at.wall_ns)

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, place: Any) -> Any:
        return self._all[place]

    def table(self) -> Any:
        """One row each: a DataFrame if pandas is installed, else a list of dicts."""
        return frame(tables.failure_rows(self._timeline), tables.FAILURE_COLUMNS)

    def __repr__(self) -> str:
        if not self._all:
            return "no failures"
        return harmless_lines("\n".join(map(_in_words, self._all)))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        page = html.card(html.failures_html(self._timeline) or html.facts("no failures"))
        return {"text/plain": repr(self), "text/html": page}


def _in_words(failure: Failure) -> str:
    how, said = failing(failure.exit_code, failure.signal, failure.message)
    words = f"rank {failure.global_rank} {how}"
    first = ", the first of its node" if failure.first else ""
    lines = [f"{words} in round {failure.round}{first}{f': {said}' if said else ''}"]
    lines += [f"    {line}" for line in details(lines[0], failure.what, failure.remedy)]
    return "\n".join((*lines, *(f"    {line}" for line in failure.traceback.splitlines())))
