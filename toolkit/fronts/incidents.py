"""What went wrong in a run and what was done about it, for `rally show`."""

from __future__ import annotations

from collections.abc import Iterable

from toolkit.core.actions import was_asked_for
from toolkit.fronts.failure_summary import FailureSummary
from toolkit.fronts.page import Page
from toolkit.fronts.summary import GOING_ON, RestartSummary, RunSummary
from toolkit.views.failure_report import (
    consequences_in_words,
    details,
    gone_in_words,
    stopped_in_words,
    tail_of,
)
from toolkit.views.wording import duration_in_words

#: how much of each kind is shown; --json has it all
INCIDENTS_MAX, CONSEQUENCES_MAX = 10, 3


def print_incidents(page: Page, said: RunSummary) -> None:
    """What went wrong, each with what the agent did about it, in the order in which it came."""
    groups = _by_round(said)
    if not groups and said.state not in ("failed", "error"):
        return
    page.gap()
    latest = max((failure.round for failure in said.failures), default=0)
    for failures, restarts in groups[:INCIDENTS_MAX]:
        print_failures(page, failures, hint=said.simulated is None)
        if failures and failures[-1].round == latest and not restarts:
            if all(failure.hand == "second" for failure in failures):
                print_gone(page, said)
            print_stopped(page, said)
        _print_restart(page, restarts, over=said.state not in GOING_ON)
    _print_refusals(page, said)
    if len(groups) > INCIDENTS_MAX:
        page.line((f"and {len(groups) - INCIDENTS_MAX} more; --json has all", "dim"), indent=2)


def _by_round(said: RunSummary) -> list[tuple[list[FailureSummary], list[RestartSummary]]]:
    """Failures and restarts that belong together: nodes restart as one, and each tells of it.

    Each node counts the rounds that it was part of; one that joined later is behind, and comes too early here.
    """
    groups: dict[int, tuple[list[FailureSummary], list[RestartSummary]]] = {}
    for restart in said.restarts.each:
        groups.setdefault(restart.round, ([], []))[1].append(restart)
    for failure in said.failures:
        groups.setdefault(failure.round, ([], []))[0].append(failure)
    return [groups[number] for number in sorted(groups)]


def print_failures(page: Page, failures: list[FailureSummary], *, hint: bool) -> None:
    """Failures of one round: what each agent saw first, with its evidence, then the others."""
    first = [failure for failure in failures if failure.first]
    victims = [failure for failure in failures if not failure.first and failure.hand == "second"]
    others = [failure for failure in failures if not failure.first and failure.hand != "second"]
    for failure in first[:CONSEQUENCES_MAX]:
        page.line(
            page.sign("failed"), " ", (_after(failure.after_s), "dim"), (failure.text, "bold"), indent=2
        )
        for line in details(failure.text, failure.what, failure.remedy):
            page.line(line, indent=4)
        _print_evidence(page, failure)
    if hint and first and not any(f.traceback or f.stderr or f.signal or f.message for f in first):
        page.line(("stderr went to the console; with --tee 2 it is kept, too", "dim"), indent=4)
    unshown = others[CONSEQUENCES_MAX:] + first[CONSEQUENCES_MAX:]
    for failure in others[:CONSEQUENCES_MAX]:
        page.line((f"then {failure.text}", "dim"), indent=4)
    if unshown:
        page.line((f"then {len(unshown)} more", "dim"), indent=4)
    for line in consequences_in_words((f.global_rank, f.exit_code, f.signal, f.what) for f in victims):
        page.line((line, "dim"), indent=4)


def print_stopped(page: Page, said: RunSummary) -> None:
    """Whom the agents stopped at the end of a run that failed, with what they had said of another's death."""
    stopped = {rank.global_rank: rank.consequence for rank in said.ranks if rank.state == "stopped"}
    for line in stopped_in_words(stopped):
        page.line((line, "dim"), indent=4)


def print_gone(page: Page, said: RunSummary) -> None:
    """Who had ended well in a run of which all that failed only miss somebody."""
    for line in gone_in_words([rank.global_rank for rank in said.ranks if rank.state == "succeeded"]):
        page.line((line, "dim"), indent=4)


def _after(seconds: float | None) -> str:
    return f"after {duration_in_words(seconds)}: " if seconds is not None else ""


def _print_evidence(page: Page, failure: FailureSummary) -> None:
    print_lines(page, tail_of(failure.traceback))
    print_stderr(page, failure)


def print_lines(page: Page, lines: Iterable[str]) -> None:
    """Such as those of a traceback."""
    for line in lines:
        page.line((line, "dim"), indent=6)


def print_stderr(page: Page, failure: FailureSummary) -> None:
    """Where its stderr is, if it is kept."""
    if failure.stderr and failure.stderr != "/dev/null":
        page.line((f"its stderr: {failure.stderr}", "dim"), indent=4)


def _print_restart(page: Page, restarts: list[RestartSummary], *, over: bool) -> None:
    if not restarts:
        return
    told = _longest(restarts)
    page.line(
        (f"{page.arrow} {restarted_in_words(told.kind == 'failure', told.reason)}: ", "cyan"),
        told.reason,
        indent=4,
    )
    page.line(back_in_words(restarts, over=over), indent=6)


def restarted_in_words(spends_budget: bool, reason: str) -> str:
    """What was done."""
    if was_asked_for(reason):
        return "restarted on request"
    return "restarted" if spends_budget else "restarted for a change of membership"


def back_in_words(restarts: list[RestartSummary], *, over: bool) -> str:
    """How long one restart took, of the node that took longest; `restarts` are of all nodes."""
    told = _longest(restarts)
    return f"{_back(told, over=over)}: {_phases(told)}{_slowest(restarts)}"


def _longest(restarts: list[RestartSummary]) -> RestartSummary:
    return max(restarts, key=lambda restart: (restart.kind == "failure", restart.total_s or 0.0))


def _back(restart: RestartSummary, *, over: bool) -> str:
    if restart.total_s is not None:
        return f"back in {duration_in_words(restart.total_s)}"
    return "never came back" if over else "not back yet"


def _print_refusals(page: Page, said: RunSummary) -> None:
    """Why a node gave up; each reason once."""
    refusals = (made.reason for made in said.last_decisions if made.action in ("fail", "abort"))
    for reason in list(dict.fromkeys(refusals))[:CONSEQUENCES_MAX]:
        page.line((f"{page.arrow} not restarted: ", "red"), reason, indent=4)


def _phases(restart: RestartSummary) -> str:
    phases = (
        ("detect", restart.detect_s),
        ("stop", restart.stop_s),
        # Without a back-off this is the time between two events.
        ("wait", restart.wait_s if restart.wait_s and restart.wait_s >= 0.05 else None),
        ("rendezvous", restart.rendezvous_s),
        ("start", restart.start_s),
    )
    shown = [f"{name} {duration_in_words(seconds)}" for name, seconds in phases if seconds is not None]
    return " + ".join(shown) or "no phase is recorded"


def _slowest(restarts: list[RestartSummary]) -> str:
    nodes = len({restart.node for restart in restarts})
    if nodes < 2:
        return ""
    slowest = max(restarts, key=lambda restart: restart.total_s or 0.0)
    return f" ({nodes} nodes; {slowest.node} was back last, in {duration_in_words(slowest.total_s)})"
