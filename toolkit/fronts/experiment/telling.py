"""What came of an experiment, and how far two worlds agree, as lines for people: parts with their styles."""

from __future__ import annotations

from collections.abc import Iterator

from toolkit.core.words import plural
from toolkit.fronts.experiment.experiment import NAMES, ExperimentResult, restarts_in_words
from toolkit.views.comparison import Comparison
from toolkit.views.comparison_lines import Line, headline, lines
from toolkit.views.wording import duration_in_words, look_of

#: what of a long run is shown; --json has all
_FINDINGS_MAX = 3


def result_lines(result: ExperimentResult) -> list[str]:
    """One run, as plain lines."""
    return _plain(of_result(result, unicode=True))


def _plain(lines: Iterator[Line]) -> list[str]:
    return ["".join(words for words, _ in line).rstrip() for line in lines]


def of_result(result: ExperimentResult, *, unicode: bool) -> Iterator[Line]:
    """One run: how it ended, what struck it, what became of each node, which promises were broken."""
    timeline = result.timeline
    state = timeline.state if not result.noted.finding else "stopped"
    colour, sign = look_of(state, unicode=unicode)
    took = duration_in_words(timeline.duration_s)
    where = "simulated" if result.world == "sim" else "on real processes"
    ended = f"{state} in {took}" if timeline.duration_s is not None else state
    yield [
        (f"{sign} ", f"bold {colour}"),
        (result.scenario.name, "bold"),
        (f" {where}: {ended}, {restarts_in_words(timeline)}", colour),
    ]
    yield [(f"  {result.scenario.about}" if result.scenario.about else "", "dim")]
    if result.noted.finding:
        yield [(f"  {result.noted.finding}", "")]
    yield from _struck(result.noted.words, unicode)
    for name, end in result.ends.items():
        code = "" if end.exit_code is None else f", exit code {end.exit_code}"
        yield [(f"  {name:<12} ", ""), (f"{end.result}{code}", "")]
    for found in result.broken[:_FINDINGS_MAX]:
        yield [("  ✗ " if unicode else "  x ", "bold red"), (f"{found.promise}: {found.detail}", "")]
    if not result.broken:
        held = len(result.judgement.with_status("held"))
        yield [(f"  {plural(held, 'promise')} held, and none was broken that could have been kept", "dim")]
    yield [(f"  recording    {result.path}", "dim")]


def _struck(words: list[str], unicode: bool) -> Iterator[Line]:
    for number, said in enumerate(words, 1):
        yield [("  ⚡ " if unicode else "  ! ", "yellow"), (f"fault {number}: {said}", "")]


def of_comparison(
    first: ExperimentResult, second: ExperimentResult, comparison: Comparison, *, unicode: bool
) -> Iterator[Line]:
    """Two runs: whether they agree, what struck them, and all that the comparison says."""
    scenario = first.scenario
    yield headline(comparison, f"{scenario.name} with seed {first.seed}:", unicode=unicode)
    if scenario.about:
        yield [(f"  {scenario.about}", "dim")]
    yield from _struck(first.noted.words, unicode)
    for result in (first, second):
        where = NAMES[result.world]
        if result.noted.finding:
            yield [(f"  broken off, in {where}: {result.noted.finding}", "")]
        for found in result.broken[:_FINDINGS_MAX]:
            yield [
                ("  ✗ " if unicode else "  x ", "bold red"),
                (f"in {where}: {found.promise}: {found.detail}", ""),
            ]
    yield []
    yield from lines(comparison, unicode=unicode)
