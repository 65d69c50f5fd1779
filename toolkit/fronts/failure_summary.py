"""One worker that failed, as a part of what `rally show --json` prints. Fields are only added."""

from __future__ import annotations

import msgspec

from toolkit.core import timeline as tl
from toolkit.core.words import failing
from toolkit.views.wording import moment_text


class FailureSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One worker that failed by itself. `text` says it in words; `first` marks the likely cause of the others.

    `what` it died of, `error_class`, `hand` and `remedy` are as `failure_recorded` events have them.
    """

    text: str
    node: str
    host: str
    pid: int
    local_rank: int
    global_rank: int
    incarnation: int
    round: int
    exit_code: int | None
    signal: str
    message: str
    traceback: str
    error_file: str
    stderr: str
    first: bool
    at: str
    after_s: float | None
    what: str = ""
    error_class: str = "unknown"
    hand: str = "unclear"
    remedy: str = ""


def failure_summary(failure: tl.Failure, timeline: tl.Timeline) -> FailureSummary:
    """What the timeline has of one failure."""
    node = timeline.nodes[failure.node]
    return FailureSummary(
        text=failure_in_words(failure, timeline),
        node=failure.node,
        host=failure.hostname,
        pid=failure.pid,
        local_rank=failure.local_rank,
        global_rank=failure.global_rank,
        incarnation=failure.incarnation,
        round=failure.round,
        exit_code=failure.exit_code,
        signal=failure.signal,
        message=failure.message,
        traceback=failure.traceback,
        error_file=failure.error_file,
        stderr=_stderr_of(node, failure),
        first=failure.first,
        at=moment_text(failure.at),
        after_s=tl.seconds_between(node.first_event, failure.at),
        what=failure.what,
        error_class=failure.error_class,
        hand=failure.hand,
        remedy=failure.remedy,
    )


def _stderr_of(node: tl.Node, failure: tl.Failure) -> str:
    rank = node.ranks.get(failure.local_rank) if failure.life == node.life else None
    if rank is None:
        return ""
    starts = (rank.now, *rank.past)
    return next((start.stderr for start in starts if start.number == failure.incarnation), "")


def failure_in_words(failure: tl.Failure, timeline: tl.Timeline) -> str:
    """Who failed, and how."""
    where = _place(failure, timeline)
    pid = f", pid {failure.pid}" if failure.pid > 0 else ""
    who = f"rank {failure.global_rank} (local rank {failure.local_rank} on {where}{pid})"
    how, detail = failing(failure.exit_code, failure.signal, failure.message)
    return f"{who} {how}: {detail}" if detail else f"{who} {how}"


def _place(failure: tl.Failure, timeline: tl.Timeline) -> str:
    """The host, or the node where several nodes are on that host or it is not known."""
    same_host = sum(node.host == failure.hostname for node in timeline.nodes.values())
    return f"node {failure.hostname if failure.hostname and same_host == 1 else failure.node}"
