"""What came of an experiment, and how far two worlds agree, as lines for people: parts with their styles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from toolkit.core.words import plural
from toolkit.fronts.experiment.experiment import ExperimentResult, restarts_in_words
from toolkit.views.comparison import Comparison, Duration, NodeSteps
from toolkit.views.wording import duration_in_words, look_of

if TYPE_CHECKING:
    from simulator.scenario import Scenario

Line = list[tuple[str, str]]
#: what of a long run is shown; --json has all
_STEPS_MAX, _NODES_MAX, _DIFFERENCES_MAX, _FINDINGS_MAX = 24, 6, 8, 3


def result_lines(result: ExperimentResult) -> list[str]:
    """One run, as plain lines."""
    return _plain(of_result(result, unicode=True))


def comparison_lines(scenario: Scenario, seed: int, comparison: Comparison, words: list[str]) -> list[str]:
    """Two runs held against each other, as plain lines."""
    return _plain(of_comparison(scenario, seed, comparison, words, unicode=True))


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
    scenario: Scenario, seed: int, comparison: Comparison, words: list[str], *, unicode: bool
) -> Iterator[Line]:
    """Two runs: whether they agree, in what they differ, what each node went through, how long it took on each side."""
    colour, sign = look_of("succeeded" if comparison.agree else "failed", unicode=unicode)
    agree = "agree" if comparison.agree else f"differ in {plural(len(comparison.differences), 'thing')}"
    sides = f"{comparison.first} and {comparison.second} {agree}"
    yield [(f"{sign} ", f"bold {colour}"), (scenario.name, "bold"), (f" with seed {seed}: {sides}", colour)]
    if scenario.about:
        yield [(f"  {scenario.about}", "dim")]
    yield from _struck(words, unicode)
    yield []
    for difference in comparison.differences[:_DIFFERENCES_MAX]:
        yield [("  ✗ " if unicode else "  x ", "bold red"), (difference.words, "")]
    if len(comparison.differences) > _DIFFERENCES_MAX:
        yield [(f"    and {len(comparison.differences) - _DIFFERENCES_MAX} more; --json has all", "dim")]
    if comparison.differences:
        yield []
    yield from _steps(
        comparison.steps, {found.node for found in comparison.differences if found.kind in ("order", "ranks")}
    )
    yield []
    yield from _durations(comparison)


def _steps(nodes: list[NodeSteps], differ: set[str]) -> Iterator[Line]:
    """What the nodes went through; nodes of one story stand together."""
    stories: dict[tuple[str, ...], list[str]] = {}
    for node in nodes:
        if node.node not in differ:
            stories.setdefault(tuple(_shared(step) for step in node.first), []).append(node.node)
    for story, names in list(stories.items())[:_NODES_MAX]:
        yield [(f"  {_names(names)}, the same on both sides", "bold")]
        text = "; ".join(story[:_STEPS_MAX]) + ("; ..." if len(story) > _STEPS_MAX else "")
        yield [(f"    {text}", "")]


def _shared(step: str) -> str:
    """A step without what is told to one node alone, so that nodes with one story are told together."""
    return step.partition(" as node ")[0]


def _names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _durations(comparison: Comparison) -> Iterator[Line]:
    width = max((len(each.phase) for each in comparison.durations), default=0)
    first, second = comparison.first, comparison.second
    if comparison.durations:
        yield [(f"  {'longest of all nodes':<{width}}  {first:>14}  {second:>14}  ratio", "dim")]
    for each in comparison.durations:
        took = "  ".join(f"{duration_in_words(seconds):>14}" for seconds in (each.first_s, each.second_s))
        yield [(f"  {each.phase:<{width}}  {took}  {_ratio(each)}", "")]


def _ratio(duration: Duration) -> str:
    if duration.ratio is None:
        return "    -"
    return f"{duration.ratio:5.2f}" if duration.ratio < 100 else " >100"
