"""What all agents of a job promise about its end: the exit barrier, one result, and no end without need."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator

from simulator.checkers.record import Life, Record, Round, Seat, Told
from simulator.checkers.restarts import failure_in
from simulator.checkers.rounds import listed
from simulator.checkers.values import Broken, Checker, broken_by
from toolkit.core import events
from toolkit.core.job_report import FailureRecord

#: faults after which the agent that was hit may end with an error; all others may cost time only
LETHAL = ("CrashNode", "KillAgent", "SignalAgent", "FailSpawn", "Partition", "PauseNode", "PauseAgent")


# -- the exit barrier -----------------------------------------------------------------------------------------


def _exit_barrier(record: Record) -> Iterator[Broken]:
    for life in record.lives:
        if not life.whole:
            continue
        yield from _barrier_of(life, record)


def _barrier_of(life: Life, record: Record) -> Iterator[Broken]:
    finishing: Told | None = None
    entered: tuple[Told, events.BarrierEntered] | None = None
    for told in life.told:
        match told.event:
            case events.DecisionMade(action="finish"):
                finishing = told
            case events.BarrierEntered():
                entered, finishing = (told, told.event), None
                yield from _wrong_members(life, told, told.event)
            case events.BarrierLeft():
                if entered is None:
                    yield broken_by(
                        "exit-barrier", life, told, "it leaves an exit barrier that it never entered"
                    )
                else:
                    yield from _left_early(life, told, entered, record)
                entered = None
            case events.AgentFinished(result="SUCCEEDED") if entered is not None or finishing is not None:
                how = "inside the exit barrier" if entered else "without the exit barrier"
                yield broken_by("exit-barrier", life, told, f"it ended {how}")


def _wrong_members(life: Life, told: Told, event: events.BarrierEntered) -> Iterator[Broken]:
    seat = _seat_at(life, told)
    if seat is not None and event.members != seat.event.group_world_size:
        size = seat.event.group_world_size
        yield broken_by(
            "exit-barrier", life, told, f"it waits for {event.members} agents in a round of {size}"
        )


def _left_early(
    life: Life, told: Told, entered: tuple[Told, events.BarrierEntered], record: Record
) -> Iterator[Broken]:
    left, event = told.event, entered[1]
    assert isinstance(left, events.BarrierLeft), "asked by the caller"
    # A timeout of 0 is none: it waits as long as the others live.
    if event.timeout_s and left.waited_s > event.timeout_s + record.facts.notice_s:
        yield broken_by(
            "exit-barrier",
            life,
            told,
            f"it waited {left.waited_s:.0f} s; the timeout is {event.timeout_s:g} s",
        )
    if left.outcome != "complete" or (record.missing_nodes and not record.facts.simulated):
        return
    came = _came(record, told)
    if came < event.members:
        yield broken_by(
            "exit-barrier",
            life,
            told,
            f"it left the exit barrier as complete when {came} of {event.members} agents had come",
        )


def _came(record: Record, told: Told) -> int:
    """How many agents had come to the barrier by then; of clocks that differ the benefit is the agent's."""
    if record.facts.simulated:
        return bisect_left(record.arrivals, (told.place, -math.inf))
    allowed_s = told.at_s + record.slack_s
    return sum(place < told.place or at_s <= allowed_s for place, at_s in record.arrivals)


def _barrier_hears(record: Record) -> Iterator[Broken]:
    for life in record.lives:
        for told, event in life.of(events.BarrierLeft):
            entered = [there for there, _ in life.of(events.BarrierEntered) if there.place < told.place]
            seat = _seat_at(life, told)
            # Who left at once needs no look at all the others.
            if entered and seat is not None and event.waited_s > record.facts.notice_s:
                yield from _deaf(life, entered[-1], told, event, record.round_of(seat), record)


