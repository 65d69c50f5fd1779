"""Restart policies in a job of several nodes: one memory, one back-off for all, and a refusal that ends it for all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import pytest

pytest.importorskip("greenlet")

from simulator import Scenario, Workload, faults, simulate, toml_file
from simulator.plain_data import table_of, with_settings
from simulator.report import Report
from simulator.scenario import NodePlan
from simulator.workloads import Fail
from toolkit.core import events as ev
from toolkit.core.errors import ConfigurationError
from toolkit.core.restarts import FailureCause, PastRestart, RestartPolicy, RestartVerdict

_E = TypeVar("_E", bound=ev.Event)

#: rank 1 exits each time with code 7
ALWAYS = Fail(1, at_step=5, exit_code=7, incarnations=None)
NODES = ("node0", "node1", "node2")


def job(policy: RestartPolicy | str, *failures: Fail, **fields: Any) -> Scenario:
    workload = Workload(steps=20, collective=False, failures=failures or (ALWAYS,))
    given = {"nodes": 3, "max_restarts": 6, "workload": workload, "restart_policy": policy}
    return Scenario(**{**given, **fields})


def held(scenario: Scenario) -> Report:
    report = simulate(scenario, "rally", 1)
    assert report.verdict == "held", str(report)
    return report


def said(report: Report, kind: type[_E], node: str = "") -> list[_E]:
    return [
        event
        for event in report.events
        if isinstance(event, kind) and (not node or event.node.startswith(f"{node}_"))
    ]


def restarts(report: Report, node: str) -> list[ev.DecisionMade]:
    return [decision for decision in said(report, ev.DecisionMade, node) if decision.action == "restart"]


def test_all_nodes_wait_out_one_back_off_and_a_crash_loop_ends_all_with_its_reason() -> None:
    report = held(job("backoff=4s..8s,crash-loop=4"))
    for node in NODES:
        assert [decision.delay_s for decision in restarts(report, node)] == [4.0, 8.0, 8.0]
        stopped, started = said(report, ev.WorkersStopped, node), said(report, ev.WorkersStarting, node)
        waits = [
            (start.mono_ns - stop.mono_ns) / 1e9 for stop, start in zip(stopped, started[1:], strict=False)
        ]
        assert waits == pytest.approx([4, 8, 8], abs=0.5)
        (ended,) = said(report, ev.JobEnded, node)
        assert "crash loop: 4 failures in a row with the same cause (exit code 7)" in ended.why
    own = restarts(report, "node1")[1]
    assert (own.policy, own.verdict) == ("backoff=4s..8s,crash-loop=4", "restart 2 of 6, back-off 8.0 s")


def test_an_exit_code_that_forbids_a_restart_ends_the_job_for_all() -> None:
    report = held(job("never-on=7"))
    for node in NODES:
        assert restarts(report, node) == []
        assert "exit code 7 forbids a restart" in said(report, ev.AgentFinished, node)[0].reason


@pytest.mark.parametrize("forbidding", [0, 1, 2])
def test_a_refusal_goes_before_a_restart_that_was_decided_elsewhere_at_the_same_moment(
    forbidding: int,
) -> None:
    # node0's workers start 0.65 ms before the others', and news take 0.2 ms: all fail before they hear of each other.
    at_s = (5.0005, 5.0, 5.0)
    failures = [Fail(rank, at_s[rank], exit_code=78 if rank == forbidding else 3) for rank in range(3)]
    report = held(job("never-on=78", *failures))
    for node in NODES:
        assert "exit code 78 forbids a restart" in said(report, ev.AgentFinished, node)[0].reason
        assert len(said(report, ev.WorkersStarting, node)) == 1


def test_a_window_forgives_in_a_job_of_several_nodes() -> None:
    late = Fail(1, at_s=100, exit_code=7, incarnations=3)
    workload = Workload(steps=350, collective=False, failures=(late,))
    windowed = job("window=50s", workload=workload, max_restarts=1)
    assert held(windowed).nodes["node2"].result == "SUCCEEDED"
    assert simulate(replace(windowed, restart_policy=None)).nodes["node2"].result == "FAILED"
    too_long = replace(windowed, restart_policy="window=200s")
    assert (
        "the only restart is used up within 200 s"
        in said(simulate(too_long), ev.AgentFinished, "node0")[0].reason
    )


def test_a_free_restart_costs_nobody_anything() -> None:
    asks = Fail(1, at_step=5, exit_code=75, incarnations=2)
    report = held(job("free-on=75", asks, max_restarts=0))
    for node in NODES:
        assert [decision.free for decision in restarts(report, node)] == [True, True]
        assert [decision.spends_budget for decision in restarts(report, node)] == [False, False]
        assert said(report, ev.AgentFinished, node)[0].restart_count == 0
    assert report.nodes["node0"].result == "SUCCEEDED"


def test_free_restarts_in_a_loop_end_by_the_budget() -> None:
    report = held(job("free-on=7", max_restarts=1))
    assert [decision.free for decision in restarts(report, "node2")] == [True] * 5 + [False]
    assert report.nodes["node2"].result == "FAILED"


class Remembers(RestartPolicy):
    """Says what it remembers."""

    def judge(self, cause: FailureCause, past: tuple[PastRestart, ...], **given: Any) -> RestartVerdict:
        ages = [round((given["now_ns"] - restart.at_ns) / 1e9) for restart in past]
        return RestartVerdict(given["remaining"] > 0, f"{cause.key} again, {len(past)} before, {ages} s ago")


def test_a_node_that_comes_late_judges_with_the_memory_of_the_whole_job() -> None:
    """node1 has the failing rank until it is lost; then node3 has it, which waited beside and saw no failure."""
    fails = Fail(1, at_s=10, exit_code=7, incarnations=None)
    workload = Workload(steps=100, collective=False, failures=(fails,))
    report = held(
        job(
            Remembers(),
            workload=workload,
            nodes=4,
            min_nodes=3,
            max_nodes=3,
            max_restarts=4,
            plans={"node3": NodePlan(start_s=5)},
            faults=(faults.CrashNode("node1", at_s=25),),
        )
    )
    told = [decision.verdict for decision in restarts(report, "node1")]
    assert len(told) >= 2, "the story is about a job with a past"
    assert [words.split(",")[1] for words in told] == [f" {before} before" for before in range(len(told))]
    first = next(decision for decision in restarts(report, "node3") if "on node3" in decision.reason)
    assert f"{len(told)} before" in first.reason
    newest = restarts(report, "node1")[-1].wall_ns
    age_s = int(first.reason.rpartition("[")[2].split("]")[0].split(",")[-1])
    assert age_s == pytest.approx((first.wall_ns - newest) / 1e9, abs=1.0)


def test_a_back_off_is_no_delay_of_the_nodes() -> None:
    once = Fail(1, at_step=5, exit_code=7)
    report = held(job("backoff=60s..60s", once, rdzv_conf={"join_timeout": "20"}))
    assert report.nodes["node0"].result == "SUCCEEDED"


def test_a_job_that_ends_during_a_back_off_ends_it() -> None:
    """node2 is told to end while all wait, and two nodes are too few."""
    once = Fail(1, at_step=5, exit_code=7)
    struck = (faults.SignalAgent("node2", at_s=60),)
    report = simulate(job("backoff=600s..600s", once, rdzv_conf={"join_timeout": "20"}, faults=struck))
    assert said(report, ev.AgentFinished, "node2")[0].result == "SIGNAL"


# -- as plain data --------------------------------------------------------------------------------------------


def test_a_scenario_takes_the_text_of_the_command_line() -> None:
    policy = RestartPolicy(backoff_s=1, backoff_max_s=5, crash_loop=3)
    text = "backoff=1s..5s,crash-loop=3"
    assert Scenario(restart_policy=text).restart_policy == policy
    assert toml_file.loads(f'name = "mine"\nrestart_policy = "{text}"\n').restart_policy == policy
    assert with_settings(Scenario(), {"restart_policy": text}).restart_policy == policy
    assert table_of(Scenario(restart_policy=text))["restart_policy"]["crash_loop"] == 3


def test_a_text_that_is_no_policy_is_refused_with_its_place() -> None:
    with pytest.raises(
        ConfigurationError, match=r"restart_policy: .*'bakoff' is not known; did you mean backoff"
    ):
        toml_file.loads('name = "mine"\nrestart_policy = "bakoff"\n')
    with pytest.raises(
        ConfigurationError, match="is 'mine:Policy', a policy of one's own; write the scenario in Python"
    ):
        toml_file.loads('restart_policy = "mine:Policy"\n')
    with pytest.raises(ConfigurationError, match="did you mean backoff"):
        Scenario(restart_policy="bakoff")
