"""What a sweep found: a row for each run, means with their uncertainty, plots."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, overload

from simulator.estimates import Estimate, mean_of, share_of
from simulator.report import BROKEN_OFF, Report, simulate
from simulator.scenario import Scenario
from toolkit.core.errors import ConfigurationError
from toolkit.core.words import did_you_mean, plural, some
from toolkit.views.plot import Plot, Point, Series
from toolkit.views.table import cell, html_table, sayable, text_table

if TYPE_CHECKING:
    from simulator.subject import Subject

#: what can be averaged, in words with the unit
MEASURES: Mapping[str, str] = {
    "succeeded": "share of runs that succeeded",
    "held": "share of runs in which all promises held",
    "ettr": "effective training time ratio",
    "mttr_s": "mean time to train again (s)",
    "time_lost_s": "time without useful training (s)",
    "restarts": "restarts",
    "virtual_s": "length of the run (s)",
}
#: those that are yes or no
_SHARES = ("succeeded", "held")
_BOUNDS = {"succeeded": (0.0, 1.0), "held": (0.0, 1.0), "ettr": (0.0, 1.0)}
_COLUMNS = (
    *("seed", "verdict", "result", "restarts", "mttr_s", "time_lost_s", "ettr", "virtual_s"),
    *("broken", "digest", "command"),
)
#: what is shown of a row on a screen
_SHOWN = ("seed", "verdict", "result", "restarts", "mttr_s", "time_lost_s", "ettr", "broken")


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of one run.

    Args:
        verdict: held, broken or undetermined.
        result: of the job: "SUCCEEDED", "FAILED" and so on; "RUNNING" if it had not ended.
        restarts: rounds with a member that had been in one before.
        mttr_s: mean time to train again; see `Training`. None without a restart.
        time_lost_s: seconds that were no useful training.
        ettr: effective training time ratio; see `Training`.
        virtual_s: length of the run.
        broken: promises that were broken.
        digest: equal for equal runs.
    """

    verdict: str
    result: str
    restarts: int
    mttr_s: float | None
    time_lost_s: float
    ettr: float
    virtual_s: float
    broken: tuple[str, ...]
    digest: str


def measured(scenario: Scenario, subject: str | Subject, seed: int) -> Measured:
    """Run a scenario once and keep what a sweep keeps.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it; a part of a run is no run.
    """
    report = simulate(scenario, subject, seed)
    if report.finding == BROKEN_OFF:
        raise KeyboardInterrupt
    training = report.training
    return Measured(
        verdict=report.verdict,
        result=_result(report),
        restarts=report.restarts,
        mttr_s=training.mttr_s,
        time_lost_s=training.lost_s,
        ettr=training.ettr,
        virtual_s=report.virtual_s,
        broken=tuple(dict.fromkeys(broken.promise for broken in report.broken)),
        digest=report.digest,
    )


def crashed() -> Measured:
    """Of a run in which its process died: nothing is known of it."""
    return Measured("undetermined", "CRASHED", 0, None, math.nan, math.nan, math.nan, (), "")


def _result(report: Report) -> str:
    """Of the job, in the words of its nodes; a node that is lost, or was not needed, keeps nobody waiting."""
    if report.timeline.result:
        return report.timeline.result
    ends = {end.result for end in report.nodes.values()} - {"LOST", "STOPPED", "WAITING"}
    if "RUNNING" in ends or not ends:
        return "RUNNING"
    return "SUCCEEDED" if ends == {"SUCCEEDED"} else min(ends - {"SUCCEEDED"})


@dataclass(frozen=True, slots=True)
class Run:
    """One row.

    Args:
        number: in the sweep; `SweepResult.again` takes it.
        params: of the grid.
        seed: and how.
        measured: what came of it.
        command: what runs it once more.
    """

    number: int
    params: Mapping[str, Any]
    seed: int
    measured: Measured
    command: str

    @property
    def succeeded(self) -> bool:
        """Whether the job came to its good end."""
        return self.measured.result == "SUCCEEDED"

    @property
    def held(self) -> bool:
        """Whether all promises held."""
        return self.measured.verdict == "held"

    def __getitem__(self, column: str) -> Any:
        """The value in a column, or of a measure."""
        if column in self.params:
            return self.params[column]
        if column in ("number", "seed", "command", "succeeded", "held"):
            return getattr(self, column)
        if column in _COLUMNS:
            return getattr(self.measured, column)
        raise KeyError(column)


