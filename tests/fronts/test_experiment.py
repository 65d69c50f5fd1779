"""`rally experiment` before anything real runs: what is refused, the schema, the simulator alone."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from simulator import NodePlan, Scenario, Workload, faults, scenarios
from toolkit import Experiment
from toolkit.adapters.recording.experiment_file import read_experiment
from toolkit.core.errors import ConfigurationError, RecordingError
from toolkit.core.events import Event
from toolkit.fronts.experiment.command import experiment_command, json_schema
from toolkit.fronts.experiment.experiment import read_side
from toolkit.fronts.experiment.supported import check_local

pytest.importorskip("greenlet")
ROOT = Path(__file__).parents[2]

ONLY_SIMULATED = (
    faults.ClockOffset("node0"),
    faults.ClockStep("node0"),
    faults.ClockDrift("node0"),
    faults.FillDisk("node0"),
    faults.FailSpawn("node0"),
    faults.CrashAtOperation("node0"),
    faults.PauseAtOperation("node0"),
    faults.DropAtOperation("node0"),
)


def said(*words: str, state_dir: Path) -> tuple[int, str, str]:
    stdout, stderr = io.StringIO(), io.StringIO()
    code = experiment_command(words, state_dir=state_dir, stdout=stdout, stderr=stderr)
    return code, stdout.getvalue(), stderr.getvalue()


class TestWhatOnlyTheSimulatorHas:
    @pytest.mark.parametrize("fault", ONLY_SIMULATED, ids=lambda fault: type(fault).__name__)
    def test_is_refused_before_anything_starts(self, fault: faults.Fault, tmp_path: Path) -> None:
        scenario = Scenario(name="mine", nodes=2, faults=(fault,))
        with pytest.raises(
            ConfigurationError, match=rf"{type(fault).__name__} is for the simulator only.*--world sim"
        ):
            Experiment(scenario, "local", run_dir=tmp_path / "run")
        assert not (tmp_path / "run").exists()
        Experiment(scenario, "sim")

    def test_every_other_fault_can_be_had(self) -> None:
        refused = {type(fault) for fault in ONLY_SIMULATED}
        for kind in faults.KINDS:
            if kind not in refused:
                check_local(Scenario(nodes=2, faults=(kind(target="node1"),)))

    def test_a_node_that_waits_for_the_store(self) -> None:
        with pytest.raises(ConfigurationError, match=r'KillAgent strikes "busy".*name a node'):
            check_local(Scenario(faults=(faults.KillAgent("busy"),)))

    def test_too_many_nodes(self) -> None:
        with pytest.raises(ConfigurationError, match=r"has 64 nodes.*give 32 at most"):
            check_local(scenarios.happy_64)

    @pytest.mark.parametrize("name", ["../up", "store", "a b", "-x", "a/b"])
    def test_names_that_can_be_no_files(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match="use letters, digits, dots and dashes"):
            check_local(Scenario(names=(name,)))


class TestBadInput:
    @pytest.mark.parametrize(
        ("words", "complaint"),
        [
            (("shrt-scale-up",), "did you mean short-scale-up"),
            (("./no.toml",), "scenario file no.toml can't be read"),
            (("short-scale-up", "--set", "nodes"), "--set nodes has no value"),
            (("clock-skew", "--world", "local"), "ClockOffset is for the simulator only"),
            (("short-scale-up", "--set", "rdzv_conf.lease=0.1"), "a lease of 0.1 s is too short"),
            (("clock-skew",), "ClockOffset is for the simulator only"),
        ],
    )
    def test_is_one_line(self, words: tuple[str, ...], complaint: str, tmp_path: Path) -> None:
        code, stdout, stderr = said(*words, state_dir=tmp_path)
        assert (code, stdout) == (2, "")
        assert stderr.startswith("rally experiment: ") and stderr.count("\n") == 1
        assert complaint in stderr
        assert list(tmp_path.iterdir()) == [], "nothing was run"

    def test_a_world_that_there_is_not(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            said("short-scale-up", "--world", "moon", state_dir=tmp_path)
        assert ended.value.code == 2
        assert "give sim, local or both" in capsys.readouterr().err
        with pytest.raises(ConfigurationError, match="there is no world 'moon'; take sim or local"):
            Experiment("short-scale-up", "moon")  # type: ignore[arg-type]

    def test_a_folder_that_is_not_empty(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "mine.txt").touch()
        code, _, stderr = said(
            "short-scale-up", "--world", "sim", "--run-dir", str(tmp_path / "run"), state_dir=tmp_path
        )
        assert code == 2
        assert "is not empty; give another --run-dir" in stderr


class TestInTheSimulator:
    def test_is_recorded_with_what_struck_whom(self, tmp_path: Path) -> None:
        path = tmp_path / "run"
        code, stdout, stderr = said(
            "short-agent-crash", "--world", "sim", "--seed", "3", "--run-dir", str(path), state_dir=tmp_path
        )
        assert (code, stderr) == (0, "")
        assert stdout.startswith("✓ short-agent-crash simulated: succeeded in ")
        assert "⚡ fault 1: at 1.6 s node1 loses power, and its agent starts again 6 s later" in stdout
        assert f"recording    {path}" in stdout
        noted = read_experiment(path)
        assert noted is not None
        [strike] = noted.strikes
        assert (noted.world, noted.seed, strike.kind, strike.node, strike.at_s) == (
            "sim",
            3,
            "CrashNode",
            "node1",
            1.6,
        )
        assert {end.result for end in noted.ends.values()} == {"SUCCEEDED"}

    def test_a_broken_promise_is_told(self, tmp_path: Path) -> None:
        """A scenario that can't end in time."""
        code, stdout, _ = said(
            "short-scale-up", "--world", "sim", "--set", "limit_s=5", "--json", state_dir=tmp_path
        )
        told = json.loads(stdout)
        assert code == told["exit_code"] == 3
        assert "takes more than" in told["worlds"][0]["finding"]

    def test_from_python(self, tmp_path: Path) -> None:
        scenario = Scenario(nodes=2, workload=Workload(steps=5), plans={"node1": NodePlan(start_s=1)})
        result = Experiment(scenario, seed=4, run_dir=tmp_path / "a").run()
        again = Experiment(scenario, seed=5, run_dir=tmp_path / "b").run()
        assert result.timeline.state == "succeeded"
        assert result.report is not None and result.report.verdict == "held"
        assert {name: end.exit_code for name, end in result.ends.items()} == {"node0": 0, "node1": 0}
        assert result.compare(again).agree
        assert str(result).startswith("✓ unnamed simulated: succeeded in ")
        assert result.path == tmp_path / "a"

    def test_a_recording_read_back_is_the_same_side(self, tmp_path: Path) -> None:
        result = Experiment("short-scale-up", run_dir=tmp_path / "a").run()
        read = read_side(tmp_path / "a")
        assert (read.name, read.ends, read.began_wall_ns) == (
            "the simulator",
            dict(result.ends),
            result.noted.began_wall_ns,
        )

        def order(event: Event) -> tuple[str, int]:
            return event.node, event.seq

        assert sorted(read.events, key=order) == sorted(result.events, key=order)

    def test_a_file_that_is_something_else(self, tmp_path: Path) -> None:
        Experiment("short-scale-up", run_dir=tmp_path / "a").run()
        (tmp_path / "a" / "experiment.json").write_text('{"world": 3}')
        with pytest.raises(RecordingError, match=r"experiment.json is no experiment"):
            read_side(tmp_path / "a")

    def test_a_faults_end_that_never_comes_is_null(self, tmp_path: Path) -> None:
        scenario = replace(scenarios.short_agent_crash, faults=(faults.CrashNode("node1", at_s=1.6),))
        result = Experiment(scenario, run_dir=tmp_path / "a").run()
        assert [strike.until_s for strike in result.noted.strikes] == [None]


def test_the_schema_is_the_one_in_the_repository() -> None:
    path = ROOT / "toolkit" / "fronts" / "experiment" / "experiment.schema.json"
    assert path.read_bytes() == json_schema(), (
        f"write `toolkit.fronts.experiment.command.json_schema()` to {path}"
    )
