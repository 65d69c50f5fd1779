"""`make bench`: ours and torchrun by turns in one run; medians, ratios and goals in one table. Then the rest.

By turns, because a machine's speed drifts; and a ratio of two medians taken together outlives the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from . import logs, measures, nodes, notebook, sim, supervision, top
from .job import RALLY, TORCHRUN, BenchError, Launcher
from .measures import Figures, Measure, Scenario

#: tables, by what asks for all of their rows in `--only`
TABLES = {
    "agent": (*measures.SCENARIOS, *logs.SCENARIOS),
    "supervision": supervision.SCENARIOS,
    "nodes": nodes.SCENARIOS,
}
#: tables of what is held against fixed goals, by the module that takes the samples
FIXED = {
    sim.ALL: ("sim: the simulator", sim.MEASURES),
    notebook.ALL: ("notebook: live views, and simulations that are held", notebook.MEASURES),
    top.ALL: ("top: the live view", top.MEASURES),
}
SCENARIOS = tuple(scenario for table in TABLES.values() for scenario in table)


@dataclass(frozen=True, slots=True)
class Row:
    """One measure's outcome. Samples in the order they were taken, `[runs]`; infinite where a run was cut off."""

    measure: Measure
    theirs: tuple[float, ...]
    ours: tuple[float, ...]

    cut_off_s: float = math.inf

    @property
    def ratio(self) -> float | None:
        """Of the medians; an upper bound of it where torchrun was cut off, None where it was not asked to run."""
        if not self.theirs:
            return None
        theirs = statistics.median(self.theirs)
        if math.isfinite(theirs):
            return statistics.median(self.ours) / theirs
        return statistics.median(self.ours) / self.cut_off_s if self.measure.unit == "s" else None

    @property
    def verdict(self) -> str:
        measure, ratio = self.measure, self.ratio
        if measure.goal is None and measure.limit is None:
            return ""
        small = measure.goal is None or (ratio is not None and ratio <= measure.goal)
        below = measure.limit is None or statistics.median(self.ours) <= measure.limit
        return "met" if small and below else "missed"


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    simulated = [name for key, (_, fixed) in FIXED.items() for name in (key, *(m.name for m in fixed))]
    names = [*TABLES, *(measure.name for scenario in SCENARIOS for measure in scenario.measures), *simulated]
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Rallypoint and torchrun by turns."
    )
    parser.add_argument("--runs", type=int, default=7, help="runs of each launcher per scenario (default 7)")
    parser.add_argument(
        "--only",
        action="append",
        choices=names,
        metavar="NAME",
        help="this measure only, torchrun's part too where that takes a minute; may be repeated; "
        f"{', '.join([*TABLES, *FIXED])} stand for whole tables, without any all that is quick is measured; "
        f"one of: {', '.join(names)}",
    )
    parser.add_argument("--json", action="store_true", help="samples and medians as JSON on stdout, no table")
    parser.add_argument("--seed", type=int, default=1, help="when and whom the crashes hit (default 1)")
    parser.add_argument(
        "--ours",
        choices=(RALLY.name, TORCHRUN.name),
        default=RALLY.name,
        help="what to compare with torchrun; torchrun itself shows how much is noise",
    )
    arguments = parser.parse_args(argv)
    if arguments.runs < 1:
        parser.error(f"--runs is {arguments.runs}; it must be at least 1")
    return arguments


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Measure and print. Returns 0 if all was measured, goals met or not; 1 if a job failed."""
    arguments = parse_arguments(argv)
    ours = RALLY if arguments.ours == RALLY.name else TORCHRUN
    asked = set(arguments.only or ())
    narration = Console(stderr=True, highlight=False)
    tables: dict[str, list[Row]] = {}
    fixed_rows: dict[str, list[sim.SimRow]] = {}
    try:
        for title, scenarios in TABLES.items():
            whole = not asked or title in asked
            for scenario in scenarios:
                if asked & {title, *scenario.names} or not (asked or scenario.on_request):
                    theirs = not scenario.slow or bool(asked & {title, *scenario.names})
                    rows = compare(
                        scenario, ours, arguments.runs, arguments.seed, environ, narration, theirs=theirs
                    )
                    tables.setdefault(title, []).extend(r for r in rows if whole or r.measure.name in asked)
        for key, (title, fixed) in FIXED.items():
            wanted = [m for m in fixed if (not asked and not m.slow) or asked & {key, m.name}]
            for together in sim.by_sample(wanted):
                narration.print(f"{title}: {', '.join(measure.name for measure in together)}")
                fixed_rows.setdefault(key, []).extend(sim.measured(together, arguments.runs, environ, key))
    except BenchError as error:
        narration.print(f"bench: {error}", markup=False, soft_wrap=True)
        return 1
    if arguments.json:
        rows = [row for table in tables.values() for row in table]
        fixed_said = {
            {"sim": "simulator"}.get(key, key): sim.as_json(fixed_rows.get(key, [])) for key in FIXED
        }
        print(json.dumps(as_json(rows, arguments.runs) | fixed_said, indent=2))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 110)
    for title, rows in tables.items():
        console.print(as_table(title, rows, ours.name))
    for key, fixed_of in fixed_rows.items():
        console.print(sim.as_table(fixed_of, arguments.runs, FIXED[key][0]))
    return 0


def compare(
    scenario: Scenario,
    ours: Launcher,
    runs: int,
    seed: int,
    environ: Mapping[str, str],
    narration: Console,
    *,
    theirs: bool = True,
) -> list[Row]:
    """Run the scenario with torchrun and ours by turns, after one run of each that does not count.

    Args:
        theirs: whether torchrun runs, too; once is enough where it is slow.

    Raises:
        BenchError: ours failed, or torchrun twice.
    """
    samples: tuple[list[Figures], list[Figures]] = ([], [])
    runs = min(runs, scenario.runs_max)
    for run in range(-1 if scenario.warm_up else 0, runs):
        title = scenario.run.__name__.replace("_", " ")
        narration.print(f"{title}: " + (f"run {run + 1} of {runs}" if run >= 0 else "warm-up"))
        for launcher, taken in zip((TORCHRUN, ours), samples, strict=True):
            if taken is samples[0] and (not theirs or (scenario.slow and run > 0)):
                continue
            # Both launchers of a pair get the same random numbers.
            try:
                figures = scenario.run(launcher, environ, random.Random(f"{seed}/{run}"))
            except BenchError as error:
                if launcher is not TORCHRUN:
                    raise
                narration.print(f"torchrun failed, once more: {error}", markup=False, soft_wrap=True)
                figures = scenario.run(launcher, environ, random.Random(f"{seed}/{run}"))
            if run >= 0:
                taken.append(figures)
    return [
        Row(
            measure,
            tuple(figures[measure.name] for figures in samples[0]),
            tuple(figures[measure.name] for figures in samples[1]),
            scenario.cut_off_s,
        )
        for measure in scenario.measures
    ]


def as_table(title: str, rows: Sequence[Row], ours: str) -> Table:
    """One row a measure; medians, with the smallest and the largest sample below."""
    most = max(len(row.ours) for row in rows)
    table = Table(
        title=f"{title}: {ours} and torchrun by turns, medians of up to {most}", title_justify="left"
    )
    table.add_column("measure")
    for heading in ("torchrun", ours, "ratio", "goal"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}" if row.ratio >= 0.095 else f"{row.ratio:.3f}"
        cut_off = bool(row.theirs) and not math.isfinite(statistics.median(row.theirs))
        table.add_row(
            row.measure.title,
            _median_and_range(row.theirs, row),
            _median_and_range(row.ours, row),
            f"< {ratio}" if cut_off and ratio else ratio,
            row.measure.goals,
            row.verdict,
            style="" if row.verdict else "dim",
        )
    return table


def _median_and_range(samples: Sequence[float], row: Row) -> str:
    if not samples:
        return "-"
    digits, unit = row.measure.digits, row.measure.unit
    low, middle, high = min(samples), statistics.median(samples), max(samples)
    if math.isinf(middle):
        return f"> {row.cut_off_s:g} s" if unit == "s" else "-"
    shown = f"{middle:.{digits}f} {unit}".rstrip()
    return shown if len(samples) == 1 else f"{shown}\n{low:.{digits}f}-{high:.{digits}f}"


def as_json(rows: Sequence[Row], runs: int) -> dict[str, object]:
    """What was cut off is null."""
    return {
        "runs": runs,
        "measures": [
            asdict(row.measure)
            | {
                "torchrun": _samples_as_json(row.theirs),
                "ours": _samples_as_json(row.ours),
                "ratio": row.ratio,
                "cut_off_s": _finite(row.cut_off_s),
                "verdict": row.verdict,
            }
            for row in rows
        ],
    }


def _samples_as_json(samples: Sequence[float]) -> dict[str, object]:
    median = _finite(statistics.median(samples)) if samples else None
    return {"median": median, "samples": [_finite(sample) for sample in samples]}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, and so ends the job under measurement
    try:
        sys.exit(main(sys.argv[1:], os.environ))
    except KeyboardInterrupt:
        sys.exit(130)
