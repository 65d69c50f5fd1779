"""Many ranks in a few rows: those in one state, or with one last line of their logs, together; odd ones first. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from toolkit.views.rows import RANK_STATES, RankKey, RankRow

Fold = Literal["", "state", "line"]
#: in the order in which a key goes through them
FOLDS: tuple[Fold, ...] = ("", "state", "line")

_NUMBER = re.compile(r"[+-]?\d+(?:[.,:]\d+)*(?:e[+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class RankGroup:
    """Ranks that are alike.

    Args:
        key: what they have in common.
        state: of each.
        line: the last one of the first of them.
        ranks: global, ascending.
        members: their keys.
    """

    key: tuple[str, str]
    state: str
    line: str
    ranks: tuple[int, ...]
    members: frozenset[RankKey]


def folded(rows: Iterable[RankRow], fold: Fold, last: Callable[[RankRow], str]) -> list[RankGroup]:
    """Groups, what is wrong first, then the smallest: who differs from the many is whom one looks for.

    Args:
        last: the last line of a rank, in which numbers make no difference.
    """
    groups: dict[tuple[str, str], list[RankRow]] = {}
    lines: dict[tuple[str, str], str] = {}
    for row in rows:
        line = last(row) if fold == "line" else ""
        key = row.state, _NUMBER.sub("#", line)
        groups.setdefault(key, []).append(row)
        lines.setdefault(key, line)
    made = [_group(key, members, lines[key]) for key, members in groups.items()]
    return sorted(made, key=lambda group: (RANK_STATES.index(group.state), len(group.ranks), group.ranks))


def _group(key: tuple[str, str], members: Sequence[RankRow], line: str) -> RankGroup:
    numbers = tuple(sorted(row.now.global_rank for row in members))
    return RankGroup(key, key[0], line, numbers, frozenset(row.key for row in members))
