"""What one agent promises about its own workers. All is judged on the order of its own events and on its own clock."""

from __future__ import annotations

import re
from collections.abc import Iterator

from simulator.checkers.record import Life, Record, Told
from simulator.checkers.values import Broken, Checker, broken_by
from toolkit.core import events
from toolkit.core.decisions import LEGAL_STEPS
from toolkit.core.model import WorkerState
from toolkit.core.words import plural, ranks

#: what stopping may take beyond the grace: SIGKILL and the kernel's part
_STOP_SLACK_S = 6.0
#: how late an agent may leave a barrier whose timeout has passed, or end after a signal
_LATE_S = 10.0
_WINDOW = re.compile(r" within ([0-9.]+) s")


def _legal_states(record: Record) -> Iterator[Broken]:
    for life in _whole(record):
        state = WorkerState.INIT.value
        for told, event in life.of(events.GroupStateChanged):
            if event.before != state:
                yield broken_by("legal-states", life, told, f"it leaves {event.before} while it was {state}")
            elif not _legal(event.before, event.after):
                yield broken_by(
                    "legal-states", life, told, f"its group went from {event.before} to {event.after}"
                )
            state = event.after


def _legal(before: str, after: str) -> bool:
    known = {state.value: {after.value for after in steps} for state, steps in LEGAL_STEPS.items()}
    return after in known.get(before, set())


def _start_after_rendezvous(record: Record) -> Iterator[Broken]:
    for life in _whole(record):
        formed = False
        for told in life.told:
            match told.event:
                case events.RendezvousCompleted():
                    formed = True
                case events.RendezvousStarted():
                    formed = False
                case events.WorkersStarting(incarnation=number):
                    if not formed:
                        yield broken_by(
                            "start-after-rendezvous",
                            life,
                            told,
                            f"it starts incarnation {number} of its workers without a rendezvous before",
                        )
                    formed = False


def _one_start(record: Record) -> Iterator[Broken]:
    for life in _whole(record):
        for seat in life.seats:
            starts: dict[int, int] = {}
            for told in seat.said:
                if isinstance(told.event, events.WorkerStarted):
                    rank = told.event.global_rank
                    starts[rank] = starts.get(rank, 0) + 1
                    if starts[rank] == 2:
                        yield broken_by(
                            "one-start-per-round-and-rank",
                            life,
                            told,
                            f"it starts rank {rank} a second time in one round",
                        )


def _one_incarnation(record: Record) -> Iterator[Broken]:
    for life in _whole(record):
        running: dict[int, int] = {}
        for told in life.told:
            match told.event:
                case events.WorkerStarted(local_rank=local_rank, incarnation=number):
                    running[local_rank] = number
                case events.WorkerExited(local_rank=local_rank):
                    running.pop(local_rank, None)
                case events.WorkersStopped(unkillable=unkillable):
                    running = {rank: number for rank, number in running.items() if rank in unkillable}
                case events.WorkersStarting(incarnation=number) if running:
                    yield broken_by(
                        "one-incarnation-at-a-time",
                        life,
                        told,
                        f"it starts incarnation {number} while {plural(len(running), 'worker')} of "
                        f"incarnation {min(running.values())} still {'runs' if len(running) == 1 else 'run'}",
                    )


def _workers_gone(record: Record) -> Iterator[Broken]:
    for life in _whole(record):
        running: dict[int, int] = {}
        for told in life.told:
            match told.event:
                case events.WorkerStarted(local_rank=local_rank, global_rank=rank):
                    running[local_rank] = rank
                case events.WorkerExited(local_rank=local_rank):
                    running.pop(local_rank, None)
                case events.WorkersStopped(unkillable=[]):
                    running.clear()
                case events.AgentFinished() if running:
                    left = ranks(list(running.values()))
                    detail = f"it ended and said nothing of the end of {left}"
                    yield broken_by("nothing-outlives-the-agent", life, told, detail)
    for name, orphans in record.facts.orphans.items():
        if orphans:
            verb = "runs" if len(orphans) == 1 else "run"
            detail = f"{name}: {', '.join(orphans[:4])} still {verb} after its agent"
            yield Broken("nothing-outlives-the-agent", detail, name, record.facts.ended_s)


def _restart_budget(record: Record) -> Iterator[Broken]:
    for life in record.lives:
        started = life.started
        if started is not None:
            yield from _over_budget(life, started.restarts_max)
        if life.whole:
            yield from _unpaid(life)


