"""Workers that hang, folded into the timeline; what each front says of that."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec

from tests.core.test_timeline import Script
from tests.fronts.test_show import Recorder, a_directory, as_json, shown
from tests.fronts.test_status import FakeClock
from toolkit.core import events as ev
from toolkit.core.failures import cause_of, failure_of, failure_record
from toolkit.core.history import Node
from toolkit.core.launch_plan import WorkerExit
from toolkit.core.timeline import fold_all
from toolkit.fronts.narration import Narration
from toolkit.fronts.status import News
from toolkit.fronts.tui.overview import overview
from toolkit.views.rows import RowMaker
from toolkit.views.telling import told

STOPPED = ev.HungWorker(local_rank=1, global_rank=1, pid=101, kind="stopped", for_s=6.0, culprit=True)
WAITS = ev.HungWorker(local_rank=0, global_rank=0, pid=100, kind="silent", for_s=300.0)
WHY = "rank 1 (pid 101) is stopped, for 6 s now"
STACKS = "rank 1 in load:\n    load  train.py:7"


def hung(*workers: ev.HungWorker, kills: tuple[int, ...] = ()) -> dict[str, object]:
    return {
        "incarnation": 0, "workers": list(workers) or [STOPPED], "why": WHY, "stacks": STACKS, "kills": list(kills)
    }  # fmt: skip


def running() -> Script:
    script = Script()
    script.start_agent(0)
    script.rendezvous(1, 2)
    script.start_workers(3, 4)
    return script


def node_of(script: Script) -> Node:
    return fold_all(script.events).nodes["a"]


def kinds(node: Node) -> list[str]:
    return [node.ranks[rank].now.hangs for rank in (0, 1)]


def test_a_hang_is_over_once_all_move_again() -> None:
    script = running()
    script.say(1_000, ev.WorkersHung, **hung(STOPPED, WAITS))
    node = node_of(script)
    assert kinds(node) == ["silent", "stopped"]
    assert (node.hangs[0].why, node.hangs[0].ended) == (WHY, None)
    script.say(2_000, ev.WorkersRecovered, incarnation=0, global_ranks=[1])
    node = node_of(script)
    assert (kinds(node), node.hangs[0].ended) == (["silent", ""], None)
    script.say(3_000, ev.WorkersRecovered, incarnation=0, global_ranks=[0])
    node = node_of(script)
    assert kinds(node) == ["", ""]
    assert node.hangs[0].recovered == (0, 1)
    assert node.hangs[0].ended is not None and node.hangs[0].ended.mono_ns == 3_000_000_000


def test_a_report_replaces_the_one_before_and_a_stop_ends_it() -> None:
    script = running()
    script.say(1_000, ev.WorkersHung, **hung(STOPPED))
    script.say(2_000, ev.WorkersHung, **hung(WAITS))
    node = node_of(script)
    assert kinds(node) == ["silent", ""]
    assert [hang.ended is None for hang in node.hangs] == [False, True]
    script.say(3_000, ev.WorkersStopped)
    node = node_of(script)
    assert kinds(node) == ["", ""]
    assert node.hangs[-1].ended is not None


def test_moving_again_without_a_hang_is_nothing() -> None:
    script = running()
    script.say(1_000, ev.WorkersRecovered, incarnation=0, global_ranks=[1])
    assert node_of(script).hangs == ()


def test_many_reports_are_bounded() -> None:
    script = running()
    for at in range(300):
        script.say(1_000 + at, ev.WorkersHung, **hung(STOPPED))
    assert len(node_of(script).hangs) == 100


def test_the_screen_says_who_hangs_now_and_nothing_afterwards() -> None:
    script = running()
    script.say(1_000, ev.WorkersHung, **hung(STOPPED))

    def screen() -> str:
        timeline, maker = fold_all(script.events), RowMaker()
        rows = maker.ranks(timeline)
        assert [row.last for row in rows] == [
            "",
            "hangs: stopped" if timeline.nodes["a"].ranks[1].now.hangs else "",
        ]
        lines = overview(
            timeline, maker.nodes(timeline), rows, [], elapsed_s=1.0, width=100, height=30, since=[]
        )
        return "\n".join(line.plain for line in lines)

    assert f"hangs      {WHY}" in screen()
    script.say(2_000, ev.WorkersRecovered, incarnation=0, global_ranks=[1])
    assert "hangs" not in screen()


def test_the_narration_says_what_hangs_where_and_what_helps() -> None:
    out = io.StringIO()
    narration = Narration(out.write, reminders=False)
    narration.emit(ev.WorkersHung(**hung(STOPPED)))  # type: ignore[arg-type]
    narration.emit(ev.WorkersRecovered(incarnation=0, global_ranks=[1]))
    narration.emit(ev.WorkersHung(**hung(WAITS, kills=(0,))))  # type: ignore[arg-type]
    assert out.getvalue().splitlines() == [
        f"rally: hangs: {WHY}; `kill -CONT 101` lets it go on",
        "    rank 1 in load:",
        "        load  train.py:7",
        "rally: rank 1 moves again",
        f"rally: hangs: {WHY}; killing rank 0",
        "    rank 1 in load:",
        "        load  train.py:7",
    ]


def test_a_worker_that_was_killed_for_it_is_said_to_have_hung() -> None:
    end = WorkerExit(1, 101, -9, 0, 0, problem=f"hung: {WHY}")
    failure = failure_of(end)
    assert cause_of({1: failure}).key == "hung"
    record = failure_record(failure, 1, 1, "trainer", "a_1", "a")
    assert record.words() == f"rank 1 (local rank 1 on a, pid 101) was killed by SIGKILL: hung: {WHY}"
    assert record.hand == "first"
    out = io.StringIO()
    Narration(out.write, reminders=False).emit(
        ev.FailureRecorded(
            incarnation=0, local_rank=1, global_rank=1, pid=101, hostname="a", exit_code=None, signal="SIGKILL",
            message=f"hung: {WHY}", first=True,
        )
    )  # fmt: skip
    assert out.getvalue() == f"rally: rank 1 (pid 101 on a) was killed by SIGKILL: hung: {WHY}\n"


def test_the_status_line_and_the_list_of_events_have_it() -> None:
    news, clock = News(), FakeClock()
    event = ev.WorkersHung(**hung(STOPPED))  # type: ignore[arg-type]
    news.take(event, clock.now_s)
    assert (news.doing.mood, news.doing.text) == ("fail", f"hangs: {WHY}")
    line = told(event)
    assert line is not None and (line.tone, line.global_rank) == ("bad", 1)
    recovered = ev.WorkersRecovered(incarnation=0, global_ranks=[0, 1])
    news.take(recovered, clock.now_s)
    assert news.doing.mood == "run"
    line = told(recovered)
    assert line is not None and line.words == "ranks 0-1 move again"


def test_rally_show_tells_of_hangs(tmp_path: Path) -> None:
    node = Recorder(a_directory(tmp_path))
    node.start()
    node.bring_up(0)
    node.say(6_000, ev.WorkersHung, **hung(STOPPED))
    node.say(9_000, ev.WorkersRecovered, incarnation=0, global_ranks=[1])
    node.finish(10_000, "SUCCEEDED", "all workers succeeded")
    page = shown(tmp_path)
    assert f"after 6.0 s: hung: {WHY}" in page
    assert "rank 1 moved again, 3.0 s later" in page
    assert "load  train.py:7" in page
    (hang,) = as_json(tmp_path).hangs
    assert (hang.node, hang.recovered, hang.lasted_s, hang.killed) == ("gpu-a_7", [1], 3.0, [])
    assert msgspec.to_builtins(hang.workers[0])["kind"] == "stopped"