def _deaf(
    life: Life, entered: Told, left: Told, event: events.BarrierLeft, group: Round, record: Record
) -> Iterator[Broken]:
    allowed_s = record.facts.notice_s + record.slack_s
    for other in (seat.life for seat in group.seats):
        failed = _failed_for_good(other)
        if other is life or failed is None or failed[0].at_s >= left.at_s:
            continue
        waited_s = left.at_s - max(entered.at_s, failed[0].at_s)
        if waited_s > allowed_s:
            named = "" if other.name in event.detail else f", and could not say that it was {other.name}"
            yield broken_by(
                "barrier-hears-failure",
                life,
                left,
                f"it waited at the exit barrier for {waited_s:.0f} s ({event.outcome}) for {other.name}, which had "
                f"ended {failed[1].result} at {failed[0].at_s:.1f} s{named}",
            )
            return


def _failed_for_good(life: Life) -> tuple[Told, events.AgentFinished] | None:
    finished = life.finished
    return finished if finished is not None and finished[1].result in ("FAILED", "ERROR") else None


def _seat_at(life: Life, told: Told) -> Seat | None:
    return next((seat for seat in reversed(life.seats) if seat.told.place < told.place), None)


# -- the end --------------------------------------------------------------------------------------------------


def _everyone_ends(record: Record) -> Iterator[Broken]:
    facts = record.facts
    late_s = math.inf if facts.end_by_s is None else facts.end_by_s
    for name, end in facts.nodes.items():
        waits = f" for {end.waits_for}" if end.waits_for else ""
        if end.result == "RUNNING" and facts.stuck:
            yield Broken(
                "everyone-ends", f"{name} waits{waits}, and nothing is left to happen", name, facts.ended_s
            )
        elif end.result == "RUNNING" and facts.ended_s >= late_s:
            yield Broken(
                "everyone-ends",
                f"{name} still waits{waits} at {facts.ended_s:.0f} s; all should have ended by {late_s:.0f} s",
                name,
                late_s,
            )
        elif end.exited_at_s is not None and end.exited_at_s > late_s:
            yield Broken(
                "everyone-ends",
                f"{name} ended {end.result} at {end.exited_at_s:.0f} s, after the bound of {late_s:.0f} s",
                name,
                end.exited_at_s,
            )


def _stopped_short(record: Record) -> str:
    if record.facts.simulated:
        return record.facts.limit
    return record.unfinished


def _same_result(record: Record) -> Iterator[Broken]:
    """Of agents that were in a round. Those that died, were told to end or were hit and ended have no say.

    Nor has a spare that left.
    """
    results = {
        life.name: life.finished[1].result
        for life in record.lives
        if life.finished is not None
        and life.seats
        and life.finished[1].result not in ("SIGNAL", "STOPPED")
        and not record.hits_on(life.name, "CrashNode", "KillAgent", "SignalAgent", "FlappingJoiner")
        and not (life.finished[1].result == "ERROR" and record.hits_on(life.name, *LETHAL))
    }
    if len(set(results.values())) > 1:
        views = listed([f"{name} {result}" for name, result in results.items()])
        errors = [f"{name}: {_error(name, record)}" for name, result in results.items() if result == "ERROR"]
        views += f" ({listed(errors)})" if errors else ""
        last = max(life.finished[0].at_s for life in record.lives if life.finished is not None)
        yield Broken("same-result", f"agents of one job ended differently: {views}", "", last)
    yield from _same_report(record)


def _same_report(record: Record) -> Iterator[Broken]:
    """What agents say of the job's end: the outcome, and who failed first."""
    said: dict[tuple[str, str], list[str]] = {}
    for life in record.lives:
        if record.hits_on(life.name, "Partition", "PauseNode", "PauseAgent", "SlowLinks"):
            continue  # it may have come too late for what the others had agreed on
        for _, event in life.of(events.JobEnded):
            # A recording may hold anything.
            first = next((one.words() for one in event.failures if isinstance(one, FailureRecord)), "")
            said.setdefault((event.outcome, first), []).append(life.name)
    if len(said) > 1:
        views = [f"{listed(names)}: {outcome} {first}".rstrip() for (outcome, first), names in said.items()]
        last = max(told.at_s for life in record.lives for told, _ in life.of(events.JobEnded))
        yield Broken("same-result", f"agents tell different ends of one job: {'; '.join(views)}", "", last)