def _over_budget(life: Life, budget: int) -> Iterator[Broken]:
    spent: list[Told] = []
    for told, event in life.of(events.DecisionMade):
        if event.action == "restart" and event.spends_budget:
            spent.append(told)
            counted = _within_window(spent, told, event.reason)
            if counted > budget:
                yield broken_by(
                    "restart-budget", life, told, f"it makes restart {counted}, and {budget} are allowed"
                )
                return
    if not spent:
        # A subject that tells no decisions still tells its count in each event.
        for told in life.told:
            if told.event.restart_count > budget:
                count = told.event.restart_count
                yield broken_by(
                    "restart-budget", life, told, f"it counts {count} restarts, and {budget} are allowed"
                )
                return


def _within_window(spent: list[Told], now: Told, reason: str) -> int:
    window = _WINDOW.search(reason)
    if window is None:
        return len(spent)
    since_ns = now.event.mono_ns - int(float(window[1]) * 1e9)
    return sum(told.event.mono_ns > since_ns for told in spent)


def _unpaid(life: Life) -> Iterator[Broken]:
    """Restarts after a failure that nobody counted."""
    if not life.of(events.DecisionMade):
        return
    failed: Told | None = None
    decided = True  # the first start needs no decision
    for told in life.told:
        match told.event:
            case events.FailureRecorded():
                failed = told
            case events.Evicted():
                failed = None  # it was of a round that the job had left: nothing is restarted because of it
            case events.DecisionMade(action="restart", spends_budget=spends, free=free):
                decided = True
                if failed is not None and not spends and not free:
                    yield broken_by(
                        "restart-budget", life, told, "it restarts a failed group without counting it"
                    )
            case events.WorkersStarting(incarnation=number):
                if not decided:
                    yield broken_by(
                        "restart-budget",
                        life,
                        told,
                        f"it starts incarnation {number} of its workers without a decision to restart",
                    )
                failed, decided = None, False


def _first_failure(record: Record) -> Iterator[Broken]:
    for life in _whole(record):
        firsts: dict[int, int] = {}
        last: dict[int, Told] = {}
        victims: set[int] = set()
        for told, event in life.of(events.FailureRecorded):
            # A culprit that ended while the agent stopped the others takes the place of its victim.
            takes_over = event.first and event.incarnation in victims and event.hand == "first"
            firsts[event.incarnation] = firsts.get(event.incarnation, 0) + (event.first and not takes_over)
            last[event.incarnation] = told
            if event.first:
                victims.discard(event.incarnation)
                victims |= {event.incarnation} if event.hand == "second" else set()
        for incarnation, count in firsts.items():
            if count != 1:
                how = "no failure" if count == 0 else f"{count} failures"
                yield broken_by(
                    "first-failure-once",
                    life,
                    last[incarnation],
                    f"of incarnation {incarnation} it marks {how} as the first",
                )


def _stop_within_grace(record: Record) -> Iterator[Broken]:
    for life in _whole(record):
        stopping: tuple[Told, events.WorkersStopping] | None = None
        for told in life.told:
            match told.event:
                case events.WorkersStopping():
                    stopping = told, told.event
                case events.WorkersStopped() if stopping is not None:
                    yield from _too_slow(life, told, *stopping)
                    stopping = None
                case events.AgentFinished() if stopping is not None:
                    yield broken_by(
                        "stop-within-grace", life, told, "it ended without a word on the workers it stopped"
                    )


def _too_slow(life: Life, told: Told, begun: Told, stopping: events.WorkersStopping) -> Iterator[Broken]:
    took_s = (told.event.mono_ns - begun.event.mono_ns) / 1e9
    if took_s > stopping.grace_s + _STOP_SLACK_S:
        yield broken_by(
            "stop-within-grace",
            life,
            told,
            f"stopping its workers took {took_s:.1f} s; the grace is {stopping.grace_s:g} s",
        )


