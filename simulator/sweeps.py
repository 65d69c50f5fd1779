"""One scenario under many settings and seeds: `sweep` runs the product of a grid over processes.

What a run does depends on its scenario and its seed alone, so the rows are the same with any number of processes.
"""

from __future__ import annotations

import inspect
import itertools
import math
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from simulator.plain_data import TABLES, with_values
from simulator.scenario import Scenario
from simulator.sweep_progress import progress_of
from simulator.sweep_result import Measured, Run, SweepResult, crashed, measured
from simulator.workloads import Workload
from toolkit.core.errors import ConfigurationError
from toolkit.core.words import did_you_mean

if TYPE_CHECKING:
    from simulator.subject import Subject

#: runs of one sweep
RUNS_MAX = 1_000_000
#: runs that are worth a process of their own: one takes a quarter of a second to start
_RUNS_EACH = 8
#: short names of what is set elsewhere
_SHORT = {"backoff": "backoff_s", "lease_s": "rdzv_conf.lease", "beat_s": "rdzv_conf.beat"}
#: set by hand: the workload counts in steps
_INTERVAL = "checkpoint_interval_s"
#: which agent runs can be a parameter, too
_SUBJECT = "subject"


@dataclass(frozen=True, slots=True)
class _Point:
    """One point of the grid.

    Args:
        params: as the grid calls them.
        scenario: what is run.
        subject: with whom.
        settings: what `--set` would say, by path; None if a command line can't.
    """

    params: Mapping[str, Any]
    scenario: Scenario
    subject: str | Subject
    settings: Mapping[str, Any] | None


def sweep(
    scenario: Scenario | str | Callable[..., Scenario],
    grid: Mapping[str, Any],
    seeds: int | Iterable[int] = 20,
    *,
    subject: str | Subject = "rally",
    jobs: int | None = None,
    progress: bool = True,
) -> SweepResult:
    """Run a scenario at each point of a grid with each seed, over processes.

        result = sweep(scenarios.happy, {"mtbf_s": [300, 900, 2700], "lease": [2, 4, 8]}, seeds=20)
        result.plot("ettr", x="mtbf_s", by="lease")

    Ctrl-C ends it early and gives what was reached.

    Args:
        scenario: a scenario, the name of one, or a function that makes one of the parameters it takes; the others are
            set on what it returns.
        grid: values by parameter. A parameter is a field of the scenario (`nodes`, `spares`, `max_restarts`, `mtbf_s`),
            of its workload (`steps`, `checkpoint_every`), a key of its rdzv_conf (`lease`, `beat`), any path as for
            `rally sim --set` (`node.node1.start_s`), or one of `backoff`, `checkpoint_interval_s` (rounded to steps)
            and `subject`.
        seeds: how many, from 0 on, or which.
        subject: whose agent runs, unless the grid says so.
        jobs: processes; 1 runs all in this one; None is one for each core, and fewer if there is little to do.
        progress: whether a terminal or a notebook shows how far it is; elsewhere nothing is written anyway.

    Returns:
        A row for each run, ordered by point and seed.

    Raises:
        ConfigurationError: an unknown parameter (names what comes near), a value that can't be, or a scenario that
            can't be sent to another process. All of these come before the first run.
    """
    numbers = _seeds(seeds)
    points = _points(scenario, grid, subject)
    total = len(points) * len(numbers)
    if total > RUNS_MAX:
        raise ConfigurationError(
            f"the sweep has {len(points):,} points and {len(numbers):,} seeds, which is {total:,} runs; "
            f"give at most {RUNS_MAX:,}"
        )
    tasks = [(point, seed) for point in range(len(points)) for seed in numbers]
    # A seed at all points, then the next one: who breaks it off has something of each point.
    order = sorted(range(total), key=lambda number: (number % len(numbers), number))
    done: dict[int, Measured] = {}
    stopped = False
    watch = progress_of(total, shown=progress)
    try:
        for number, what in _run(points, [(number, *tasks[number]) for number in order], _jobs(jobs, total)):
            done[number] = what
            watch.show(len(done))
    except KeyboardInterrupt:
        stopped = True
    finally:
        watch.close(len(done))
    rows = [
        Run(number, dict(points[point].params), seed, done[number], _command(points[point], seed, number))
        for number, (point, seed) in enumerate(tasks)
        if number in done
    ]
    return SweepResult(
        name=_name(scenario, points),
        parameters=tuple(grid),
        runs=tuple(rows),
        planned=total,
        stopped=stopped,
        made={
            number: (points[point].scenario, points[point].subject) for number, (point, _) in enumerate(tasks)
        },
    )


