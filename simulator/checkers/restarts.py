"""What all agents of a job promise about restarts: how many, counted how, and none of healthy workers without need."""

from __future__ import annotations

from collections.abc import Iterator

from simulator.checkers.record import Life, Record, Round, Seat, Told
from simulator.checkers.rounds import listed
from simulator.checkers.values import Broken, Checker
from toolkit.core import events
from toolkit.core.words import plural


def failure_in(seat: Seat) -> Told | None:
    """The failure with which this node's part of a round ended, if one did."""
    return next((told for told in seat.said if isinstance(told.event, events.FailureRecorded)), None)


def _after(later: Told, sooner: Told, record: Record) -> bool:
    return later.place > sooner.place and later.at_s >= sooner.at_s + record.slack_s


def _job_budget(record: Record) -> Iterator[Broken]:
    budgets = [life.started.restarts_max for life in record.lives if life.started is not None]
    if not budgets or _has_window(record):
        return
    round_of = {id(seat): index for index, group in enumerate(record.rounds) for seat in group.seats}
    # A round that failed is one restart, also for a member that comes back later than the others.
    failed_rounds: set[int] = set()
    for group in record.rounds:
        before = [seat for seat in map(_seat_before, group.seats) if seat is not None]
        failed = [
            seat for seat in before if failure_in(seat) and not _evicted_from(seat) and not _is_free(seat)
        ]
        failed_rounds |= {_failed_round(seat, round_of) for seat in failed}
        if failed and len(failed_rounds) > min(budgets):
            names = listed([seat.name for seat in failed])
            yield Broken(
                "job-restart-budget",
                f"the job restarts for the {_nth(len(failed_rounds))} time, now after a failure on {names}, and "
                f"{min(budgets)} restarts are allowed; in the new round {_counts(group)}",
                failed[0].name,
                group.formed.at_s,
            )
            return


def _failed_round(seat: Seat, round_of: dict[int, int]) -> int:
    """The round in which it failed: the job's number, where there is one, also if the events of its start are lost."""
    failure = failure_in(seat)
    assert failure is not None, "asked for seats that failed"
    return failure.event.round if seat.event.epoch else round_of[id(seat)]


def _evicted_from(seat: Seat) -> bool:
    """Whether the job had gone on without that node: what failed there is nobody's restart."""
    return any(isinstance(told.event, events.Evicted) for told in seat.said)


def _is_free(seat: Seat) -> bool:
    """Whether the restart policy said that what ended this node's part of a round costs nothing."""
    return any(isinstance(told.event, events.DecisionMade) and told.event.free for told in seat.said)


def _has_window(record: Record) -> bool:
    return any(
        " within " in event.reason for life in record.lives for _, event in life.of(events.DecisionMade)
    )


def _seat_before(seat: Seat) -> Seat | None:
    index = next(index for index, other in enumerate(seat.life.seats) if other is seat)
    return seat.life.seats[index - 1] if index else None


def _nth(number: int) -> str:
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10 * (number // 10 % 10 != 1), 'th') }"


def _counts(group: Round) -> str:
    by_rank = sorted(group.seats, key=lambda seat: seat.event.group_rank)
    return listed([f"{seat.name} counts {seat.told.event.restart_count}" for seat in by_rank])


def _one_count(record: Record) -> Iterator[Broken]:
    for group in record.rounds:
        if len({seat.told.event.restart_count for seat in group.seats}) > 1:
            yield Broken(
                "one-restart-count",
                f"in the round formed at {group.formed.at_s:.1f} s {_counts(group)} restarts",
                group.seats[-1].name,
                group.formed.at_s,
            )
            return
    yield from _counted_for_nothing(record)


def _counted_for_nothing(record: Record) -> Iterator[Broken]:
    """Restarts in the job's count without a failure in the round that they ended."""
    failed = 0
    for before, group in zip(record.rounds, record.rounds[1:], strict=False):
        failed += any(
            (told := failure_in(seat)) is not None and told.place < group.formed.place
            for seat in before.seats
        )
        counted = max(seat.told.event.restart_count for seat in group.seats)
        if counted > failed and group.seats[0].event.epoch:
            yield Broken(
                "one-restart-count",
                f"in the round formed at {group.formed.at_s:.1f} s {_counts(group)}; {plural(failed, 'round')} "
                "ended by a failure before",
                group.seats[-1].name,
                group.formed.at_s,
            )
            return


def _membership_bounded(record: Record) -> Iterator[Broken]:
    hosts = len({life.name for life in record.lives})
    asked_for = sum(
        told.outcome == "done" and told.action in ("restart", "drain")
        for life in record.lives
        for _, told in life.of(events.ActionTaken)
    )
    for life in record.lives:
        if life.started is None:
            continue
        free = sum(1 for _, event in life.of(events.DecisionMade) if event.free)
        bound = hosts + asked_for + max(life.started.restarts_max, 0) + free
        healthy = [seat for seat in life.seats[:-1] if failure_in(seat) is None]
        if len(healthy) > bound:
            over = healthy[bound].left
            yield Broken(
                "membership-restarts-bounded",
                f"{life.name}: its healthy workers were restarted {plural(len(healthy), 'time')} because nodes "
                f"came or went; {bound} would be enough for {plural(hosts, 'node')} and the budget",
                life.name,
                over.at_s if over is not None else None,
            )


def _no_restart_after_success(record: Record) -> Iterator[Broken]:
    succeeded = _first_success(record)
    if succeeded is None:
        return
    success, winner = succeeded
    for life in record.lives:
        for seat in life.seats:
            before = _seat_before(seat)
            if before is None:
                late = _after(seat.told, success, record) and seat.works is not None
                what = "joins and starts workers, so that finished work is run again"
            else:
                left = before.left
                late = left is not None and _after(left, success, record) and failure_in(before) is None
                what = "restarts its healthy workers"
            if late and life is not winner:
                yield Broken(
                    "no-restart-after-success",
                    f"{life.name} {what}, {seat.told.at_s - success.at_s:.1f} s after {winner.name} had succeeded",
                    life.name,
                    seat.told.at_s,
                )
                break


def _first_success(record: Record) -> tuple[Told, Life] | None:
    won = [
        (told, life)
        for life in record.lives
        for told, event in life.of(events.GroupStateChanged)
        if event.after == "SUCCEEDED"
    ]
    return min(won, key=lambda pair: pair[0].place) if won else None


def _gaps(record: Record) -> str:
    return record.incomplete


CHECKERS = (
    Checker(
        "job-restart-budget",
        "failures restart the job no more often than its budget",
        _job_budget,
        gaps=_gaps,
    ),
    Checker("one-restart-count", "all members of a round count the same restarts", _one_count, gaps=_gaps),
    Checker(
        "membership-restarts-bounded",
        "nodes that come and go restart the healthy ones a bounded number of times",
        _membership_bounded,
        gaps=_gaps,
    ),
    Checker(
        "no-restart-after-success",
        "no healthy group is restarted once a member has succeeded",
        _no_restart_after_success,
        gaps=_gaps,
    ),
)
