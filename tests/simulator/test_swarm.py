"""All promises hold in the swarm and under a fault at each store operation: some of it here, all in `make soak`."""

from __future__ import annotations

import io

import pytest

from simulator import explore
from simulator.explore import ANYWHERE, Found, again, anywhere, judged, named, summary, swarm
from simulator.faults import PauseAtOperation
from simulator.nemesis import FAMILIES
from simulator.report import simulate
from simulator.rng import Tape

#: seeds, and how many of them make one test
SEEDS, AT_ONCE = 200, 25
#: of the faults at each store operation, every so manieth is tried
STEP = 5


def told(found: list[Found]) -> str:
    """What did not hold, each with the command that shows it."""
    return "\n".join(f"{again(one)}: {one.detail}" for one in found)


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_the_promises_hold_in_a_swarm(first: int) -> None:
    verdicts = (judged(swarm(seed), seed) for seed in range(first, first + AT_ONCE))
    found = [verdict for verdict in verdicts if verdict is not None]
    assert not found, told(found)


@pytest.mark.parametrize("kind", ANYWHERE)
def test_the_promises_hold_wherever_a_node_is_struck(kind: str) -> None:
    verdicts = (judged(scenario, 1) for scenario in list(anywhere(kind))[::STEP])
    found = [verdict for verdict in verdicts if verdict is not None]
    assert not found, told(found)


@pytest.mark.parametrize("kind", ANYWHERE)
def test_each_node_is_struck_at_each_of_its_operations(kind: str) -> None:
    names = [scenario.name for scenario in anywhere(kind)]
    assert len(set(names)) == len(names) > 150
    for node in explore.SMALL.node_names:
        numbers = [int(name.rpartition("-")[2]) for name in names if f"-{node}-" in name]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) > 50
    struck = simulate(named(names[10]), seed=1)
    assert len(struck.struck) == 1
    assert len(struck.record.facts.hits) == 2, "planned, and struck"


# -- the searchers themselves ---------------------------------------------------------------------------------


def test_a_seed_is_one_scenario_and_one_run() -> None:
    for seed in range(0, 100, 20):
        assert swarm(seed) == swarm(seed)
        once, twice = (simulate(swarm(seed), seed=seed) for _ in range(2))
        assert once.digest == twice.digest
    assert swarm(1) != swarm(2)


def test_a_strike_is_one_scenario_and_one_run() -> None:
    once, twice = (simulate(named("overlap-node0-11"), seed=1) for _ in range(2))
    assert once.digest == twice.digest
    assert named("overlap-node0-11").faults == (PauseAtOperation("node0", number=11, for_s=5),)


def test_swarms_differ() -> None:
    some = [swarm(seed) for seed in range(300)]
    assert {one.nodes for one in some} == set(range(2, 8))
    assert {one.store_apart for one in some} == {False, True}
    assert {len(one.faults) for one in some} >= {0, 1, 2, 3, 4, 5}
    assert len({type(fault) for one in some for fault in one.faults}) > 15
    assert len(FAMILIES) > 20
    assert Tape(1).draw("swarm/nodes", 6) + 2 == swarm(1).nodes


@pytest.mark.parametrize(
    "name", ["", "crash", "crash-node0", "crash-node9-1", "smash-node0-1", "crash-node0-x"]
)
def test_a_run_that_is_none_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        explore.main(["--run", name])
    assert ended.value.code == 2
    assert "crash-node0-17" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--seed", "7"), ("--run", "lost-answer-node1-20")])
def test_one_run_is_shown_again(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert explore.main([option, value]) == 0
    shown = capsys.readouterr().out
    assert "HELD" in shown
    assert value in shown


def test_what_is_found_is_told_by_its_kind_with_a_command() -> None:
    found = [
        Found("swarm-7", 7, ("one-master: NODE",), "one-master: node3"),
        Found("swarm-8", 8, ("one-master: NODE",), "one-master: node1"),
        Found("crash-node0-17", 1, ("everyone-ends: NODE",), "everyone-ends: node0"),
    ]
    first, second = summary(found)
    assert first.split("\n")[0].split() == ["2", "one-master:", "NODE"]
    assert "python -m simulator.explore --seed 7" in first
    assert "python -m simulator.explore --run crash-node0-17" in second


def test_progress_is_told_and_processes_share_the_work() -> None:
    out = io.StringIO()
    assert explore.explore(range(4), jobs=1, out=out) == []
    assert "4 runs in" in out.getvalue()
    assert "0 did not hold" in out.getvalue()
