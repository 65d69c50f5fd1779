"""What the nodes of a job decided together, as their events tell it: rounds, coordinators, losses, the end. Pure.

All of it comes from our own rendezvous; of jobs over torch's it stays empty. Every member says the same of a round, so
what is said again is taken once. Agents have the names of their recordings, without tokens. Nothing raises, and
everything that can grow has a bound: a recording may say anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

import msgspec
from msgspec.structs import replace

from toolkit.core import events
from toolkit.core.events import Event
from toolkit.core.job_report import RECORDS_MAX, FailureRecord
from toolkit.core.moment import Moment
from toolkit.core.words import without_tokens

#: the latest so many of each are kept; ends are of one round
ROUNDS_MAX, EPOCHS_MAX, ENDS_MAX, TOLD_MAX = 1_000, 1_000, 8, 1_000

#: what a coordinator says of a node that was not lost but told that it leaves
LEFT = "it left"

_T = TypeVar("_T")


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """The time of one coordinator.

    Args:
        before: the coordinator of the epoch before; empty for the first.
        reason: why that one was replaced, in words.
    """

    number: int
    coordinator: str
    before: str = ""
    reason: str = ""
    at: Moment


class RoundEnd(msgspec.Struct, frozen=True, kw_only=True):
    """Why a round ended before its time.

    Args:
        action: "restart" after a failure, "membership" because nodes came or went.
        by: the node that decided it for all.
        restarts: of the job that spent the budget, this one included.
        told_by: the node whose clock `at` is of.
    """

    action: str
    reason: str
    by: str
    spends_budget: bool
    restarts: int
    told_by: str
    at: Moment


class JobRound(msgspec.Struct, frozen=True, kw_only=True):
    """One round of the job.

    Args:
        size: its nodes.
        members: by group rank; empty if the recording of its coordinator is missing.
        parked: nodes that waited beside it when it formed.
        ends: why it ended. A failure may come on top of a change of membership; both are here, then.
    """

    number: int
    epoch: int = 0
    coordinator: str = ""
    size: int = 0
    members: tuple[str, ...] = ()
    parked: tuple[str, ...] = ()
    ends: tuple[RoundEnd, ...] = ()


class LostNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node that left or gave no sign of life, as the coordinator `by` noticed it in `round`."""

    node: str
    reason: str
    stood_s: float
    by: str
    round: int
    at: Moment


class Join(msgspec.Struct, frozen=True, kw_only=True):
    """A node that wanted to join and was held back for `for_s` seconds, or refused. `by` says so."""

    joiner: str
    kind: Literal["held", "refused"]
    reason: str
    for_s: float
    by: str
    round: int
    at: Moment


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which the store at `where` did not answer `node`; `silent_s` is what is known of its length."""

    node: str
    where: str
    silent_s: float
    limit_s: float = 0.0
    answered: bool = False
    at: Moment


class JobOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How the job ended, in the words of all its nodes; who failed first is at the top of `failures`."""

    outcome: str
    why: str = ""
    failures: tuple[FailureRecord, ...] = ()


class JobStory(msgspec.Struct, frozen=True, kw_only=True):
    """A job as its nodes decided it.

    Args:
        epochs: by number, in the order in which they were told of.
        rounds: by number, likewise.
        outcome: None while nobody has told.
    """

    epochs: Mapping[int, Epoch] = {}
    rounds: Mapping[int, JobRound] = {}
    lost: tuple[LostNode, ...] = ()
    joins: tuple[Join, ...] = ()
    silences: tuple[Silence, ...] = ()
    outcome: JobOutcome | None = None

    @property
    def coordinator(self) -> str:
        """Who decides, as far as it is told; of the latest epoch."""
        return self.epochs[max(self.epochs)].coordinator if self.epochs else ""

    @property
    def ends(self) -> Iterator[tuple[int, RoundEnd]]:
        """Rounds that ended before their time, in order, with the reason; a restart comes behind other ends."""
        for number in sorted(self.rounds):
            for end in sorted(self.rounds[number].ends, key=lambda end: end.spends_budget):
                yield number, end


def told(story: JobStory, event: Event, at: Moment) -> JobStory:
    """The story after one more event; most events have nothing to do with it. Never raises."""
    step = _STEPS.get(type(event))
    return story if step is None else step(story, event, at)


def _round_formed(story: JobStory, event: events.RoundFormed, at: Moment) -> JobStory:
    return _with_round(
        story,
        event.formed,
        lambda known: replace(
            known,
            coordinator=event.node,
            size=len(event.members),
            members=tuple(map(without_tokens, event.members)),
            parked=tuple(map(without_tokens, event.parked)),
        ),
    )


def _rendezvous_completed(story: JobStory, event: events.RendezvousCompleted, at: Moment) -> JobStory:
    if event.epoch <= 0:
        return story  # of another rendezvous, whose rounds each node counts for itself
    return _with_round(
        story,
        event.round,
        lambda known: replace(
            known,
            epoch=event.epoch,
            coordinator=without_tokens(event.coordinator) or known.coordinator,
            size=event.group_world_size,
        ),
    )


