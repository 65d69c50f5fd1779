"""Workers that hung, for `rally show`: as values, and on the page."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from toolkit.core.hanging.hang_story import Hang
from toolkit.core.history import Node, Timeline
from toolkit.core.moment import seconds_between
from toolkit.core.words import ranks
from toolkit.fronts.page import Page
from toolkit.views.hanging import stack_lines
from toolkit.views.wording import duration_in_words, moment_text

#: the latest of them are shown; --json has all
_HANGS_MAX = 3


class HungSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One worker that hung. `kind` is "stopped", "traced", "stuck", "standing", "silent" or "timer"."""

    local_rank: int
    global_rank: int
    pid: int
    kind: str
    for_s: float
    step: int | None
    culprit: bool


class HangSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One report of workers that hang.

    `lasted_s` is from the report until they moved again, were stopped, or were reported anew; null while they hang.
    """

    node: str
    incarnation: int
    at: str
    after_s: float | None
    why: str
    workers: list[HungSummary]
    odd: list[int]
    killed: list[int]
    recovered: list[int]
    lasted_s: float | None
    stacks: str


def hang_summaries(timeline: Timeline) -> list[HangSummary]:
    """All reports of all nodes, by the wall clocks."""
    of_all = ((node, hang) for node in timeline.nodes.values() for hang in node.hangs)
    return [_summary(node, hang) for node, hang in sorted(of_all, key=lambda pair: pair[1].at.wall_ns)]


def _summary(node: Node, hang: Hang) -> HangSummary:
    return HangSummary(
        node=node.name,
        incarnation=hang.incarnation,
        at=moment_text(hang.at),
        after_s=seconds_between(node.first_event, hang.at),
        why=hang.why,
        workers=[
            HungSummary(
                local_rank=worker.local_rank,
                global_rank=worker.global_rank,
                pid=worker.pid,
                kind=worker.kind,
                for_s=worker.for_s,
                step=worker.step,
                culprit=worker.culprit,
            )
            for worker in hang.workers
        ],
        odd=list(hang.odd),
        killed=list(hang.kills),
        recovered=list(hang.recovered),
        lasted_s=seconds_between(hang.at, hang.ended),
        stacks=hang.stacks,
    )


def print_hangs(page: Page, hangs: list[HangSummary]) -> None:
    """The latest of them; of the last one also where the workers were."""
    if not hangs:
        return
    page.gap()
    if len(hangs) > _HANGS_MAX:
        page.line(
            (f"{len(hangs) - _HANGS_MAX} earlier reports of workers that hung; --json has all", "dim"),
            indent=2,
        )
    for hang in hangs[-_HANGS_MAX:]:
        after = f"after {duration_in_words(hang.after_s)}: " if hang.after_s is not None else ""
        page.line(page.sign("unkillable"), " ", (after, "dim"), (f"hung: {hang.why}", "bold"), indent=2)
        for words in _what_became(hang):
            page.line((words, "dim"), indent=4)
    for line in stack_lines(hangs[-1].stacks):
        page.line((line, "dim"), indent=6)


def _what_became(hang: HangSummary) -> Iterable[str]:
    if hang.odd:
        yield f"{ranks(hang.odd)} {'was' if len(hang.odd) == 1 else 'were'} elsewhere in the code than most"
    if hang.killed:
        yield f"the agent killed local {ranks(hang.killed)} because of it"
    elif hang.recovered:
        moved = ranks(hang.recovered)
        took = f", {duration_in_words(hang.lasted_s)} later" if hang.lasted_s is not None else ""
        yield f"{moved} moved again{took}"
