"""What a job's events, ranks and failures are as rows of plain values, for DataFrames and whoever counts. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from toolkit.core.events import AnyEvent
from toolkit.core.history import Timeline
from toolkit.views.rows import RowMaker
from toolkit.views.telling import told

Row = dict[str, Any]
#: columns that tables have also when they are empty
EVENT_COLUMNS = (
    "at_s",
    "time",
    "node",
    "type",
    "words",
)
RANK_COLUMNS = (
    "rank",
    "node",
    "host",
    "local_rank",
    "role",
    "state",
    "incarnation",
    "pid",
    "exit_code",
    "signal",
    "step",
    "cpu_percent",
    "rss_bytes",
    "gpu_util_percent",
    "last",
)
FAILURE_COLUMNS = (
    "rank",
    "node",
    "local_rank",
    "incarnation",
    "round",
    "first",
    "exit_code",
    "signal",
    "message",
    "traceback",
    "time",
)
RESTART_COLUMNS = (
    "node",
    "reason",
    "round",
    "detect_s",
    "stop_s",
    "rendezvous_s",
    "start_s",
    "total_s",
)


def event_rows(of: Iterable[AnyEvent], started_ns: int) -> list[Row]:
    """One for each event: since when, who, what, in words; then its own fields.

    Args:
        started_ns: wall time of the first event.
    """
    rows = []
    for event in of:
        fields: Row = msgspec.to_builtins(event)
        words = told(event)
        rows.append(
            {
                "at_s": (event.wall_ns - started_ns) / 1e9,
                "time": datetime.fromtimestamp(event.wall_ns / 1e9, UTC),
                "node": event.node,
                "type": fields.pop("type", ""),
                "words": "" if words is None else words.words,
                **{name: value for name, value in fields.items() if name not in _SAID_ALREADY},
            }
        )
    return rows


_SAID_ALREADY = ("node", "wall_ns", "run_id")


def rank_rows(timeline: Timeline) -> list[Row]:
    """One for each rank, by global rank."""
    return [
        {
            "rank": row.now.global_rank,
            "node": row.key[0],
            "host": row.host,
            "local_rank": row.now.local_rank,
            "role": row.role,
            "state": row.state,
            "incarnation": row.now.number,
            "pid": row.now.pid,
            "exit_code": row.now.exit_code,
            "signal": row.now.signal,
            "step": row.step,
            "cpu_percent": row.usage.cpu_percent,
            "rss_bytes": row.usage.rss_bytes,
            "gpu_util_percent": row.usage.util_percent,
            "last": row.last,
        }
        for row in RowMaker().ranks(timeline)
    ]


def failure_rows(timeline: Timeline) -> list[Row]:
    """One for each failure, the earliest first by the wall clocks."""
    failures = sorted(timeline.failures.values(), key=lambda failure: failure.at.wall_ns)
    return [
        {
            "rank": each.global_rank,
            "node": each.node,
            "local_rank": each.local_rank,
            "incarnation": each.incarnation,
            "round": each.round,
            "first": each.first,
            "exit_code": each.exit_code,
            "signal": each.signal,
            "message": each.message,
            "traceback": each.traceback,
            "time": datetime.fromtimestamp(each.at.wall_ns / 1e9, UTC),
        }
        for each in failures
    ]


def restart_rows(timeline: Timeline) -> list[Row]:
    """One for each restart of each node, with what its phases took in seconds."""
    return [
        {
            "node": each.node,
            "reason": each.reason,
            "round": each.round,
            "detect_s": each.detect_s,
            "stop_s": each.stop_s,
            "rendezvous_s": each.rendezvous_s,
            "start_s": each.start_s,
            "total_s": each.total_s,
        }
        for each in timeline.restarts
    ]
