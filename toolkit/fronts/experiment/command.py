"""`rally experiment`: a scenario in the simulator, on real processes of this machine, or in both. stdout is data."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import msgspec

from toolkit import wiring
from toolkit.adapters.recording.directory import stamped_name
from toolkit.core.errors import ConfigurationError, RallyError
from toolkit.core.experiment import NodeEnd, Strike
from toolkit.fronts.experiment.experiment import NAMES, WORLDS, Experiment, ExperimentResult, World
from toolkit.fronts.experiment.telling import of_comparison, of_result
from toolkit.fronts.page import Page
from toolkit.fronts.show import json_text
from toolkit.views.comparison import Comparison
from toolkit.views.comparison_lines import Line
from toolkit.views.wording import visible

BAD_INPUT, DIFFER, BROKEN_OFF = 2, 1, 3
SEED = 0

_DESCRIPTION = """\
Run one scenario in the simulator, or with real agents and workers as processes of this machine, which are killed,
stopped and cut off for real; or in both, and compare the two recordings phase by phase.
"""
_EPILOG = """\
With both, an order, a rank, a restart or an outcome that differs is named; durations are shown side by side and are
never a difference.

exit codes: 0 all promises held and, with both, the two agree; 1 a promise was broken, or they differ;
2 bad usage or input; 3 it was broken off: by a limit, or Ctrl-C.
"""


class WorldSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    Args:
        world: "sim" or "local".
        path: of the recording.
        state: how the job ended, as in `rally show --json`.
        duration_s: of the longest agent; None if one did not say that it ended.
        rounds: that formed.
        restarts: whatever the reason.
        restarts_used: those that spent the budget.
        strikes: faults that struck.
        words: all faults as they struck, or found nobody.
        nodes: how each ended.
        broken: promises that were broken.
        finding: why it was broken off, or empty.
    """

    world: str
    path: str
    state: str
    duration_s: float | None
    rounds: int
    restarts: int
    restarts_used: int
    strikes: list[Strike]
    words: list[str]
    nodes: dict[str, NodeEnd]
    broken: list[str]
    finding: str


class ExperimentSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What `rally experiment --json` prints.

    Args:
        scenario: its name.
        seed: of the experiment.
        worlds: one run each.
        comparison: of the two; None where one was run.
        exit_code: of the command.
    """

    scenario: str
    seed: int
    worlds: list[WorldSummary]
    comparison: Comparison | None
    exit_code: int


def experiment_command(argv: Sequence[str], *, state_dir: Path, stdout: TextIO, stderr: TextIO) -> int:
    """Run an experiment and say what came of it.

    Args:
        argv: what follows `rally experiment`.
        state_dir: where runs are recorded, unless --run-dir says otherwise.

    Returns:
        The exit code; see the end of `rally experiment --help`.
    """
    args = _parse(argv)
    try:
        experiments = list(_experiments(args, state_dir))
        results = [_run(experiment, stderr) for experiment in experiments]
    except RallyError as error:
        print(visible(f"rally experiment: {error}", stderr), file=stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("rally experiment: stopped by Ctrl-C; all that it had started is gone", file=stderr)
        return BROKEN_OFF
    comparison = results[0].compare(results[1]) if len(results) == 2 else None
    said = summary(results, comparison)
    if args.json:
        stdout.write(json_text(said, stdout))
    else:
        _tell(results, comparison, stdout)
    return said.exit_code


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rally experiment",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("scenario", metavar="SCENARIO|FILE", help="a name of `rally sim --list`, or a TOML file")
    add("--world", default="both", metavar="sim|local|both", help="where it is to run (default: both)")
    add("--seed", type=int, default=SEED, metavar="N", help=f"draws what is left open (default: {SEED})")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change a field, as for `rally sim`")
    add("--run-dir", type=Path, metavar="DIR", help="record there; with both, in DIR/sim and DIR/local")
    add("--json", action="store_true", help="one JSON object on stdout, for machines")
    args = parser.parse_args(argv)
    if args.world not in (*WORLDS, "both"):
        parser.error(f"--world is {args.world!r}; give sim, local or both")
    return args


def _experiments(args: argparse.Namespace, state_dir: Path) -> Iterator[Experiment]:
    """Those that were asked for; all are checked before the first one runs."""
    from toolkit.fronts.sim import need_greenlet, scenario_from

    worlds: Sequence[World] = WORLDS if args.world == "both" else (args.world,)
    if "sim" in worlds:
        need_greenlet()
    scenario = scenario_from(args.scenario, args.set)
    for world in worlds:
        path = args.run_dir
        if path is None:
            path = state_dir / stamped_name(f"{scenario.name}-{world}", wiring.wall_ns())
        elif len(worlds) > 1:
            path = path / world
        _check_free(path)
        yield Experiment(scenario, world, args.seed, path)


def _check_free(path: Path) -> None:
    try:
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return
        what = "is not empty" if path.is_dir() else "is no folder"
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}; give another --run-dir") from error
    raise ConfigurationError(f"{path} {what}; give another --run-dir, or remove it")


def _run(experiment: Experiment, stderr: TextIO) -> ExperimentResult:
    if experiment.world == "local":
        print(
            visible(
                f"rally: runs on {NAMES['local']}; watch it with `rally top {experiment.run_dir}`", stderr
            ),
            file=stderr,
        )
    return experiment.run()


def summary(results: Sequence[ExperimentResult], comparison: Comparison | None) -> ExperimentSummary:
    """What --json prints."""
    codes = [result.exit_code for result in results]
    # What was broken off has not come to where the other one has.
    differ = comparison is not None and not comparison.agree and BROKEN_OFF not in codes
    code = DIFFER if DIFFER in codes or differ else max(codes)
    return ExperimentSummary(
        scenario=results[0].scenario.name,
        seed=results[0].seed,
        worlds=[_world(result) for result in results],
        comparison=comparison,
        exit_code=code,
    )


def _world(result: ExperimentResult) -> WorldSummary:
    timeline = result.timeline
    return WorldSummary(
        world=result.world,
        path=str(result.path),
        state=timeline.state,
        duration_s=timeline.duration_s,
        rounds=timeline.rounds,
        restarts=timeline.restarts_total,
        restarts_used=timeline.restarts_used,
        strikes=result.noted.strikes,
        words=result.noted.words,
        nodes=dict(result.ends),
        broken=[f"{found.promise}: {found.detail}" for found in result.broken],
        finding=result.noted.finding,
    )


def _tell(results: Sequence[ExperimentResult], comparison: Comparison | None, stdout: TextIO) -> None:
    page = Page(stdout)
    if comparison is None:
        _print(page, of_result(results[0], unicode=page.unicode))
        return
    _print(page, of_comparison(results[0], results[1], comparison, unicode=page.unicode))
    page.gap()
    for result in results:
        page.line((f"recording of {NAMES[result.world]:<14}  {result.path}", "dim"), indent=2)


def _print(page: Page, lines: Iterator[Line]) -> None:
    for line in lines:
        # Page breaks lines on terminals: the indent goes with each part of it.
        words = "".join(part for part, _ in line)
        indent = len(words) - len(words.lstrip())
        parts: list[Any] = list(line)
        if parts and indent:
            parts[0] = (parts[0][0].lstrip(), parts[0][1])
        page.line(*parts, indent=indent)


def json_schema() -> bytes:
    """The JSON schema of `ExperimentSummary`, as `experiment.schema.json` has it."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(ExperimentSummary)), indent=2) + b"\n"
