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
    events.RoundEnded,
    events.LeaseLost,
    events.BarrierLeft,
    events.StoreSilent,
    events.AgentFinished,
)
_LEAVING = (events.WorkersStopping, events.RoundEnded, events.Evicted)


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
        dead = [seat for seat in group.seats if seat.name == hit.node and _sits_at(seat, hit.at_s)]
        if not dead or any(_had_finished(seat, hit.at_s) for seat in dead):
            continue
        for seat in group.seats:
            works = seat.works is not None and seat.works[0] <= hit.at_s < seat.works[1]
            if seat.name == hit.node or not works or seat.life.end_s <= by_s or record.facts.ended_s <= by_s:
                continue
            if any(t.at_s <= hit.at_s and isinstance(t.event, _LEAVING) for t in seat.said):
                continue  # it was on its way out of that round already
            if hit.node == record.facts.store_host and _hears_nothing(seat.life, hit.at_s):
                continue  # it has said so already
            noticed = next(
                (t.at_s for t in seat.life.told if t.at_s > hit.at_s and isinstance(t.event, _NOTICING)),
                math.inf,
            )
            if noticed > by_s:
                yield seat.life, noticed - hit.at_s


def _hears_nothing(life: Life, at_s: float) -> bool:
    """Whether an agent had said that the store is silent, and nothing since."""
    said = [*life.of(events.StoreSilent), *life.of(events.StoreAnswers)]
    last = max((pair for pair in said if pair[0].at_s <= at_s), key=lambda pair: pair[0].place, default=None)
    return last is not None and isinstance(last[1], events.StoreSilent)


def _had_finished(seat: Seat, at_s: float) -> bool:
    """Whether it was done: then nobody misses it."""
    return any(t.at_s <= at_s and isinstance(t.event, events.BarrierEntered) for t in seat.said)


def _sits_at(seat: Seat, at_s: float) -> bool:
    if seat.life.gone_s is not None and seat.life.gone_s < at_s:
        return False  # it was dead already
    end_s = seat.left.at_s if seat.left is not None else max(seat.life.end_s, at_s)
    return seat.told.at_s <= at_s <= end_s


def _operations_bounded(record: Record) -> Iterator[Broken]:
    for group in record.rounds:
        begun = min((_asked(seat).place for seat in group.seats), default=0)
        told = group.formed
        operations = record.facts.said[told.place][1] - record.facts.said[begun][1]
        waited_s = told.at_s - record.told[begun].at_s
        size = len(record.facts.nodes)
        # Who was parked has waited while others formed a round.
        formed = sum(begun < other.formed.place <= told.place for other in record.rounds)
        allowed = size * (OPERATIONS_PER_ROUND * formed + OPERATIONS_PER_SECOND * waited_s)
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


def _hung_coordinator(record: Record) -> Iterator[Broken]:
    """A coordinator that is gone or stands still is replaced, if somebody is there who could."""
    allowed_s = 2 * record.facts.notice_s
    for hit in record.facts.hits:
        by_s = hit.at_s + allowed_s
        if hit.kind not in _HANGS or hit.until_s <= by_s or record.facts.ended_s <= by_s:
            continue
        if hit.node != _coordinator_at(record, hit.at_s) or hit.node == record.facts.store_host:
            continue
        others = [
            life
            for life in record.lives
            if life.name != hit.node and _could_take_over(life, hit, by_s, record)
        ]
        ended = any(told.at_s <= by_s for life in record.lives for told, _ in life.of(events.JobEnded))
        if not others or ended or _coordinator_at(record, by_s) != hit.node:
            continue
        yield Broken(
            "hung-coordinator-noticed",
            f"{hit.node} coordinated the job when it was struck at {hit.at_s:.1f} s, and {others[0].name} still "
            f"followed it {allowed_s:g} s later",
            others[0].name,
            by_s,
        )


#: faults after which a coordinator does nothing more, for as long as they last
_HANGS = ("CrashNode", "KillAgent", "PauseAgent", "PauseNode", "Partition")


def _coordinator_at(record: Record, at_s: float) -> str:
    """The node that was known to coordinate the job then."""
    changes = [
        (told.at_s, event.coordinator)
        for life in record.lives
        for told, event in life.of(events.CoordinatorChanged)
        if told.at_s <= at_s
    ]
    agent = max(changes, key=lambda change: change[0], default=(0.0, ""))[1]
    return next((life.name for life in record.lives if agent.startswith(f"{life.told[0].event.node}_")), "")


def _could_take_over(life: Life, hit: Hit, by_s: float, record: Record) -> bool:
    """Whether an agent took part all the time and nothing held it up."""
    seated = [told.at_s for told, _ in life.of(events.SeatTaken)]
    held = [other for other in record.facts.hits if other.node == life.name and other.until_s > hit.at_s]
    store = record.hits_on(record.facts.store_host) if record.facts.store_host else []
    return bool(seated) and seated[0] < hit.at_s and life.end_s > by_s and not held and not store


def _no_epochs(record: Record) -> str:
    if not record.facts.simulated:
        return "only the simulator knows who stood still, and when"
    told = any(life.of(events.CoordinatorChanged) for life in record.lives)
    return "" if told else "this rendezvous has no coordinator"


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
        _hung_coordinator,
        beyond=_no_epochs,
    ),
    Checker(
        "operations-bounded",
        "store operations of a node and round do not grow with the number of nodes",
        _operations_bounded,
        beyond=_uncounted,
    ),
)
