"""Output that logs have lost, folded: of each log and incarnation what was told last, which has the counts of all."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from toolkit.core.events import EventsDropped, LogsLost
from toolkit.core.history import Node
from toolkit.core.moment import Moment

#: what a timeline keeps of one node; the losses after that are in the recording only
LOST_LOGS_MAX = 1_000


def after(lost: tuple[LogsLost, ...], event: LogsLost) -> tuple[LogsLost, ...]:
    """The losses of a node after one more was told."""

    def what(loss: LogsLost) -> tuple[int, str]:
        return loss.incarnation, loss.path or loss.problem

    others = tuple(known for known in lost if what(known) != what(event))
    return (*others, event) if len(others) < LOST_LOGS_MAX else others


def events_dropped(draft: Any, node: Node, event: EventsDropped, at: Moment) -> Node:
    """Events that its recording did not get."""
    return replace(node, dropped=node.dropped + max(event.count, 0))