class _Table:
    """Columns and rows, as a notebook, a terminal and pandas take them."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        raise NotImplementedError

    def _rows(self) -> list[tuple[Any, ...]]:
        raise NotImplementedError

    def _shown(self) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
        return self.columns, self._rows()

    def _headline(self) -> str:
        return ""

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`.

        Raises:
            ConfigurationError: pandas isn't here.
        """
        try:
            import pandas
        except ImportError as error:
            raise ConfigurationError(
                "to_pandas() needs pandas, which isn't here: pip install pandas"
            ) from error
        rows = [[", ".join(v) if isinstance(v, tuple) else v for v in row] for row in self._rows()]
        return pandas.DataFrame(rows, columns=list(self.columns))

    def __str__(self) -> str:
        return "\n\n".join(filter(None, (sayable(self._headline()), text_table(*self._shown()))))

    def _repr_html_(self) -> str:
        head = html_table(*self._shown())
        return f"<p>{html.escape(sayable(self._headline()))}</p>{head}" if self._headline() else head

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": self._repr_html_()}


@dataclass(frozen=True, slots=True)
class Group:
    """Runs with the same values of some parameters.

    Args:
        params: these values.
        n: runs.
        estimates: by measure.
    """

    params: Mapping[str, Any]
    n: int
    estimates: Mapping[str, Estimate]


