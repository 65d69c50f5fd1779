"""What a user may bring: a fault, a checker and a restart policy of their own, in each way of running a scenario."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

pytest.importorskip("greenlet")

from simulator import Scenario, Workload, faults, scenarios, simulate, sweep, toml_file
from simulator.checkers import Broken, Checker, Record
from simulator.faults import Fault
from simulator.interactive.hosted import HostedRun
from simulator.plain_data import table_of, with_settings
from simulator.strike import Place
from toolkit.core.errors import ConfigurationError
from toolkit.core.restarts import FailureCause, PastRestart, RestartPolicy, RestartVerdict


@dataclass(frozen=True)
class SwitchReboots(Fault):
    """Two nodes behind one switch are cut off for a while."""

    for_s: float = 45.0

    def strike(self, place: Place) -> None:
        names = list(place.nodes)
        first = names.index(self.target) // 2 * 2
        for name in names[first : first + 2]:
            place.let(faults.Partition(name, for_s=self.for_s))

    def lasts_s(self) -> float:
        return self.for_s

    def what(self) -> str:
        return f"the switch of {self.target} reboots"


@dataclass(frozen=True)
class Throttled(Fault):
    """A node gets slower by a factor that the seed draws; then it is as before."""

    for_s: float = 30.0

    def strike(self, place: Place) -> None:
        factor = 2 + place.draw("factor", 6)
        place.node.slowness *= factor
        place.later(self.for_s, lambda: self.pass_by(place, factor))

    def pass_by(self, place: Place, factor: int) -> None:
        place.node.slowness /= factor

    def lasts_s(self) -> float:
        return self.for_s


def _no_small_round(record: Record) -> Iterator[Broken]:
    for group in record.rounds:
        if group.size < record.facts.max_nodes:
            yield Broken("no-small-round", f"round {group.number} has {group.size}", at_s=group.formed.at_s)


NO_SMALL_ROUND = Checker("no-small-round", "each round has all nodes", _no_small_round)
MINE = Scenario(
    name="mine",
    nodes=4,
    min_nodes=2,
    workload=Workload(steps=200, collective_timeout_s=60),
    faults=(SwitchReboots("node3", at_s=60),),
    checkers=(NO_SMALL_ROUND,),
)


# -- a fault --------------------------------------------------------------------------------------------------


def test_a_fault_is_told_before_its_parts_which_count_as_what_they_are() -> None:
    report = simulate(MINE)
    assert [(hit.kind, hit.node) for hit in report.record.facts.hits] == [
        ("SwitchReboots", "node3"),
        ("Partition", "node2"),
        ("Partition", "node3"),
    ]
    assert list(report.struck) == [
        "at 60 s the switch of node3 reboots",
        "at 60 s node2 is cut off from the others for 45 s",
        "at 60 s node3 is cut off from the others for 45 s",
    ]
    assert all(end.result == "SUCCEEDED" for end in report.nodes.values())


def test_a_role_is_looked_up() -> None:
    report = simulate(replace(MINE, faults=(SwitchReboots("any", at_s=60),)), seed=1)
    assert report.struck[0] == "at 60 s the switch of node2 reboots (any)"


def test_what_it_does_to_a_node_passes() -> None:
    slow = Scenario(name="slow", workload=Workload(steps=60), faults=(Throttled("node0", at_s=10),))
    lengths = {simulate(slow, seed=seed).virtual_s for seed in range(6)}
    undisturbed = simulate(replace(slow, faults=())).virtual_s
    assert len(lengths) > 1, "the seed draws the factor"
    assert all(undisturbed + 10 < length < undisturbed + 40 for length in lengths)
    assert simulate(slow, seed=3).digest == simulate(slow, seed=3).digest


def test_a_part_may_come_later() -> None:
    @dataclass(frozen=True)
    class Twice(Fault):
        def strike(self, place: Place) -> None:
            place.let(faults.KillWorker(self.target))
            place.let(faults.KillWorker(self.target, at_s=20))
            place.later(40, lambda: place.let(faults.KillWorker(self.target)))

    report = simulate(Scenario(workload=Workload(steps=100), faults=(Twice("node0", at_s=10),)))
    assert [hit.at_s for hit in report.record.facts.hits] == [10, 10, 30, 50]
    assert report.struck[0] == "at 10 s Twice strikes node0"


def test_it_may_say_why_it_struck_nothing() -> None:
    class Missing(Fault):
        def strike(self, place: Place) -> str:
            return "there is no such switch"

    report = simulate(Scenario(faults=(Missing("node0", at_s=10),)))
    assert report.struck == ("at 10 s Missing strikes node0: struck nothing, there is no such switch",)
    assert not report.record.facts.hits


def test_one_that_does_not_say_what_it_does_is_refused() -> None:
    class Vague(Fault):
        pass

    with pytest.raises(ConfigurationError, match=r"Vague doesn't say what it does; give it a method strike"):
        Scenario(faults=(Vague("node0"),))


def test_a_part_that_strikes_nobody_is_refused() -> None:
    class Stray(Fault):
        def strike(self, place: Place) -> None:
            place.let(faults.CrashNode("nod0"))

    with pytest.raises(ConfigurationError, match=r"CrashNode strikes node 'nod0'.*did you mean node0"):
        simulate(Scenario(nodes=2, faults=(Stray("node1", at_s=10),)))


# -- a checker ------------------------------------------------------------------------------------------------


def test_a_checker_judges_besides_ours() -> None:
    report = simulate(MINE)
    assert [broken.promise for broken in report.broken] == ["no-small-round"]
    assert len(report.judgement.rulings) > 20
    assert "no-small-round: each round has all nodes" in str(report)


def test_names_still_choose_among_ours() -> None:
    report = simulate(replace(MINE, checkers=("one-master", NO_SMALL_ROUND)))
    assert [ruling.checker.promise for ruling in report.judgement.rulings] == ["one-master", "no-small-round"]


def test_in_plain_data_it_stands_by_its_name() -> None:
    assert table_of(MINE)["checkers"] == ["no-small-round"]


# -- a restart policy -----------------------------------------------------------------------------------------

CRASHES = Scenario(
    name="crashes",
    max_restarts=1,
    workload=Workload(steps=300, checkpoint_every=10),
    faults=tuple(faults.KillWorker("node0", at_s=at_s) for at_s in (60, 160, 260)),
)


class OnceMore(RestartPolicy):
    """Whatever happens, but only a minute after the start."""

    def judge(
        self,
        cause: FailureCause,
        past: tuple[PastRestart, ...],
        *,
        remaining: int,
        restarts_max: int,
        now_ns: int,
        draw: float = 0.0,
    ) -> RestartVerdict:
        return RestartVerdict(True, "once more", delay_s=7.0)


def test_the_policy_decides() -> None:
    windowed = replace(CRASHES, restart_policy=RestartPolicy(window_s=90))
    assert simulate(CRASHES).nodes["node0"].result == "FAILED"
    assert simulate(windowed).nodes["node0"].result == "SUCCEEDED"


def test_a_policy_of_ones_own_class_decides() -> None:
    report = simulate(replace(CRASHES, restart_policy=OnceMore()))
    assert report.nodes["node0"].result == "SUCCEEDED"
    assert report.training.mttr_s is not None
    assert report.training.mttr_s > 7


def test_a_back_off_is_given_once() -> None:
    with pytest.raises(ConfigurationError, match="has a backoff_s and a restart_policy; leave out one"):
        Scenario(backoff_s=1.0, restart_policy=RestartPolicy())


def test_a_policy_is_plain_data_too() -> None:
    policy = RestartPolicy(window_s=90, never_on=frozenset({2, -9}))
    scenario = toml_file.loads(
        'name = "mine"\n[restart_policy]\nwindow_s = 90\nnever_on = [-9, 2]\n',
    )
    assert scenario.restart_policy == policy
    assert table_of(scenario)["restart_policy"] == {"window_s": 90.0, "never_on": [-9, 2]}
    set_by_text = with_settings(
        Scenario(), {"restart_policy.window_s": "90", "restart_policy.never_on": "2,-9"}
    )
    assert set_by_text.restart_policy == policy


# -- everywhere -----------------------------------------------------------------------------------------------


def test_in_a_sweep_over_processes() -> None:
    result = sweep(MINE, {"min_nodes": [2, 4]}, seeds=4, jobs=2, progress=False)
    assert [run.measured.broken for run in result] == [("no-small-round",)] * 4 + [()] * 4
    assert result[0].measured.digest == simulate(MINE).digest


def test_a_sweep_over_fields_of_a_policy() -> None:
    result = sweep(CRASHES, {"restart_policy.window_s": [None, 90.0]}, seeds=1, progress=False)
    assert result["succeeded"] == [False, True]


def test_in_a_run_that_is_held() -> None:
    with HostedRun(replace(MINE, faults=())) as run:
        run.run(60.0)
        run.inject(SwitchReboots("node3"))
        run.run()
        assert [type(fault).__name__ for fault in run.injected] == ["SwitchReboots"]
        assert [broken.promise for broken in run.report().broken] == ["no-small-round"]


@pytest.mark.torch
def test_a_subject_has_the_name_that_repeats_it() -> None:
    pytest.importorskip("torch")
    report = simulate(scenarios.clock_skew, "rally-over-c10d", seed=1)
    assert report.command == "rally sim clock-skew --subject rally-over-c10d --seed 1"


def test_what_runs_it_again_is_python() -> None:
    assert simulate(MINE, seed=3).command == "simulate(report.scenario, 'rally', seed=3)"
