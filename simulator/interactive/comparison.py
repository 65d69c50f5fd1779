"""Where two runs part, and what came of each: of any two streams of events, simulated or recorded. Pure.

Nodes are compared one by one, each in the order of its own events. What says the same a little earlier or later is the
same: processes, clocks and counts of events are of their own run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import msgspec

from simulator.checkers import NodeEnd, Record
from simulator.checkers.record import Told
from simulator.trace import clipped, words_of
from toolkit.core import events
from toolkit.core.events import Event
from toolkit.core.words import plural

#: what is said within so many seconds is said at the same time: messages take some microseconds more or less
APART_S = 0.001

_NOTHING = "says nothing more"
#: fields that are of one run only
_OWN = frozenset({"v", "run_id", "node", "seq", "mono_ns", "wall_ns", "pid", "worker_id", "master_port"})
#: the process in the name of an agent
_PROCESS = re.compile(r"_\d+(_[0-9a-f]{6})?\b")
_WIDTH, _NODES_MAX, _OUTCOME_MAX = 98, 10, 12


@dataclass(frozen=True, slots=True)
class Parting:
    """The first thing in which two runs differ.

    Args:
        at_s: when: the earlier of the two.
        times_s: in each run; None where nothing was said.
        node: who said it.
        one: what was said, in words.
        other: in the other run.
    """

    at_s: float
    node: str
    one: str
    other: str
    times_s: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that came out differently.

    Args:
        what: rounds, restarts, failures, length, fault, or the name of a node.
        one: in words.
        other: in the other run.
    """

    what: str
    one: str
    other: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs side by side. Prints as one screen of text.

    Args:
        partings: of the nodes that differ, in the order of time.
        outcome: what came out differently.
        nodes: how many there are.
        events: how many events the runs have.
        names: what the runs are called.
    """

    partings: tuple[Parting, ...] = ()
    outcome: tuple[Difference, ...] = ()
    nodes: int = 0
    events: tuple[int, int] = (0, 0)
    names: tuple[str, str] = ("this run", "the other")

    @property
    def first(self) -> Parting | None:
        """Where they part; None if they do not."""
        return self.partings[0] if self.partings else None

    @property
    def by_node(self) -> dict[str, Parting]:
        """Where each node parts, of those that do."""
        return {parting.node: parting for parting in self.partings}

    @property
    def same(self) -> bool:
        """Whether there is no difference."""
        return not self.partings and not self.outcome

    def __str__(self) -> str:
        return "\n".join(_screen(self))


def compare(
    one: Record,
    other: Record,
    *,
    apart_s: float = APART_S,
    names: tuple[str, str] = ("this run", "the other"),
) -> Comparison:
    """Compare two runs.

    Args:
        one: from `record_of`, or of a report.
        other: the other.
        apart_s: how much later the same may be said.
        names: what to call them.
    """
    ours, theirs = _by_node(one), _by_node(other)
    partings = [
        parting
        for node in {**ours, **theirs}
        if (parting := _parting(node, ours.get(node, []), theirs.get(node, []), apart_s)) is not None
    ]
    return Comparison(
        partings=tuple(sorted(partings, key=lambda parting: parting.at_s)),
        outcome=tuple(_differences(one, other, apart_s)),
        nodes=len({**ours, **theirs}),
        events=(len(one.told), len(other.told)),
        names=names,
    )


def _by_node(record: Record) -> dict[str, list[Told]]:
    found: dict[str, list[Told]] = {}
    for life in record.lives:
        found.setdefault(life.name, []).extend(life.told)
    return found


# -- where they part ------------------------------------------------------------------------------------------


def _parting(node: str, ours: list[Told], theirs: list[Told], apart_s: float) -> Parting | None:
    for one, other in zip_longest(ours, theirs):
        if one is None or other is None:
            told = one or other
            said = _words(told.event)
            words = (said, _NOTHING) if other is None else (_NOTHING, said)
            return Parting(told.at_s, node, *words, (one and one.at_s, other and other.at_s))
        changed = _changed(one.event, other.event, apart_s)
        if changed or abs(other.at_s - one.at_s) > apart_s:
            words = _told_apart(one, other, changed)
            return Parting(min(one.at_s, other.at_s), node, *words, (one.at_s, other.at_s))
    return None


def _told_apart(one: Told, other: Told, changed: tuple[str, ...]) -> tuple[str, str]:
    ours, theirs = _words(one.event), _words(other.event)
    if not changed:
        later_s = other.at_s - one.at_s
        return ours, f"the same, {abs(later_s):.3g} s {'later' if later_s > 0 else 'earlier'}"
    if ours == theirs:
        return _words(one.event, changed), _words(other.event, changed)
    return ours, theirs


def _changed(one: Event, other: Event, apart_s: float) -> tuple[str, ...]:
    """The fields in which two events differ."""
    if one == other:
        return ()
    if type(one) is not type(other):
        return one.__struct_fields__
    return tuple(
        name
        for name in one.__struct_fields__
        if name not in _OWN and not _alike(getattr(one, name), getattr(other, name), apart_s)
    )


def _alike(one: Any, other: Any, apart_s: float) -> bool:
    match one, other:
        case float(), float():
            return one == other or abs(one - other) <= apart_s
        case str(), str():
            return one == other or _PROCESS.sub("", one) == _PROCESS.sub("", other)
        case list(), list():
            return len(one) == len(other) and all(
                _alike(*pair, apart_s) for pair in zip(one, other, strict=True)
            )
        case dict(), dict():
            return one.keys() == other.keys() and all(
                name in _OWN or _alike(value, other[name], apart_s) for name, value in one.items()
            )
        case msgspec.Struct(), msgspec.Struct():
            return _alike(msgspec.structs.asdict(one), msgspec.structs.asdict(other), apart_s)
        case _:
            return bool(one == other)


def _words(event: Event, fields: tuple[str, ...] = ()) -> str:
    """An event in words; with some of its fields where those say what differs."""
    tag = str(type(event).__struct_config__.tag).replace("_", " ")
    words = words_of(event) or tag
    if not fields:
        return words
    told = ", ".join(f"{name} {getattr(event, name, '-')!r}" for name in fields[:3] if name not in _OWN)
    return f"{words} ({told})"


# -- what came of them ----------------------------------------------------------------------------------------


def _differences(one: Record, other: Record, apart_s: float) -> Iterator[Difference]:
    for what, count in (("rounds", _rounds), ("restarts", _restarts), ("failures", _failures)):
        if count(one) != count(other):
            yield Difference(what, str(count(one)), str(count(other)))
    ended = _ended_s(one), _ended_s(other)
    if abs(ended[0] - ended[1]) > apart_s:
        yield Difference("length", f"{ended[0]:.3f} s", f"{ended[1]:.3f} s")
    struck = _struck(one), _struck(other)
    for words in dict.fromkeys((*struck[0], *struck[1])):
        if (words in struck[0]) != (words in struck[1]):
            yield Difference("fault", *(words if words in found else "-" for found in struck))
    ours, theirs = _ends(one), _ends(other)
    for node in {**ours, **theirs}:
        end, their_end = ours.get(node, "is not there"), theirs.get(node, "is not there")
        if end != their_end:
            yield Difference(node, end, their_end)


def _rounds(record: Record) -> int:
    return len(record.rounds)


def _restarts(record: Record) -> int:
    """Rounds with a member that had been in one before."""
    return sum(any(seat is not seat.life.seats[0] for seat in group.seats) for group in record.rounds)


def _failures(record: Record) -> int:
    return sum(isinstance(told.event, events.FailureRecorded) for told in record.told)


def _struck(record: Record) -> list[str]:
    return [f"{hit.words} at {hit.at_s:.1f} s" for hit in record.facts.hits if hit.words]


def _ended_s(record: Record) -> float:
    return record.facts.ended_s or (record.told[-1].at_s if record.told else 0.0)


def _ends(record: Record) -> dict[str, str]:
    """How each node ended: as the simulator knows it, else as its last agent said."""
    if record.facts.nodes:
        return {name: _end_in_words(end) for name, end in record.facts.nodes.items()}
    found: dict[str, str] = {}
    for life in record.lives:
        finished = life.finished
        found[life.name] = "has not ended" if finished is None else finished[1].result
    return found


def _end_in_words(end: NodeEnd) -> str:
    match end.result:
        case "RUNNING":
            return "still runs"
        case "WAITING":
            return "never started"
        case "LOST":
            return "lost power"
        case result:
            return result


# -- the screen -----------------------------------------------------------------------------------------------


def _screen(comparison: Comparison) -> Iterator[str]:
    first = comparison.first
    count = plural(comparison.nodes, "node")
    if comparison.same:
        yield f"the same: {plural(comparison.events[0], 'event')} of {count}, and what came of them"
        return
    if first is None:
        yield f"no node says anything else ({plural(comparison.events[0], 'event')} of {count})"
    else:
        yield f"they part at {first.at_s:.3f} s, on {first.node}; {len(comparison.partings)} of {count} differ"
        yield ""
        rows = [
            (parting.node, "", *map(_at, parting.times_s, (parting.one, parting.other)))
            for parting in comparison.partings
        ]
        yield from _table(("", "", *comparison.names), rows, _NODES_MAX)
    if comparison.outcome:
        yield ""
        ends = [(difference.what, "", difference.one, difference.other) for difference in comparison.outcome]
        yield from _table(("what came of it", "", *comparison.names), ends, _OUTCOME_MAX)


def _at(at_s: float | None, words: str) -> str:
    return words if at_s is None else f"{at_s:.3f} s {words}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], most: int) -> Iterator[str]:
    shown = [head, *rows[:most]]
    widths = [max(len(row[column]) for row in shown) for column in range(2)]
    lane = max((_WIDTH - sum(widths) - 8) // 2, 16)
    for row in shown:
        cells = [f"{row[0]:<{widths[0]}}", f"{row[1]:>{widths[1]}}"]
        cells.extend(f"{clipped(' '.join(words.split()), lane):<{lane}}" for words in row[2:])
        yield f"  {'  '.join(cell for cell, width in zip(cells, (*widths, 1, 1), strict=True) if width)}".rstrip()
    if len(rows) > most:
        yield f"  and {len(rows) - most} more"
