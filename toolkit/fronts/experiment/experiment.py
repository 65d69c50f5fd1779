"""One scenario in one of two worlds, as values: what to run, and what came of it."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from toolkit import wiring
from toolkit.adapters.recording.directory import note_elsewhere, open_for_writing, stamped_name
from toolkit.adapters.recording.experiment_file import note_experiment, read_experiment
from toolkit.adapters.recording.layout import is_recording, path_safe
from toolkit.adapters.recording.reader import read_run
from toolkit.core.errors import ConfigurationError
from toolkit.core.events import Event
from toolkit.core.experiment import NodeEnd, NotedExperiment
from toolkit.core.timeline import Timeline, fold_all
from toolkit.core.words import plural
from toolkit.surroundings import environment, state_directory
from toolkit.views.comparison import Comparison, Side, compare

if TYPE_CHECKING:
    from simulator.checkers import Broken, Judgement
    from simulator.report import Report
    from simulator.scenario import Scenario

World = Literal["sim", "local"]
WORLDS: tuple[World, ...] = ("sim", "local")
#: how sentences call them
NAMES: Mapping[World, str] = {"sim": "the simulator", "local": "real processes"}


@dataclass(frozen=True)
class Experiment:
    """A scenario, and the world in which it is to run.

    Args:
        scenario: a value, the name of one, or a TOML file with one.
        world: "sim" is the simulator, "local" real processes of this machine.
        seed: draws what is left open; in the local world which node "any" is, and the failures of `mtbf_s`.
        run_dir: where it is recorded; None takes a new folder where runs are recorded.

    Raises:
        ConfigurationError: there is no such scenario or world, or it can't run there.
    """

    scenario: Scenario | str | Path
    world: World = "sim"
    seed: int = 0
    run_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.world not in WORLDS:
            raise ConfigurationError(f"there is no world {self.world!r}; take {' or '.join(WORLDS)}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ConfigurationError(f"seed is {self.seed!r}; give a whole number")
        if isinstance(self.scenario, str | Path):
            from toolkit.fronts.sim import scenario_from

            object.__setattr__(self, "scenario", scenario_from(str(self.scenario)))
        if self.run_dir is not None:
            object.__setattr__(self, "run_dir", Path(self.run_dir))
        if self.world == "local":
            from toolkit.fronts.experiment.supported import check_local

            check_local(self._scenario)

    @property
    def _scenario(self) -> Scenario:
        assert not isinstance(self.scenario, str | Path), "it was looked up when this was made"
        return self.scenario

    def run(self) -> ExperimentResult:
        """Run it to its end; in the local world that takes as long as it says. Nothing that was started is left.

        Raises:
            ConfigurationError: it can't be recorded there, or what it needs isn't installed.
            LaunchError: an agent can't be started.
        """
        path = self._path()
        if is_recording(path):
            raise ConfigurationError(f"{path} holds a recording; give another run directory, or remove it")
        return self._simulated(path) if self.world == "sim" else self._on_processes(path)

    def _path(self) -> Path:
        if self.run_dir is not None:
            return self.run_dir.absolute()
        return state_directory() / stamped_name(f"{self._scenario.name}-{self.world}", wiring.wall_ns())

    def _simulated(self, path: Path) -> ExperimentResult:
        from simulator.report import BROKEN_OFF, simulate
        from toolkit.fronts.sim import need_greenlet, noted, record

        need_greenlet()
        clock = wiring.clock()
        report = simulate(self._scenario, seed=self.seed, stopwatch=lambda: clock.now_ns() / 1e9)
        if report.finding == BROKEN_OFF:
            raise KeyboardInterrupt
        record(path, self._scenario, report.subject, self.seed, report)
        said = noted(self._scenario, self.seed, report)
        return ExperimentResult(
            self._scenario,
            "sim",
            self.seed,
            path,
            tuple(report.events),
            said,
            report.judgement,
            report.broken,
            report,
        )

    def _on_processes(self, path: Path) -> ExperimentResult:
        from simulator import toml_file, wear
        from toolkit.fronts.experiment.local import LocalWorld, usual_environment
        from toolkit.fronts.experiment.strikes import LocalStrikes

        scenario, now_ns = self._scenario, wiring.wall_ns()
        low, high = scenario.bounds
        run_id = path_safe(scenario.name)
        said = {
            "entrypoint": scenario.name,
            "min_nodes": low,
            "max_nodes": high,
            "max_restarts": scenario.max_restarts,
        }
        directory = open_for_writing(path, run_id, said, started_wall_ns=now_ns)
        note_elsewhere(state_directory(), directory, started_wall_ns=now_ns)
        planned = (*scenario.faults, *wear.drawn(scenario, self.seed))
        surroundings = usual_environment(environment())
        world = LocalWorld(scenario, planned, path, run_id, surroundings, sys.executable)
        strikes = LocalStrikes(world, self.seed)
        over = world.run(strikes.begin)
        known = NotedExperiment(
            world="local",
            scenario=toml_file.dumps(scenario),
            seed=self.seed,
            began_wall_ns=world.began_wall_ns,
            strikes=strikes.hits,
            words=[*strikes.words, *strikes.not_struck()],
            ends=world.ends,
            finding=world.finding(over),
        )
        note_experiment(path, known)
        events = tuple(world.events())
        judgement, broken = _judged(scenario, events, known)
        return ExperimentResult(scenario, "local", self.seed, path, events, known, judgement, broken)


def _judged(
    scenario: Scenario, events: tuple[Event, ...], noted: NotedExperiment
) -> tuple[Judgement, tuple[Broken, ...]]:
    """What each checker says of a real run whose faults are known, and what was broken without an excuse."""
    from simulator.checkers import Facts, Hit, checkers_named, judge_record, record_of
    from simulator.excuses import excused

    low, high = scenario.bounds
    # The checkers count from the first event.
    first_ns = min((event.wall_ns for event in events), default=noted.began_wall_ns)
    late_s = (first_ns - noted.began_wall_ns) / 1e9
    hits = tuple(
        Hit(
            strike.kind,
            strike.node,
            strike.at_s - late_s,
            math.inf if strike.until_s is None else strike.until_s - late_s,
            strike.words,
        )
        for strike in noted.strikes
    )
    record = record_of(events, Facts(min_nodes=low, max_nodes=high, hits=hits))
    judgement = judge_record(record, checkers_named(scenario.checkers))
    return judgement, tuple(excused(judgement.broken, record)[0])


@dataclass(frozen=True, repr=False)
class ExperimentResult:
    """What came of an experiment. Prints as a few lines of text.

    Args:
        scenario: what was run.
        world: where.
        seed: and how.
        path: the recording.
        events: what the agents said.
        noted: what struck whom, and how each node ended.
        judgement: what each promise's checker says.
        broken: promises that were broken, and could have been kept.
        report: of the simulator; None for real processes.
    """

    scenario: Scenario
    world: World
    seed: int
    path: Path
    events: tuple[Event, ...] = field(repr=False)
    noted: NotedExperiment
    judgement: Judgement
    broken: tuple[Broken, ...] = ()
    report: Report | None = None

    @cached_property
    def timeline(self) -> Timeline:
        """The events folded."""
        return fold_all(self.events)

    @property
    def ends(self) -> Mapping[str, NodeEnd]:
        """How each node ended."""
        return self.noted.ends

    @property
    def side(self) -> Side:
        """As one of two that are compared."""
        return side_of(self.events, self.noted)

    @property
    def exit_code(self) -> int:
        """Of a command that ran this: 0, 1 if a promise was broken, 3 if it was broken off."""
        if self.report is not None:
            return self.report.exit_code
        return 1 if self.broken else 3 if self.noted.finding else 0

    def compare(self, other: ExperimentResult) -> Comparison:
        """Hold this recording against another one of the same scenario.

        Raises:
            ConfigurationError: this is no result of an experiment.
        """
        if not isinstance(other, ExperimentResult):
            raise ConfigurationError(
                f"{other!r} is nothing to compare with; give the result of an experiment"
            )
        return compare(self.side, other.side)

    def __repr__(self) -> str:
        return f"ExperimentResult({self.scenario.name!r}, {self.world!r}, seed {self.seed}: {self.timeline.state})"

    def __str__(self) -> str:
        """A few lines of text."""
        from toolkit.fronts.experiment.telling import result_lines

        return "\n".join(result_lines(self)) + "\n"


def read_side(path: Path, name: str = "") -> Side:
    """A recording as one of two that are compared; also one that no experiment made.

    Args:
        path: a run directory.
        name: how sentences call it; by default its world, or else its folder.

    Raises:
        RecordingError: it can't be read.
    """
    events, noted = tuple(read_run(path).events()), read_experiment(path)
    if noted is None:
        return Side(name or path.name, events)
    side = side_of(events, noted)
    return Side(name or side.name, side.events, side.nodes, side.ends, side.strikes, side.began_wall_ns)


def side_of(events: tuple[Event, ...], noted: NotedExperiment) -> Side:
    """Events and what is known beside them, as one of two that are compared."""
    name = NAMES["sim"] if noted.world == "sim" else NAMES["local"]
    return Side(name, events, {}, noted.ends, tuple(noted.strikes), noted.began_wall_ns)


def restarts_in_words(timeline: Timeline) -> str:
    """How often it was restarted, and at what cost."""
    total, used = timeline.restarts_total, timeline.restarts_used
    if not total:
        return "no restart"
    spent = "" if used == total else f", {used or 'none'} of them at the cost of the budget"
    return plural(total, "restart") + spent
