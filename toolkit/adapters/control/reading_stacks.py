"""Where the threads of this node's workers are, for those who ask its agent; as plain values, and back."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from toolkit.adapters.stacks import PySpy
from toolkit.core.history import Node
from toolkit.core.stacks import Answer, Stacks, Target, Unread
from toolkit.core.timeline import Timeline

#: py-spy takes a core for a moment, which belongs to the job: one who asks at a time
_one_asks = threading.Lock()


def stacks_of(timeline: Timeline, local_ranks: Sequence[int]) -> dict[str, Any]:
    """The stacks of workers of the node that tells this timeline, by local rank. Takes half a minute at the most."""
    node = next(iter(timeline.nodes.values()), None)
    targets = {} if node is None else _targets(node, local_ranks)
    answers: dict[int, Answer] = {
        number: Unread("does not run now") for number in local_ranks if number not in targets
    }
    if not _one_asks.acquire(blocking=False):
        answers |= {number: Unread("is not read now: somebody else asks; try again") for number in targets}
    else:
        try:
            answers |= zip(targets, PySpy().dump(list(targets.values())), strict=True)
        finally:
            _one_asks.release()
    return {str(number): msgspec.to_builtins(answers[number]) for number in local_ranks}


def _targets(node: Node, local_ranks: Sequence[int]) -> dict[int, Target]:
    found = {}
    for number in local_ranks:
        rank = node.ranks.get(number)
        if rank is not None and rank.now.state == "running" and rank.now.started is not None:
            found[number] = Target(rank.now.global_rank, node.host, rank.now.pid, rank.now.started.wall_ns)
    return found


def answers_in(said: Mapping[str, Any]) -> dict[int, Answer]:
    """What an agent has answered. What is none is left out."""
    answers: dict[int, Answer] = {}
    for number, value in said.items():
        if not (number.isascii() and number.isdecimal() and isinstance(value, dict)):
            continue
        try:
            unread = "why" in value
            answers[int(number)] = (
                msgspec.convert(value, Unread) if unread else msgspec.convert(value, Stacks)
            )
        except msgspec.ValidationError:
            continue
    return answers