def _signal_ends(record: Record) -> Iterator[Broken]:
    allowed_s = record.facts.grace_s + _LATE_S
    for hit in record.facts.hits:
        end = record.facts.nodes.get(hit.node)
        if hit.kind != "SignalAgent" or end is None or hit.at_s + allowed_s > record.facts.ended_s:
            continue
        # An agent that had ended before was not there to hear it; one that was started later did not hear it either.
        lives = [life for life in record.lives if life.name == hit.node and life.told[0].at_s <= hit.at_s]
        later = any(life.name == hit.node and life.told[0].at_s > hit.at_s for life in record.lives)
        ended_s = end.exited_at_s if end.exited_at_s is not None else record.facts.ended_s
        after_s = (lives[-1].end_s if later and lives else ended_s) - hit.at_s
        if after_s > allowed_s:
            ended = f"ended {after_s:.0f} s later" if end.ended else f"still waits for {end.waits_for}"
            yield Broken(
                "signal-ends-agent",
                f"{hit.node} was told to end at {hit.at_s:.1f} s and {ended}; {allowed_s:.0f} s are allowed",
                hit.node,
                hit.at_s + allowed_s,
            )
    if not record.facts.simulated:
        for life in _whole(record):
            yield from _late_after_signal(life)


def _late_after_signal(life: Life) -> Iterator[Broken]:
    finished, heard = life.finished, life.of(events.SignalReceived)
    if finished is None or not heard:
        return
    grace_s = max((event.grace_s for _, event in life.of(events.WorkersStopping)), default=0.0)
    took_s = (finished[0].event.mono_ns - heard[0][0].event.mono_ns) / 1e9
    if took_s > grace_s + _LATE_S:
        yield broken_by("signal-ends-agent", life, finished[0], f"it ended {took_s:.0f} s after the signal")


def _events_complete(record: Record) -> Iterator[Broken]:
    last = {life.name: life for life in record.lives}
    for life in record.lives:
        if life.unread:
            yield broken_by("events-complete", life, life.told[0], "its start is missing")
        told_lost = sum(max(event.count, 0) for _, event in life.of(events.EventsDropped))
        if life.missing > told_lost:
            count = life.missing - told_lost
            yield broken_by("events-complete", life, life.told[-1], f"{plural(count, 'event')} missing")
        yield from _after_the_end(life)
        if last[life.name] is life:
            yield from _unsaid_end(life, record)


def _after_the_end(life: Life) -> Iterator[Broken]:
    before: Told | None = None
    for told in life.told:
        if before is not None and isinstance(before.event, events.AgentFinished):
            yield broken_by("events-complete", life, told, "it goes on after it said that it had finished")
            return
        if before is not None and told.event.mono_ns < before.event.mono_ns:
            yield broken_by("events-complete", life, told, "its monotonic clock goes backwards")
            return
        before = told


def _unsaid_end(life: Life, record: Record) -> Iterator[Broken]:
    end = record.facts.nodes.get(life.name)
    if end is None or end.result in ("RUNNING", "WAITING", "KILLED", "LOST"):
        return
    finished = life.finished
    if finished is None:
        yield broken_by("events-complete", life, life.told[-1], f"it ended ({end.result}) and did not say so")
    elif finished[1].result != end.result:
        said = finished[1].result
        yield broken_by(
            "events-complete", life, finished[0], f"it said that it ended {said}, and it ended {end.result}"
        )


def _whole(record: Record) -> list[Life]:
    """Agents of which nothing is missing up to their last event; of others no order can be judged."""
    return [life for life in record.lives if life.whole]


def _torn(record: Record) -> str:
    torn = [life.name for life in record.lives if not life.whole]
    return f"events of {', '.join(torn[:3])} are missing" if torn else ""


CHECKERS = (
    Checker(
        "legal-states", "a worker group takes only the steps of the state table", _legal_states, gaps=_torn
    ),
    Checker(
        "start-after-rendezvous",
        "workers start only after a rendezvous, once for each",
        _start_after_rendezvous,
        gaps=_torn,
    ),
    Checker("one-start-per-round-and-rank", "a rank starts once in a round", _one_start, gaps=_torn),
    Checker(
        "one-incarnation-at-a-time",
        "no worker starts while one of an earlier incarnation runs",
        _one_incarnation,
        gaps=_torn,
    ),
    Checker(
        "nothing-outlives-the-agent", "when an agent has ended, its workers have", _workers_gone, gaps=_torn
    ),
    Checker(
        "restart-budget",
        "failures are counted, and no agent restarts more often than it may",
        _restart_budget,
        gaps=_torn,
    ),
    Checker("first-failure-once", "of each incarnation one failure is the first", _first_failure, gaps=_torn),
    Checker("stop-within-grace", "workers are gone when their grace is over", _stop_within_grace, gaps=_torn),
    Checker("signal-ends-agent", "an agent that is told to end does so within its grace", _signal_ends),
    Checker("events-complete", "each agent tells all from its start to its end", _events_complete),
)