def _name(scenario: Scenario | str | Callable[..., Scenario], points: Sequence[_Point]) -> str:
    return points[0].scenario.name if isinstance(scenario, Scenario | str) else _callable_name(scenario)


def _callable_name(make: Callable[..., Scenario]) -> str:
    return getattr(make, "__name__", type(make).__name__)


def _seeds(seeds: int | Iterable[int]) -> list[int]:
    numbers: list[int] = []
    if isinstance(seeds, int):
        numbers = list(range(seeds))
    elif isinstance(seeds, Iterable):
        numbers = list(seeds)
    if not numbers:
        raise ConfigurationError(f"seeds is {seeds!r}; give how many, at least 1, or a list of them")
    wrong = [seed for seed in numbers if isinstance(seed, bool) or not isinstance(seed, int)]
    if wrong:
        raise ConfigurationError(f"seed {wrong[0]!r} is no whole number; give whole numbers")
    if len(set(numbers)) < len(numbers):
        raise ConfigurationError(
            "a seed stands twice in the list, and the same run counted twice says no more"
        )
    return numbers


def _jobs(jobs: int | None, runs: int) -> int:
    if jobs is not None and jobs < 1:
        raise ConfigurationError(f"jobs is {jobs}; give 1 process or more")
    if jobs is not None:
        return min(jobs, runs)
    return max(1, min(len(os.sched_getaffinity(0)), runs // _RUNS_EACH))


# -- the grid -------------------------------------------------------------------------------------------------


def _points(
    scenario: Scenario | str | Callable[..., Scenario], grid: Mapping[str, Any], subject: str | Subject
) -> list[_Point]:
    if not isinstance(grid, Mapping):
        raise ConfigurationError(
            f"the grid is {grid!r}; give a dict of values by parameter, such as {{'lease': [2, 4]}}"
        )
    values = [_values(name, given) for name, given in grid.items()]
    count = math.prod(map(len, values))
    if count > RUNS_MAX:
        raise ConfigurationError(f"the grid has {count:,} points; give at most {RUNS_MAX:,}")
    make, takes = _maker(scenario)
    _check_names([name for name in grid if name not in takes], takes)
    chosen = [dict(zip(grid, combination, strict=True)) for combination in itertools.product(*values)]
    return [_point(make, takes, params, subject) for params in chosen]


def _values(name: str, given: Any) -> list[Any]:
    """The values of one parameter; what is no list is one value."""
    single = isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable)
    values = [given] if single else list(given)
    if not values:
        raise ConfigurationError(f"parameter {name!r} has no values; give one at least, or leave it out")
    # Numbers of numpy have the methods of Python's, and are none.
    return [value.item() if type(value).__module__ == "numpy" else value for value in values]


def _maker(
    scenario: Scenario | str | Callable[..., Scenario],
) -> tuple[Callable[..., Scenario], frozenset[str]]:
    """What makes a scenario of parameters, and the parameters that it takes itself."""
    if isinstance(scenario, str):
        from simulator import scenarios

        found = scenarios.named(scenario)
        return lambda: found, frozenset()
    if isinstance(scenario, Scenario):
        return lambda: scenario, frozenset()
    if not callable(scenario):
        raise ConfigurationError(
            f"{scenario!r} is no scenario; give a Scenario, the name of one, or a function that returns one"
        )
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    taken = inspect.signature(scenario).parameters.values()
    return scenario, frozenset(parameter.name for parameter in taken if parameter.kind in kinds)


def _point(
    make: Callable[..., Scenario], takes: frozenset[str], params: Mapping[str, Any], subject: str | Subject
) -> _Point:
    own = {name: value for name, value in params.items() if name in takes}
    try:
        made = make(**own)
    except TypeError as error:
        raise ConfigurationError(f"{_callable_name(make)} can't be called with {own}: {error}") from error
    if not isinstance(made, Scenario):
        raise ConfigurationError(f"{_callable_name(make)} returned {made!r}; it has to return a Scenario")
    rest = {name: value for name, value in params.items() if name not in takes}
    chosen = rest.pop(_SUBJECT, subject)
    interval_s = rest.pop(_INTERVAL, None)
    settings = {_path(name): value for name, value in rest.items()}
    changed = with_values(made, settings)
    if interval_s is not None:
        steps = _steps_of(interval_s, changed)
        settings["workload.checkpoint_every"] = steps
        changed = with_values(changed, {"workload.checkpoint_every": steps})
    _check(changed, chosen)
    return _Point(params, changed, chosen, settings if _is_shipped(made) else None)


def _steps_of(interval_s: Any, scenario: Scenario) -> int:
    step_s = scenario.workload.step_s
    if isinstance(interval_s, bool) or not isinstance(interval_s, int | float) or not interval_s > 0:
        raise ConfigurationError(f"{_INTERVAL} is {interval_s!r}; give more than 0 seconds")
    if not step_s > 0:
        raise ConfigurationError(f"{_INTERVAL} needs steps that take time; step_s is {step_s:g}")
    return max(1, round(interval_s / step_s))


def _is_shipped(scenario: Scenario) -> bool:
    from simulator import scenarios

    return scenarios.ALL.get(scenario.name) == scenario


def _names() -> dict[str, str]:
    """What a parameter may be called, and the path that it sets."""
    from simulator.simulation import SETTINGS

    of_scenario = {spec.name: TABLES.get(spec.name, spec.name) for spec in fields(Scenario)}
    of_workload = {spec.name: f"workload.{TABLES.get(spec.name, spec.name)}" for spec in fields(Workload)}
    of_conf = {name: f"rdzv_conf.{name}" for name in SETTINGS}
    return of_conf | of_workload | _SHORT | of_scenario


def _path(name: str) -> str:
    return name if "." in name else _names()[name]


def _check_names(given: Sequence[str], takes: frozenset[str]) -> None:
    known = list(dict.fromkeys((*sorted(takes), *_names(), _INTERVAL, _SUBJECT)))
    for name in given:
        if "." not in name and name not in known:
            near = get_close_matches(name, known, n=3)
            some = "such as nodes, spares, mtbf_s, lease, checkpoint_every, or a path like workload.steps"
            remedy = f"did you mean {' or '.join(near)}?" if near else f"give a field of the scenario, {some}"
            raise ConfigurationError(f"there is no parameter {name!r}; {remedy}")


def _check(scenario: Scenario, subject: str | Subject) -> None:
    """What would come out only in the run itself, and then in all of them."""
    from simulator.simulation import SETTINGS
    from toolkit.core.rounds import Settings

    if subject != "rally":
        return  # another rendezvous has settings of its own
    conf: dict[str, Any] = {}
    for key, value in scenario.rdzv_conf.items():
        if key not in SETTINGS:
            remedy = did_you_mean(key, SETTINGS, f"it has {', '.join(SETTINGS)}")
            raise ConfigurationError(f"our rendezvous has no setting {key!r}; {remedy}")
        try:
            conf[SETTINGS[key]] = float(value)
        except ValueError:
            raise ConfigurationError(f"rdzv_conf.{key} is {value!r}; give seconds") from None
    low, high = scenario.bounds
    Settings(min_nodes=low, max_nodes=high, spares=scenario.spares, **conf)


def _command(point: _Point, seed: int, number: int) -> str:
    """What runs it once more; a scenario that has no name needs the result itself."""
    again = f"result.again({number})"
    if point.settings is None or not isinstance(point.subject, str):
        return again
    words = ["rally", "sim", point.scenario.name, "--subject", point.subject, "--seed", str(seed)]
    for path, value in point.settings.items():
        if value is not None and not isinstance(value, int | float | str):
            return again
        text = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        words += ["--set", f"{path}={text}"]
    return shlex.join(words)


# -- running --------------------------------------------------------------------------------------------------


def _run(
    points: Sequence[_Point], tasks: Sequence[tuple[int, int, int]], jobs: int
) -> Iterator[tuple[int, Measured]]:
    """The runs as they end, each with its number. A task is a number, a point and a seed."""
    if jobs == 1:
        yield from _run_here(points, tasks)
        return
    from simulator.sweep_process import Crew

    with Crew([(point.scenario, point.subject) for point in points], jobs) as crew:
        for number, found in crew.run(tasks):
            yield number, crashed() if found is None else found


def _run_here(
    points: Sequence[_Point], tasks: Sequence[tuple[int, int, int]]
) -> Iterator[tuple[int, Measured]]:
    for number, at, seed in tasks:
        yield number, measured(points[at].scenario, points[at].subject, seed)
