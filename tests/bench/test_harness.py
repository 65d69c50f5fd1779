"""The harness does what it says: a table of figures, errors that name the job, and nothing left running."""

import json
import math
import os
import random
import subprocess
import sys
import uuid
from collections.abc import Mapping
from contextlib import nullcontext
from io import StringIO
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from . import sim, top
from .__main__ import Row, as_json, as_table, compare
from .job import RALLY, REPOSITORY, TORCHRUN, BenchError, Launcher, running
from .measures import Figures, Measure, Scenario
from .rounds import OURS, TORCH, NotInTime, cluster

#: starts the worker in a session of its own and dies without it, as a launcher that is killed would
CARELESS = Launcher(
    "careless",
    (
        sys.executable,
        "-c",
        "import os, signal, subprocess, sys\n"
        "env = os.environ | {'RANK': '0', 'TORCHELASTIC_RESTART_COUNT': '0'}\n"
        "subprocess.Popen([sys.executable, sys.argv[1]], env=env, start_new_session=True)\n"
        "signal.pause()\n",
    ),
)
BROKEN = Launcher("broken", (sys.executable, "-c", "import sys; sys.exit('no such thing')"))


def test_a_worker_that_its_launcher_left_behind_is_ended_and_its_files_are_removed(tmp_path: Path) -> None:
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    with running(CARELESS, (), "steady.py", environ) as job:
        worker = psutil.Process(job.next_lines("ready", 1)[0].pid)
        folder = Path(worker.environ()["TMPDIR"])
        assert folder.is_dir()
    assert_ends(worker)
    assert not folder.exists()


def test_a_job_that_ends_without_its_line_is_an_error_with_its_stderr() -> None:
    with pytest.raises(BenchError, match="no such thing"), running(BROKEN, (), "hello.py", os.environ) as job:
        job.next_lines("ready", 1)


def test_a_line_that_does_not_come_is_an_error_in_time() -> None:
    with (
        pytest.raises(BenchError, match="did not come in time"),
        running(CARELESS, (), "steady.py", os.environ) as job,
    ):
        job.next_lines("told", 1, timeout_s=0.1)


@pytest.mark.parametrize(("ours", "verdict"), [((1.0, 2.0, 9.0), "met"), ((3.0, 2.5, 2.1), "missed")])
def test_the_verdict_compares_the_ratio_of_medians_with_the_goal(
    ours: tuple[float, ...], verdict: str
) -> None:
    row = Row(Measure("name", "title", "s", goal=0.5), theirs=(4.0, 1.0, 100.0), ours=ours)
    assert row.verdict == verdict


def test_a_measure_without_a_goal_has_no_verdict() -> None:
    assert Row(Measure("name", "title", "s", goal=None), theirs=(1.0,), ours=(2.0,)).verdict == ""


@pytest.mark.parametrize(
    ("ours", "limit", "verdict"), [((1.0,), 2.0, "met"), ((3.0,), 2.0, "missed"), ((8.0,), 9.0, "missed")]
)
def test_a_goal_may_be_a_ratio_and_a_bound(ours: tuple[float, ...], limit: float, verdict: str) -> None:
    row = Row(Measure("name", "title", "s", goal=0.5, limit=limit), theirs=(10.0,), ours=ours)
    assert row.verdict == verdict


def test_what_was_cut_off_bounds_the_ratio_and_is_shown_as_such() -> None:
    row = Row(Measure("name", "title", "s", 0.5, digits=2), theirs=(math.inf,), ours=(3.0,), cut_off_s=60.0)
    assert (row.ratio, row.verdict) == (0.05, "met")
    assert shown([row]) == ["title", "> 60 s", "3.00 s", "< 0.050", "≤ 0.5", "met"]
    [said] = as_json([row], 1)["measures"]  # type: ignore[misc]
    assert (said["torchrun"], said["cut_off_s"]) == ({"median": None, "samples": [None]}, 60.0)


def test_what_torchrun_was_not_asked_for_has_no_ratio() -> None:
    row = Row(Measure("name", "title", "", None, limit=10.0), theirs=(), ours=(6.0, 7.0, 6.5))
    assert shown([row]) == ["title", "-", "6.5\n6.0-7.0", "", "≤ 10", "met"]


def shown(rows: list[Row]) -> list[str]:
    """The cells of the first row."""
    return [str(next(iter(column.cells))) for column in as_table("title", rows, "ours").columns]


@pytest.mark.parametrize(
    ("slow", "theirs", "counted"),
    [(False, True, (2, 2)), (True, True, (1, 2)), (True, False, (0, 2))],
    ids=["by turns", "slow: torchrun once", "slow, not asked for by name: torchrun not at all"],
)
def test_who_runs_how_often(slow: bool, theirs: bool, counted: tuple[int, int]) -> None:
    def run(launcher: Launcher, _environ: Mapping[str, str], _random: random.Random) -> Figures:
        ran.append(launcher)
        return {"name": 1.0}

    ran: list[Launcher] = []
    scenario = Scenario((Measure("name", "title", "s", None),), run, runs_max=2, warm_up=False, slow=slow)
    quiet = Console(file=StringIO())
    [row] = compare(scenario, RALLY, 7, 1, {}, quiet, theirs=theirs)
    assert (len(row.theirs), len(row.ours)) == counted
    assert (ran.count(TORCHRUN), ran.count(RALLY)) == counted