def _round_ended(story: JobStory, event: events.RoundEnded, at: Moment) -> JobStory:
    end = RoundEnd(
        action=event.action,
        reason=without_tokens(event.reason),
        by=without_tokens(event.by),
        spends_budget=event.spends_budget,
        restarts=event.restarts,
        told_by=event.node,
        at=at,
    )
    return _with_round(story, event.ended, lambda known: replace(known, ends=_with_end(known.ends, end)))


def _with_end(ends: tuple[RoundEnd, ...], new: RoundEnd) -> tuple[RoundEnd, ...]:
    """Once for all nodes that say it; at the time of the one that decided it, if that is recorded."""
    for index, end in enumerate(ends):
        if (end.action, end.reason, end.by) == (new.action, new.reason, new.by):
            kept = new if new.told_by == new.by else end
            return (*ends[:index], kept, *ends[index + 1 :])
    return (*ends, new)[:ENDS_MAX]


def _with_round(story: JobStory, number: int, change: Callable[[JobRound], JobRound]) -> JobStory:
    known = story.rounds.get(number)
    changed = change(known or JobRound(number=number))
    if changed == known:
        return story  # most members say what is known
    return replace(story, rounds=_latest({**story.rounds, number: changed}, ROUNDS_MAX))


def _latest(by_number: dict[int, _T], count_max: int) -> dict[int, _T]:
    if len(by_number) > count_max:
        del by_number[min(by_number)]
    return by_number


def _coordinator_changed(story: JobStory, event: events.CoordinatorChanged, at: Moment) -> JobStory:
    if not event.coordinator:
        return story  # the one before has left, and nobody has taken over yet
    known = story.epochs.get(event.began)
    epoch = known or Epoch(number=event.began, coordinator=without_tokens(event.coordinator), at=at)
    # Only who took over knows why; who came later does not know who was before.
    epoch = replace(
        epoch,
        before=epoch.before or without_tokens(event.before),
        reason=epoch.reason or without_tokens(event.reason),
    )
    return replace(story, epochs=_latest({**story.epochs, event.began: epoch}, EPOCHS_MAX))


def _lease_lost(story: JobStory, event: events.LeaseLost, at: Moment) -> JobStory:
    lost = LostNode(
        node=without_tokens(event.lost),
        reason=event.reason,
        stood_s=event.stood_s,
        by=event.node,
        round=event.round,
        at=at,
    )
    return replace(story, lost=_appended(story.lost, lost))


def _join_held(story: JobStory, event: events.JoinHeld, at: Moment) -> JobStory:
    return _with_join(story, event, at, "held", event.for_s)


def _join_refused(story: JobStory, event: events.JoinRefused, at: Moment) -> JobStory:
    joiner, reason = without_tokens(event.joiner), without_tokens(event.reason)
    # Both sides tell of it.
    if any((join.joiner, join.kind, join.reason) == (joiner, "refused", reason) for join in story.joins):
        return story
    return _with_join(story, event, at, "refused", 0.0)


def _with_join(
    story: JobStory,
    event: events.JoinHeld | events.JoinRefused,
    at: Moment,
    kind: Literal["held", "refused"],
    for_s: float,
) -> JobStory:
    join = Join(
        joiner=without_tokens(event.joiner),
        kind=kind,
        reason=without_tokens(event.reason),
        for_s=for_s,
        by=event.node,
        round=event.round,
        at=at,
    )
    return replace(story, joins=_appended(story.joins, join))


def _store_silent(story: JobStory, event: events.StoreSilent, at: Moment) -> JobStory:
    silence = Silence(
        node=event.node, where=event.where, silent_s=event.silent_s, limit_s=event.limit_s, at=at
    )
    return replace(story, silences=_appended(story.silences, silence))


def _store_answers(story: JobStory, event: events.StoreAnswers, at: Moment) -> JobStory:
    for index in reversed(range(len(story.silences))):
        known = story.silences[index]
        if known.node == event.node and not known.answered:
            over = replace(known, silent_s=event.silent_s, answered=True)
            return replace(story, silences=(*story.silences[:index], over, *story.silences[index + 1 :]))
    silence = Silence(node=event.node, where=event.where, silent_s=event.silent_s, answered=True, at=at)
    return replace(story, silences=_appended(story.silences, silence))


def _job_ended(story: JobStory, event: events.JobEnded, at: Moment) -> JobStory:
    failures = tuple(event.failures[:RECORDS_MAX])
    new = JobOutcome(outcome=event.outcome, why=without_tokens(event.why), failures=failures)
    # An agent that could not wait for the report says less than the others.
    known = story.outcome
    less = known is not None and known.outcome == new.outcome and len(known.failures) > len(failures)
    return story if less else replace(story, outcome=new)


def _appended(history: tuple[_T, ...], item: _T) -> tuple[_T, ...]:
    return (*history[-(TOLD_MAX - 1) :], item)


_STEPS: dict[type[Event], Callable[[JobStory, Any, Moment], JobStory]] = {
    events.RoundFormed: _round_formed,
    events.RendezvousCompleted: _rendezvous_completed,
    events.RoundEnded: _round_ended,
    events.CoordinatorChanged: _coordinator_changed,
    events.LeaseLost: _lease_lost,
    events.JoinHeld: _join_held,
    events.JoinRefused: _join_refused,
    events.StoreSilent: _store_silent,
    events.StoreAnswers: _store_answers,
    events.JobEnded: _job_ended,
}
