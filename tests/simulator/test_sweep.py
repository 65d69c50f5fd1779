"""Sweeps: the same rows with any number of processes, parameters by their names, and what was reached after Ctrl-C."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("greenlet")

import simulator.sweep_process as crew
from simulator import (
    NodePlan,
    Scenario,
    Workload,
    faults,
    simulate,
    sweep,
    sweep_progress,
    sweep_result,
)
from simulator.plain_data import with_values
from simulator.sweep_result import MEASURES, SweepResult
from toolkit.core.errors import ConfigurationError, RallyError

ROOT = Path(__file__).parents[2]
SMALL = Scenario(
    name="small",
    nodes=2,
    workload=Workload(steps=20, checkpoint_every=5),
    store_apart=True,
    mtbf_s=100.0,
    repair_s=10.0,
    quiet_by_s=600,
    limit_s=3000,
)


@pytest.fixture(scope="module")
def found() -> SweepResult:
    return sweep(SMALL, {"mtbf_s": [40, 400], "lease": [2, 4]}, seeds=4, jobs=2, progress=False)


def quiet(scenario: Any, grid: dict[str, Any], **more: Any) -> SweepResult:
    more.setdefault("seeds", 1)
    return sweep(scenario, grid, jobs=1, progress=False, **more)


# -- rows -----------------------------------------------------------------------------------------------------


def test_rows_are_the_product_in_order(found: SweepResult) -> None:
    assert len(found) == len(list(found)) == 16
    points = [(row.params["mtbf_s"], row.params["lease"], row.seed) for row in found]
    assert points == [(mtbf, lease, seed) for mtbf in (40, 400) for lease in (2, 4) for seed in range(4)]
    assert [row.number for row in found] == list(range(16))


def test_one_process_finds_what_two_find(found: SweepResult) -> None:
    again = sweep(SMALL, {"mtbf_s": [40, 400], "lease": [2, 4]}, seeds=4, jobs=1, progress=False)
    assert [list(row.measured.broken) for row in again] == [list(row.measured.broken) for row in found]
    assert str(again) == str(found)
    assert again["digest"] == found["digest"] and again["ettr"] == found["ettr"]
    assert str(again.summary()) == str(found.summary())
    assert again.plot("ettr").svg == found.plot("ettr").svg


def test_a_row_is_what_the_run_alone_gives(found: SweepResult) -> None:
    row = found[5]
    alone = simulate(
        replace(SMALL, mtbf_s=float(row.params["mtbf_s"]), rdzv_conf={"lease": str(row.params["lease"])}),
        seed=row.seed,
    )
    assert alone.digest == row.measured.digest == found.again(5).digest
    assert row["ettr"] == alone.training.ettr and row["restarts"] == alone.restarts
    assert row.measured.verdict == alone.verdict
    assert row.command == "result.again(5)"


def test_columns_and_frames(found: SweepResult) -> None:
    assert found.columns[:4] == ("mtbf_s", "lease", "seed", "verdict")
    assert found["seed"] == [0, 1, 2, 3] * 4
    assert all(0 <= value <= 1 for value in found["ettr"])
    with pytest.raises(ConfigurationError, match="there is no column 'etr'; did you mean ettr"):
        found["etr"]
    pandas = pytest.importorskip("pandas")
    frame = found.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == list(found.columns) and len(frame) == 16
    assert list(found.summary().to_pandas()["n"]) == [4, 4, 4, 4]


def test_without_pandas_it_says_so(found: SweepResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigurationError, match="needs pandas, which isn't here: pip install pandas"):
        found.to_pandas()


def test_a_notebook_gets_text_and_html(found: SweepResult) -> None:
    for value in (found, found.summary()):
        bundle = value._repr_mimebundle_()
        assert bundle["text/plain"] == str(value)
        assert "<table>" in bundle["text/html"]
    assert "16 runs at 4 points" in str(found)


# -- means and plots ------------------------------------------------------------------------------------------


def test_means_are_of_the_groups_that_one_asks_for(found: SweepResult) -> None:
    by_point, by_lease, all_of_it = found.summary(), found.mean("lease"), found.mean(())
    assert [group.n for group in by_point] == [4] * 4
    assert [dict(group.params) for group in by_lease] == [{"lease": 2}, {"lease": 4}]
    assert len(all_of_it) == 1 and all_of_it[0].n == 16
    values = [row["ettr"] for row in found if row.params["lease"] == 2]
    assert by_lease.at(lease=2).estimates["ettr"].mean == pytest.approx(sum(values) / 8)
    assert set(by_point[0].estimates) == set(MEASURES)
    assert by_point.at(mtbf_s=40, lease=2).estimates["succeeded"].high <= 1


def test_what_a_run_does_not_have_is_left_out(found: SweepResult) -> None:
    with_restart = [row["mttr_s"] for row in found if row["mttr_s"] is not None]
    assert 0 < len(with_restart) < 16
    assert found.mean((), "mttr_s")[0].estimates["mttr_s"].n == len(with_restart)


def test_plots_have_a_line_for_each_value(found: SweepResult) -> None:
    drawn = found.plot("ettr", x="mtbf_s", by="lease")
    assert [line.name for line in drawn.series] == ["lease 2", "lease 4"]
    assert drawn.x_label == "mtbf_s" and drawn.y_bounds == (0.0, 1.0)
    assert found.plot("ettr").about == "mean of 8 runs, 95 % confidence, over all lease"
    assert [line.name for line in found.plot("succeeded", x="lease").series] == [""]


def test_rows_can_be_chosen(found: SweepResult) -> None:
    some = found.where(lease=4)
    assert len(some) == 8 and {row.params["lease"] for row in some} == {4}
    assert some.again(some[0].number).digest == some[0].measured.digest


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda r: r.mean("leese"), "no parameter 'leese'; did you mean lease"),
        (lambda r: r.mean(measures="etr"), "no measure 'etr'; did you mean ettr"),
        (lambda r: r.plot("ettr", x="nodes"), "no parameter 'nodes'"),
        (lambda r: r.plot("ettr", x="lease", by="lease"), "can't be both the axis and a line"),
        (lambda r: r.where(nope=1), "no parameter 'nope'; there are mtbf_s, lease"),
        (lambda r: r.again(99), "no run 99; runs are 0 to 15"),
        (lambda r: r.summary().at(lease=2), "2 groups have"),
    ],
)
def test_wrong_questions_are_answered(found: SweepResult, ask: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        ask(found)


# -- parameters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "read", "there"),
    [
        ("max_restarts", 7, lambda s: s.max_restarts, 7),
        ("spares", None, lambda s: s.spares, None),
        ("lease", 6, lambda s: s.rdzv_conf["lease"], "6"),
        ("lease_s", 6, lambda s: s.rdzv_conf["lease"], "6"),
        ("rdzv_conf.last_call_timeout", 2.5, lambda s: s.rdzv_conf["last_call_timeout"], "2.5"),
        ("backoff", 3, lambda s: s.backoff_s, 3.0),
        ("checkpoint_every", 2, lambda s: s.workload.checkpoint_every, 2),
        ("checkpoint_interval_s", 7.6, lambda s: s.workload.checkpoint_every, 8),
        ("workload.steps", 8, lambda s: s.workload.steps, 8),
        ("node.node1.start_s", 4, lambda s: s.plan("node1").start_s, 4.0),
        ("faults", (faults.KillWorker("node1", 9.0),), lambda s: s.faults[0].at_s, 9.0),
    ],
)
def test_parameters_are_set_where_they_belong(name: str, value: Any, read: Any, there: Any) -> None:
    result = quiet(SMALL, {name: [value]})
    scenario, _ = result.made[0]
    assert read(scenario) == there
    assert result[0].params == {name: value}


def test_values_that_belong_together_are_set_together() -> None:
    result = quiet(SMALL, {"min_nodes": [3], "nodes": [3]})
    assert result.made[0][0].bounds == (3, 3)


def test_what_is_no_list_is_one_value() -> None:
    assert len(quiet(SMALL, {"mtbf_hits": "worker", "steps": 5})) == 1


def test_the_subject_can_be_a_parameter() -> None:
    pytest.importorskip("torch")
    result = quiet("happy-1", {"subject": ["rally", "torch"]})
    assert result["succeeded"] == [True, True]
    assert "--subject torch" in result[1].command


def test_ones_own_kinds_stay_what_they_are() -> None:
    class Mine(Workload):
        pass

    plans = {"node1": NodePlan(start_s=1)}
    changed = with_values(
        replace(SMALL, workload=Mine(), plans=plans), {"workload.steps": 4, "node.node1.role": "reader"}
    )
    assert type(changed.workload) is Mine and changed.workload.steps == 4
    assert changed.plans["node1"] == NodePlan(start_s=1, role="reader")
    assert SMALL.workload.steps == 20


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"max_restart": [1]}, "no parameter 'max_restart'; did you mean max_restarts"),
        ({"zzz": [1]}, "no parameter 'zzz'; give a field of the scenario, such as"),
        ({"workload.stepz": [1]}, "workload.stepz: nobody knows that; did you mean steps"),
        ({"rdzv_conf.leese": [1]}, "no setting 'leese'; did you mean lease"),
        ({"lease": [1]}, "too short for a beat each 1 s; give a lease of at least 2 s"),
        ({"lease": ["soon"]}, "rdzv_conf.lease is 'soon'; give seconds"),
        ({"nodes": [2.5]}, "nodes: is 2.5; it has to be a whole number"),
        ({"nodes": [None]}, "nodes: is None"),
        ({"nodes": []}, "parameter 'nodes' has no values"),
        ({"nodes.x": [1]}, "nodes: is a single value; give no name after it"),
        ({"fault.3.at_s": [1]}, "there are 0 of them"),
        ({"faults": [(1, 2)]}, "is no value for it"),
        ({"mtbf_s": [-1]}, "has mtbf_s -1"),
        ({"checkpoint_interval_s": [0]}, "checkpoint_interval_s is 0; give more than 0 seconds"),
        ({"checkpoint_interval_s": [5], "step_s": [0]}, "needs steps that take time"),
        ({"seed": range(10**4), "steps": range(10**4)}, "no parameter 'seed'|at most 1,000,000"),
        ({"steps": range(10**4), "nodes": range(10**4)}, "the grid has 100,000,000 points"),
    ],
)
def test_bad_grids_are_told_before_anything_runs(grid: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        sweep(SMALL, grid, jobs=1, progress=False)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"seeds": 0}, "seeds is 0; give how many"),
        ({"seeds": 1.5}, "seeds is 1.5; give how many"),
        (
            {"grid": "lease"},
            r"the grid is 'lease'; give a dict of values by parameter, such as \{'lease': \[2, 4\]\}",
        ),
        ({"seeds": [1, 1]}, "a seed stands twice"),
        ({"seeds": ["a"]}, "seed 'a' is no whole number"),
        ({"seeds": 10**7}, "give at most 1,000,000"),
        ({"jobs": 0}, "jobs is 0; give 1 process or more"),
        ({"subject": "torh"}, "no subject 'torh'; did you mean torch"),
    ],
)
def test_bad_arguments_are_told(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        sweep(SMALL, **{"grid": {"nodes": [2]}, "progress": False, "seeds": 1, "jobs": 1, **more})


def test_no_scenario_is_told() -> None:
    with pytest.raises(ConfigurationError, match="there is no scenario 'hapy'; did you mean happy"):
        quiet("hapy", {})
    with pytest.raises(ConfigurationError, match="3 is no scenario; give a Scenario"):
        quiet(3, {})
    with pytest.raises(ConfigurationError, match="returned 4; it has to return a Scenario"):
        quiet(lambda nodes: 4, {"nodes": [1]})
    with pytest.raises(ConfigurationError, match="can't be called with"):
        quiet(lambda nodes, more: SMALL, {"nodes": [1]})


def test_an_empty_grid_is_one_point() -> None:
    result = quiet(SMALL, {}, seeds=[3, 5])
    assert result["seed"] == [3, 5] and result.summary()[0].n == 2
    with pytest.raises(ConfigurationError, match="has no parameter to plot over"):
        result.plot("ettr")


# -- the command that runs one again --------------------------------------------------------------------------


def test_a_named_scenario_has_a_command_line() -> None:
    from toolkit.fronts.sim import sim_command

    result = quiet("worker-crash", {"lease": [8], "spares": [None], "mtbf_s": [60.0]}, seeds=[4])
    words = result[0].command.split()
    assert words[:3] == ["rally", "sim", "worker-crash"] and "spares=none" in words
    out = io.StringIO()
    sim_command([*words[2:], "--json"], environ={}, executable=sys.executable, stdout=out, stderr=out)
    assert f'"{result[0].measured.digest}"' in out.getvalue()


def test_a_longer_lease_is_no_broken_promise() -> None:
    crash = replace(SMALL, mtbf_s=None, nodes=3, min_nodes=2, faults=(faults.CrashNode("node2", 10.0),))
    assert set(quiet(crash, {"lease": [2, 4, 8, 16]})["verdict"]) == {"held"}


# -- functions ------------------------------------------------------------------------------------------------


def test_a_function_makes_scenarios_of_what_it_takes() -> None:
    def cluster(size: int, *, quick: bool = True) -> Scenario:
        return replace(SMALL, nodes=size, workload=Workload(steps=5 if quick else 50))

    result = quiet(cluster, {"size": [1, 2], "lease": [4], "quick": [True]})
    assert [result.made[number][0].nodes for number in (0, 1)] == [1, 2]
    assert result.made[0][0].rdzv_conf == {"lease": "4"}
    assert str(result).startswith("cluster: 2 runs")


SCRIPT = """
import sys
from dataclasses import dataclass
from simulator import Scenario, Workload, faults, sweep

