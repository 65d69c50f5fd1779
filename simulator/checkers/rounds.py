"""What the members of a round promise each other: ranks, size, address, and that there is one round at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

from simulator.checkers.record import Record, Round, Seat
from simulator.checkers.values import Broken, Checker
from toolkit.core import events
from toolkit.core.words import plural, ranks

#: what an agent says once it hears from the others again
_HEARD = (events.RoundEnded, events.Evicted, events.StoreAnswers)
#: names that every node has for itself
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def listed(names: list[str], most: int = 4) -> str:
    """Such as "a", "a and b", "a, b and 3 more"."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


# -- ranks-exact ----------------------------------------------------------------------------------------------


def _ranks_exact(record: Record) -> Iterator[Broken]:
    for group in record.rounds:
        found = [
            *(problem for seat in group.seats for problem in _impossible(seat)),
            *_disagreements(group),
            *_held_twice(group),
        ]
        if record.facts.simulated and not found:
            found.extend(_unheld(group, record))
        for detail in found[:3]:
            yield _broken("ranks-exact", group, detail)


def _impossible(seat: Seat) -> Iterator[str]:
    event = seat.event
    if not 0 <= event.group_rank < event.group_world_size:
        yield f"{seat.name} was told that it is rank {event.group_rank} of {event.group_world_size}"
    wrong = [rank for rank in event.global_ranks if not 0 <= rank < event.world_size]
    if wrong:
        yield f"{seat.name} holds {ranks(wrong)} of a world of {plural(event.world_size, 'worker')}"
    if len(set(event.global_ranks)) != len(event.global_ranks):
        yield f"{seat.name} holds one rank twice: {event.global_ranks}"
    started = seat.life.started
    if started is not None and len(event.global_ranks) != started.local_world_size:
        have = plural(len(event.global_ranks), "rank")
        yield f"{seat.name} has {plural(started.local_world_size, 'worker')} and {have}"


def _disagreements(group: Round) -> Iterator[str]:
    for what, said in (
        ("nodes", {seat.name: seat.event.group_world_size for seat in group.seats}),
        ("workers", {seat.name: seat.event.world_size for seat in group.seats}),
    ):
        if len(set(said.values())) > 1:
            views = listed([f"{name} says {size}" for name, size in said.items()])
            yield f"members disagree on how many {what} there are: {views}"


def _held_twice(group: Round) -> Iterator[str]:
    holders: dict[int, list[str]] = {}
    workers: dict[int, list[str]] = {}
    for seat in group.seats:
        holders.setdefault(seat.event.group_rank, []).append(seat.name)
        for rank in dict.fromkeys(seat.event.global_ranks):
            workers.setdefault(rank, []).append(seat.name)
    for kind, held in (("group rank", holders), ("global rank", workers)):
        twice = next(((rank, names) for rank, names in sorted(held.items()) if len(names) > 1), None)
        if twice is not None:
            yield f"{kind} {twice[0]} is held by {listed(twice[1])}"


def _unheld(group: Round, record: Record) -> Iterator[str]:
    """Ranks that nobody was told of, though somebody works and nobody died who could have held them."""
    held = {seat.event.group_rank for seat in group.seats}
    missing = [rank for rank in range(group.size) if rank not in held]
    worked_s = max((seat.works[1] - seat.works[0] for seat in group.seats if seat.works), default=0.0)
    silent = record.incomplete or any(
        (life.gone_s is not None and life.gone_s < math.inf)
        or (life.finished is not None and life.finished[0].at_s <= group.formed.at_s)
        for life in record.lives
    )
    # Who stands still or is cut off when it is told can't say so.
    silent = silent or any(
        hit.kind in _SILENCING and hit.at_s <= group.formed.at_s <= hit.until_s for hit in record.facts.hits
    )
    if missing and worked_s > record.facts.notice_s and not silent:
        yield f"of {plural(group.size, 'node')} nobody holds group {ranks(missing)}, and the others work"


_SILENCING = ("PauseNode", "PauseAgent", "Partition", "SlowNode", "SlowLinks", "StallStore")


# -- one-master -----------------------------------------------------------------------------------------------


def _one_master(record: Record) -> Iterator[Broken]:
    for group in record.rounds:
        told: dict[tuple[str, int], list[str]] = {}
        for seat in group.seats:
            told.setdefault((seat.event.master_addr, seat.event.master_port), []).append(seat.name)
        first = group.holder_of(0)
        served = f"; rank 0 is {first.name}" if first is not None else ""
        if len(told) > 1:
            # Where only the ports differ they are what matters.
            ports = len({address for address, _ in told}) == 1
            views = [
                f"{listed(names)} {'was' if len(names) == 1 else 'were'} told {_place(place, record, ports)}"
                for place, names in told.items()
            ]
            yield _broken("one-master", group, f"{', '.join(views)}{served}")
        elif first is not None:
            place = (first.event.master_addr, first.event.master_port)
            owner = _owner(place[0], record)
            if owner is not None and owner != first.name:
                who = "all were told" if len(group.seats) > 1 else f"{first.name} was told"
                yield _broken("one-master", group, f"{who} {_place(place, record, False)}{served}")