def _error(name: str, record: Record) -> str:
    """The kind of error with which the last agent of a node ended."""
    finished = [life.finished[1] for life in record.lives if life.name == name and life.finished is not None]
    return finished[-1].reason.split(":")[0]


def _no_needless_end(record: Record) -> Iterator[Broken]:
    ends = {life.name: life for life in record.lives}
    results = {name: life.finished[1].result for name, life in ends.items() if life.finished is not None}
    failed = [
        life for life in record.lives if life.finished is not None and life.finished[1].result == "FAILED"
    ]
    if failed:
        # Everybody has to end, also who comes later; but the job must have had a reason.
        last = max(failed, key=lambda life: life.seats[-1].told.place if life.seats else -1)
        if last.finished is not None and not _has_failed_for_good(last, record):
            left = _budget_left(last, last.finished[0])
            why = f"the job failed, though no failure was its end{left}"
            yield broken_by("no-needless-end", last, last.finished[0], why)
        return
    for name, life in ends.items():
        finished = life.finished
        if finished is None or finished[1].result != "ERROR" or record.hits_on(name, *LETHAL):
            continue
        if not life.seats and "SUCCEEDED" in results.values():
            continue  # it came too late, or was not needed
        left = "" if life.started is None else _budget_left(life, finished[0])
        yield broken_by(
            "no-needless-end",
            life,
            finished[0],
            f"it ended with an error, though {_who_was_hit(record, name)}{left}: {finished[1].reason}",
        )


def _has_failed_for_good(life: Life, record: Record) -> bool:
    """Whether a failure that could not be paid for, or one after others had succeeded, has ended the job."""
    if life.started is None or not life.whole or not life.seats or not life.seats[-1].event.epoch:
        return True  # it can't be said, or this rendezvous does not decide for all
    if any(
        event.policy and event.action == "fail"
        for each in record.lives
        for _, event in each.of(events.DecisionMade)
    ):
        return True  # a restart policy has forbidden it
    last = record.round_of(life.seats[-1])
    if any(
        event.after == "SUCCEEDED"
        for seat in last.seats
        for _, event in seat.life.of(events.GroupStateChanged)
    ):
        return True
    failures = [bool(any(map(failure_in, group.seats))) for group in record.rounds]
    at = record.rounds.index(last)
    return failures[at] and sum(failures[:at]) >= life.started.restarts_max


def _budget_left(life: Life, told: Told) -> str:
    if life.started is None:
        return ""
    most = life.started.restarts_max
    return f", with {most - told.event.restart_count} of {most} restarts left"


def _who_was_hit(record: Record, name: str) -> str:
    hit = list(
        dict.fromkeys(hit.node for hit in record.facts.hits if hit.kind in LETHAL and hit.node != name)
    )
    if hit:
        return f"the fault struck {listed(hit)}"
    struck = list(dict.fromkeys(hit.words for hit in record.facts.hits if hit.words))
    return f"nothing more happened than: {struck[0]}" if struck else "nothing had happened to it"


def _only_simulated(record: Record) -> str:
    return "" if record.facts.simulated else "only the simulator knows what struck whom"


def _gaps(record: Record) -> str:
    return record.incomplete


def _unfinished(record: Record) -> str:
    return "" if record.facts.simulated else record.unfinished


CHECKERS = (
    Checker(
        "exit-barrier",
        "nobody leaves the exit barrier as complete before all have come",
        _exit_barrier,
        gaps=_gaps,
    ),
    Checker(
        "barrier-hears-failure",
        "a failure for good ends the exit barrier at once for everybody, by name",
        _barrier_hears,
        gaps=_gaps,
    ),
    Checker(
        "everyone-ends",
        "once faults have stopped every agent ends, in a stated time",
        _everyone_ends,
        gaps=_stopped_short,
    ),
    Checker(
        "same-result", "all agents that live to the end tell the same result", _same_result, gaps=_unfinished
    ),
    Checker(
        "no-needless-end",
        "a fault ends no agent but the one that it hit",
        _no_needless_end,
        beyond=_only_simulated,
    ),
)
