"""Which logs `rally logs` shows: of a rank's starts the one that was asked for, and of that its streams."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolkit.adapters.recording.log_places import log_path
from toolkit.core.errors import ConfigurationError
from toolkit.core.history import Incarnation, Timeline
from toolkit.core.words import ranks as ranks_in_words

_RANKS = re.compile(r"\s*\d+\s*(-\s*\d+\s*)?(,\s*\d+\s*(-\s*\d+\s*)?)*")
#: a range of ranks that nobody has
_RANK_MAX = 1_000_000

StreamName = Literal["stdout", "stderr"]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked for.

    Args:
        ranks: global ranks, or None for all.
        local_ranks: the same for local ranks.
        node: the beginning of a node's name, or empty.
        streams: which of the two.
        incarnation: the number of a start, or None for the latest.
        previous: the start before the latest.
    """

    ranks: frozenset[int] | None = None
    local_ranks: frozenset[int] | None = None
    node: str = ""
    streams: tuple[StreamName, ...] = ("stdout", "stderr")
    incarnation: int | None = None
    previous: bool = False


@dataclass(frozen=True, slots=True)
class ChosenLog:
    """One log. `path` is None where the stream went to the console alone."""

    rank: int
    start: int
    node: str
    stream: StreamName
    path: Path | None


@dataclass(frozen=True, slots=True)
class _Start:
    node: str
    it: Incarnation


def parse_ranks(text: str | None, name: str) -> frozenset[int] | None:
    """Ranks of a list such as 3 or 0,4-7.

    Raises:
        ConfigurationError: it is none.
    """
    if text is None:
        return None
    if not _RANKS.fullmatch(text):
        raise ConfigurationError(f"{name} is {text!r}; give ranks such as 3 or 0,4-7")
    found: set[int] = set()
    for part in text.split(","):
        low, _, high = part.partition("-")
        first, last = int(low), int(high or low)
        if not first <= last < _RANK_MAX:
            raise ConfigurationError(f"{name} has {part.strip()!r}; give the lower rank first, such as 4-7")
        found.update(range(first, last + 1))
    return frozenset(found)


def chosen_logs(timeline: Timeline, folder: Path, choice: Choice) -> list[ChosenLog]:
    """The logs that were asked for, by rank. None if nothing was started yet.

    Raises:
        ConfigurationError: there is no such rank, node or start; the message has those there are.
    """
    starts = _starts(timeline, choice)
    _check_known(timeline, starts, choice)
    logs = []
    for rank in sorted(starts):
        start = _wanted(rank, starts[rank], choice)
        if start is None:
            continue
        for stream in choice.streams:
            name = start.it.stdout if stream == "stdout" else start.it.stderr
            kept = name if name != "/dev/null" else ""
            logs.append(ChosenLog(rank, start.it.number, start.node, stream, log_path(kept, folder)))
    return logs


def _starts(timeline: Timeline, choice: Choice) -> dict[int, list[_Start]]:
    """The starts of each global rank in their order, on whichever node it was."""
    found: dict[int, list[_Start]] = {}
    for name, node in timeline.nodes.items():
        if not name.startswith(choice.node):
            continue
        for local_rank, rank in node.ranks.items():
            if choice.local_ranks is not None and local_rank not in choice.local_ranks:
                continue
            for start in (*rank.past, rank.now):
                if choice.ranks is None or start.global_rank in choice.ranks:
                    found.setdefault(start.global_rank, []).append(_Start(name, start))
    for starts in found.values():
        starts.sort(key=lambda start: (start.it.started.wall_ns if start.it.started else 0, start.it.number))
    return found


def _check_known(timeline: Timeline, starts: dict[int, list[_Start]], choice: Choice) -> None:
    nodes = timeline.nodes
    if choice.node and not any(name.startswith(choice.node) for name in nodes):
        raise ConfigurationError(
            f"no node of this run begins with {choice.node!r}; there are {', '.join(list(nodes)[:8])}"
        )
    known = [rank.now.global_rank for node in nodes.values() for rank in node.ranks.values()]
    known += [
        past.global_rank for node in nodes.values() for rank in node.ranks.values() for past in rank.past
    ]
    missing = sorted((choice.ranks or frozenset()) - set(starts))
    if missing and known:
        where = f" with node {choice.node!r} or this local rank" if set(missing) & set(known) else ""
        raise ConfigurationError(
            f"this run has no {ranks_in_words(missing)}{where}; it has {ranks_in_words(known)}"
        )
    if choice.local_ranks is not None and known and not starts:
        local = [local_rank for node in nodes.values() for local_rank in node.ranks]
        raise ConfigurationError(
            f"this run has no local {ranks_in_words(sorted(choice.local_ranks))} there; "
            f"it has local {ranks_in_words(local)}"
        )
    if (choice.previous or choice.incarnation is not None) and starts:
        _check_starts(starts, choice)


def _check_starts(starts: dict[int, list[_Start]], choice: Choice) -> None:
    if any(_wanted(rank, of, choice) is not None for rank, of in starts.items()):
        return
    which = f"{ranks_in_words(sorted(starts))} {'has' if len(starts) == 1 else 'have'}"
    if choice.previous:
        raise ConfigurationError(f"{which} been started only once; leave --previous out")
    numbers = sorted({start.it.number for of in starts.values() for start in of})
    raise ConfigurationError(
        f"{which} no incarnation {choice.incarnation}; there {'is' if len(numbers) == 1 else 'are'} "
        f"{', '.join(map(str, numbers))}"
    )


def _wanted(rank: int, starts: Sequence[_Start], choice: Choice) -> _Start | None:
    if choice.incarnation is not None:
        return next((s for s in reversed(starts) if s.it.number == choice.incarnation), None)
    if choice.previous:
        return starts[-2] if len(starts) > 1 else None
    return starts[-1]
