"""Determinism, checked: the same seed gives the same run, also in another process with another order of hashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("greenlet")

from simulator import scenarios, verify
from simulator.scenario import Scenario
from simulator.simulation import RallySubject, ScenarioRun
from simulator.subject import Ended
from simulator.verify import Trace, difference, traced
from simulator.workloads import Jobs, Workload
from simulator.world import Process
from tests.simulator.digests import digests, trace_of
from toolkit.core.errors import ConfigurationError

ROOT = Path(__file__).parents[2]
SOLO = [name for name, scenario in scenarios.ALL.items() if scenario.solo]
SEVERAL = [name for name in scenarios.ALL if name not in SOLO]
PARTS = [SEVERAL[start::4] for start in range(4)]


def digests_elsewhere(names: list[str], subjects: list[str], hash_seed: int) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulator.digests", ",".join(subjects), ",".join(names)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def the_same_three_times(names: list[str], subjects: list[str]) -> None:
    """Twice here, once elsewhere. If this fails, `rally sim NAME --subject S --seed 1 --verify` says where."""
    first = digests(names, subjects)
    assert digests(names, subjects) == first
    # The hashes of this process are drawn anew for each run of the tests; two fixed ones are never both its own.
    assert digests_elsewhere(names, subjects, hash_seed=7) == first
    assert len(set(first.values())) == len(first)


@pytest.mark.parametrize("names", [SOLO], ids=",".join)
def test_scenarios_without_torch_are_deterministic(names: list[str]) -> None:
    the_same_three_times(names, ["rally"])


@pytest.mark.torch
@pytest.mark.parametrize("names", PARTS, ids=",".join)
def test_every_scenario_is_deterministic_with_both_subjects(names: list[str]) -> None:
    pytest.importorskip("torch")
    the_same_three_times(names, ["rally", "torch"])


@pytest.mark.torch
def test_a_run_does_not_depend_on_those_before_it() -> None:
    pytest.importorskip("torch")
    alone = digests_elsewhere(["worker-crash"], ["torch"], hash_seed=3)
    digests(["solo-crash", "moved-rank-0"], ["torch", "rally"])
    assert digests(["worker-crash"], ["torch"]) == alone


def test_a_recorded_tape_gives_the_same_run_whatever_the_seed() -> None:
    scenario = scenarios.named("solo-crash")
    simulation = ScenarioRun(scenario, RallySubject(), seed=5)
    first = simulation.run()
    simulation.close()
    again = traced(scenario, RallySubject(), 99, tuple(first.choices))
    assert again.digest == first.digest


# -- what differs is found and named ------------------------------------------------------------------------


class Careless(RallySubject):
    """An agent's process that does something else in each run: a stand-in for a set that somebody iterates over."""

    runs = 0

    def __init__(self, act: Callable[[Process, int], None]) -> None:
        super().__init__()
        self._act = act

    def agent(
        self, process: Process, scenario: Scenario, jobs: Jobs, done: Callable[[Ended], None]
    ) -> Callable[[], None]:
        Careless.runs += 1
        run, number = super().agent(process, scenario, jobs, done), Careless.runs

        def carelessly() -> None:
            self._act(process, number)
            run()

        return carelessly


def test_the_first_step_that_differs_is_named() -> None:
    def act(process: Process, number: int) -> None:
        process.node.world.kernel.sleep(1000 + number, f"sleep {number}")

    scenario = Scenario(solo=True, workload=Workload(steps=3))
    first, again = (traced(scenario, Careless(act), 1) for _ in range(2))
    found = difference(first, again)
    assert "the first step that differs is number 3" in found
    assert f"sleep {Careless.runs - 1}" in found
    assert f"sleep {Careless.runs}" in found


def test_an_event_that_differs_is_named() -> None:
    trace = trace_of("solo-crash", "rally")
    other = replace(trace, events=(*trace.events[:4], '{"type":"other"}', *trace.events[5:]))
    found = difference(trace, other)
    assert found.startswith("the first event that differs is number 5: ")
    assert trace.events[4] in found


@pytest.mark.parametrize("part", ["steps", "events", "outcome"])
def test_a_run_that_ends_earlier_differs(part: str) -> None:
    trace = trace_of("solo-crash", "rally")
    shorter = replace(trace, **{part: getattr(trace, part)[:-1]})
    assert f"number {len(getattr(trace, part))}" in difference(trace, shorter)
    assert "nothing then" in difference(trace, shorter)


def test_a_difference_beyond_the_trace_is_still_one() -> None:
    trace = trace_of("solo-crash", "rally")
    assert (
        difference(trace, replace(trace, digest="other")) == "a step that is no longer in the trace differs"
    )
    assert difference(trace, trace) == ""


# -- traces as files ----------------------------------------------------------------------------------------


def test_a_trace_comes_back_from_its_file(tmp_path: Path) -> None:
    trace = trace_of("solo-crash", "rally")
    verify.write(tmp_path / "trace", trace)
    assert verify.read(tmp_path / "trace") == verify.as_written(trace) == trace


def test_odd_lines_come_back(tmp_path: Path) -> None:
    odd = Trace("d", ("[steps]", "a\nb", "a\\nb", "", "é\udc80"), (), ("x",))
    verify.write(tmp_path / "trace", odd)
    back = verify.read(tmp_path / "trace")
    assert back == verify.as_written(odd)
    assert len(set(back.steps)) == 5
    assert difference(back, verify.as_written(odd)) == ""


@pytest.mark.parametrize(
    "text", ["", "hello\n", "[digest]\n d\n", "[digest]\n[steps]\n[events]\n[outcome]\n"]
)
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "trace").write_text(text)
    with pytest.raises(ConfigurationError, match="no trace"):
        verify.read(tmp_path / "trace")
