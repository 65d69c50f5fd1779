"""What `rally run` says of a job whose nodes decide together: one line for each thing, and one report at the end."""

from __future__ import annotations

from typing import Any

from toolkit.core import events as ev
from toolkit.core.job_report import FailureRecord
from toolkit.core.model import ProcessFailure, RunResult, WorkerState
from toolkit.fronts.narration import Narration
from toolkit.fronts.run import _failed_in_words
from toolkit.views.failure_report import TRACEBACK_LINES, report_in_words

ME, OTHER = "gpu-a_1_0000aa", "gpu-b_2_0000bb"
STARTED = ev.AgentStarted(
    pid=1,
    hostname="gpu-a",
    role="trainer",
    local_world_size=2,
    restarts_max=3,
    backend="rally",
    entrypoint="train.py",
)
CULPRIT = FailureRecord(
    order=1,
    node="gpu-b_2",
    host="gpu-b",
    global_rank=2,
    local_rank=0,
    pid=77,
    exit_code=3,
    message="ValueError: bad shape",
    traceback="Traceback (most recent call last):\nValueError: bad shape",
    hand="first",
)


def victim(rank: int, **fields: Any) -> FailureRecord:
    return FailureRecord(global_rank=rank, host="gpu-a", hand="second", signal="SIGABRT", **fields)


def said(*happened: ev.Event) -> list[str]:
    written: list[str] = []
    narration = Narration(written.append, reminders=False)
    for event in (STARTED, *happened):
        narration.emit(event)
    return "".join(written).splitlines()


def over(by: str, reason: str, action: str = "restart") -> tuple[ev.Event, ev.Event]:
    spends = action == "restart"
    ended = ev.RoundEnded(
        node="gpu-a_1", ended=4, action=action, reason=reason, by=by, spends_budget=spends, restarts=1
    )
    return ended, ev.DecisionMade(action="restart", reason=reason, spends_budget=spends, restart_count=1)


def test_a_failure_elsewhere_is_told_with_who_says_so() -> None:
    assert said(*over(OTHER, "rank 2 exited with code 3")) == [
        "rally: round 4 is over (says gpu-b_2): rank 2 exited with code 3",
        "rally: restarting all 2 workers (restart 1 of 3)",
    ]


def test_a_failure_here_is_not_told_again() -> None:
    assert said(*over(ME, "rank 0 exited with code 3")) == [
        "rally: restarting all 2 workers (restart 1 of 3)"
    ]


def test_the_coordinator_tells_of_a_lost_node_once() -> None:
    silent = "it gave no sign of life for 4.0 s"
    lost = ev.LeaseLost(node="gpu-a_1", lost=OTHER, reason=silent, stood_s=4.0)
    assert said(lost, *over(ME, f"node {OTHER} is lost: {silent}", "membership")) == [
        f"rally: node gpu-b_2 is lost: {silent}",
        "rally: restarting all 2 workers",
    ]
    assert said(*over(ME, f"1 node waits to join: {OTHER}", "membership")) == [
        "rally: round 4 is over: 1 node waits to join: gpu-b_2",
        "rally: restarting all 2 workers",
    ]
    assert said(ev.LeaseLost(lost=OTHER, reason="it left", stood_s=0.1)) == []


def test_a_node_without_a_place_says_so() -> None:
    assert said(ev.Parked(beside=2, reason="full")) == [
        "rally: round 2 runs without this node, which waits as a spare"
    ]
    reason = "the job went on without this node: round 5 has formed since round 3"
    restart = ev.DecisionMade(action="restart", reason=reason)
    assert said(ev.Evicted(left=3, reason=reason), restart) == [
        f"rally: evicted after a silence: {reason}",
        "rally: restarting all 2 workers",
    ]


def test_joins_are_told_by_the_coordinator_only() -> None:
    held = ev.JoinHeld(node="gpu-a_1", joiner=OTHER, reason="host gpu-b was lost 2 times", for_s=30.0)
    refused = ev.JoinRefused(node="gpu-a_1", joiner=OTHER, reason="other settings")
    assert said(held, refused) == [
        "rally: node gpu-b_2 has to wait 30 s before it is let in: host gpu-b was lost 2 times",
        "rally: node gpu-b_2 is refused: other settings",
    ]
    # The refused node ends with that as its error.
    assert said(ev.JoinRefused(node="gpu-a_1", joiner=ME, reason="other settings")) == []


