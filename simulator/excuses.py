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

from simulator.checkers import Broken, Hit, Record
from simulator.checkers.endings import LETHAL

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
    away = _away(record, broken.at_s)
    left = [name for name in record.facts.nodes if name not in away]
    if len(left) >= low:
        return ""
    return f"only {len(left)} of the {low} nodes that a round needs were left ({', '.join(away)} did not come back)"


def _away(record: Record, at_s: float | None) -> list[str]:
    """Nodes that are dead, were told to end, are cut off for ever, or had lost the store long before."""
    return [
        name
        for name, end in record.facts.nodes.items()
        if end.result in ("KILLED", "LOST", "SIGNAL")
        or (end.result == "WAITING" and record.hits_on(name, "CrashNode"))
        or (
            end.result == "ERROR"
            and (record.hits_on(name, *LETHAL) or _lost_store_before(name, at_s, record))
        )
        or _stays(name, record)
    ]


def _lost_store(name: str, record: Record) -> bool:
    """Whether an agent ended because the store's host was gone, and its error says so."""
    host = record.facts.store_host
    return bool(host) and _is_lost(host, record) and _names(host, record.facts.nodes[name].reason, record)


def _lost_store_before(name: str, at_s: float | None, record: Record) -> bool:
    ended_s = record.facts.nodes[name].exited_at_s
    long_ago = at_s is not None and ended_s is not None and ended_s < at_s - STORE_TIMEOUT_S
    return long_ago and _lost_store(name, record)


def _names(host: str, said: str, record: Record) -> bool:
    known = [host, *(address for address, owner in record.facts.addresses.items() if owner == host)]
    return any(_is_named(name, said) for name in known)


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
    if not host or not _is_lost(host, record):
        return ""
    if broken.promise == "same-result":
        gone = [name for name in record.facts.nodes if _lost_store(name, record)]
        return (
            f"the store's host {host} is lost, and the errors of {', '.join(gone[:3])} name it"
            if gone
            else ""
        )
    said = record.facts.nodes[broken.node].reason if broken.node in record.facts.nodes else ""
    if not _names(host, said, record) or _too_late(broken, host, record):
        return ""
    return f"the store's host {host} is lost, and the error names it"


def _is_lost(host: str, record: Record) -> bool:
    """Whether the store's host was gone, or silent for longer than its clients wait."""
    if record.hits_on(host, "CrashNode", "KillAgent", "SignalAgent"):
        return True
    end = record.facts.nodes.get(host)
    if end is not None and end.result in ("KILLED", "LOST"):
        return True
    if end is not None and end.result == "ERROR" and record.hits_on(host, "FailSpawn"):
        return True
    silent = record.hits_on(host, "StallStore", "PauseNode", "PauseAgent", "Partition")
    if end is not None and end.result == "SUCCEEDED" and end.exited_at_s is not None:
        # It went on alone, as it may with min_nodes 1, and was done before TCP sent again what the others had asked.
        missed = [hit for hit in silent if hit.at_s < end.exited_at_s < hit.at_s + STORE_TIMEOUT_S]
        if any(hit.until_s - hit.at_s > record.facts.notice_s for hit in missed):
            return True
    # TCP doubles its pauses: after half a minute it tries again so late that the timeout comes first.
    return any(hit.until_s - hit.at_s >= STORE_TIMEOUT_S / 2 for hit in silent)


def _too_late(broken: Broken, host: str, record: Record) -> bool:
    """Whether an agent took longer to say so than the store's timeout and its grace allow."""
    silent = ("StallStore", "PauseNode", "PauseAgent", "Partition")
    kinds = ("CrashNode", "KillAgent", "FlappingJoiner", "SignalAgent", *silent)
    lost = [hit.at_s for hit in record.hits_on(host, *kinds)]
    if not lost or broken.at_s is None:
        return False
    # Who was started after the loss had its time from then on.
    lost += [life.told[0].at_s for life in record.lives if life.name == broken.node][-1:]
    end = record.facts.nodes.get(host)
    lost += [end.exited_at_s] if end is not None and end.exited_at_s is not None else []
    return broken.at_s > max(lost) + STORE_TIMEOUT_S + record.facts.grace_s + record.facts.notice_s