# No guard: a process that imported this script again would sweep again.
@dataclass(frozen=True, slots=True)
class MyWorkload(Workload):
    note: str = "defined in a script"

@dataclass(frozen=True, slots=True)
class MyCrash(faults.CrashNode):
    def what(self) -> str:
        return f"mine: {self.target}"

def mine(kills):
    crashes = tuple(MyCrash(f"node{n}", at_s=15.0, reboot_after_s=10.0) for n in range(kills))
    return Scenario(name="mine", nodes=2, workload=MyWorkload(steps=20), store_apart=True, faults=crashes)

print("started", flush=True)
result = sweep(mine, {"kills": [0, 1]}, seeds=int(sys.argv[1]), jobs=2)
print("rows", len(result), "stopped", result.stopped, "restarts", sorted(set(result["restarts"])))
print("points", sorted(set(result["kills"])))
"""


def script(tmp_path: Path, seeds: int) -> subprocess.Popen[str]:
    (tmp_path / "mine.py").write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(tmp_path / "mine.py"), str(seeds)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    )


def test_a_script_sweeps_what_it_defines_itself(tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    out, err = script(tmp_path, 2).communicate(timeout=120)
    assert err == ""
    assert out.splitlines() == ["started", "rows 4 stopped False restarts [0, 1]", "points [0, 1]"]


def test_ctrl_c_gives_what_was_reached(tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    process = script(tmp_path, 100_000)
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    # Nothing tells of single runs outside; but importing takes less than half of that.
    deadline = time.monotonic() + 60
    while sum(map(worked_s, children(process.pid))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    started = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err == ""
    rows = int(out.split()[1])
    assert "stopped True" in out and 0 < rows < 200_000
    assert "points [0, 1]" in out  # a seed at all points, then the next
    assert len(started) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in started)


def worked_s(pid: int) -> float:
    """Seconds of a processor that a process has had."""
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in listed.read_text().split()] if listed.exists() else []


def test_ctrl_c_in_this_process_leaves_whole_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = sweep_result.measured
    seen: list[int] = []

    def interrupted(scenario: Scenario, subject: Any, seed: int) -> Any:
        seen.append(seed)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return measured(scenario, subject, seed)

    monkeypatch.setattr("simulator.sweeps.measured", interrupted)
    result = sweep(SMALL, {"steps": [3, 5]}, seeds=4, jobs=1, progress=False)
    assert result.stopped and [(row.params["steps"], row.seed) for row in result] == [(3, 0), (3, 1), (5, 0)]
    assert "3 runs at 2 points, stopped by Ctrl-C before the other 5" in str(result)
    assert len(result.plot("ettr").series) == 1


def test_a_run_that_ctrl_c_ended_is_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped:
        finding = sweep_result.BROKEN_OFF

    monkeypatch.setattr(sweep_result, "simulate", lambda *_: Stopped())
    with pytest.raises(KeyboardInterrupt):
        sweep_result.measured(SMALL, "rally", 1)


# -- processes ------------------------------------------------------------------------------------------------


def test_an_error_in_a_process_comes_back() -> None:
    class Raises:
        name = "raises"

        def surroundings(self, world: Any, scenario: Any) -> Any:
            raise ConfigurationError("this subject can't run here")

    with pytest.raises(ConfigurationError, match="can't run here"):
        sweep(SMALL, {"steps": [1, 2]}, seeds=2, subject=Raises(), jobs=2, progress=False)  # type: ignore[arg-type]


def test_a_process_that_dies_costs_its_run_only() -> None:
    class Dies:
        name = "dies"

        def surroundings(self, world: Any, scenario: Any) -> Any:
            if scenario.workload.steps == 2:
                os._exit(7)
            from simulator.simulation import RallySubject

            return RallySubject().surroundings(world, scenario)

        def agent(self, *given: Any) -> Any:
            from simulator.simulation import RallySubject

            return RallySubject().agent(*given)

    result = sweep(SMALL, {"steps": [1, 2, 3]}, seeds=3, subject=Dies(), jobs=2, progress=False)  # type: ignore[arg-type]
    assert len(result) == 9
    gone = [row for row in result if row.measured.result == "CRASHED"]
    assert {row.params["steps"] for row in gone} == {2} and len(gone) == 3
    assert result.mean("steps").at(steps=2).estimates["succeeded"].mean == 0


def test_processes_that_can_not_start_say_so(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(crew, "_START", "raise SystemExit(3)  # {paths} {descriptor}")
    with pytest.raises(RallyError, match="ended with code 3 before it ran anything"):
        sweep(SMALL, {"steps": [1, 2]}, seeds=2, jobs=2, progress=False)


def test_what_a_process_can_not_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "packed", lambda value: b"no pickle")
    with pytest.raises(
        ConfigurationError, match=r"can't read the scenario: UnpicklingError: .*; give jobs=1"
    ):
        sweep(SMALL, {"steps": [1, 2]}, seeds=2, jobs=2, progress=False)


def test_what_can_not_be_sent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"can't be sent to another process: .*give jobs=1"):
        crew.packed(sys.stdout)
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    assert crew.packed([1]) == crew.pickle.dumps([1])
    with pytest.raises(ConfigurationError, match="pip install cloudpickle, or give jobs=1"):
        crew.packed(lambda: 1)


# -- progress -------------------------------------------------------------------------------------------------


def test_nothing_is_written_where_nobody_looks(capfd: pytest.CaptureFixture[str]) -> None:
    sweep(SMALL, {"steps": [1]}, seeds=1, jobs=1)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sweep_progress, "_EVERY_S", 0.0)
    sweep(SMALL, {"steps": [1, 2]}, seeds=2, jobs=1)
    assert "4/4" in terminal.getvalue() and "sweep" in terminal.getvalue()
    assert isinstance(sweep_progress.progress_of(4, shown=False), sweep_progress._Silent)


@pytest.mark.slow
def test_a_kernel_is_not_copied_and_shows_how_far_it_is() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    cells = [
        "from dataclasses import dataclass\n"
        "from simulator import Scenario, Workload, sweep\n"
        "@dataclass(frozen=True, slots=True)\n"
        "class Mine(Workload):\n    note: str = ''\n"
        "def mine(steps):\n    return Scenario(name='mine', nodes=2, workload=Mine(steps=steps))",
        "result = sweep(mine, {'steps': [5, 10]}, seeds=3, jobs=2)\nresult",
        "result.plot('ettr')",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    os.environ["PYTHONPATH"], before = str(ROOT), os.environ.get("PYTHONPATH")
    try:
        nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    progress, table = book.cells[1].outputs
    assert "6 of 6 runs" in progress["data"]["text/html"]
    assert "6 runs at 2 points" in table["data"]["text/plain"]
    assert book.cells[2].outputs[0]["data"]["text/html"].startswith("<svg")
