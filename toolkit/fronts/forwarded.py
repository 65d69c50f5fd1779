"""Signals that agents handed on to their workers, as `rally show` tells and lists them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from toolkit.core.history import Node
from toolkit.fronts.page import Page
from toolkit.views.wording import forwarded, local_time, moment_text, parsed

#: lines that are shown; `--json` has all
_SHOWN_MAX = 8


class ForwardedSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A signal that went on to these local ranks. Those in `waiting` had no handler for it then."""

    node: str
    signal: str
    local_ranks: list[int]
    waiting: list[int]
    at: str


def forwarded_summary(nodes: Iterable[Node]) -> list[ForwardedSummary]:
    """All of them, node by node."""
    return [
        ForwardedSummary(
            node=node.name,
            signal=went.name,
            local_ranks=list(went.local_ranks),
            waiting=list(went.waiting),
            at=moment_text(went.at),
        )
        for node in nodes
        for went in node.forwarded
    ]


def print_forwarded(page: Page, said: list[ForwardedSummary], *, several_nodes: bool) -> None:
    """A line for each, and one for those that are too many."""
    if not said:
        return
    page.gap()
    for went in said[:_SHOWN_MAX]:
        where = f"{went.node}: " if several_nodes else ""
        what = forwarded(went.signal, went.local_ranks, went.waiting)
        page.line(page.sign("running"), f" {where}{what}, at {local_time(parsed(went.at))}", indent=2)
    if len(said) > _SHOWN_MAX:
        page.line((f"and {len(said) - _SHOWN_MAX} more signals; --json has all", "dim"), indent=2)