def _is_named(name: str, said: str) -> bool:
    """Whether a host or address stands in a sentence as a word of its own."""
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", said) is not None


def _zombie(broken: Broken, record: Record) -> str:
    """A node that is stopped or cut off can't hear that a newer round has formed, and nobody can stop it."""
    at_s = broken.at_s if broken.at_s is not None else math.inf
    for hit in record.hits_on(broken.node, "PauseAgent", "PauseNode", "Partition", "SlowLinks"):
        # TCP doubles its pauses: who was cut off may hear as late again. Then it has to stop what it runs.
        late_s = hit.until_s - hit.at_s if hit.kind == "Partition" else 0.0
        known_s = hit.until_s + max(record.facts.notice_s, late_s) + record.facts.grace_s
        if hit.at_s <= at_s and _went_on_s(broken, record) <= known_s and not _had_to_look(broken, hit):
            return f"{broken.node} could not know: {hit.words}"
    return _store_silent(broken, record)


def _had_to_look(broken: Broken, hit: Hit) -> bool:
    """Whether it started something after it had stood still: it has to look before whether its round goes on."""
    stopped = hit.kind in ("PauseAgent", "PauseNode") and hit.until_s - hit.at_s > _LOOK_S
    return stopped and "starts workers" in broken.detail and (broken.at_s or 0.0) >= hit.until_s


#: who has stood still for longer has to look
_LOOK_S = 2.5


def _went_on_s(broken: Broken, record: Record) -> float:
    """Until when workers of a node ran on beside those of others."""
    at_s = broken.at_s if broken.at_s is not None else math.inf
    own = [
        end_s for life, began_s, end_s in _works(record) if life == broken.node and began_s <= at_s <= end_s
    ]
    others = [end_s for life, began_s, end_s in _works(record) if life != broken.node]
    return min(max(own, default=at_s), max(others, default=math.inf))


def _works(record: Record) -> list[tuple[str, float, float]]:
    """Where workers ran, from and to, round by round."""
    seats = (seat for life in record.lives for seat in life.seats)
    return [(seat.name, *seat.works) for seat in seats if seat.works is not None]


def _begun_anew(broken: Broken, record: Record) -> str:
    """Who serves the store has ended and was started again: with its store the job is gone, and this is another one."""
    host, at_s = record.facts.store_host, broken.at_s if broken.at_s is not None else math.inf
    again = [life.told[0].at_s for life in record.lives if life.name == host][1:]
    # A machine that only serves the store has no agent.
    again += [hit.until_s for hit in record.hits_on(host, "CrashNode", "KillAgent") if hit.at_s <= at_s]
    again = [again_s for again_s in again if again_s <= at_s]
    if broken.promise == "one-round-running":
        # Who meets the new store sees that it is another one, and ends.
        ends_s = _went_on_s(broken, record) - record.facts.notice_s - record.facts.grace_s
        again = [again_s for again_s in again if ends_s <= again_s]
    return f"the agent on {host} was started anew, and its store began a new job" if again else ""


def _store_silent(broken: Broken, record: Record) -> str:
    """While the store says nothing, nobody can tell a node that died from one that can't be heard."""
    if not record.facts.store_host or broken.at_s is None:
        return ""
    kinds = ("StallStore", "PauseNode", "PauseAgent", "Partition", "CrashNode", "KillAgent", "SlowLinks")
    for hit in record.hits_on(record.facts.store_host, *kinds):
        if broken.detail.startswith(f"{hit.node} died"):
            continue  # that the store is silent can be told
        if hit.at_s <= broken.at_s <= hit.until_s + 2 * record.facts.notice_s:
            return f"the store was silent: {hit.words}"
    return ""


def _disk_full(broken: Broken, record: Record) -> str:
    """Of a node whose events were lost it can't be said what it did; nor, then, of those that it worked with."""
    nodes = [broken.node] if broken.promise == "events-complete" else list(record.facts.nodes)
    full = [hit for name in nodes for hit in record.hits_on(name, "FillDisk")]
    at_s = broken.at_s if broken.at_s is not None and broken.promise != "events-complete" else math.inf
    return next((f"events are lost: {hit.words}" for hit in full if hit.at_s <= at_s), "")


