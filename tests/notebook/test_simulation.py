"""A simulated cluster as an object, in a plain process and in a kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.notebook.kernels import executed
from toolkit import Simulation, attach
from toolkit.core.errors import ConfigurationError, RallyError

pytest.importorskip("greenlet")
from simulator import faults, scenarios, simulate
from toolkit.fronts.notebook.formatters import report_html, scenario_html
from toolkit.fronts.notebook.frames import Rows
from toolkit.views.rows import RowMaker


@pytest.fixture
def sim() -> Iterator[Simulation]:
    made = Simulation("worker-crash", seed=3)
    try:
        yield made
    finally:
        made.close()


def test_it_is_looked_at_as_a_job_is(sim: Simulation) -> None:
    assert sim.state == "not started" and sim.now_s == 0
    happened = sim.step(2)
    assert len(happened) >= 2 and "agent starts" in repr(happened)
    sim.run(until=lambda timeline: sum(len(node.ranks) for node in timeline.nodes.values()) == 8)
    assert len(sim.ranks()) == 8 and sim.mode == "SIM seed 3"
    sim.run(until=21.0)
    assert sim.now_s == 21.0 and sim.elapsed_s == 21.0
    assert [failure.global_rank for failure in sim.failures] == [3]
    assert sim.timeline(between_s=(19, 21)).svg.count("rally-failure") == 1
    sim.run()
    assert sim.over and sim.state == "succeeded"
    assert sim.report().verdict == "held"


def test_ranks_of_a_lost_node_do_not_run() -> None:
    """The head counts as the table below it does."""
    cluster = replace(scenarios.happy_4, min_nodes=4, max_nodes=4)
    sim = Simulation(cluster)
    try:
        sim.run(until=2)
        sim.inject(faults.CrashNode("node1"))
        sim.run(until=lambda timeline: bool(timeline.job.lost))
        running = [row.state for row in RowMaker().ranks(sim.now)].count("running")
        assert f"{running} of " in repr(sim) and "lost" in {row.state for row in RowMaker().ranks(sim.now)}
    finally:
        sim.close()


def test_rows_without_pandas_give_columns_and_name_the_remedy() -> None:
    rows = Rows([{"at_s": 1.0, "node": "a", "v": 1}, {"at_s": 2.0, "node": "b", "v": 1}])
    assert rows[["at_s", "node"]] == [{"at_s": 1.0, "node": "a"}, {"at_s": 2.0, "node": "b"}]
    assert rows["node"] == ["a", "b"] and rows[1]["node"] == "b" and rows[-1:] == [rows[1]]
    with pytest.raises(AttributeError, match="pip install pandas"):
        rows.groupby("node")


def test_a_report_names_no_time_for_a_node_that_did_not_end() -> None:
    page = report_html(
        simulate(replace(scenarios.happy_4, min_nodes=3, faults=(faults.CrashNode("node1", at_s=2),)))
    )
    assert "lost" in page and ">0.0 s<" not in page


def test_a_scenario_says_whose_work_differs() -> None:
    page = scenario_html(scenarios.worker_crash)
    assert "each worker trains 40 steps of 0.05 s" in page and "each of node1 trains 40 steps of 1 s" in page


def test_what_is_rewound_is_gone_from_the_view_too(sim: Simulation) -> None:
    sim.run()
    digest, events = sim.digest, len(sim.raw_events())
    sim.rewind(10.0)
    assert sim.now_s == 10.0 and not sim.over and not sim.failures
    assert len(sim.raw_events()) < events
    sim.inject(faults.CrashNode("node2"))
    assert "node2 loses power" in repr(sim)
    sim.rewind(10.0)
    assert "loses power" not in repr(sim)
    sim.run()
    assert sim.digest == digest and len(sim.raw_events()) == events


def test_branches_go_their_own_ways(sim: Simulation) -> None:
    sim.run(until=5.0)
    other = sim.branch()
    other.inject(faults.KillAgent("node1"))
    for each in (sim, other):
        each.run()
    comparison = sim.compare(other)
    assert not comparison.same and "node1" in str(comparison)
    assert sim.compare(sim).same
    other.close()


def test_a_branch_knows_what_was_said_before_and_no_more_than_that(sim: Simulation) -> None:
    sim.run(until=21.0)
    other = sim.branch()
    before = sim.raw_events()
    assert other.raw_events() == before and other.now == sim.now
    sim.run()
    assert len(sim.raw_events()) > len(before) == len(other.raw_events())
    other.run()
    assert other.raw_events() == sim.raw_events() and other.now == sim.now
    other.close()


def test_ranks_are_killed_as_those_of_a_job_are(sim: Simulation) -> None:
    sim.run(until=5)
    sim.kill([2, 5])
    assert "local rank 1 on node2 gets SIGKILL" in repr(sim)
    sim.run(until=8)
    assert {each.global_rank for each in sim.failures if each.signal == "SIGKILL"} == {2, 5}
    with pytest.raises(ConfigurationError, match="there is no rank 8; there are 0 to 7"):
        sim.kill(8)
    with pytest.raises(ConfigurationError, match="signal is 'SIGNOPE'"):
        sim.signal("SIGNOPE", 0)


def test_a_closed_one_can_not_be_moved_any_more(sim: Simulation) -> None:
    sim.run(until=21.0)
    sim.close()
    for move in (sim.step, sim.run, sim.branch, lambda: sim.rewind(3)):
        with pytest.raises(RallyError, match="this simulation is closed; start another one"):
            move()
    assert sim.state == "running"


def test_it_is_saved_as_any_recording(sim: Simulation, tmp_path: Path) -> None:
    sim.run()
    again = attach(sim.save(tmp_path / "saved"))
    again.wait(20)
    assert again.mode == "SIM worker-crash seed 3" and again.state == "succeeded"
    assert len(again.raw_events()) == len(sim.raw_events())


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (lambda sim: Simulation("worker-cash"), "worker-crash"),
        (lambda sim: Simulation(7), "7 is no scenario"),
        (lambda sim: Simulation("worker-crash", subject="tourch"), "torch"),
        (lambda sim: simulate("worker-cash"), "worker-crash"),
        (lambda sim: simulate(7), "7 is no scenario"),
        (lambda sim: sim.step("all"), "'all' events is none; give 1 or more"),
        (lambda sim: sim.compare(3), "3 is nothing to compare with; give a simulation"),
        (lambda sim: sim.run(until=-1), "-1 is no moment; give seconds from the start of the run"),
        (lambda sim: sim.rewind(50), r"50 s has not been yet, it is 0 s; run\(50\) goes there"),
        (
            lambda sim: sim.inject(faults.CrashNode("node9")),
            "strikes node 'node9', which isn't there; did you mean node",
        ),
        (lambda sim: sim.node("nodeX"), "there is no node 'nodeX'; "),
        (lambda sim: sim.timeline(by="hosts"), "give nodes, ranks or auto"),
        (lambda sim: sim.timeline(between_s=(3, 2)), "give the earlier moment first"),
        (
            lambda sim: sim.timeline(between_s=5),
            r"between_s is 5; give two moments in seconds, such as \(10, 20\)",
        ),
        (lambda sim: sim.kill(0), "there is no rank 0; no worker runs yet"),
        (lambda sim: sim.kill("a"), "rank is 'a'; give a global rank such as 2"),
    ],
)
def test_bad_input(sim: Simulation, do: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        do(sim)


def test_its_picture_moves_with_later_cells_and_is_whole_when_saved() -> None:
    shown = executed(
        "from toolkit import Simulation\nfrom simulator import faults\nsim = Simulation('worker-crash', seed=3)\nsim",
        "sim.run(until=21)",
        "sim.inject(faults.CrashNode('node2'))\nsim.run(until=30)",
    )
    ((picture,), *others) = shown
    assert others == [[], []]
    assert "node2 loses power" in picture.data["text/html"] and "SIM seed 3" in picture.data["text/html"]
    assert set(picture.data) == {"text/plain", "text/html"}


def test_classes_of_a_cell_go_to_its_process() -> None:
    shown = executed(
        "from dataclasses import dataclass, replace\nfrom toolkit import Simulation\n"
        "from simulator import scenarios, faults",
        "@dataclass(frozen=True, slots=True)\nclass Late(faults.KillWorker):\n"
        "    def what(self):\n        return f'{self.target} has bad luck'\n"
        "sim = Simulation(replace(scenarios.happy_4, faults=(Late('node1', at_s=5),)), seed=1)\n"
        "sim.run()\nsim.now.restarts_used",
    )
    assert shown[1][0].data["text/plain"] == "1"


def test_every_named_scenario_can_be_held() -> None:
    sim = Simulation(scenarios.named("solo-crash"))
    sim.run()
    assert sim.over
    sim.close()
