"""Who failed first: failure records of all nodes put in order, the same on each of them. Pure.

A record is first-hand if the worker died of itself (a signal that the agent did not send, the kernel's OOM killer, an
exception of its own, an error of its GPU), and second-hand if it died of somebody else's death: a peer closed the
connection, a collective was aborted or timed out. What can't be told apart by its text comes in between. Among equals
the store's order decides: each record took a number when it was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from toolkit.core.hanging.watched import HUNG
from toolkit.core.words import ending, in_short

Hand = Literal["first", "unclear", "second"]

_ORDER: dict[str, int] = {"first": 0, "unclear": 1, "second": 2}
#: records that a job keeps of one round, and characters of a message and a traceback in each
RECORDS_MAX, MESSAGE_MAX, TRACEBACK_MAX = 64, 2_000, 8_000
#: signals by which a process ends because of what itself did, or what the kernel or an operator did to it
_OWN_SIGNALS = ("SIGKILL", "SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGTERM", "SIGINT", "SIGXCPU", "SIGSYS")
#: what gloo, NCCL, torch's stores and sockets say when a peer has gone; texts of torch 2.6 to 2.13
_PEER_GONE = re.compile(
    r"connection (was )?(likely )?(closed|reset|refused|aborted)|broken pipe|socket (closed|timeout)"
    r"|by peer|(a|the|remote) peer (is|has|was)|remote (error|process|side)|ncclRemoteError|ncclSystemError"
    r"|communicator (was|is) aborted|collective (operation )?(timed out|timeout|aborted)"
    r"|watchdog caught collective|timed out (waiting|after)|wait timeout|DistBackendError.*abort"
    r"|DistNetworkError|DistStoreError|monitoredBarrier|pair closure",
    re.IGNORECASE,
)


class FailureRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One worker that failed, as its agent tells the others.

    Args:
        order: number that it took in the store; 0 where nobody else was told.
        node: the agent.
        host: name of its machine.
        global_rank: of the worker.
        local_rank: on its node.
        role: of the worker.
        pid: of the worker.
        exit_code: its exit code, or None when a signal ended it.
        signal: name of that signal, or empty.
        message: what it said.
        traceback: its traceback, or empty.
        age_s: seconds between its end and the writing of this record, by its own node's clock.
        hand: whether it died of itself.
        timestamp: seconds since the epoch, by its own node's clock; for torch's formats only.
        what: what it died of, in words, where that is known to be more than its exit code (`core/diagnosing`).
        error_class: what that is about: "own", "gpu", "memory", "peer", "stopped", "unknown".
        remedy: what helps, or empty.
    """

    order: int = 0
    node: str = ""
    host: str = ""
    global_rank: int = -1
    local_rank: int = -1
    role: str = ""
    pid: int = 0
    exit_code: int | None = None
    signal: str = ""
    message: str = ""
    traceback: str = ""
    age_s: float = 0.0
    hand: Hand = "unclear"
    timestamp: int = 0
    what: str = ""
    error_class: str = "unknown"
    remedy: str = ""

    def words(self) -> str:
        """In one line: who it was and how it ended."""
        who = f"rank {self.global_rank} (local rank {self.local_rank} on {self.host}, pid {self.pid})"
        said = in_short(self.message)
        how = ending(self.exit_code, self.signal)
        return f"{who} {how}" + (
            f": {said}"
            if said and (not self.signal or said.startswith(HUNG)) and "exited with code" not in said
            else ""
        )


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended.

    Args:
        outcome: "succeeded" or "failed".
        why: in words.
        failures: who failed first at the top.
    """

    outcome: str
    why: str = ""
    failures: list[FailureRecord] = []


def hand_of(signal: str, message: str, traceback: str = "") -> Hand:
    """Whether a worker died of itself, as far as its end and its words tell."""
    text = f"{message}\n{traceback[-2_000:]}"
    if signal in _OWN_SIGNALS:
        return "first"
    if _PEER_GONE.search(text):
        return "second"
    return "first" if traceback or _speaks(message) else "unclear"


def _speaks(message: str) -> bool:
    """Whether a message is the worker's own, and not the agent's sentence about its exit code."""
    return bool(re.search(r"\b\w*(Error|Exception|Interrupt|Exit)\b", message))


def in_order(records: Iterable[FailureRecord]) -> list[FailureRecord]:
    """Who failed first at the top: first-hand before second-hand, then as they were written."""
    return sorted(records, key=lambda record: (_ORDER[record.hand], record.order, record.global_rank))


def culprit(failures: Sequence[FailureRecord]) -> FailureRecord | None:
    """Who failed first."""
    return failures[0] if failures else None


_encode = msgspec.json.Encoder().encode
_records = msgspec.json.Decoder(FailureRecord)
_reports = msgspec.json.Decoder(JobReport)


def encoded(value: FailureRecord | JobReport) -> bytes:
    """As it stands in the store."""
    return _encode(value)


def records_of(lines: bytes) -> list[FailureRecord]:
    """The records in the store, a line each, who failed first at the top; lines that are none are left out."""
    found = []
    # A line that a broken connection left in doubt was written twice.
    once = list(dict.fromkeys(lines.splitlines()))[:RECORDS_MAX]
    for order, line in enumerate(once, start=1):
        try:
            found.append(msgspec.structs.replace(_records.decode(line), order=order))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
    return in_order(found)


def report_of(data: bytes) -> JobReport | None:
    """The report in the store; None if it is none."""
    try:
        return _reports.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