@pytest.mark.parametrize(
    ("failing", "times", "ends"), [(TORCHRUN, 1, False), (TORCHRUN, 2, True), (RALLY, 1, True)]
)
def test_torchrun_may_fail_once(failing: Launcher, times: int, ends: bool) -> None:
    def run(launcher: Launcher, _environ: Mapping[str, str], _random: random.Random) -> Figures:
        ran.append(launcher)
        if launcher is failing and ran.count(launcher) <= times:
            raise BenchError("it broke")
        return {"name": 1.0}

    ran: list[Launcher] = []
    scenario = Scenario((Measure("name", "title", "s", None),), run, warm_up=False)
    with pytest.raises(BenchError) if ends else nullcontext():
        compare(scenario, RALLY, 1, 1, {}, Console(file=StringIO()))


@pytest.mark.torch
@pytest.mark.parametrize("kind", [OURS, TORCH])
def test_a_restart_round_of_handlers_is_timed_and_counted(kind: str) -> None:
    pytest.importorskip("torch")
    with cluster(kind, 3, os.environ) as handlers:
        handlers.form(60)
        first, second = handlers.restart(60), handlers.restart(60)
    for restart in (first, second):
        assert 0 < restart.took_s < 60
        assert 3 * 3 <= restart.operations <= 3 * 30
        assert 1000 < restart.wire_bytes < 1_000_000


@pytest.mark.torch
def test_a_round_that_takes_too_long_is_cut_off() -> None:
    pytest.importorskip("torch")
    with cluster(OURS, 2, os.environ) as handlers, pytest.raises(NotInTime, match="more than 0 s"):
        handlers.form(0)


def test_nodes_that_fail_are_an_error_with_their_words() -> None:
    environ = os.environ | {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"}
    with cluster(OURS, 2, environ) as handlers, pytest.raises(BenchError, match="encodings"):
        handlers.form(60)


@pytest.mark.parametrize(
    ("unit", "goal", "samples", "verdict"),
    [
        ("/s", 200.0, (100.0, 250.0, 300.0), "met"),
        ("/s", 200.0, (100.0, 150.0, 300.0), "missed"),
        ("MB", 100.0, (90.0, 99.0, 300.0), "met"),
        ("s", 0.5, (0.6,), "missed"),
    ],
)
def test_a_figure_of_the_simulator_is_held_against_its_goal(
    unit: str, goal: float, samples: tuple[float, ...], verdict: str
) -> None:
    assert sim.SimRow(sim.SimMeasure("name", "title", unit, goal), samples).verdict == verdict


def test_a_figure_of_the_simulator_is_taken_in_a_process_of_its_own() -> None:
    pytest.importorskip("greenlet")
    done, mark = bench("--runs", "1", "--only", "sim-start", "--only", "sim-parked", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["measures"] == []
    assert [row["name"] for row in said["simulator"]] == ["sim-parked", "sim-start"]
    assert all(row["median"] > 0 and len(row["samples"]) == 1 for row in said["simulator"])
    assert_nothing_carries(mark)


@pytest.mark.torch
def test_one_measure_is_taken_by_turns_and_shown() -> None:
    pytest.importorskip("torch")
    done, mark = bench("--runs", "1", "--only", "cold-start")
    assert done.returncode == 0, done.stderr
    assert "first line" in done.stdout and "≤ 0.25" in done.stdout
    assert_nothing_carries(mark)


@pytest.mark.torch
def test_json_holds_every_sample() -> None:
    pytest.importorskip("torch")
    done, mark = bench("--runs", "1", "--only", "notice", "--json")
    assert done.returncode == 0, done.stderr
    (measure,) = json.loads(done.stdout)["measures"]
    assert measure["name"] == "notice"
    assert [len(measure[side]["samples"]) for side in ("torchrun", "ours")] == [1, 1]
    assert_nothing_carries(mark)


def bench(*options: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run the benchmark; all its processes inherit the mark that is returned with its output."""
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "tests.bench", *options]
    environ = os.environ | {"TEST_MARK": mark}
    done = subprocess.run(
        command, env=environ, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )
    return done, mark


def assert_nothing_carries(mark: str) -> None:
    left = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TEST_MARK") == mark:
                left.append(process)
        except (psutil.Error, OSError):
            continue
    assert not left


def assert_ends(process: psutil.Process) -> None:
    """Gone, or dead and waiting for a parent that never asks."""
    try:
        process.wait(5)
    except psutil.TimeoutExpired:
        assert process.status() == psutil.STATUS_ZOMBIE


def test_a_key_is_timed_on_a_terminal_of_its_own() -> None:
    pytest.importorskip("textual")
    with top._on_terminal([sys.executable, "-m", "tests.bench.top", "--screen"]) as screen:
        screen.wait_for(top._SELECTED % 0)
        assert 0 < screen.took_s("j", top._SELECTED % 1) < 20
        assert 0 < screen.took_s("2", b"AGENT") < 20
