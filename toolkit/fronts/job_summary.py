"""What the nodes of a job decided together, as a part of what `rally show --json` prints. Fields are only added."""

from __future__ import annotations

import msgspec

from toolkit.core import job_story
from toolkit.core.job_report import FailureRecord
from toolkit.core.job_story import JobStory
from toolkit.views.wording import moment_text


class EpochSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The time of one coordinator; `before` was the one until then, and `reason` says why it was replaced."""

    number: int
    coordinator: str
    before: str
    reason: str
    at: str


class RoundEndSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Why round `number` ended before its time: `action` is "restart" or "membership", decided by the node `by`."""

    number: int
    action: str
    reason: str
    by: str
    spends_budget: bool
    restarts: int
    at: str


class FormedSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One round of the job. `members` by group rank, and `parked` beside them, where the coordinator is recorded."""

    number: int
    epoch: int
    coordinator: str
    size: int
    members: list[str]
    parked: list[str]


class LostSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A node that left or gave no sign of life for `stood_s` seconds, as the coordinator `by` noticed."""

    node: str
    reason: str
    stood_s: float
    by: str
    round: int
    at: str


class JoinSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A node that wanted to join; `kind` is "held" (for `for_s` seconds) or "refused"."""

    joiner: str
    kind: str
    reason: str
    for_s: float
    by: str
    round: int
    at: str


class SilenceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which the store at `where` did not answer `node`."""

    node: str
    where: str
    silent_s: float
    limit_s: float
    answered: bool
    at: str


class JobSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The job as its nodes decided it.

    `outcome` is "succeeded", "failed", or empty while nobody has told; `failures` are of the last round, who failed
    first at the top. These and `why` are the same in the recordings of all nodes.
    """

    outcome: str
    why: str
    failures: list[FailureRecord]
    coordinator: str
    epochs: list[EpochSummary]
    rounds: list[FormedSummary]
    round_ends: list[RoundEndSummary]
    lost: list[LostSummary]
    joins: list[JoinSummary]
    silences: list[SilenceSummary]


def job_summary(story: JobStory) -> JobSummary | None:
    """What the recording tells of the job; None if nothing, as with the rendezvous of others."""
    if story == JobStory():
        return None
    outcome = story.outcome or job_story.JobOutcome(outcome="")
    return JobSummary(
        outcome=outcome.outcome,
        why=outcome.why,
        failures=list(outcome.failures),
        coordinator=story.coordinator,
        epochs=[_epoch(story.epochs[number]) for number in sorted(story.epochs)],
        rounds=[_formed(story.rounds[number]) for number in sorted(story.rounds)],
        round_ends=[_end(number, end) for number, end in story.ends],
        lost=[_lost(lost) for lost in story.lost],
        joins=[_join(join) for join in story.joins],
        silences=[_silence(silence) for silence in story.silences],
    )


def _epoch(epoch: job_story.Epoch) -> EpochSummary:
    return EpochSummary(
        number=epoch.number,
        coordinator=epoch.coordinator,
        before=epoch.before,
        reason=epoch.reason,
        at=moment_text(epoch.at),
    )


def _formed(formed: job_story.JobRound) -> FormedSummary:
    return FormedSummary(
        number=formed.number,
        epoch=formed.epoch,
        coordinator=formed.coordinator,
        size=formed.size,
        members=list(formed.members),
        parked=list(formed.parked),
    )


def _end(number: int, end: job_story.RoundEnd) -> RoundEndSummary:
    return RoundEndSummary(
        number=number,
        action=end.action,
        reason=end.reason,
        by=end.by,
        spends_budget=end.spends_budget,
        restarts=end.restarts,
        at=moment_text(end.at),
    )


def _lost(lost: job_story.LostNode) -> LostSummary:
    return LostSummary(
        node=lost.node,
        reason=lost.reason,
        stood_s=lost.stood_s,
        by=lost.by,
        round=lost.round,
        at=moment_text(lost.at),
    )


def _join(join: job_story.Join) -> JoinSummary:
    return JoinSummary(
        joiner=join.joiner,
        kind=join.kind,
        reason=join.reason,
        for_s=join.for_s,
        by=join.by,
        round=join.round,
        at=moment_text(join.at),
    )


def _silence(silence: job_story.Silence) -> SilenceSummary:
    return SilenceSummary(
        node=silence.node,
        where=silence.where,
        silent_s=silence.silent_s,
        limit_s=silence.limit_s,
        answered=silence.answered,
        at=moment_text(silence.at),
    )
