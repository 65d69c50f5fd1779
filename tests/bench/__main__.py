"""`make bench`: ours and torchrun by turns in one run; medians, ratios and goals in one table. Then the simulator.

By turns, because a machine's speed drifts; and a ratio of two medians taken together outlives the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from . import sim
from .job import RALLY, TORCHRUN, BenchError, Launcher
from .measures import SCENARIOS, Figures, Measure, Scenario


@dataclass(frozen=True, slots=True)
class Row:
    """One measure's outcome. Samples in the order they were taken, `[runs]`."""

    measure: Measure
    theirs: tuple[float, ...]
    ours: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def verdict(self) -> str:
        if self.measure.goal is None:
            return ""
        return "met" if self.ratio <= self.measure.goal else "missed"


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    simulated = [sim.ALL, *(measure.name for measure in sim.MEASURES)]
    names = [*(measure.name for scenario in SCENARIOS for measure in scenario.measures), *simulated]
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Rallypoint and torchrun by turns."
    )
    parser.add_argument("--runs", type=int, default=7, help="runs of each launcher per scenario (default 7)")
    parser.add_argument(
        "--only",
        action="append",
        choices=names,
        help="this measure only; may be repeated; sim is all of those",
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
    wanted = set(arguments.only or [sim.ALL, *(m.name for scenario in SCENARIOS for m in scenario.measures)])
    narration = Console(stderr=True, highlight=False)
    rows: list[Row] = []
    sim_rows: list[sim.SimRow] = []
    try:
        for scenario in SCENARIOS:
            if wanted & {measure.name for measure in scenario.measures}:
                rows += compare(scenario, ours, arguments.runs, arguments.seed, environ, narration)
        for measure in sim.MEASURES:
            if wanted & {sim.ALL, measure.name}:
                narration.print(f"simulator: {measure.name}")
                sim_rows.append(sim.measured(measure, arguments.runs, environ))
    except BenchError as error:
        narration.print(f"bench: {error}", markup=False, soft_wrap=True)
        return 1
    rows = [row for row in rows if row.measure.name in wanted]
    if arguments.json:
        print(json.dumps(as_json(rows, arguments.runs) | {"simulator": sim.as_json(sim_rows)}, indent=2))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 110)
    if rows:
        console.print(as_table(rows, ours.name, arguments.runs))
    if sim_rows:
        console.print(sim.as_table(sim_rows, arguments.runs))
    return 0


def compare(
    scenario: Scenario, ours: Launcher, runs: int, seed: int, environ: Mapping[str, str], narration: Console
) -> list[Row]:
    """Run the scenario with torchrun and ours by turns, after one run of each that does not count."""
    samples: tuple[list[Figures], list[Figures]] = ([], [])
    for run in range(-1, runs):
        title = scenario.run.__name__.replace("_", " ")
        narration.print(f"{title}: " + (f"run {run + 1} of {runs}" if run >= 0 else "warm-up"))
        for launcher, taken in zip((TORCHRUN, ours), samples, strict=True):
            # Both launchers of a pair get the same random numbers.
            figures = scenario.run(launcher, environ, random.Random(f"{seed}/{run}"))
            if run >= 0:
                taken.append(figures)
    return [
        Row(m, tuple(f[m.name] for f in samples[0]), tuple(f[m.name] for f in samples[1]))
        for m in scenario.measures
    ]


def as_table(rows: Sequence[Row], ours: str, runs: int) -> Table:
    """One row a measure; medians, with the smallest and the largest sample below."""
    table = Table(title=f"{ours} and torchrun by turns, medians of {runs}", title_justify="left")
    table.add_column("measure")
    for heading in ("torchrun", ours, "ratio", "goal"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for row in rows:
        goal = "" if row.measure.goal is None else f"≤ {row.measure.goal:g}"
        table.add_row(
            row.measure.title,
            _median_and_range(row.theirs, row.measure.unit),
            _median_and_range(row.ours, row.measure.unit),
            f"{row.ratio:.2f}",
            goal,
            row.verdict,
            style="dim" if row.measure.goal is None else "",
        )
    return table


def _median_and_range(samples: Sequence[float], unit: str) -> str:
    digits = 3 if unit == "s" else 1
    low, middle, high = min(samples), statistics.median(samples), max(samples)
    return f"{middle:.{digits}f} {unit}\n{low:.{digits}f}-{high:.{digits}f}"


def as_json(rows: Sequence[Row], runs: int) -> dict[str, object]:
    return {
        "runs": runs,
        "measures": [
            asdict(row.measure)
            | {
                "torchrun": {"median": statistics.median(row.theirs), "samples": row.theirs},
                "ours": {"median": statistics.median(row.ours), "samples": row.ours},
                "ratio": row.ratio,
                "verdict": row.verdict,
            }
            for row in rows
        ],
    }


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, and so ends the job under measurement
    try:
        sys.exit(main(sys.argv[1:], os.environ))
    except KeyboardInterrupt:
        sys.exit(130)
