"""Scenario files: what is written reads back the same, and what is wrong is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import faults, nemesis, scenarios
from simulator.plain_data import with_settings
from simulator.rng import Tape
from simulator.scenario import NodePlan, Scenario
from simulator.toml_file import dumps, load, loads
from simulator.workloads import Fail, Workload
from toolkit.core.errors import ConfigurationError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
times = st.floats(0, 1000, allow_subnormal=False)
names = st.text("abc-._ é\"'", min_size=1, max_size=8)


@st.composite
def workloads(draw: st.DrawFn, ranks: int = 1) -> Workload:
    fails = st.one_of(
        st.builds(Fail, st.integers(0, ranks - 1), at_s=times, exit_code=st.integers(-31, 255)),
        st.builds(
            Fail,
            st.integers(0, ranks - 1),
            at_step=st.integers(0, 99),
            incarnations=st.none() | st.integers(1, 3),
        ),
    )
    return draw(
        st.builds(
            Workload,
            steps=st.integers(0, 500),
            step_s=times,
            collective=st.booleans(),
            term_s=st.none() | times,
            leaks_child=st.booleans(),
            failures=st.lists(fails, max_size=3).map(tuple),
        )
    )


@st.composite
def some_scenarios(draw: st.DrawFn) -> Scenario:
    node_names = tuple(draw(st.lists(names, min_size=1, max_size=5, unique=True)))
    size = draw(st.integers(1, 4))
    plans = draw(
        st.dictionaries(
            st.sampled_from(node_names),
            st.builds(
                NodePlan,
                start_s=times,
                role=texts,
                local_world_size=st.none() | st.integers(size, 8),
                workload=st.none() | workloads(),
            ),
        )
    )
    plain = Scenario(nodes=len(node_names), names=node_names, local_world_size=size, plans=plans)
    tape = Tape(draw(st.integers(0, 1 << 32)))
    return Scenario(
        name=draw(texts),
        about=draw(texts),
        nodes=len(node_names),
        names=node_names,
        min_nodes=draw(st.none() | st.just(1)),
        local_world_size=size,
        max_restarts=draw(st.integers(0, 9)),
        workload=draw(workloads(size)),
        plans=plans,
        faults=nemesis.schedule(tape, plain, nemesis.Options(off=0.0)),
        rdzv_conf=draw(st.dictionaries(names, texts, max_size=3)),
        checkers=tuple(draw(st.lists(texts, max_size=3))),
        quiet_by_s=draw(times),
    )


@settings(max_examples=200)
@given(some_scenarios())
def test_what_is_written_reads_back_the_same(scenario: Scenario) -> None:
    assert loads(dumps(scenario)) == scenario


@pytest.mark.parametrize("name", scenarios.ALL)
def test_so_does_every_known_scenario(name: str) -> None:
    assert loads(dumps(scenarios.named(name))) == scenarios.named(name)


@pytest.mark.parametrize("kind", faults.KINDS, ids=lambda kind: kind.__name__)
def test_so_does_every_kind_of_fault(kind: type[faults.Fault]) -> None:
    scenario = Scenario(nodes=2, faults=(kind(target="node1", at_s=1.5),))
    assert loads(dumps(scenario)) == scenario


def test_a_file_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        """
nodes = 3
min_nodes = 2

[workload]
steps = 100
term_s = "none"
[[workload.failure]]
rank = 1
at_step = 20
incarnations = "none"

[node.node2]
start_s = 60

[rdzv_conf]
join_timeout = 120