def _place(place: tuple[str, int], record: Record, port: bool = True) -> str:
    address, number = place
    owner = _owner(address, record)
    name = address if owner is None or owner in address else f"{address} ({owner})"
    return f"{name} port {number}" if port else f"MASTER_ADDR {name}"


def _owner(address: str, record: Record) -> str | None:
    """The node that an address means; None if that can't be known."""
    if address in record.facts.addresses:
        return record.facts.addresses[address]
    short = address.split(".")[0]
    hosts = {life.name for life in record.lives}
    return next((host for host in (address, short) if host in hosts and not address[:1].isdigit()), None)


# -- one-round-running ----------------------------------------------------------------------------------------


def _one_round_running(record: Record) -> Iterator[Broken]:
    for index, newer in enumerate(record.rounds):
        for older in record.rounds[:index]:
            yield from _late_starts(older, newer, record)
            yield from _both_run(older, newer, record)


def _late_starts(older: Round, newer: Round, record: Record) -> Iterator[Broken]:
    formed = newer.formed
    for seat in older.seats:
        for told in seat.said:
            late = told.place > formed.place and told.at_s > formed.at_s + record.slack_s
            if late and isinstance(told.event, events.WorkersStarting):
                yield Broken(
                    "one-round-running",
                    f"{seat.name} starts workers of the round of {listed(older.names)} "
                    f"{told.at_s - formed.at_s:.1f} s after the newer one of {listed(newer.names)} had formed",
                    seat.name,
                    told.at_s,
                )


def _both_run(older: Round, newer: Round, record: Record) -> Iterator[Broken]:
    """Two worlds at once. An old one may be on its way out for as long as a death may go unnoticed."""
    tolerated_s = record.facts.notice_s + record.slack_s
    if _last_work_s(older) - _first_work_s(newer) <= tolerated_s:
        return
    pairs = [
        (old, new, min(old.works[1], new.works[1]) - max(old.works[0], new.works[0], _heard_s(old, record)))
        for old in older.seats
        for new in newer.seats
        if old.life is not new.life and old.works is not None and new.works is not None
    ]
    old, new, for_s = max(pairs, key=lambda pair: pair[2], default=(older.seats[0], newer.seats[0], 0.0))
    if for_s <= tolerated_s or new.works is None:
        return
    how_long = f"{for_s:.0f} s" if for_s < math.inf else "the rest of the run"
    yield Broken(
        "one-round-running",
        f"two worlds at once for {how_long}: {new.name} trains as rank {new.event.group_rank} of "
        f"{new.event.group_world_size}, and {old.name} still as rank {old.event.group_rank} of "
        f"{old.event.group_world_size} of the round before",
        old.name,
        new.works[0],
    )


def _heard_s(seat: Seat, record: Record) -> float:
    """Since when a member that was missed could know it: nobody stops the workers of an agent that is itself stopped.

    For recordings, whose coordinators say who was missed; of simulated runs an excuse says what struck whom.
    """
    if record.facts.simulated:
        return -math.inf
    name = f"{seat.told.event.node}_"
    missed = [
        told
        for life in record.lives
        for told, event in life.of(events.LeaseLost)
        if event.lost.startswith(name) and told.at_s > seat.told.at_s
    ]
    if not missed:
        return -math.inf
    heard = (t.at_s for t in seat.said if t.at_s > missed[0].at_s and isinstance(t.event, _HEARD))
    return next(heard, math.inf)


def _first_work_s(group: Round) -> float:
    return min((seat.works[0] for seat in group.seats if seat.works is not None), default=math.inf)


def _last_work_s(group: Round) -> float:
    return max((seat.works[1] for seat in group.seats if seat.works is not None), default=-math.inf)


# -- size-in-bounds -------------------------------------------------------------------------------------------


def _size_in_bounds(record: Record) -> Iterator[Broken]:
    low, high = record.facts.min_nodes or 1, record.facts.max_nodes or math.inf
    for group in record.rounds:
        for size in sorted({seat.event.group_world_size for seat in group.seats}):
            if not low <= size <= high:
                yield _broken(
                    "size-in-bounds", group, f"it has {plural(size, 'node')}; {low} to {high} may be"
                )


def _no_bounds(record: Record) -> str:
    known = record.facts.min_nodes is not None and record.facts.max_nodes is not None
    return "" if known else "how many nodes a round may have is not recorded"


def _broken(promise: str, group: Round, detail: str) -> Broken:
    who = group.seats[-1].name
    return Broken(
        promise, f"in the round formed at {group.formed.at_s:.1f} s {detail}", who, group.formed.at_s
    )


def _incomplete(record: Record) -> str:
    return record.incomplete


CHECKERS = (
    Checker(
        "ranks-exact",
        "the ranks of a round are 0 to n-1 with one holder each, and all agree on n",
        _ranks_exact,
        gaps=_incomplete,
    ),
    Checker(
        "one-master",
        "all members of a round hold the same master address, served by its rank 0",
        _one_master,
        gaps=_incomplete,
    ),
    Checker(
        "one-round-running",
        "no member of an older round starts or goes on once a newer one has formed",
        _one_round_running,
        gaps=_incomplete,
    ),
    Checker("size-in-bounds", "a round has min_nodes to max_nodes nodes", _size_in_bounds, beyond=_no_bounds),
)
