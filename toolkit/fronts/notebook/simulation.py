"""A simulated cluster as an object: looked at as a job is, and besides stepped, struck, branched and taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.adapters.watch_thread import WatchThread
from toolkit.core.errors import ConfigurationError
from toolkit.core.events import AnyEvent
from toolkit.core.film import Film
from toolkit.core.history import Timeline
from toolkit.fronts.notebook.watched import Watched, global_ranks
from toolkit.fronts.watching import read_all
from toolkit.views import html
from toolkit.views.lanes import since
from toolkit.views.session import Session
from toolkit.views.telling import told

if TYPE_CHECKING:
    from simulator.faults import Fault
    from simulator.interactive.comparison import Comparison
    from simulator.interactive.hosted import HostedRun
    from simulator.interactive.node_view import NodeView
    from simulator.report import Report
    from simulator.scenario import Scenario

#: how often a view is brought up to date while a call goes on, in seconds
_LOOK_S = 0.25
_TONES = {"bad": "rally-bad", "warn": "rally-warn", "good": "rally-good"}


class _Said:
    """A source of events: what the agents of a held run have said."""

    problem = ""

    def __init__(self, held: HostedRun, count: int = 0) -> None:
        self._held = held
        self._count = count

    def read_new(self, events_max: int) -> list[AnyEvent]:
        new = self._held.events_since(self._count)[:events_max]
        self._count += len(new)
        return new

    def is_live(self, timeline: Timeline) -> bool | None:
        return None


class Simulation(Watched):
    """A simulated job that goes on only when it is told to. Shows itself as a real one does.

    Args:
        scenario: a `simulator.Scenario`, the name of one that comes with the simulator, or a TOML file.
        seed: draws whatever the scenario leaves open; the same seed gives the same run.
        subject: whose agent: "rally" (ours), "torch" (torch's), or "rally-over-c10d".

    Raises:
        ConfigurationError: no such scenario or subject, or the simulator can't run here.
    """

    def __init__(self, scenario: Scenario | str | Path, seed: int = 0, subject: str = "rally") -> None:
        try:
            from simulator.interactive.hosted import HostedRun
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"the simulator needs {error.name}: pip install 'rallypoint[sim]'"
            ) from None
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigurationError(f"seed is {seed!r}; give a whole number")

        self._begin(HostedRun(_scenario(scenario), seed, subject))

    def _begin(self, held: HostedRun, known: Film | None = None) -> None:
        self._held = held
        self._thread: WatchThread | None = None
        super().__init__(self._new_session(known), held.scenario.name)
        read_all(self._session)

    def _new_session(self, known: Film | None = None) -> Session:
        held = self._held
        with_whom = "" if held.subject == "rally" else f" with {held.subject}"
        if known is None or not _begins_with(held.events, known):
            known = Film()
        return Session(_Said(held, len(known)), f"seed {held.seed}{with_whom}", lambda: 0, known)

    # -- where it stands ------------------------------------------------------------------------------------

    @property
    def scenario(self) -> Scenario:
        """What is run."""
        return self._held.scenario

    @property
    def now_s(self) -> float:
        """Virtual time, in seconds from the start."""
        return self._held.now_s

    @property
    def state(self) -> str:
        """What the job does, or how it ended; "not started" before its first event."""
        state = super().state
        return "not started" if state == "unknown" else state

    @property
    def now_ns(self) -> int:
        """Wall time in the simulated world, in nanoseconds."""
        from simulator.world import WALL_START_NS

        return WALL_START_NS + int(self._held.now_s * 1e9)

    @property
    def over(self) -> bool:
        """Whether nothing more happens."""
        return self._held.over

    @property
    def digest(self) -> str:
        """Of everything that has happened: equal for equal runs."""
        return self._held.digest

    def notes(self) -> Sequence[str]:
        """What stands below the head of its picture."""
        struck = [f"⚡ {fault.words()}" for fault in self._held.injected]
        return [*struck[-8:], *([self._held.finding] if self._held.finding else []), *super().notes()]

    def node(self, name: str) -> NodeView:
        """A node at this moment: its processes and what they wait for; `stack()` shows where in the code.

        Raises:
            ConfigurationError: no such node.
        """
        return self._held.node(name)

    # -- on, and back ---------------------------------------------------------------------------------------

    def step(self, count: int = 1) -> Happened:
        """On to the next event that an agent says, or the next `count` of them; returns them."""
        with self._moves():
            return Happened(self._held.step(count), self._held)

    def run(self, until: float | Callable[[Timeline], bool] | None = None) -> None:
        """On to the end of the job; to a moment, in seconds; or until something holds of the timeline. Ctrl-C pauses.

        Raises:
            ConfigurationError: that moment has been.
        """
        with self._moves():
            self._held.run(until)

    def inject(self, fault: Fault) -> None:
        """A fault strikes, now or `at_s` seconds from now.

        Raises:
            ConfigurationError: the cluster has no such node or worker, or the job is over.
        """
        with self._moves():
            self._held.inject(fault)

    def kill(self, rank: int | Iterable[int]) -> None:
        """SIGKILL to workers, by global rank; see `signal`."""
        self.signal("SIGKILL", rank)

    def signal(self, signal: str, rank: int | Iterable[int]) -> None:
        """A signal to workers, now, by global rank: the fault `KillWorker` for each.

        Raises:
            ConfigurationError: no such rank or signal, or the job is over.
        """
        from simulator.faults import KillWorker

        rows = self._rows(global_ranks(rank))
        for fault in [KillWorker(row.host, local_rank=row.key[1], signal=signal) for row in rows]:
            self.inject(fault)

    def branch(self) -> Simulation:
        """Another one that stands at this moment and goes its own way."""
        other = Simulation.__new__(Simulation)
        # Of 1,000 nodes it takes ten times as long to fold again what was said as to fork the cluster.
        with self._lock:
            known = self._session.film.copy()
        other._begin(self._held.branch(), known)
        return other

    def rewind(self, to_s: float) -> None:
        """Back to a moment, in seconds from the start; what came after it is gone, injected faults, too.

        Raises:
            ConfigurationError: that moment is still to come.
        """
        self._held.rewind(to_s)
        with self._lock:
            self._session = self._new_session()
        self._tell(settled=True)

    def compare(self, other: Simulation | Report) -> Comparison:
        """Where two runs part, and what came of each."""
        return self._held.compare(other._held if isinstance(other, Simulation) else other)

    def report(self) -> Report:
        """All promises held against it, so far as it went."""
        return self._held.report()

    def save(self, path: str | Path) -> Path:
        """Write a recording that `rally top`, `rally show` and `attach` read.

        Raises:
            ConfigurationError: there is a recording already, or it can't be written.
        """
        from toolkit.fronts.sim import record

        held = self._held
        record(Path(path), held.scenario, held.subject, held.seed, held.report())
        return Path(path)

    def close(self) -> None:
        """End its process. What is known stays."""
        self._held.close()

    # -- for those that show it -----------------------------------------------------------------------------

    @contextmanager
    def _moves(self) -> Iterator[None]:
        """Whoever shows it is told when a call that moves it has ended, also by an error or an interrupt."""
        try:
            yield
        finally:
            self._tell(settled=True)

    def _tell(self, settled: bool) -> None:
        with self._lock:
            read_all(self._session)
        self._tell_watchers(self.over and settled, settled=settled)

    def subscribe(self, tell: Callable[..., None]) -> None:
        """See `Watched`; called by a thread while a call goes on, and by the call when it has ended."""
        super().subscribe(tell)
        with self._lock:
            if self._thread is None:
                self._thread = WatchThread(self._look, f"rally-sim-{self.name}")

    def _look(self) -> float | None:
        if self._held.over:
            self._thread = None
            return None
        self._tell(settled=False)
        return _LOOK_S

    def _ipython_display_(self) -> None:
        from toolkit.fronts.notebook.display import show

        show(self, widget=False)


class Happened(Sequence[AnyEvent]):
    """Events, in words when they are shown."""

    def __init__(self, of: Sequence[AnyEvent], held: HostedRun) -> None:
        self._all = tuple(of)
        self._said_s = held.said_s[len(held.said_s) - len(self._all) :]

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, place: Any) -> Any:
        return self._all[place]

    def _lines(self) -> list[tuple[str, str, str, str]]:
        lines = []
        for event, at_s in zip(self._all, self._said_s, strict=True):
            words = told(event)
            if words is not None:
                lines.append((since(at_s, 3), event.node, words.words, _TONES.get(words.tone, "")))
        return lines

    def __repr__(self) -> str:
        return (
            "\n".join(f"{at:>10}  {node}  {words}" for at, node, words, _ in self._lines())
            or "nothing is said"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        rows = [
            (at, node, html.Markup(f'<span class="{look}">{html.text(words)}</span>'))
            for at, node, words, look in self._lines()
        ]
        page = html.card(html.table(("", "", ""), rows) if rows else html.facts("nothing is said"))
        return {"text/plain": repr(self), "text/html": page}


def _begins_with(events: Sequence[AnyEvent], film: Film) -> bool:
    """Whether these are the events of the film, and more. They are not if another thread has just rewound the run."""
    count = len(film)
    return count <= len(events) and list(film.between(count - 1, count)) == list(events[:count][-1:])


def _scenario(given: Scenario | str | Path) -> Scenario:
    from simulator import scenarios, toml_file

    if isinstance(given, Path) or (isinstance(given, str) and given.endswith(".toml")):
        return toml_file.load(given)
    return scenarios.named(given) if isinstance(given, str) else given