[[fault]]
kind = "CrashNode"
target = "node1"
at_s = 30
"""
    )
    assert load(path) == Scenario(
        name="mine",
        nodes=3,
        min_nodes=2,
        workload=Workload(steps=100, term_s=None, failures=(Fail(1, at_step=20, incarnations=None),)),
        plans={"node2": NodePlan(start_s=60)},
        rdzv_conf={"join_timeout": "120"},
        faults=(faults.CrashNode("node1", at_s=30),),
    )


def test_what_is_as_by_default_is_not_written() -> None:
    assert dumps(Scenario(name="small")) == 'name = "small"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nodes = \n", r"s.toml is no TOML: .*line 1"),
        ("nodes = 2\nnods = 3\n", r"s.toml, line 2: nods: nobody knows that; did you mean nodes"),
        ("nodes = 'two'\n", r"line 1: nodes: is 'two'; it has to be a whole number"),
        ("nodes = true\n", r"line 1: nodes: is True; it has to be a whole number"),
        ("nodes = 0\n", r"line 1: .*has 0 nodes"),
        ("solo = 1\n", r"it has to be true or false"),
        ("checkers = 'all'\n", r"it has to be a list"),
        ("nodes = 2\n[workload]\nsteps = 1\nstep = 2\n", r"line 4: workload.step: .*did you mean steps"),
        ("[workload]\nsteps = -1\n", r"line 1: workload: workload steps is -1"),
        ("workload = 3\n", r"line 1: workload: is 3; it has to be a table"),
        ("nodes = 2\n[node.node1]\nstart = 3\n", r"line 3: node.node1.start: .*start_s"),
        ("[node.node7]\nstart_s = 3\n", r"speaks of node 'node7', which isn't there; did you mean node0"),
        ("[[fault]]\ntarget = 'node0'\n", r"line 1: fault.0: needs a kind"),
        ("nodes=2\n\n[[fault]]\nkind = 'CrashNod'\n", r"line 4: fault.0.kind: .*did you mean CrashNode"),
        ("[[fault]]\nkind = 'CrashNode'\n", r"line 1: fault.0: lacks target"),
        (
            "[[fault]]\nkind='StallStore'\n[[fault]]\nkind = 'CrashNode'\ntarget = 'node0'\nat = 3\n",
            r"line 6: fault.1.at: .*did you mean at_s",
        ),
        ("[[fault]]\nkind='CrashNode'\ntarget='node0'\nat_s=-3\n", r"line 1: fault.0: .*can't be negative"),
        ("[[fault]]\nkind='CrashNode'\ntarget='node9'\n", r"strikes node 'node9', which isn't there"),
        ("[[workload.failure]]\nrank = 5\nat_s = 1\n", r"lets rank 5 fail, which isn't there; give 0 to 0"),
        ("[[workload.failures]]\nrank = 0\n", r"line 1: workload.failures: .*did you mean failure"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        loads(text, "s.toml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be read"):
        load(tmp_path / "none.toml")


class TestSettings:
    scenario = Scenario(nodes=2, faults=(faults.CrashNode("node1", at_s=9),), plans={"node0": NodePlan()})

    def test_fields_by_path(self) -> None:
        changed = with_settings(
            self.scenario,
            {
                "nodes": "8",
                "max_restarts": "1",
                "min_nodes": "none",
                "workload.steps": "100",
                "workload.collective": "no",
                "workload.term_s": "none",
                "rdzv_conf.join_timeout": "30",
                "node.node3.start_s": "2.5",
                "node.node3.workload.steps": "7",
                "fault.0.at_s": "12",
                "checkers": "one-master,ranks-exact",
                "about": "8",
            },
        )
        assert changed == Scenario(
            nodes=8,
            max_restarts=1,
            about="8",
            workload=Workload(steps=100, collective=False, term_s=None),
            rdzv_conf={"join_timeout": "30"},
            plans={"node0": NodePlan(), "node3": NodePlan(start_s=2.5, workload=Workload(steps=7))},
            faults=(faults.CrashNode("node1", at_s=12),),
            checkers=("one-master", "ranks-exact"),
        )
        assert self.scenario.nodes == 2

    @pytest.mark.parametrize(
        ("path", "text", "said"),
        [
            ("node_s", "3", "did you mean nodes"),
            ("nodes", "many", "nodes: is 'many'; it has to be a whole number"),
            ("nodes", "0", "it needs at least 1"),
            ("nodes", "1", "node1"),
            ("workload", "3", "name one of its fields after a dot"),
            ("workload.stps", "3", "workload.stps: .*did you mean steps"),
            ("nodes.more", "3", "is a single value"),
            ("fault.7.at_s", "3", "there are 1 of them"),
            ("fault.0.kind", "PauseNode", "nobody knows that"),
            ("node.node9.start_s", "1", "which isn't there"),
            ("workload.collective", "perhaps", "true or false"),
            ("limit_s", "nan", "it has to be a number"),
        ],
    )
    def test_what_can_not_be(self, path: str, text: str, said: str) -> None:
        with pytest.raises(ConfigurationError, match=said):
            with_settings(self.scenario, {path: text})
