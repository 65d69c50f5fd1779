"""Excuses as code: when a promise that was broken in a simulated run could not have been kept by anybody.

A run is judged in two phases: faults strike, and when those that pass have passed, the job must come to its end in a
stated time. What stays broken may take that away: then an excuse says so, and the report tells it. An excuse is a value
that looks at one broken promise; it can't excuse what it does not name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from simulator.checkers import Broken, Record

#: how long an agent may try to reach a store that is lost: torch's default `read_timeout`
STORE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Excuse:
    """One reason why a promise could not be kept.

    Args:
        name: for lists.
        about: one line.
        promises: that it can excuse.
        holds: why it holds for this one, in words, or empty.
    """

    name: str
    about: str
    promises: tuple[str, ...]
    holds: Callable[[Broken, Record], str]


@dataclass(frozen=True, slots=True)
class Excused:
    """A promise that was broken, and why nobody could have kept it."""

    broken: Broken
    excuse: str


def excused(broken: Iterable[Broken], record: Record) -> tuple[list[Broken], list[Excused]]:
    """What stays broken, and what is excused."""
    stays: list[Broken] = []
    forgiven: list[Excused] = []
    for found in broken:
        why = next(filter(None, (_why(excuse, found, record) for excuse in EXCUSES)), "")
        if why:
            forgiven.append(Excused(found, why))
        else:
            stays.append(found)
    return stays, forgiven


def _why(excuse: Excuse, broken: Broken, record: Record) -> str:
    return excuse.holds(broken, record) if broken.promise in excuse.promises else ""


# -- each of them ---------------------------------------------------------------------------------------------


def _too_few_nodes(broken: Broken, record: Record) -> str:
    low = record.facts.min_nodes or 1
    away = _away(record)
    left = [name for name in record.facts.nodes if name not in away]
    if len(left) >= low:
        return ""
    return f"only {len(left)} of the {low} nodes that a round needs were left ({', '.join(away)} did not come back)"


def _away(record: Record) -> list[str]:
    """Nodes that are dead, were told to end, or are cut off for ever."""
    return [
        name
        for name, end in record.facts.nodes.items()
        if end.result in ("KILLED", "LOST", "SIGNAL") or _stays(name, record)
    ]


def _stays(name: str, record: Record) -> bool:
    return any(
        hit.until_s == math.inf for hit in record.hits_on(name, "Partition", "PauseNode", "PauseAgent")
    )


def _cut_off_for_ever(broken: Broken, record: Record) -> str:
    # It has to end as everybody has; but a node that stands still can't, and it can't agree with those it can't hear.
    kinds = ("PauseNode", "PauseAgent") if broken.promise == "everyone-ends" else ("Partition", "PauseNode")
    stays = [hit for hit in record.hits_on(broken.node, *kinds) if hit.until_s == math.inf]
    return f"{stays[0].words}, for ever" if stays else ""


def _store_lost(broken: Broken, record: Record) -> str:
    """Without the store nobody can go on; but an agent has to say which store that was, in the stated time."""
    host = record.facts.store_host
    end = record.facts.nodes.get(host)
    if not host or end is None or end.result not in ("KILLED", "LOST"):
        return ""
    said = record.facts.nodes[broken.node].reason if broken.node in record.facts.nodes else ""
    names = [host, *(address for address, owner in record.facts.addresses.items() if owner == host)]
    if not any(_is_named(name, said) for name in names) or _too_late(broken, host, record):
        return ""
    return f"the store's host {host} is lost, and the error names it"


def _too_late(broken: Broken, host: str, record: Record) -> bool:
    """Whether an agent took longer to say so than the store's timeout and its grace allow."""
    lost = [hit.at_s for hit in record.hits_on(host, "CrashNode", "KillAgent", "FlappingJoiner")]
    if not lost or broken.at_s is None:
        return False
    return broken.at_s > max(lost) + STORE_TIMEOUT_S + record.facts.grace_s


def _is_named(name: str, said: str) -> bool:
    """Whether a host or address stands in a sentence as a word of its own."""
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", said) is not None


def _zombie(broken: Broken, record: Record) -> str:
    """A node that is stopped or cut off can't hear that a newer round has formed, and nobody can stop it."""
    at_s = broken.at_s if broken.at_s is not None else math.inf
    for hit in record.hits_on(broken.node, "PauseAgent", "PauseNode", "Partition"):
        if hit.at_s <= at_s <= hit.until_s + record.facts.notice_s:
            return f"{broken.node} could not know: {hit.words}"
    return ""


def _disk_full(broken: Broken, record: Record) -> str:
    hits = record.hits_on(broken.node, "FillDisk")
    return f"its events are lost: {hits[0].words}" if hits else ""


def _stood_still(broken: Broken, record: Record) -> str:
    if broken.at_s is None:
        return ""
    for hit in record.hits_on(broken.node, "PauseNode", "PauseAgent", "SlowNode"):
        if hit.at_s - record.facts.grace_s <= broken.at_s <= hit.until_s + record.facts.grace_s:
            return f"time passed by: {hit.words}"
    return ""


EXCUSES: tuple[Excuse, ...] = (
    Excuse(
        "too-few-nodes",
        "fewer than min_nodes nodes are left",
        ("everyone-ends", "no-needless-end", "same-result"),
        _too_few_nodes,
    ),
    Excuse(
        "away-for-ever",
        "the node itself is cut off or stands still for ever",
        ("everyone-ends", "same-result", "one-round-running"),
        _cut_off_for_ever,
    ),
    Excuse(
        "store-lost",
        "the host of the store is lost and the error names it",
        ("no-needless-end",),
        _store_lost,
    ),
    Excuse(
        "zombie",
        "a node that stands still or is cut off can't know of a newer round",
        ("one-round-running",),
        _zombie,
    ),
    Excuse("disk-full", "events are lost where the disk is full", ("events-complete",), _disk_full),
    Excuse(
        "stood-still",
        "a node that stands still or is slow takes its time",
        (
            "stop-within-grace",
            "signal-ends-agent",
            "dead-node-noticed",
            "exit-barrier",
            "barrier-hears-failure",
        ),
        _stood_still,
    ),
)
