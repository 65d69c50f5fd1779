"""Misspelt fields and values that are no numbers are refused in a line that says what to write instead."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from simulator import NodePlan, Scenario, Workload, faults, scenarios
from toolkit.core.errors import ConfigurationError


@dataclass(frozen=True)
class Mine(faults.Fault):
    depth: int = 1


class Short(faults.CrashNode):
    """One that makes itself from something else."""

    def __init__(self, number: int, **more: float) -> None:
        super().__init__(f"node{number}", **more)


def made(kind: Callable[..., object], **given: object) -> Callable[[], object]:
    return lambda: kind(**given)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (made(Scenario, node=3), "Scenario has no field 'node'; did you mean nodes or note?"),
        (made(Scenario, nodes="2"), "Scenario has nodes='2'; give a whole number"),
        (made(Scenario, nodes=2.5), "Scenario has nodes=2.5; give a whole number"),
        (made(Scenario, mtbf_s="1h"), "Scenario has mtbf_s='1h'; give a number"),
        (made(Workload, step=3), "Workload has no field 'step'; did you mean steps"),
        (made(Workload, steps=None), "Workload has steps=None; give a whole number"),
        (made(NodePlan, gpus=8), "NodePlan has no field 'gpus'; there are start_s, role"),
        (made(faults.CrashNode, target="node1", at=3), "CrashNode has no field 'at'; did you mean at_s"),
        (made(faults.CrashNode, target="node1", at_s="3"), "CrashNode has at_s='3'; give a number"),
        (made(Mine, target="node1", deep=3), "Mine has no field 'deep'; did you mean depth?"),
        (made(Scenario, faults=faults.CrashNode("node0")), "give faults=[CrashNode(target='node0'"),
    ],
)
def test_the_field_and_the_remedy_are_named(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_well_made_stays_as_it_is() -> None:
    fault = Mine("node0", at_s=3, depth=2)
    assert pickle.loads(pickle.dumps(fault)) == fault == replace(fault, depth=2)
    assert Short(1, at_s=2.0).target == "node1"
    assert Scenario(mtbf_s=None, repair_s=3, faults=[faults.CrashNode("node0")]).mtbf_s is None


def test_a_name_that_is_near_is_offered() -> None:
    with pytest.raises(AttributeError, match="there is no fault KillNode; did you mean"):
        _ = faults.KillNode
    with pytest.raises(AttributeError, match="no scenario 'worker_crsh'; did you mean worker_crash"):
        _ = scenarios.worker_crsh
    assert not hasattr(faults, "__path__")
