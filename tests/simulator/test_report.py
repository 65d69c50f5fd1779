"""Reports: verdicts, excuses, the JSON that others read, and the one screen that people read."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

import simulator
from simulator import Fail, NodePlan, Scenario, ScenarioRun, Workload, faults, scenarios, simulate
from simulator.checkers import Broken, Facts, Hit, NodeEnd
from simulator.checkers.record import record_of
from simulator.excuses import EXCUSES, excused
from simulator.report import EXIT_CODES, facts_of, report_of
from simulator.simulation import RallySubject
from simulator.trace import words_of
from toolkit.core import events as ev
from toolkit.core.errors import ConfigurationError

KEYS = [
    "scenario",
    "subject",
    "seed",
    "verdict",
    "broken",
    "excused",
    "digest",
    "virtual_s",
    "steps",
    "events",
    "rounds",
    "restarts",
    "nodes",
    "wall_s",
]
CRASH = Scenario(
    "crash",
    about="One node, and a worker dies once.",
    local_world_size=2,
    solo=True,
    workload=Workload(steps=20, failures=(Fail(rank=1, at_step=5, exit_code=-9),)),
)


# -- verdicts -------------------------------------------------------------------------------------------------


def test_a_fault_that_comes_after_the_end_is_told() -> None:
    report = simulate(replace(CRASH, faults=(faults.KillWorker("node0", 3000.0),)), seed=1)
    assert "struck nothing, the run had ended" in str(report)


def test_a_run_that_goes_well_holds() -> None:
    report = simulate(CRASH, seed=1)
    assert (report.verdict, report.exit_code, report.broken) == ("held", 0, ())
    assert (report.rounds, report.restarts) == (2, 1)
    assert report.nodes["node0"].result == "SUCCEEDED"
    assert report.timeline.nodes["node0_1000"].restarts_total == 1
    assert report.events and report.choices is not None and len(report.digest) == 32


def test_a_run_that_reaches_a_limit_is_undetermined() -> None:
    report = simulate(replace(CRASH, limit_s=10.0), seed=1)
    assert (report.verdict, report.exit_code) == ("undetermined", 3)
    assert "the run takes more than 10 s" in str(report)


def test_a_run_that_is_not_over_in_time_is_broken() -> None:
    report = simulate(replace(CRASH, quiet_by_s=5.0), seed=1)
    assert [broken.promise for broken in report.broken] == ["everyone-ends"]
    assert report.exit_code == 1


def test_exit_codes_are_those_of_the_command_line() -> None:
    assert EXIT_CODES == {"held": 0, "broken": 1, "undetermined": 3}


def test_only_the_checkers_that_a_scenario_names_are_asked() -> None:
    report = simulate(replace(CRASH, quiet_by_s=5.0, checkers=("restart-budget",)), seed=1)
    assert (report.verdict, len(report.judgement.rulings)) == ("held", 1)


def test_a_checker_that_is_not_there_is_refused_before_the_run() -> None:
    with pytest.raises(ConfigurationError, match="no checker 'budget'"):
        simulate(replace(CRASH, checkers=("budget",)))


def test_a_subject_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no subject 'torhc'; did you mean torch"):
        simulate(CRASH, "torhc")


def test_a_deadlock_is_a_finding_with_who_waits_for_what() -> None:
    simulation = ScenarioRun(CRASH, RallySubject(), 1)
    outcome = simulation.run(until_s=5.0)
    outcome.finding = "nothing is left to happen, and these still wait: node0/agent for the bell"
    report = report_of(outcome, facts_of(simulation, outcome))
    simulation.close()
    assert [broken.promise for broken in report.broken] == ["everyone-ends"]
    assert (
        "node0 waits for" in report.broken[0].detail
        and "nothing is left to happen" in report.broken[0].detail
    )


def test_ctrl_c_leaves_a_report_of_what_was_reached() -> None:
    class Interrupted(RallySubject):
        def agent(self, process: Any, *args: Any) -> Any:
            def interrupt() -> None:
                raise KeyboardInterrupt

            process.node.world.kernel.call_after(9 * 10**9, "Ctrl-C", interrupt)
            return super().agent(process, *args)

    report = simulate(CRASH, Interrupted(), 1)
    assert report.verdict == "undetermined" and report.virtual_s == pytest.approx(9.0)
    assert "broken off by Ctrl-C" in str(report) and report.rounds == 2


def test_the_same_seed_gives_the_same_report() -> None:
    one, two = simulate(CRASH, seed=7), simulate(CRASH, seed=7)
    assert str(one) == str(two) and one.as_json() == two.as_json()


def test_a_tape_repeats_a_run() -> None:
    first = simulate(CRASH, seed=7)
    again = simulate(CRASH, seed=8, recorded=first.choices)
    assert again.digest == first.digest


# -- JSON -----------------------------------------------------------------------------------------------------


def test_the_json_has_the_keys_that_others_build_on() -> None:
    ticks = count(1.0, 0.5)
    report = simulate(CRASH, seed=1, stopwatch=lambda: next(ticks))
    said = report.as_json()
    assert list(said) == KEYS
    assert said["wall_s"] == 0.5 and said["events"] == len(report.events) > 20
    assert said["nodes"] == {"node0": {"result": "SUCCEEDED", "exited_at_s": pytest.approx(29.0, abs=1.0)}}
    assert json.loads(json.dumps(said, allow_nan=False)) == said


def test_broken_promises_in_json_have_promise_detail_node_and_time() -> None:
    said = simulate(replace(CRASH, quiet_by_s=5.0), seed=1).as_json()
    (broken,) = said["broken"]
    assert list(broken) == ["promise", "detail", "node", "at_s"]
    assert (broken["promise"], broken["node"]) == ("everyone-ends", "node0")


# -- excuses --------------------------------------------------------------------------------------------------


def excuse_for(promise: str, node: str, at_s: float = 50.0, **facts: Any) -> str:
    nodes = {"a": NodeEnd("RUNNING"), "b": NodeEnd("RUNNING"), **facts.pop("nodes", {})}
    record = record_of([], Facts(nodes=nodes, min_nodes=2, **facts))
    _, forgiven = excused([Broken(promise, "", node, at_s)], record)
    return forgiven[0].excuse if forgiven else ""


def test_too_few_nodes_excuse_an_end_that_does_not_come() -> None:
    lost = {"b": NodeEnd("LOST")}
    assert "only 1 of the 2 nodes" in excuse_for("everyone-ends", "a", nodes=lost)
    assert excuse_for("everyone-ends", "a") == ""


def test_too_few_nodes_excuse_nothing_else() -> None:
    assert excuse_for("ranks-exact", "a", nodes={"b": NodeEnd("LOST")}) == ""


def test_a_lost_store_excuses_an_end_only_if_the_error_names_it() -> None:
    third = {"c": NodeEnd("LOST")}
    says = {"a": NodeEnd("ERROR", reason="StoreError: the store at c:29400 is gone"), **third}
    silent = {"a": NodeEnd("ERROR", reason="RendezvousConnectionError: see inner exception"), **third}
    assert "host c is lost" in excuse_for("no-needless-end", "a", nodes=says, store_host="c")
    assert excuse_for("no-needless-end", "a", nodes=silent, store_host="c") == ""
    assert excuse_for("everyone-ends", "a", nodes=says, store_host="c") == ""


def test_a_lost_store_excuses_nobody_who_takes_long_to_say_so() -> None:
    says = {"a": NodeEnd("ERROR", reason="StoreError: the store at c:29400 is gone"), "c": NodeEnd("LOST")}
    hits = (Hit("CrashNode", "c", 10.0),)
    assert excuse_for("no-needless-end", "a", 90.0, nodes=says, store_host="c", hits=hits) != ""
    assert excuse_for("no-needless-end", "a", 900.0, nodes=says, store_host="c", hits=hits) == ""


def test_a_node_that_stands_still_could_not_know() -> None:
    hit = Hit("PauseAgent", "a", 40.0, 60.0, "the agent on a is stopped for 20 s")
    assert "a could not know" in excuse_for("one-round-running", "a", hits=(hit,))
    assert excuse_for("one-round-running", "a", 100.0, hits=(hit,)) == ""
    assert excuse_for("one-round-running", "b", hits=(hit,)) == ""


def test_a_node_that_stands_still_for_ever_need_not_end() -> None:
    for_ever = Hit("PauseNode", "a", 40.0, math.inf, "a stands still")
    assert excuse_for("everyone-ends", "a", hits=(for_ever,)) != ""
    passing = replace_hit(for_ever, until_s=60.0)
    assert excuse_for("everyone-ends", "a", hits=(passing,)) == ""


def replace_hit(hit: Hit, **fields: Any) -> Hit:
    return replace(hit, **fields)


def test_a_full_disk_excuses_missing_events() -> None:
    scenario = replace(CRASH, faults=(faults.FillDisk("node0", at_s=1.0, for_s=10.0),))
    report = simulate(scenario, seed=1)
    assert {found.broken.promise for found in report.excused} == {"events-complete"}
    assert "the disk of node0 is full" in report.as_json()["excused"][0]["excuse"]
    assert report.broken == ()


def test_a_full_disk_that_took_the_failure_of_which_all_tell_excuses_the_end() -> None:
    scenario = Scenario(
        nodes=2,
        max_restarts=0,
        workload=Workload(steps=40, failures=(Fail(rank=1, at_step=20),)),
        faults=(faults.FillDisk("node1", at_s=15.0, for_s=30.0),),
    )
    report = simulate(scenario, "rally", seed=1)
    excuses = {found.broken.promise: found.excuse for found in report.excused}
    assert "the failure on node1 that all tell of" in excuses["no-needless-end"]
    elsewhere = replace(scenario, faults=(faults.FillDisk("node0", at_s=15.0, for_s=30.0),))
    assert simulate(elsewhere, "rally", seed=1).broken == ()
    assert excuse_for("no-needless-end", "node0", hits=(Hit("FillDisk", "node1", 15.0, 45.0, "full"),)) == ""


def test_every_excuse_names_promises_that_there_are() -> None:
    known = {checker.promise for checker in simulator.checkers.CHECKERS}
    for excuse in EXCUSES:
        assert excuse.promises and set(excuse.promises) <= known and excuse.about


# -- the screen -----------------------------------------------------------------------------------------------


def test_the_screen_of_a_run_that_holds() -> None:
    text = str(simulate(CRASH, seed=1))
    assert text.startswith("✓ HELD  crash  with rally, seed 1\n  One node, and a worker dies once.\n")
    assert "rank 1 was killed by SIGKILL, restarts, 2 left" in text
    assert text.rstrip().endswith("again: simulate(report.scenario, 'rally', seed=1)")


def test_the_command_that_repeats_it_can_be_given() -> None:
    assert "again: rally sim mine.toml --tape t" in str(
        simulate(CRASH, command="rally sim mine.toml --tape t")
    )


def test_faults_stand_between_the_lanes() -> None:
    scenario = replace(CRASH, faults=(faults.KillWorker("node0", 12.0),))
    text = str(simulate(scenario, seed=1))
    assert "  12.0 s  ⚡ local rank 0 on node0 gets SIGKILL" in text


def test_rich_shows_the_same_words() -> None:
    from rich.console import Console

    report = simulate(CRASH, seed=1)
    out = io.StringIO()
    Console(file=out, width=100, color_system=None).print(report)
    assert [line.rstrip() for line in out.getvalue().splitlines()] == str(report).splitlines()


@pytest.mark.torch
@pytest.mark.parametrize("name", list(scenarios.ALL))
def test_every_screen_fits(name: str) -> None:
    pytest.importorskip("torch")
    scenario = replace(scenarios.ALL[name], checkers=())
    lines = str(simulate(scenario, "torch", seed=2)).splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) <= 75


@pytest.mark.torch
def test_the_screen_of_moved_rank_0_tells_a_newcomer_what_goes_wrong() -> None:
    pytest.importorskip("torch")
    text = str(simulate(scenarios.moved_rank_0, "torch", seed=1))
    assert "✗ one-master: all members of a round hold the same master address, served by its rank 0" in text
    assert "node-b and node-c were told MASTER_ADDR node-b.sim, node-a was told MASTER_ADDR" in " ".join(
        text.split()
    )
    assert "again: rally sim moved-rank-0 --subject torch --seed 1" in text


def test_every_event_has_words_or_leaves_them_to_others() -> None:
    silent = (
        ev.WorkersStarting,
        ev.WorkerStarted,
        ev.WorkerExited,
        ev.WorkersStopping,
        ev.WorkersStopped,
        ev.LogsLost,
    )
    for event in simulate(CRASH, seed=1).events:
        words = words_of(event)
        assert len(words) < 60
        assert not (isinstance(event, silent) and words)


def test_what_nodes_decide_together_is_told_where_it_is_decided() -> None:
    lost = {"ended": 1, "action": "membership", "reason": "node b_2_abcdef is lost: it left", "restarts": 0}
    rung = {"by": "a_1_0123ab", "spends_budget": False, **lost}
    assert words_of(ev.RoundEnded(node="a_1", **rung)) == "rings the bell: node b_2 is lost"
    assert words_of(ev.RoundEnded(node="c_3", **rung)) == ""
    new = {"began": 2, "coordinator": "a_1_0123ab", "before": "b_2_abcdef"}
    assert words_of(ev.CoordinatorChanged(node="a_1", **new)) == "coordinates from now on"
    assert words_of(ev.CoordinatorChanged(node="c_3", **new)) == ""
    assert (
        words_of(ev.JoinHeld(node="a_1", joiner="b_2_abcdef", reason="", for_s=30)) == "holds b back for 30 s"
    )
    refused = {"joiner": "b_2_abcdef", "reason": "it differs"}
    assert words_of(ev.JoinRefused(node="a_1", **refused)) == "refuses b"
    assert words_of(ev.JoinRefused(node="b_2", **refused)) == "is refused"
    assert words_of(ev.Parked(beside=2, reason="full")) == "is parked"


# -- the package ----------------------------------------------------------------------------------------------


def test_the_names_of_the_package_are_there() -> None:
    for name in simulator.__all__:
        assert getattr(simulator, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = simulator.nonsense


def test_the_scenario_of_the_interface_can_be_written() -> None:
    scenario = Scenario(
        nodes=4,
        min_nodes=2,
        max_nodes=4,
        max_restarts=3,
        faults=[faults.CrashNode("node2", at_s=30)],  # type: ignore[arg-type]
        plans={"node3": NodePlan(start_s=5)},
    )
    assert scenario.faults == (faults.CrashNode("node2", at_s=30),)
