"""Who is to blame, who is killed, and what is said of it."""

from __future__ import annotations

import pytest

from toolkit.core.diagnosing.diagnosis import diagnose
from toolkit.core.failures import failure_of
from toolkit.core.hanging import hang_report as report
from toolkit.core.hanging.hangs import Kind, Verdict
from toolkit.core.hanging.watched import HangSettings
from toolkit.core.launch_plan import WorkerExit
from toolkit.core.stacks import Alike, Frame, Stacks, Thread, Unread

RESTART = HangSettings(action="restart", timeout_s=60)
NONE = {0: None, 1: None, 2: None, 3: None}


def verdict(rank: int, kind: Kind, for_s: float = 60.0, **more: object) -> Verdict:
    return Verdict(rank, kind, for_s, 100 + rank, **more)  # type: ignore[arg-type]


def at(function: str) -> Stacks:
    return Stacks(
        (Thread("", 1, (Frame(function, "train.py", 7), Frame("<module>", "train.py", 9)), main=True),)
    )


def killed(
    verdicts: list[Verdict],
    settings: HangSettings = RESTART,
    steps: dict[int, int | None] | None = None,
    answers: dict[int, Stacks] | None = None,
    *,
    alone: bool = True,
) -> list[int]:
    found = report.suspects(verdicts, steps or NONE, answers)
    return [v.local_rank for v in report.condemned(verdicts, found, settings, alone=alone)]


def test_who_is_stopped_is_to_blame_and_the_others_wait() -> None:
    verdicts = [verdict(0, "silent"), verdict(1, "stopped"), verdict(2, "silent"), verdict(3, "silent")]
    found = report.suspects(verdicts, NONE)
    assert (found.culprits, found.waiting) == ((1,), (0, 2, 3))
    assert killed(verdicts) == [1]


def test_who_is_behind_is_to_blame() -> None:
    verdicts = [verdict(0, "standing"), verdict(1, "standing"), verdict(2, "standing")]
    found = report.suspects(verdicts, {0: 121, 1: 121, 2: 120})
    assert (found.culprits, found.waiting) == ((2,), (0, 1))
    assert killed(verdicts, steps={0: 121, 1: 121, 2: 120}) == [2]


def test_of_some_that_are_silent_while_others_compute_all_are_to_blame() -> None:
    verdicts = [verdict(1, "silent"), verdict(2, "silent")]
    assert report.suspects(verdicts, NONE).culprits == (1, 2)


def test_where_all_wait_alike_the_stacks_tell_the_odd_one() -> None:
    verdicts = [verdict(rank, "silent") for rank in range(4)]
    answers = {0: at("all_reduce"), 1: at("all_reduce"), 2: at("load"), 3: at("all_reduce")}
    found = report.suspects(verdicts, NONE, answers)
    assert (found.culprits, found.odd, found.waiting) == ((2,), (2,), (0, 1, 3))
    assert killed(verdicts, answers=answers) == [2]


@pytest.mark.parametrize("places", ["aaaa", "aabb", "ab"])
def test_without_a_majority_nobody_is_odd(places: str) -> None:
    verdicts = [verdict(rank, "silent") for rank in range(len(places))]
    steps = dict.fromkeys(range(len(places)))
    found = report.suspects(verdicts, steps, {rank: at(place) for rank, place in enumerate(places)})
    assert (found.culprits, found.odd, found.all_still) == ((), (), True)


def test_one_of_several_nodes_gives_the_others_as_long_again_before_it_fails_its_own() -> None:
    early = [verdict(rank, "silent", 119) for rank in range(4)]
    late = [verdict(rank, "silent", 120) for rank in range(4)]
    assert killed(early, alone=True) == [0], "nobody else can be to blame"
    assert killed(early, alone=False) == []
    assert killed(late, alone=False) == [0]


def test_a_report_kills_nobody_and_a_debugger_spares_all() -> None:
    assert killed([verdict(1, "stopped")], HangSettings()) == []
    assert killed([verdict(0, "silent"), verdict(1, "traced")]) == []
    assert killed([verdict(0, "stopped"), verdict(1, "traced")]) == []


