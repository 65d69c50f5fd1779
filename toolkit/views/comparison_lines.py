"""Two recordings held against each other, as lines for people: parts with their styles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from toolkit.core.words import plural
from toolkit.views.wording import duration_in_words, look_of

if TYPE_CHECKING:
    from toolkit.views.comparison import Comparison, Duration, NodeSteps

Line = list[tuple[str, str]]
#: what of a long run is shown; --json has all
_STEPS_MAX, _NODES_MAX, _DIFFERENCES_MAX = 24, 6, 8


def headline(comparison: Comparison, name: str, *, unicode: bool) -> Line:
    """Whether they agree.

    Args:
        name: of what was compared, in front; may be empty.
    """
    colour, sign = look_of("succeeded" if comparison.agree else "failed", unicode=unicode)
    agree = "agree" if comparison.agree else f"differ in {plural(len(comparison.differences), 'thing')}"
    words = f"{comparison.first} and {comparison.second} {agree}"
    return [(f"{sign} ", f"bold {colour}"), (name, "bold"), (f" {words}" if name else words, colour)]


def lines(comparison: Comparison, *, unicode: bool) -> Iterator[Line]:
    """In what they differ, what each node went through, how long it took on each side."""
    for difference in comparison.differences[:_DIFFERENCES_MAX]:
        yield [("  ✗ " if unicode else "  x ", "bold red"), (difference.words, "")]
    if len(comparison.differences) > _DIFFERENCES_MAX:
        yield [(f"    and {len(comparison.differences) - _DIFFERENCES_MAX} more; --json has all", "dim")]
    if comparison.differences:
        yield []
    told_already = {found.node for found in comparison.differences if found.kind in ("order", "ranks")}
    yield from _steps([node for node in comparison.steps if node.node not in told_already])
    yield []
    yield from _durations(comparison)


def _steps(nodes: Sequence[NodeSteps]) -> Iterator[Line]:
    """What the nodes went through; nodes of one story stand together."""
    stories: dict[tuple[str, ...], list[str]] = {}
    for node in nodes:
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