def test_only_another_coordinator_is_news() -> None:
    first = ev.CoordinatorChanged(began=1, coordinator=OTHER, before="")
    nobody = ev.CoordinatorChanged(began=1, coordinator="", before=OTHER)
    second = ev.CoordinatorChanged(began=2, coordinator=ME, before="", reason="it left")
    assert said(first) == []
    assert said(first, nobody, second) == ["rally: gpu-a_1 coordinates since epoch 2, not gpu-b_2: it left"]


def test_a_silent_store_is_told_and_that_it_answers_again() -> None:
    silent = ev.StoreSilent(where="gpu-a:29400", silent_s=3.0, limit_s=60.0)
    answers = ev.StoreAnswers(where="gpu-a:29400", silent_s=19.5)
    assert said(silent, answers) == [
        "rally: the store at gpu-a:29400 does not answer, for 3 s now; this node gives up after 60 s",
        "rally: the store at gpu-a:29400 answers again, after 20 s",
    ]


def test_the_report_begins_with_who_failed_first() -> None:
    why = f"{CULPRIT.words()}; a worker failed; no restarts are allowed"
    report = ev.JobEnded(outcome="failed", why=why, failures=[CULPRIT, victim(0), victim(1)])
    assert said(report) == [
        "rally: failed first: rank 2 (local rank 0 on gpu-b, pid 77) exited with code 3: ValueError: bad shape",
        "    Traceback (most recent call last):",
        "    ValueError: bad shape",
        "rally: because of it: ranks 0-1 were killed by SIGABRT (abort)",
        "rally: not restarted: a worker failed; no restarts are allowed",
    ]
    gave_up = ev.DecisionMade(action="fail", reason=why)
    assert [line for line in said(gave_up, report) if "no restarts are allowed" in line] == [
        f"rally: giving up: {why}"
    ]
    assert said(ev.JobEnded(outcome="succeeded", why="all nodes succeeded")) == []


def test_the_report_of_a_job_without_a_culprit_says_why() -> None:
    report = ev.JobEnded(outcome="failed", why=f"node {OTHER} is lost: it left")
    assert said(report) == ["rally: the job failed: node gpu-b_2 is lost: it left"]


def test_a_report_tells_causes_from_consequences() -> None:
    unclear = FailureRecord(global_rank=5, exit_code=1, hand="unclear")
    own = FailureRecord(global_rank=6, signal="SIGKILL", hand="first")
    words = report_in_words("it failed", [CULPRIT, own, unclear, victim(0)])
    assert words.others == (
        "because of it: rank 0 was killed by SIGABRT (abort)",
        "after it, perhaps because of it: rank 5 exited with code 1",
        "by itself, too: rank 6 was killed by SIGKILL",
    )
    assert words.why == "it failed"
    alone = report_in_words("", [victim(0), victim(1)])
    assert alone.first.startswith("nobody is known to have failed by itself; first to tell was rank 0")
    assert alone.others == ("likewise: rank 1 was killed by SIGABRT (abort)",)


def test_a_report_fits_on_a_screen() -> None:
    stack = "\n".join(f"line {number}" for number in range(100))
    records = [FailureRecord(global_rank=rank, exit_code=rank, hand="second") for rank in range(1, 60)]
    words = report_in_words("", [FailureRecord(global_rank=0, exit_code=1, traceback=stack), *records])
    assert words.traceback[:2] == (
        f"({100 - TRACEBACK_LINES} lines left out)",
        f"line {100 - TRACEBACK_LINES}",
    )
    assert words.others == (
        "because of it: rank 1 exited with code 1; rank 2 exited with code 2; rank 3 exited with code 3; "
        "and 56 other kinds",
    )


def test_a_node_whose_workers_succeeded_names_the_culprit() -> None:
    failure = ProcessFailure(local_rank=0, pid=77, exitcode=3, message=CULPRIT.words())
    innocent = RunResult(WorkerState.FAILED, return_values={0: None}, failures={2: failure})
    assert _failed_in_words(innocent, 3) == (
        f"the job failed, though the workers of this node succeeded: {CULPRIT.words()}; exit code 3"
    )
    assert (
        _failed_in_words(RunResult(WorkerState.FAILED, failures={2: failure}), 3) == "failed with exit code 3"
    )
