"""The nemesis draws only what a scenario accepts, the same for the same tape, and something of everything."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import faults, nemesis
from simulator.nemesis import FAMILIES, Options, schedule
from simulator.rng import Tape
from simulator.scenario import NodePlan, Scenario
from toolkit.core.errors import ConfigurationError

options = st.builds(
    Options,
    until_s=st.floats(1, 1000),
    faults_max=st.integers(0, 12),
    longest_s=st.floats(1, 500),
    families=st.lists(st.sampled_from(sorted(FAMILIES)), unique=True).map(tuple),
    off=st.floats(0, 1),
    deaths_max=st.integers(0, 3),
)
some_scenarios = st.builds(
    lambda nodes, size, limit_s: Scenario(
        nodes=nodes,
        local_world_size=size,
        limit_s=limit_s,
        plans={"node0": NodePlan(local_world_size=size + 1)},
    ),
    st.integers(1, 9),
    st.integers(1, 4),
    st.floats(1, 1000),
)


@given(st.integers(0, 1 << 40), some_scenarios, options)
def test_all_faults_are_valid_for_the_scenario(seed: int, scenario: Scenario, chosen: Options) -> None:
    drawn = schedule(Tape(seed), scenario, chosen)
    for fault in drawn:
        faults.check(fault, {name: scenario.workers_of(name) for name in scenario.node_names})
        assert 0 <= fault.at_s <= min(chosen.until_s, scenario.limit_s)
        if isinstance(fault, faults.PauseNode | faults.Partition | faults.StallStore):
            assert 0.1 <= fault.lasts_s() <= chosen.longest_s
    assert len(drawn) <= chosen.faults_max
    assert [fault.at_s for fault in drawn] == sorted(fault.at_s for fault in drawn)
    assert drawn == schedule(Tape(seed), scenario, chosen)


@given(st.integers(0, 1 << 40), options)
def test_few_are_lost_for_ever(seed: int, chosen: Options) -> None:
    drawn = schedule(Tape(seed), Scenario(nodes=5), chosen)
    deaths = [fault for fault in drawn if fault.stays() or isinstance(fault, faults.SignalAgent)]
    lost = [
        fault
        for fault in deaths
        if not isinstance(fault, faults.ClockOffset | faults.ClockStep | faults.ClockDrift)
    ]
    assert len(lost) <= chosen.deaths_max


def test_families_are_left_out_half_of_the_time() -> None:
    seen: Counter[str] = Counter()
    for seed in range(400):
        tape = Tape(seed)
        schedule(tape, Scenario(nodes=4), Options())
        seen.update(
            choice.label.rpartition("/")[2]
            for choice in tape.choices
            if choice.label.startswith("nemesis/family/") and choice.value >= choice.bound / 2
        )
    assert sorted(seen) == sorted(FAMILIES)
    assert all(150 < count < 250 for count in seen.values())


def test_every_kind_of_family_comes_up() -> None:
    drawn = [fault for seed in range(300) for fault in schedule(Tape(seed), Scenario(nodes=4), Options())]
    kinds = {type(fault) for fault in drawn}
    assert kinds == set(faults.KINDS) - {faults.FlappingJoiner}
    # Log-uniform: a tenth of a second to a second comes up about as often as ten to a hundred.
    spans = [
        fault.for_s
        for fault in drawn
        if isinstance(fault, faults.PauseNode | faults.Partition) and fault.for_s
    ]
    short, long = sum(span < 1 for span in spans), sum(10 <= span < 100 for span in spans)
    assert 0.5 < short / long < 2


def test_nothing_is_drawn_with_all_families_off() -> None:
    assert schedule(Tape(1), Scenario(nodes=2), Options(off=1.0)) == ()


def test_a_fault_less_moves_no_other() -> None:
    left_out = 0
    for seed in range(20):
        many = schedule(Tape(seed), Scenario(nodes=4), Options(faults_max=9, off=0.0, deaths_max=9))
        few = schedule(Tape(seed), Scenario(nodes=4), Options(faults_max=9, off=0.0, deaths_max=0))
        assert few == tuple(fault for fault in many if fault in few)
        left_out += len(many) - len(few)
    assert left_out > 10


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"families": ("crash", "crush")}, "no family of faults 'crush'"),
        ({"off": 1.5}, "share from 0 to 1"),
        ({"until_s": 0}, "finite times"),
        ({"longest_s": float("inf")}, "finite times"),
        ({"faults_max": -1}, "0 or more"),
    ],
)
def test_options_that_can_not_be(how: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        nemesis.Options(**how)  # type: ignore[arg-type]
