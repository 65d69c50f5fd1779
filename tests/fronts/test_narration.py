"""What `rally run` says of a job whose nodes decide together: one line for each thing, and one report at the end."""

from __future__ import annotations

from typing import Any

from toolkit.core import events as ev
from toolkit.core.job_report import FailureRecord
from toolkit.core.model import ProcessFailure, RunResult, WorkerState
from toolkit.fronts.narration import Narration
from toolkit.fronts.run import _failed_in_words
from toolkit.views.failure_report import TRACEBACK_LINES, details, report_in_words, tail_of

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
    missed = report_in_words("", [victim(0)], ended_well=(1, 3))
    assert missed.others == (
        "before that ranks 1, 3 had ended with exit code 0, perhaps too early for the others",
    )
    assert report_in_words("", [CULPRIT], ended_well=(1, 3)).others == ()


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


def lost(path: str, lines: int, *, at_s: float, incarnation: int = 0) -> ev.LogsLost:
    return ev.LogsLost(
        incarnation=incarnation,
        problem=f"cannot write {path}: full; {lines} lines lost so far",
        path=path,
        lost_lines=lines,
        lost_bytes=100 * lines,
        mono_ns=int(at_s * 1e9),
    )


FINISHED = ev.AgentFinished(result="SUCCEEDED", reason="", duration_s=1.0)


def test_of_a_full_disk_the_first_loss_is_told_then_the_sum_once_a_minute_and_at_the_end() -> None:
    assert said(
        lost("a", 5, at_s=0),
        *(lost(f"rank {rank}", 10, at_s=1) for rank in range(64)),
        lost("a", 20, at_s=61),
        lost("a", 30, at_s=62),
        lost("a", 1, at_s=63, incarnation=1),
        FINISHED,
    ) == [
        "rally: cannot write a: full; 5 lines lost so far",
        "rally: 660 lines (66.0 kB) of the workers' output are lost so far, in 65 logs",
        "rally: 671 lines (67.1 kB) of the workers' output are lost in all, in 66 logs",
    ]


def test_what_was_told_of_a_loss_is_not_told_again() -> None:
    assert len(said(lost("a", 5, at_s=0), lost("a", 5, at_s=9), FINISHED)) == 1
    assert said(FINISHED) == []
    problem = ev.LogsLost(incarnation=0, problem="output pump: broken")
    assert said(problem, FINISHED) == ["rally: output pump: broken"]


# -- a node that fails alone ----------------------------------------------------------------------------------

TRACE = 'Traceback (most recent call last):\n  File "train.py", line 9, in main\nValueError: bad shape\n'


def started(rank: int, incarnation: int = 0, stderr: str = "") -> ev.Event:
    return ev.WorkerStarted(
        incarnation=incarnation,
        local_rank=rank,
        global_rank=rank,
        role_rank=rank,
        world_size=3,
        worker_id=f"{rank}",
        pid=100 + rank,
        stderr=stderr,
    )


def failed(rank: int, incarnation: int = 0, **fields: Any) -> ev.Event:
    about = {"exit_code": 1, "signal": "", "message": "ValueError: bad shape", "hand": "first"} | fields
    return ev.FailureRecorded(
        incarnation=incarnation, local_rank=rank, global_rank=rank, pid=100 + rank, hostname="gpu-a", **about
    )


def stopped(rank: int, consequence: str = "", incarnation: int = 0) -> ev.Event:
    return ev.WorkerExited(
        incarnation=incarnation,
        local_rank=rank,
        global_rank=rank,
        pid=100 + rank,
        exit_code=None,
        signal="SIGTERM",
        stopped_by_agent=True,
        consequence=consequence,
    )


def ends(result: str = "FAILED") -> ev.Event:
    return ev.AgentFinished(result=result, reason="the workers failed", duration_s=1.0)


def test_the_report_of_a_node_says_who_what_why_and_where() -> None:
    oom = "CUDA out of memory: tried to allocate 2.00 GiB"
    lines = said(
        ev.WorkersStarting(incarnation=0, count=4),
        *(started(rank, stderr=f"/logs/{rank}/stderr.log") for rank in range(4)),
        failed(
            2,
            message="torch.OutOfMemoryError: it is full",
            what=oom,
            remedy="a smaller batch",
            traceback=TRACE,
            first=True,
        ),
        failed(0, message="closed", what="gloo: connection closed by peer", hand="second"),
        ev.DecisionMade(action="fail", reason="no restarts are allowed"),
        stopped(1, "gloo: connection closed by peer"),
        stopped(3),
        ends(),
    )
    assert lines == [
        "rally: rank 2 (pid 102 on gpu-a) exited with code 1: torch.OutOfMemoryError: it is full",
        f"    that is: {oom}",
        "rally: rank 0 (pid 100 on gpu-a) exited with code 1: closed",
        "    that is: gloo: connection closed by peer",
        "rally: giving up: no restarts are allowed",
        "rally: failed first: rank 2 (local rank 2 on gpu-a, pid 102) exited with code 1: "
        "torch.OutOfMemoryError: it is full",
        f"    that is: {oom}",
        "    what helps: a smaller batch",
        "    Traceback (most recent call last):",
        '      File "train.py", line 9, in main',
        "    ValueError: bad shape",
        "rally: because of it: rank 0 exited with code 1: gloo: connection closed by peer",
        "rally: because of it: rank 1 said gloo: connection closed by peer, and was stopped by the agent",
        "rally: stopped by the agent: rank 3",
        "rally: stderr of rank 2: /logs/2/stderr.log",
    ]


