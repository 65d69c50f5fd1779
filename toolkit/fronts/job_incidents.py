"""What went wrong in a job of our rendezvous, for `rally show`.

First comes the report that all agents printed, then why rounds ended: the same lines whichever node is recorded. Below
them stands what only some recordings know, such as where a stderr is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from toolkit.core.job_report import FailureRecord
from toolkit.core.job_story import LEFT
from toolkit.core.words import endings, plural, some
from toolkit.fronts.failure_summary import FailureSummary
from toolkit.fronts.incidents import (
    CONSEQUENCES_MAX,
    back_in_words,
    print_failures,
    print_gone,
    print_lines,
    print_stderr,
    print_stopped,
    restarted_in_words,
)
from toolkit.fronts.job_summary import JobSummary, RoundEndSummary
from toolkit.fronts.page import Page
from toolkit.fronts.summary import GOING_ON, RestartSummary, RunSummary
from toolkit.views.failure_report import report_in_words, tail_of
from toolkit.views.wording import duration_in_words, parsed, taken_over

#: the latest of them are shown; --json has all
_ENDS_MAX = 6
#: restarts of one round that begin within so many seconds do so together
_TOGETHER_S = 2.0


def print_job_incidents(page: Page, said: RunSummary, job: JobSummary) -> None:
    """Why the job failed if it did, why its rounds ended, and failures that nobody decided anything about."""
    failed = job.outcome == "failed"
    ended = {end.number for end in job.round_ends}
    left = [failure for failure in said.failures if failure.round not in ended and not failed]
    if failed or said.rounds > 1 or ended or left:
        page.gap()
    if failed:
        _print_report(page, said, job)
    print_failures(page, left, hint=said.simulated is None)
    _print_ends(page, said, job)


def _print_report(page: Page, said: RunSummary, job: JobSummary) -> None:
    words = report_in_words(job.why, job.failures)
    page.line(page.sign("failed"), " ", (words.first, "bold"), indent=2)
    for line in words.details:
        page.line(line, indent=4)
    print_lines(page, words.traceback)
    for failure in said.failures:
        if job.failures and _record(failure).words() == job.failures[0].words():
            print_stderr(page, failure)
    for line in words.others:
        page.line(line, indent=4)
    if job.failures and job.failures[0].hand == "second":
        print_gone(page, said)
    print_stopped(page, said)
    if words.why:
        page.line((f"{page.arrow} not restarted: ", "red"), words.why, indent=4)
    if said.rounds > 1:
        page.gap()


def _record(failure: FailureSummary) -> FailureRecord:
    """A failure of a recording as its agent told the others, as far as it goes."""
    return FailureRecord(
        host=failure.host,
        global_rank=failure.global_rank,
        local_rank=failure.local_rank,
        pid=failure.pid,
        exit_code=failure.exit_code,
        signal=failure.signal,
        message=failure.message,
        what=failure.what,
    )


def _print_ends(page: Page, said: RunSummary, job: JobSummary) -> None:
    ends = job.round_ends
    # Who came late has not been told.
    unknown = min((end.number for end in ends), default=said.rounds) - 1
    if unknown > 0:
        which = f"rounds 1 to {unknown}" if unknown > 1 else "round 1"
        page.line((f"why {which} ended is not in this recording", "dim"), indent=2)
    if len(ends) > _ENDS_MAX:
        earlier = plural(len(ends) - _ENDS_MAX, "earlier end")
        page.line((f"{earlier} of rounds left out; --json has all", "dim"), indent=2)
    for end in ends[-_ENDS_MAX:]:
        _print_end(page, said, job, end)


def _print_end(page: Page, said: RunSummary, job: JobSummary, end: RoundEndSummary) -> None:
    kind = restarted_in_words(end.action == "restart", end.reason)
    page.line((f"{page.arrow} round {end.number} {kind}: ", "cyan"), end.reason, indent=2)
    failures = [failure for failure in said.failures if failure.round == end.number]
    if end.action == "restart":
        _print_details(page, end, failures, with_traceback=job.outcome != "failed")
    restarts = [r for r in said.restarts.each if (r.round, r.reason) == (end.number, end.reason)]
    if restarts:
        back = back_in_words(restarts, over=said.state not in GOING_ON)
        page.line(f"after {duration_in_words(_after_s(restarts))}, {back}", indent=6)


def _after_s(restarts: Sequence[RestartSummary]) -> float:
    """By the node that has been there longest, of those that restarted at first: one that slept hears of it late."""
    at = [(parsed(restart.at), restart.after_s or 0.0) for restart in restarts]
    first = min((moment for moment, _ in at if moment is not None), default=None)
    if first is None:
        return max(after_s for _, after_s in at)
    return max(after_s for moment, after_s in at if moment and (moment - first).total_seconds() < _TOGETHER_S)


def _print_details(
    page: Page, end: RoundEndSummary, failures: Sequence[FailureSummary], *, with_traceback: bool
) -> None:
    """What recordings know of the failure that ended a round, and who failed after it."""
    told = [failure for failure in failures if end.reason.startswith(_record(failure).words())]
    for failure in told[:1]:
        print_lines(page, tail_of(failure.traceback) if with_traceback else ())
        print_stderr(page, failure)
    groups: dict[tuple[int | None, str], list[int]] = {}
    for failure in failures:
        if failure not in told:
            groups.setdefault((failure.exit_code, failure.signal), []).append(failure.global_rank)
    then = [endings(ranks, *how) for how, ranks in groups.items()]
    if then:
        page.line((f"then {some(then, CONSEQUENCES_MAX)}", "dim"), indent=4)


def job_rows(job: JobSummary) -> Iterable[tuple[str, str]]:
    """What else happened to the job, as label and words, a row each kind."""
    for epoch in job.epochs:
        if epoch.number > 1 and epoch.before:
            yield "takeover", taken_over(epoch.number, epoch.coordinator, epoch.before, epoch.reason)
    yield from _lost_rows(job)
    for kind, label in (("held", "held back"), ("refused", "refused")):
        groups: dict[str, list[str]] = {}
        for join in job.joins:
            if join.kind == kind:
                groups.setdefault(join.reason, []).append(join.joiner)
        for reason, joiners in groups.items():
            yield label, f"{some(joiners)}: {reason}"
    yield from _silence_rows(job)


def _lost_rows(job: JobSummary) -> Iterable[tuple[str, str]]:
    """Nodes whose loss ended no round, by what was said of them; those that left by themselves are not lost."""
    reasons = [end.reason for end in job.round_ends] + [job.why]
    groups: dict[str, list[str]] = {}
    for lost in job.lost:
        if lost.reason != LEFT and not any(lost.node in reason for reason in reasons):
            groups.setdefault(lost.reason, []).append(lost.node)
    for reason, nodes in groups.items():
        yield "lost", f"{some(nodes)}: {reason}"


def _silence_rows(job: JobSummary) -> Iterable[tuple[str, str]]:
    stores = dict.fromkeys(silence.where for silence in job.silences)
    for where in stores:
        here = [silence for silence in job.silences if silence.where == where]
        nodes = plural(len({silence.node for silence in here}), "node")
        longest = duration_in_words(max(silence.silent_s for silence in here))
        if all(silence.answered for silence in here):
            yield "store", f"{where} did not answer {nodes} for up to {longest}"
        else:
            yield "store", f"{where} stopped answering {nodes}"
