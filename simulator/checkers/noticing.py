"""What the rendezvous promises about the dead and about its own cost. Only the simulator can judge it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from simulator.checkers.record import Hit, Life, Record, Seat, Told
from simulator.checkers.values import Broken, Checker
from toolkit.core import events
from toolkit.core.words import plural

#: store operations of a node: for a round, and in each second that it waits for one
OPERATIONS_PER_ROUND, OPERATIONS_PER_SECOND = 20, 3
_NOTICING = (
    events.WorkersStopping,
    events.WorkerExited,
    events.FailureRecorded,
    events.MembershipChanged,
    events.DecisionMade,
    events.RendezvousStarted,
    events.AgentFinished,
)


def _dead_noticed(record: Record) -> Iterator[Broken]:
    for hit in record.facts.hits:
        if hit.kind in ("CrashNode", "KillAgent"):
            slowest = max(_unaware(hit, record), key=lambda pair: pair[1], default=None)
            if slowest is not None:
                life, after_s = slowest
                how = f"noticed after {after_s:.0f} s" if after_s < math.inf else "never noticed"
                yield Broken(
                    "dead-node-noticed",
                    f"{hit.node} died at {hit.at_s:.1f} s, and {life.name} {how}; "
                    f"{record.facts.notice_s:g} s are allowed",
                    life.name,
                    hit.at_s + record.facts.notice_s,
                )


def _unaware(hit: Hit, record: Record) -> Iterator[tuple[Life, float]]:
    """Those that worked with the dead node and learned of its death too late, with the time it took."""
    by_s = hit.at_s + record.facts.notice_s
    for group in record.rounds:
        if not any(seat.name == hit.node and _sits_at(seat, hit.at_s) for seat in group.seats):
            continue
        for seat in group.seats:
            works = seat.works is not None and seat.works[0] <= hit.at_s < seat.works[1]
            if seat.name == hit.node or not works or seat.life.end_s <= by_s or record.facts.ended_s <= by_s:
                continue
            noticed = next(
                (t.at_s for t in seat.life.told if t.at_s > hit.at_s and isinstance(t.event, _NOTICING)),
                math.inf,
            )
            if noticed > by_s:
                yield seat.life, noticed - hit.at_s


def _sits_at(seat: Seat, at_s: float) -> bool:
    end_s = seat.left.at_s if seat.left is not None else max(seat.life.end_s, at_s)
    return seat.told.at_s <= at_s <= end_s


def _operations_bounded(record: Record) -> Iterator[Broken]:
    for group in record.rounds:
        begun = min((_asked(seat).place for seat in group.seats), default=0)
        told = group.formed
        operations = record.facts.said[told.place][1] - record.facts.said[begun][1]
        waited_s = told.at_s - record.told[begun].at_s
        size = len(record.facts.nodes)
        allowed = size * (OPERATIONS_PER_ROUND + OPERATIONS_PER_SECOND * waited_s)
        if operations > allowed:
            yield Broken(
                "operations-bounded",
                f"the round of {plural(len(group.seats), 'node')} formed at {told.at_s:.1f} s took {operations:,} "
                f"store operations, {operations / size:.0f} for each node; {allowed / size:.0f} are allowed "
                f"({OPERATIONS_PER_ROUND}, and {OPERATIONS_PER_SECOND} a second)",
                "",
                told.at_s,
            )
            return


def _asked(seat: Seat) -> Told:
    """When a member asked for its round."""
    asked = [told for told, _ in seat.life.of(events.RendezvousStarted) if told.place < seat.told.place]
    return asked[-1] if asked else seat.told


def _only_simulated(record: Record) -> str:
    return "" if record.facts.simulated else "only the simulator knows who died, and when"


def _uncounted(record: Record) -> str:
    counted = record.facts.said and record.facts.store_host
    return "" if counted else "the store's operations are not in the events yet"


def _no_epochs(record: Record) -> str:
    return "the events tell of no coordinator and no epoch yet"


CHECKERS = (
    Checker(
        "dead-node-noticed",
        "the death of a node is noticed within lease and beat",
        _dead_noticed,
        beyond=_only_simulated,
    ),
    Checker(
        "hung-coordinator-noticed",
        "a coordinator that hangs is replaced within twice the lease",
        lambda record: (),
        beyond=_no_epochs,
    ),
    Checker(
        "operations-bounded",
        "store operations of a node and round do not grow with the number of nodes",
        _operations_bounded,
        beyond=_uncounted,
    ),
)