def test_a_restart_shows_the_traceback_and_the_report_is_of_the_last_start() -> None:
    lines = said(
        ev.WorkersStarting(incarnation=0, count=2),
        failed(1, traceback=TRACE, first=True),
        ev.DecisionMade(action="restart", reason="a worker failed", spends_budget=True, restart_count=1),
        stopped(0),
        ev.WorkersStarting(incarnation=1, count=2),
        failed(0, 1, message="KeyError: 'lr'", first=True),
        ev.DecisionMade(action="fail", reason="all used up"),
        stopped(1, incarnation=1),
        ends(),
    )
    assert lines[1:4] == [
        "    Traceback (most recent call last):",
        '      File "train.py", line 9, in main',
        "    ValueError: bad shape",
    ]
    assert lines[-2:] == [
        "rally: failed first: rank 0 (local rank 0 on gpu-a, pid 100) exited with code 1: KeyError: 'lr'",
        "rally: stopped by the agent: rank 1",
    ]


def test_a_culprit_that_is_told_after_its_victims_is_at_the_top() -> None:
    lines = said(
        ev.WorkersStarting(incarnation=0, count=2),
        failed(0, message="reset", hand="second", first=True),
        failed(1, first=True),
        ends(),
    )
    assert lines[-2].startswith("rally: failed first: rank 1 ")
    assert lines[-1] == "rally: because of it: rank 0 exited with code 1"


def test_only_victims_are_no_culprit() -> None:
    lines = said(failed(0, message="reset", hand="second", first=True), ends())
    assert lines[-1].startswith("rally: nobody is known to have failed by itself; first to tell was rank 0 ")


def test_a_run_that_was_stopped_has_no_report() -> None:
    assert not [line for line in said(failed(1), ends("SIGNAL")) if "failed first" in line]


def test_a_job_of_several_nodes_is_reported_once() -> None:
    report = ev.JobEnded(outcome="failed", why="it failed", failures=[CULPRIT])
    assert sum("failed first" in line for line in said(failed(2), report, ends())) == 1


def test_what_is_said_already_is_not_said_again() -> None:
    assert details("rank 0 exited with code 1: OSError: disk full", "Disk full", "") == []
    assert details("x", "", "make room") == ["what helps: make room"]


def test_of_a_long_traceback_the_programs_own_frames_are_shown() -> None:
    library = '  File "/v/lib/python3.11/site-packages/torch/nn.py", line {}, in call\n    return f()\n'
    own = '  File "/home/me/train.py", line 4, in step\n    loss()\n'
    trace = (
        "Traceback (most recent call last):\n"
        + own
        + "".join(map(library.format, range(40)))
        + "ValueError: bad\nnote\n"
    )
    shown = tail_of(trace)
    assert len(shown) <= TRACEBACK_LINES + 1
    assert own.splitlines()[0] in shown
    assert shown[-2:] == ("ValueError: bad", "note")
    assert "lines left out)" in shown[0]


def test_of_many_that_fail_at_once_the_first_are_told_in_a_line_each() -> None:
    lines = said(*(failed(rank) for rank in range(24)), ev.DecisionMade(action="fail", reason="it failed"))
    assert [line.split()[2] for line in lines[:8]] == [str(rank) for rank in range(8)]
    assert lines[8:10] == ["rally: ranks 8-23 failed as well", "rally: giving up: it failed"]
    anew = said(
        *(failed(rank) for rank in range(8)),
        ev.WorkersStarting(incarnation=1, count=24),
        failed(9),
        failed(23),
    )
    assert len(anew) == 10, "of each start"


def test_a_single_line_is_not_left_out() -> None:
    text = "Traceback (most recent call last):\n" + "".join(
        f'  File "t.py", line {n}, in f\n    g()\n' for n in range(TRACEBACK_LINES // 2)
    )
    whole = tuple(f"{text}ValueError".splitlines())
    assert len(whole) == TRACEBACK_LINES + 2
    assert tail_of(f"{text}ValueError")[0] == "(2 lines left out)"
    shorter = whole[:1] + whole[3:] + ("a note",)
    assert len(shorter) == TRACEBACK_LINES + 1
    assert tail_of("\n".join(shorter)) == shorter


def test_a_failure_without_words_is_told_without_them() -> None:
    assert said(failed(1, message=""))[0] == "rally: rank 1 (pid 101 on gpu-a) exited with code 1"


def test_what_workers_say_does_not_command_the_terminal() -> None:
    told = ev.FailureRecorded(
        incarnation=0,
        global_rank=0,
        local_rank=0,
        pid=7,
        hostname="gpu-a",
        exit_code=5,
        signal="",
        message="\x1b[31mred \x1b]0;title\x07 \x00nul",
        traceback="Traceback (most recent call last):\n\tboom \x1b[2J",
    )
    lines = said(told, ev.AgentFinished(result="FAILED", reason="a worker failed", duration_s=1.0))
    assert (
        "rally: rank 0 (pid 7 on gpu-a) exited with code 5: \\x1b[31mred \\x1b]0;title\\x07 \\x00nul" in lines
    )
    assert "        boom \\x1b[2J" in lines
