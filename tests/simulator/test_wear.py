"""Failures drawn from a seed: exponential, of each node by itself, the same for the same seed."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest

pytest.importorskip("greenlet")

from simulator import Scenario, Workload, scenarios, simulate, wear
from simulator.faults import CrashNode, KillWorker
from simulator.toml_file import dumps, loads
from toolkit.core.errors import ConfigurationError

CLUSTER = Scenario(name="worn", nodes=4, mtbf_s=1000.0, repair_s=50.0, limit_s=100_000.0)


def test_without_a_rate_nothing_fails() -> None:
    assert wear.drawn(replace(CLUSTER, mtbf_s=None), 1) == ()
    assert wear.drawn(replace(CLUSTER, mtbf_s=math.inf), 1) == ()


def test_the_same_seed_draws_the_same() -> None:
    assert wear.drawn(CLUSTER, 1) == wear.drawn(CLUSTER, 1) != wear.drawn(CLUSTER, 2)


def test_times_between_failures_are_exponential() -> None:
    gaps = []
    for seed in range(10):
        for node in CLUSTER.node_names:
            at_s = [fault.at_s for fault in wear.drawn(CLUSTER, seed) if fault.target == node]
            gaps += [after - before - 50 for before, after in zip([-50.0, *at_s], at_s, strict=False)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1000, rel=0.05)
    # Of an exponential distribution the deviation is the mean, and the median is its logarithm of 2.
    assert math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) == pytest.approx(mean, rel=0.08)
    assert sorted(gaps)[len(gaps) // 2] == pytest.approx(mean * math.log(2), rel=0.08)


def test_a_node_that_is_down_does_not_fail() -> None:
    for seed in range(5):
        for node in CLUSTER.node_names:
            at_s = [fault.at_s for fault in wear.drawn(CLUSTER, seed) if fault.target == node]
            assert all(after - before >= 50 for before, after in pairwise(at_s))
            assert all(0 < moment <= CLUSTER.limit_s for moment in at_s)


def test_one_node_more_moves_the_failures_of_none() -> None:
    more = wear.drawn(replace(CLUSTER, nodes=5), 1)
    assert tuple(fault for fault in more if fault.target != "node4") == wear.drawn(CLUSTER, 1)


def test_what_is_not_repaired_fails_once() -> None:
    once = wear.drawn(replace(CLUSTER, repair_s=None), 1)
    assert sorted(fault.target for fault in once) == sorted(CLUSTER.node_names)
    assert all(isinstance(fault, CrashNode) and fault.reboot_after_s is None for fault in once)


def test_workers_may_fail_instead() -> None:
    found = wear.drawn(replace(CLUSTER, mtbf_hits="worker", local_world_size=4), 1)
    assert {type(fault) for fault in found} == {KillWorker}
    assert {fault.local_rank for fault in found if isinstance(fault, KillWorker)} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"mtbf_s": 0.0}, "has mtbf_s 0.0; give more than 0"),
        ({"mtbf_s": math.nan}, "has mtbf_s nan; give more than 0"),
        ({"mtbf_s": 0.01}, "and 100,000 are the most; give a longer mtbf_s"),
        ({"repair_s": -1.0}, "has repair_s -1.0; give seconds"),
        ({"mtbf_hits": "gpu"}, "lets 'gpu' fail; mtbf_hits is node or worker"),
        ({"backoff_s": -1.0}, "has backoff_s -1.0; give 0 or more"),
    ],
)
def test_bad_values_are_said(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        replace(CLUSTER, **wrong)  # type: ignore[arg-type]


def test_it_stands_in_files_and_on_the_command_line() -> None:
    assert loads(dumps(CLUSTER)) == CLUSTER
    changed = scenarios.with_settings(scenarios.happy, {"mtbf_s": "600", "repair_s": "none"})
    assert (changed.mtbf_s, changed.repair_s) == (600.0, None)


def test_a_run_is_struck_and_its_scenario_stays_as_it_was() -> None:
    scenario = replace(
        CLUSTER,
        nodes=2,
        mtbf_s=100.0,
        repair_s=10.0,
        limit_s=2000,
        store_apart=True,
        workload=Workload(steps=120),
    )
    report = simulate(scenario, seed=3)
    assert report.scenario == scenario
    assert {hit.kind for hit in report.record.facts.hits} == {"CrashNode"}
    # What would have come after the end of the job is nobody's business.
    assert not any("struck nothing" in words for words in report.struck)
    assert report.restarts >= 1 and report.verdict == "held"


def test_the_back_off_is_waited_for() -> None:
    scenario = replace(scenarios.solo_crash, backoff_s=90.0)
    (stood_s,) = simulate(scenario).training.stood_s
    (without_s,) = simulate(scenarios.solo_crash).training.stood_s
    # Longer than the longest wait that a policy has by itself: what one says is what one gets.
    assert stood_s == pytest.approx(without_s + 90, abs=1.5)


# -- what is measured -----------------------------------------------------------------------------------------


def test_an_undisturbed_run_loses_only_its_start() -> None:
    training = simulate(scenarios.happy).training
    assert training.done and training.useful_s == 30
    assert training.lost_s == pytest.approx(2, abs=0.2)  # start_s
    assert training.ettr == pytest.approx(30 / training.ended_s)
    assert training.mttr_s is None and training.redone_s == 0


def test_steps_that_are_done_again_are_lost() -> None:
    # Killed at 15 s, in the 13th step, with the last checkpoint at 10: 2 of its steps are done again.
    training = simulate(scenarios.solo_crash).training
    assert training.redone_s == 2 and len(training.stood_s) == 1
    stood_s = training.stood_s[0]
    # The start, what it stood still, what it did again, and the rest of the step that was cut.
    assert training.lost_s == pytest.approx(2 + stood_s + 2, abs=0.2)


def test_of_a_job_that_fails_the_last_checkpoint_is_left() -> None:
    training = simulate(replace(scenarios.solo_crash, max_restarts=0)).training
    assert not training.done and training.useful_s == 10
    assert 0 < training.ettr < 1


def test_saving_takes_time_that_is_not_useful() -> None:
    slow = replace(scenarios.happy, workload=Workload(steps=30, checkpoint_every=10, checkpoint_s=4))
    training = simulate(slow).training
    assert training.useful_s == 30 and training.lost_s == pytest.approx(2 + 3 * 4, abs=0.3)


def test_the_slowest_node_sets_the_pace() -> None:
    assert scenarios.worker_crash.step_s == 1.0
    assert simulate(scenarios.worker_crash).training.useful_s == 40