def test_timers_kill_by_their_own_signal_whatever_else() -> None:
    assert killed([verdict(1, "timer", signum=9)], HangSettings()) == [1]
    assert killed([verdict(1, "timer", signum=0)], RESTART) == [], "it asks for no signal"


def test_torchs_variable_kills_who_is_stuck_in_a_report_too() -> None:
    assert killed([verdict(1, "stuck")], HangSettings(stuck_fails=True)) == [1]
    assert killed([verdict(1, "stuck")], HangSettings()) == []


def said(verdicts: list[Verdict], steps: dict[int, int | None], details: dict[int, str] | None = None) -> str:
    found = report.suspects(verdicts, steps)
    workers = report.hung_workers(verdicts, found, {rank: rank + 8 for rank in steps}, details or {})
    return report.headline(workers, {rank + 8: step for rank, step in steps.items()}, len(steps))


def test_what_hangs_is_said_in_one_sentence() -> None:
    assert said([verdict(1, "stopped", 6)], {0: None, 1: None}) == "rank 9 (pid 101) is stopped, for 6 s now"
    assert said([verdict(1, "traced", 6, tracer=7)], {1: None}, {7: "gdb, pid 7"}) == (
        "rank 9 (pid 101) is held by a debugger (gdb, pid 7), for 6 s now"
    )
    assert said([verdict(0, "stuck", 61)], {0: None}, {100: "in nfs_wait"}) == (
        "rank 8 (pid 100) is in uninterruptible sleep (in nfs_wait), for 61 s now"
    )
    standing = [verdict(0, "standing", 45, step=121), verdict(1, "standing", 47, step=120)]
    assert said(standing, {0: 121, 1: 120}) == (
        "rank 9 (pid 101) stands at step 120 for 47 s; the others are at 121; rank 8 waits"
    )
    odd = {0: at("reduce"), 1: at("load"), 2: at("reduce")}
    equal = [verdict(rank, "standing", 45, step=7) for rank in odd]
    found = report.suspects(equal, dict.fromkeys(odd, 7), odd)
    workers = report.hung_workers(equal, found, {0: 0, 1: 1, 2: 2}, {})
    assert report.headline(workers, dict.fromkeys(odd, 7), 3) == (
        "rank 1 (pid 101) stands at step 7 for 45 s, as the others do; ranks 0, 2 wait"
    )
    assert said([verdict(r, "silent", 61 + r) for r in range(3)], dict.fromkeys(range(3))) == (
        "all 3 workers of this node have used no CPU and written nothing for 61 s"
    )
    assert said([verdict(0, "standing", 61, step=5)], {0: 5}) == (
        "rank 8 (pid 100) stands at step 5 for 61 s"
    )
    assert said([verdict(0, "timer", 0.5, timer="epoch", signum=9)], {0: None, 1: None}) == (
        "timer 'epoch' of rank 8 (pid 100) expired 0.5 s ago"
    )


def test_stacks_are_told_in_groups_and_bounded() -> None:
    text = report.stacks_text([Alike((2,), at("load\x1b").main), Alike((0, 1), Unread("has ended since"))])
    assert text.splitlines() == [
        "rank 2 in load?:",
        "    load?  train.py:7",
        "    <module>  train.py:9",
        "ranks 0-1: has ended since",
    ]
    deep = tuple(Frame("f" * 500, "x" * 500, 1) for _ in range(100))
    long = report.stacks_text([Alike((rank,), deep) for rank in range(9)])
    assert len(long) <= report.STACKS_MAX
    assert long.endswith("...")


def test_a_hang_is_the_diagnosis_whatever_the_worker_said_of_its_end() -> None:
    end = WorkerExit(
        1,
        77,
        -6,
        0,
        0,
        problem="hung: it stands",
        error_data={"message": "socket closed by peer"},
        last_words="x",
    )
    told = diagnose(end)
    assert (told.hand, told.what) == ("first", "hung: it stands")
    assert failure_of(end).message == "hung: it stands"