@dataclass(frozen=True, repr=False)
class Means(_Table):
    """Means of groups of runs, with 95 % confidence intervals: Student's t, of shares Wilson's.

    Args:
        by: what makes a group.
        measures: what was averaged.
        groups: in the order of the grid.
    """

    by: tuple[str, ...]
    measures: tuple[str, ...]
    groups: tuple[Group, ...]

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __getitem__(self, at: int) -> Group:
        return self.groups[at]

    def at(self, **params: Any) -> Group:
        """The group with these values.

        Raises:
            ConfigurationError: there is none, or there are several.
        """
        found = [
            group
            for group in self.groups
            if all(group.params.get(name) == value for name, value in params.items())
        ]
        if len(found) != 1:
            raise ConfigurationError(
                f"{len(found)} groups have {params}; give a value of each of {', '.join(self.by)} that is in the grid"
            )
        return found[0]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns: for each measure its mean and both ends of its interval."""
        ends = (name for m in self.measures for name in (m, f"{m}_low", f"{m}_high"))
        return (*self.by, "n", *ends)

    def _rows(self) -> list[tuple[Any, ...]]:
        return [
            (
                *(group.params[name] for name in self.by),
                group.n,
                *(end for m in self.measures for end in _three(group.estimates[m])),
            )
            for group in self.groups
        ]

    def _shown(self) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
        rows: list[tuple[Any, ...]] = [
            (
                *(group.params[name] for name in self.by),
                group.n,
                *(str(group.estimates[m]) for m in self.measures),
            )
            for group in self.groups
        ]
        return (*self.by, "n", *self.measures), rows

    def __repr__(self) -> str:
        return str(self)


def _three(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.mean, estimate.low, estimate.high


@dataclass(frozen=True, repr=False)
class SweepResult(_Table):
    """The rows of a sweep, like a data frame: `len`, iteration, `columns`, `result["ettr"]`, `to_pandas()`.

    Args:
        name: of what was run.
        parameters: of the grid.
        runs: ordered by point and seed.
        planned: how many there were to be.
        stopped: whether Ctrl-C ended it.
        made: scenario and subject of each run, by its number.
    """

    name: str
    parameters: tuple[str, ...]
    runs: tuple[Run, ...]
    planned: int
    stopped: bool = False
    made: Mapping[int, tuple[Scenario, Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    @overload
    def __getitem__(self, at: int) -> Run: ...

    @overload
    def __getitem__(self, at: str) -> list[Any]: ...

    def __getitem__(self, at: int | str) -> Run | list[Any]:
        """A row by its place, or a column by its name."""
        if isinstance(at, int):
            return self.runs[at]
        known = (*self.columns, *_SHARES, "number")
        if at not in known:
            raise ConfigurationError(f"there is no column {at!r}; {_remedy(at, known)}")
        return [run[at] for run in self.runs]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns: the parameters, then what came of the runs."""
        return (*self.parameters, *(name for name in _COLUMNS if name not in self.parameters))

    def _rows(self) -> list[tuple[Any, ...]]:
        return [tuple(run[name] for name in self.columns) for run in self.runs]

    def _shown(self) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
        names = (*self.parameters, *_SHOWN)
        return names, [tuple(run[name] for name in names) for run in self.runs]

    def _headline(self) -> str:
        points = len({tuple(map(cell, run.params.values())) for run in self.runs})
        words = f"{self.name}: {plural(len(self.runs), 'run')} at {plural(points, 'point')}"
        if self.stopped:
            words += f", stopped by Ctrl-C before the other {self.planned - len(self.runs):,}"
        broken = [run for run in self.runs if run.measured.broken]
        if broken:
            promises = some(list(dict.fromkeys(name for run in broken for name in run.measured.broken)))
            words += f"; {len(broken)} broke a promise ({promises}), for instance {broken[0].command}"
        return words

    def where(self, **params: Any) -> SweepResult:
        """The rows with these values of some parameters."""
        self._known(params)
        kept = (r for r in self.runs if all(r.params[name] == value for name, value in params.items()))
        return replace(self, runs=tuple(kept))

    def again(self, number: int) -> Report:
        """Run one of the rows once more, here, for its whole report."""
        if number not in self.made:
            raise ConfigurationError(f"there is no run {number}; runs are 0 to {self.planned - 1}")
        scenario, subject = self.made[number]
        seed = next(run.seed for run in self.runs if run.number == number)
        return simulate(scenario, subject, seed, command=f"result.again({number})")

    def mean(
        self, by: str | Sequence[str] | None = None, measures: str | Sequence[str] | None = None
    ) -> Means:
        """Means with 95 % confidence intervals.

        Args:
            by: parameters whose values make a group; over the others it is averaged. None is all of them.
            measures: keys of `MEASURES`; None is all. What a run does not have, such as the mttr_s of one without a
                restart, is left out.

        Raises:
            ConfigurationError: no such parameter or measure.
        """
        names = self.parameters if by is None else (by,) if isinstance(by, str) else tuple(by)
        wanted = (
            tuple(MEASURES) if measures is None else (measures,) if isinstance(measures, str) else measures
        )
        self._known(names)
        for measure in wanted:
            if measure not in MEASURES:
                raise ConfigurationError(
                    f"there is no measure {measure!r}; {_remedy(measure, tuple(MEASURES))}"
                )
        groups: dict[tuple[str, ...], list[Run]] = {}
        for run in self.runs:
            groups.setdefault(tuple(repr(run.params[name]) for name in names), []).append(run)
        return Means(
            names,
            tuple(wanted),
            tuple(
                Group(
                    {name: runs[0].params[name] for name in names},
                    len(runs),
                    {measure: _estimate(runs, measure) for measure in wanted},
                )
                for runs in groups.values()
            ),
        )

    def summary(self) -> Means:
        """For each point of the grid, the means of everything."""
        return self.mean()

    def plot(
        self,
        measure: str = "ettr",
        x: str | None = None,
        by: str | Sequence[str] | None = None,
        *,
        x_log: bool | None = None,
        y_log: bool | None = None,
        title: str = "",
    ) -> Plot:
        """A measure over a parameter, with its 95 % confidence as a band.

        Args:
            measure: a key of `MEASURES`.
            x: the parameter; None is the first one that has several values.
            by: parameters that make a line each; over the others it is averaged.
            x_log: whether the horizontal axis is logarithmic; None decides by the values.
            y_log: the same of the vertical one; None is no.
            title: instead of the one that is made.

        Raises:
            ConfigurationError: no such parameter or measure, or nothing to draw.
        """
        across = x or self._first_with_several()
        lines = () if by is None else (by,) if isinstance(by, str) else tuple(by)
        if across in lines:
            raise ConfigurationError(f"{across!r} can't be both the axis and a line; leave it out of by")
        means = self.mean((*lines, across), measure)
        series: dict[str, list[Point]] = {}
        for group in means:
            name = ", ".join(f"{line} {cell(group.params[line])}" for line in lines)
            estimate = group.estimates[measure]
            series.setdefault(name, []).append(Point(group.params[across], *_three(estimate)))
        over = [name for name in self.parameters if name not in (across, *lines)]
        runs = sorted({group.n for group in means})
        about = f"mean of {' to '.join(map(str, runs[:1] + runs[1:][-1:]))} runs, 95 % confidence"
        return Plot(
            title=title or f"{MEASURES[measure].removesuffix(' (s)').capitalize()}: {self.name}",
            x_label=across,
            y_label=MEASURES[measure],
            series=tuple(Series(name, tuple(points)) for name, points in series.items()),
            about=f"{about}, over all {some(over)}" if over else about,
            x_log=x_log,
            y_log=y_log,
            y_bounds=_BOUNDS.get(measure, (0.0, math.inf)),
        )

    def _first_with_several(self) -> str:
        several = [n for n in self.parameters if len({repr(run.params[n]) for run in self.runs}) > 1]
        if not (several or self.parameters):
            raise ConfigurationError("the sweep has no parameter to plot over; give it a grid with one")
        return several[0] if several else self.parameters[0]

    def _known(self, names: Sequence[str] | Mapping[str, Any]) -> None:
        for name in names:
            if name not in self.parameters:
                raise ConfigurationError(
                    f"the sweep has no parameter {name!r}; {_remedy(name, self.parameters)}"
                )

    def __repr__(self) -> str:
        return f"SweepResult({self._headline()})"


def _estimate(runs: Sequence[Run], measure: str) -> Estimate:
    if measure in _SHARES:
        return share_of(sum(run[measure] for run in runs), len(runs))
    values = [run[measure] for run in runs]
    known = [value for value in values if value is not None and not math.isnan(value)]
    return mean_of(known, _BOUNDS.get(measure, (0.0, math.inf)))


def _remedy(name: str, known: Sequence[str]) -> str:
    return did_you_mean(name, known, f"there are {', '.join(known) or 'none'}")