def _failure_untold(broken: Broken, record: Record) -> str:
    """The failure of which the job ended was on a node whose disk was full, and its event went with that."""
    if "no failure was its end" not in broken.detail or broken.at_s is None:
        return ""
    ends = [life.finished[1].reason for life in record.lives if life.name == broken.node and life.finished]
    for name in record.facts.nodes:
        for hit in record.hits_on(name, "FillDisk"):
            if hit.at_s <= broken.at_s and any(f" on {name}," in said for said in ends):
                return f"the failure on {name} that all tell of is not in its events: {hit.words}"
    return ""


def _came_and_went(broken: Broken, record: Record) -> str:
    """Each fault that takes a node away may cost a restart when it goes, and one when it comes back."""
    struck = [
        hit
        for hit in record.facts.hits
        if hit.kind in _AWAY and "vanishes" not in hit.words and hit.node != broken.node
    ]
    found = _HEALTHY.search(broken.detail)
    if found is None or int(found[1]) > int(found[2]) + 2 * len(struck):
        return ""
    return f"{len(struck)} faults took nodes away, and each of them may cost two such restarts"


#: faults after which a node is missed
_AWAY = ("CrashNode", "KillAgent", "PauseNode", "PauseAgent", "Partition", "SignalAgent", "FailSpawn")
_HEALTHY = re.compile(r"restarted (\d+) times? because .*; (\d+) would be enough")


def _stood_still(broken: Broken, record: Record) -> str:
    if broken.at_s is None:
        return ""
    # Who comes back when the store has gone with the job takes as long to be sure of that.
    late_s = STORE_TIMEOUT_S if broken.promise == "barrier-hears-failure" else 0.0
    for hit in record.hits_on(broken.node, "PauseNode", "PauseAgent", "SlowNode", "Partition"):
        if hit.at_s - record.facts.grace_s <= broken.at_s <= hit.until_s + record.facts.grace_s + late_s:
            return f"time passed by: {hit.words}"
    return ""


def _worker_stopped(broken: Broken, record: Record) -> str:
    """A worker in state T neither ends nor fails. Recognising that is not the rendezvous's part."""
    hits = [hit for hit in record.facts.hits if hit.kind == "KillWorker" and "SIGSTOP" in hit.words]
    return f"a worker stands still for ever: {hits[0].words}" if hits else ""


def _made_anew(broken: Broken, record: Record) -> str:
    """Connections that broke are made anew, and who takes over reads what was left: some operations more."""
    kinds = ("ConnectionDrop", "Partition", "StallStore", "PauseNode", "PauseAgent", "CrashNode", "KillAgent")
    hits = [hit for hit in record.facts.hits if hit.kind in kinds]
    at_s = broken.at_s if broken.at_s is not None else math.inf
    return next((f"connections were made anew: {hit.words}" for hit in hits if hit.at_s <= at_s), "")


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
        ("no-needless-end", "same-result"),
        _store_lost,
    ),
    Excuse(
        "zombie",
        "a node that stands still or is cut off can't know of a newer round",
        ("one-round-running",),
        _zombie,
    ),
    Excuse(
        "begun-anew",
        "the host of the store was started anew, and a new job with it",
        ("no-restart-after-success", "one-round-running", "same-result"),
        _begun_anew,
    ),
    Excuse(
        "disk-full",
        "events are lost where the disk is full",
        (
            "events-complete",
            "exit-barrier",
            "one-round-running",
            "ranks-exact",
            "one-master",
            "one-restart-count",
            "no-restart-after-success",
            "dead-node-noticed",
        ),
        _disk_full,
    ),
    Excuse(
        "failure-untold",
        "the event of the failure was lost where the disk was full, and the report names it",
        ("no-needless-end",),
        _failure_untold,
    ),
    Excuse(
        "store-silent",
        "while the store is silent nobody can be missed",
        ("dead-node-noticed", "hung-coordinator-noticed", "barrier-hears-failure"),
        _store_silent,
    ),
    Excuse("worker-stopped", "a worker that is stopped does not end", ("everyone-ends",), _worker_stopped),
    Excuse(
        "made-anew",
        "connections that broke are made anew",
        ("operations-bounded",),
        _made_anew,
    ),
    Excuse(
        "came-and-went",
        "faults took nodes away, and they came back",
        ("membership-restarts-bounded",),
        _came_and_went,
    ),
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
