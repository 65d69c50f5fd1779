"""The handle: steps, moments, predicates, faults, branches, going back; the same run in the end; and bad input."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

pytest.importorskip("greenlet")

from simulator import faults, scenarios
from simulator.checkers import Broken, Checker, Record, judge_record
from simulator.faults import CrashNode, FlappingJoiner, KillAgent, KillWorker, PauseNode
from simulator.interactive.conversation import HostError
from simulator.interactive.hosted import HostedRun
from simulator.kernel import LimitReached
from simulator.report import simulate
from simulator.scenario import Scenario
from simulator.workloads import Workload
from tests.simulator.interactive.jobs import SMALL, straight
from toolkit.core.errors import ConfigurationError
from toolkit.core.timeline import Timeline, fold_all

Open = Callable[..., HostedRun]


# -- on -------------------------------------------------------------------------------------------------------


def test_a_run_to_the_end_is_the_run_that_nobody_holds(opened: Open) -> None:
    run = opened(SMALL, 5)
    run.run()
    outcome = straight(SMALL, 5)
    assert run.over
    assert run.digest == outcome.digest
    assert list(run.events) == outcome.events
    assert run.said_s == [said.at_ns / 1e9 for said in outcome.said]
    assert (run.now_s, run.steps, run.finding) == (outcome.virtual_s, outcome.steps, "")
    assert list(run.choices) == list(outcome.choices)


def test_step_by_step_it_is_the_same(opened: Open) -> None:
    run = opened(SMALL)
    told: list[object] = []
    while not run.over:
        new = run.step()
        told.extend(new)
        assert new or run.over
    assert told == list(run.events) == straight(SMALL).events
    assert run.digest == straight(SMALL).digest
    assert run.step() == []


def test_steps_of_several_events(opened: Open) -> None:
    run = opened(SMALL)
    assert len(run.step(5)) >= 5
    count = len(run.events)
    assert run.events_since(count - 2) == list(run.events)[-2:]
    assert run.events_since(-1) == list(run.events)
    assert run.now_s == run.said_s[-1]


def test_to_a_moment(opened: Open) -> None:
    run = opened(SMALL)
    run.run(until=20.25)
    assert run.now_s == 20.25
    assert all(said_s <= 20.25 for said_s in run.said_s)
    run.run(until=20.25)
    run.run(until=1e6)
    assert run.over
    assert run.digest == straight(SMALL).digest


def test_until_something_holds(opened: Open) -> None:
    run = opened(SMALL)
    asked: list[int] = []

    def restarted(timeline: Timeline) -> bool:
        asked.append(len(timeline.nodes))
        return timeline.restarts_total > 0

    run.run(restarted)
    held = len(asked) - 1
    assert fold_all(run.events[:held]).restarts_total > 0
    assert fold_all(run.events[: held - 1]).restarts_total == 0
    assert set(run.said_s[held - 1 :]) == {run.now_s}
    assert run.timeline == fold_all(run.events)
    steps = run.steps
    run.run(restarted)
    assert (run.steps, len(asked)) == (steps, held + 2), "what holds already stops it at once"
    run.run(lambda _: False)
    assert run.over
    assert run.digest == straight(SMALL).digest


def test_an_error_of_the_predicate_is_the_callers(opened: Open) -> None:
    run = opened(SMALL)

    def broken(timeline: Timeline) -> bool:
        return 1 / (len(timeline.nodes) - 2) > 0

    with pytest.raises(ZeroDivisionError):
        run.run(broken)
    assert len(run.timeline.nodes) == 2
    run.run()
    assert run.digest == straight(SMALL).digest


@pytest.mark.torch
@pytest.mark.parametrize("subject", ["torch", "rally-over-c10d"])
def test_other_subjects(opened: Open, subject: str) -> None:
    pytest.importorskip("torch")
    scenario = scenarios.named("moved-rank-0")
    run = opened(scenario, 1, subject)
    run.run(until=70.0)
    branch = run.branch()
    run.run()
    branch.run()
    assert run.digest == branch.digest == straight(scenario, 1, subject).digest
    run.rewind(65.0)
    run.run()
    assert run.report().broken == branch.report().broken == simulate(scenario, subject, 1).broken


# -- faults ---------------------------------------------------------------------------------------------------


def test_a_fault_strikes_at_once(opened: Open) -> None:
    run = opened(SMALL)
    run.run(until=40.0)
    run.inject(CrashNode("node1"))
    assert not run.node("node1").up
    assert run.node("node1").result == "LOST"
    run.run()
    report = run.report()
    assert report.verdict == "held"
    assert "at 40 s node1 loses power" in report.struck
    assert report.nodes["node1"].result == "LOST"
    assert run.injected == (CrashNode("node1", 40.0),)
    assert report.scenario.faults == (*SMALL.faults, CrashNode("node1", 40.0))
    assert report.digest == straight(SMALL, injected=run._history.injected).digest


def test_a_fault_strikes_later(opened: Open) -> None:
    run = opened(SMALL)
    run.run(until=40.0)
    run.inject(KillWorker("node1", 2.5))
    run.run(until=42.4)
    (late,) = (words for words in run.report().struck if "node1" in words)
    assert late == f"{KillWorker('node1', 42.5).words()}: struck nothing, the run went no further"
    run.run(until=42.6)
    assert KillWorker("node1", 42.5).words() in run.report().struck


def test_what_came_too_late_is_told(opened: Open) -> None:
    run = opened(SMALL)
    run.inject(CrashNode("node1", 500.0))
    run.run()
    assert "at 500 s node1 loses power: struck nothing, the run had ended" in run.report().struck


def test_a_joiner_may_be_injected(opened: Open) -> None:
    run = opened(SMALL)
    run.run(until=30.0)
    run.inject(CrashNode("node1"))
    run.run(until=33.0)
    run.inject(FlappingJoiner("node1", stays_s=5.0, away_s=5.0, times=2))
    run.run()
    assert run.digest == straight(SMALL, injected=run._history.injected).digest


def test_who_waits_for_ever_can_be_struck(opened: Open) -> None:
    run = opened(Scenario("stuck", nodes=1, solo=True, workload=Workload(steps=3)))
    run.inject(PauseNode("node0", for_s=None))
    run.run()
    assert run.over
    assert run.finding.startswith("nothing is left to happen")
    run.inject(CrashNode("node0"))
    assert not run.finding
    assert run.over
    assert run.node("node0").result == "LOST"
    run.rewind(0.0)
    run.run()
    assert run.report().nodes["node0"].result == "SUCCEEDED"


# -- looking --------------------------------------------------------------------------------------------------


def test_a_node_and_where_its_tasks_wait(opened: Open) -> None:
    run = opened(SMALL)
    run.run(until=20.5)
    view = run.node("node0")
    assert (view.up, view.paused, view.result, view.at_s) == (True, False, "RUNNING", 20.5)
    assert set(view.pids.values()) == {"agent", "rank0"}
    assert view.state == "running"
    assert view.group_state == "HEALTHY"
    main = next(wait for wait in view.waits if wait.task == "node0/agent/main")
    assert main.waits_for == "the bell"
    assert main.since_s <= 20.5 <= main.until_s
    places = [(frame.file, frame.function) for frame in main.frames]
    assert ("toolkit/agent/base.py", "SimpleElasticAgent._wait_for_change") in places
    assert places[-1] == ("simulator/kernel.py", "Kernel.park")
    lines = str(view.stack()).splitlines()
    assert any(line.startswith("  toolkit/agent/base.py:") for line in lines)
    assert lines[0] == str(view.waits[0])
    assert "node0 at 20.500 s: up, its agent is running" in str(view)


def test_a_node_that_stands_still_and_one_without_power(opened: Open) -> None:
    run = opened(SMALL)
    run.run(until=20.0)
    run.inject(PauseNode("node1"))
    run.inject(CrashNode("node0"))
    paused, down = run.node("node1"), run.node("node0")
    assert paused.paused
    assert set(paused.stopped) == set(paused.pids)
    assert (down.up, down.pids, str(down.stack())) == (False, {}, "nothing waits here")


def test_a_node_whose_agent_has_not_come(opened: Open) -> None:
    view = opened(SMALL).node("node2")
    assert (view.result, view.state, view.waits) == ("WAITING", "", ())


# -- branches and going back ----------------------------------------------------------------------------------


def test_branches_go_their_own_ways(opened: Open) -> None:
    run = opened(SMALL)
    run.run(until=30.0)
    same, crashed = run.branch(), run.branch()
    crashed.inject(CrashNode("node2"))
    of_branch = crashed.branch()
    for each in (crashed, run, same, of_branch):
        each.run()
    assert run.digest == same.digest == straight(SMALL).digest
    assert crashed.digest == of_branch.digest != run.digest
    assert run.compare(same).same
    found = run.compare(crashed)
    assert found.first is not None
    assert found.first.at_s >= 30.0
    assert run.injected == ()
    assert len({each.pid for each in (run, same, crashed, of_branch)}) == 4


def test_a_branch_can_be_rewound_and_outlives_its_origin(opened: Open) -> None:
    run = opened(SMALL)
    run.run(until=30.0)
    branch = run.branch()
    run.close()
    branch.run(until=50.0)
    branch.rewind(12.0)
    assert branch.now_s == 12.0
    branch.run()
    assert branch.digest == straight(SMALL).digest


def test_back_and_on_again(opened: Open) -> None:
    run = opened(SMALL)
    run.run()
    whole = list(run.events)
    for to_s in (50.0, 33.3, 10.0):
        run.rewind(to_s)
        assert run.now_s == to_s
        assert not run.over
        assert list(run.events) == [e for e, at in zip(whole, straight_times(), strict=True) if at <= to_s]
        assert run.timeline == fold_all(run.events)
    run.rewind(0)
    assert (run.now_s, run.steps, list(run.events)) == (0.0, 0, [])
    run.run()
    assert list(run.events) == whole
    assert run.digest == straight(SMALL).digest


def straight_times() -> list[float]:
    return [said.at_ns / 1e9 for said in straight(SMALL).said]


def test_faults_of_before_stay_and_those_of_later_are_undone(opened: Open) -> None:
    run = opened(SMALL)
    run.run(until=20.0)
    run.inject(KillWorker("node1"))
    run.run(until=35.0)
    run.inject(KillAgent("node0"))
    run.run()
    run.rewind(35.0)
    assert run.injected == (KillWorker("node1", 20.0),)
    assert run.node("node0").result == "RUNNING"
    run.run()
    assert run.digest == straight(SMALL, injected=run._history.injected).digest
    run.rewind(20.0)
    assert run.injected == ()
    run.run()
    assert run.digest == straight(SMALL).digest


def test_faults_of_before_strike_again_where_no_checkpoint_is_near(opened: Open) -> None:
    run = opened(SMALL)
    for at_s in (12.0, 20.0, 31.0):
        run.run(until=at_s)
        run.step()
        run.inject(KillWorker("any"))
    for checkpoint in run._history.checkpoints._kept[1:]:
        checkpoint.release()
    del run._history.checkpoints._kept[1:]
    run.run(until=60.0)
    run.rewind(45.0)
    assert len(run.injected) == 3
    run.run()
    assert run.digest == straight(SMALL, injected=run._history.injected).digest


def test_checkpoints_are_kept_on_the_way_and_before_each_fault(opened: Open) -> None:
    run = opened(SMALL)
    run._history.checkpoints.spacing_s = 0.0
    run.step()
    run.run(until=20.0)
    before = len(run._history.checkpoints)
    assert before > 1
    run.inject(KillWorker("node1"))
    run.inject(KillWorker("node2"))
    assert len(run._history.checkpoints) == before + 2
    assert run._history.checkpoints.latest.injected == 1


# -- what has come of it --------------------------------------------------------------------------------------


def test_the_report_is_that_of_a_run_that_nobody_holds(opened: Open) -> None:
    run = opened(SMALL, 4)
    run.run()
    ours, theirs = run.report(), simulate(SMALL, seed=4)
    assert {**ours.as_json(), "wall_s": 0.0} == theirs.as_json()
    assert ours.record.facts == theirs.record.facts
    assert (ours.struck, ours.scenario, ours.command) == (theirs.struck, theirs.scenario, theirs.command)
    assert list(ours.choices) == list(theirs.choices)
    assert run.compare(theirs).same
    assert run.compare(list(theirs.events)).first is None


def test_the_report_of_what_is_not_over(opened: Open) -> None:
    run = opened(SMALL)
    run.run(until=30.0)
    report = run.report()
    assert report.verdict == "undetermined"
    assert report.finding == "looked at after 30 s, before it was over"
    assert run.finding == ""
    run.run()
    assert run.report().verdict == "held"


def test_a_limit_is_a_finding(opened: Open) -> None:
    run = opened(replace(SMALL, faults=(), limit_s=30.0))
    run.run()
    assert run.over
    assert run.finding == "the run takes more than 30 s of virtual time"
    assert run.step() == []
    with pytest.raises(ConfigurationError, match="the run is over since 30"):
        run.inject(CrashNode("node1"))
    run.rewind(25.0)
    assert not run.over


def test_checkers_of_ones_own_read_the_record(opened: Open) -> None:
    def nobody_crashes(record: Record) -> list[Broken]:
        return [Broken("nobody-crashes", hit.words, hit.node) for hit in record.hits_on("node0")]

    run = opened(SMALL)
    run.run()
    judgement = judge_record(run.record(), [Checker("nobody-crashes", "nobody does", nobody_crashes)])
    assert {broken.promise for broken in judgement.broken} == {"nobody-crashes"}


def test_it_can_be_used_from_any_thread(opened: Open) -> None:
    run = opened(SMALL)
    threads = [threading.Thread(target=run.step, args=(10,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(run.events) >= 40
    run.run()
    assert run.digest == straight(SMALL).digest


def test_it_says_what_it_is(opened: Open) -> None:
    run = opened(SMALL)
    assert repr(run) == "HostedRun('small', seed 1, rally: stands at 0.000 s, 0 events)"
    with run as same:
        assert same is run
    with pytest.raises(HostError, match="this simulation is closed; start another one"):
        run.step()
    run.close()


# -- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HostedRun("solo-crash"), "'solo-crash' is no scenario"),  # type: ignore[arg-type]
        (lambda: HostedRun(SMALL, subject="raly"), "there is no subject 'raly'; did you mean rally?"),
        (lambda: HostedRun(replace(SMALL, checkers=("one-mastr",))), "did you mean one-master"),
    ],
)
def test_what_can_not_be_run(make: Callable[[], HostedRun], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (lambda run: run.step(0), "a step of 0 events is none; give 1 or more"),
        (lambda run: run.run(until=5), r"it is 20 s already, which is after 5 s; rewind\(5\) goes back"),
        (lambda run: run.run(until=math.nan), "nan is no moment; give seconds from the start"),
        (lambda run: run.run(until="end"), "'end' is no moment"),
        (lambda run: run.rewind(30), r"30 s has not been yet, it is 20 s; run\(30\) goes there"),
        (lambda run: run.rewind(-1), "-1 is no moment"),
        (lambda run: run.node("nod1"), "there is no node 'nod1'; did you mean node"),
        (lambda run: run.inject("crash"), "'crash' is no fault; give one of simulator.faults"),
        (
            lambda run: run.inject(CrashNode("nod1")),
            "strikes node 'nod1', which isn't there; did you mean node",
        ),
        (lambda run: run.inject(KillWorker("node1", local_rank=3)), "local rank 3 on node1, .*give 0 to 0"),
        (lambda run: run.inject(CrashNode("node1", 1e6)), "is stopped at 7200 s, before node1 loses power"),
    ],
)
def test_what_can_not_be_done(opened: Open, do: Callable[[HostedRun], object], words: str) -> None:
    run = opened(SMALL)
    run.run(until=20)
    with pytest.raises(ConfigurationError, match=words):
        do(run)
    assert run.injected == ()
    run.run()
    assert run.digest == straight(SMALL).digest


def test_nothing_strikes_a_job_that_is_over(opened: Open) -> None:
    run = opened(SMALL)
    run.run()
    with pytest.raises(ConfigurationError, match=r"the job is over since .* rewind to an earlier moment"):
        run.inject(CrashNode("node1"))


def test_errors_of_the_process_come_in_words(opened: Open) -> None:
    class Odd(faults.CrashNode):
        """Of a kind that nobody knows how to let strike, with words that fail where it would."""

        __slots__ = ()

        def words(self) -> str:
            raise RuntimeError("no words")

    run = opened(SMALL)
    run.run(until=20)
    with pytest.raises(HostError, match="the simulation failed with RuntimeError: no words") as found:
        run.inject(Odd("node1"))
    assert "Traceback" in found.value.__notes__[0]
    assert not isinstance(found.value, LimitReached)
    run.rewind(20)
    run.run()
    assert run.digest == straight(SMALL).digest
