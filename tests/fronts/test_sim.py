"""`rally sim`: exit codes, what is on stdout, tapes, recordings, `--verify`, and every kind of bad input."""

from __future__ import annotations

import builtins
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("greenlet")

from simulator import faults, scenarios
from simulator.report import simulate
from simulator.scenario import Scenario
from simulator.simulation import ScenarioRun
from simulator.workloads import Workload
from toolkit.fronts import sim
from toolkit.fronts.show import show_command
from toolkit.fronts.sim import sim_command

ROOT = Path(__file__).parents[2]
KEYS = {
    "scenario",
    "subject",
    "seed",
    "verdict",
    "broken",
    "excused",
    "digest",
    "virtual_s",
    "steps",
    "events",
    "rounds",
    "restarts",
    "nodes",
    "wall_s",
}
#: ends only when it is stopped
ENDLESS = "solo = true\nlimit_s = 1e9\nquiet_by_s = 1e9\n[workload]\nsteps = 1000000000\n"


def rally_sim(*argv: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    stdout, stderr = io.StringIO(), io.StringIO()
    code = sim_command(
        [str(word) for word in argv],
        environ=os.environ,
        executable=sys.executable,
        stdout=stdout,
        stderr=stderr,
    )
    return code, stdout.getvalue(), stderr.getvalue()


def as_json(*argv: object) -> tuple[int, dict[str, Any]]:
    code, stdout, stderr = rally_sim(*argv, "--json")
    assert not stderr
    return code, json.loads(stdout)


# -- what it says -------------------------------------------------------------------------------------------


def test_a_scenario_that_holds() -> None:
    code, stdout, stderr = rally_sim("solo-crash", "--seed", 3)
    assert (code, stderr) == (0, "")
    assert stdout.startswith("✓ HELD  solo-crash  with rally, seed 3\n")
    assert "again: rally sim solo-crash --seed 3\n" in stdout


def test_json_is_one_object_with_the_keys_that_others_build_on() -> None:
    code, said = as_json("solo-crash", "--seed", 5)
    assert code == 0
    assert set(said) == KEYS
    assert (said["scenario"], said["subject"], said["seed"], said["verdict"]) == (
        "solo-crash",
        "rally",
        5,
        "held",
    )
    assert said["broken"] == said["excused"] == []
    assert said["nodes"] == {"node0": {"result": "SUCCEEDED", "exited_at_s": said["virtual_s"]}}
    assert said["restarts"] == 1
    assert said["wall_s"] > 0


@pytest.mark.torch
def test_a_promise_that_torch_breaks() -> None:
    pytest.importorskip("torch")
    code, said = as_json("moved-rank-0", "--subject", "torch")
    assert (code, said["verdict"]) == (1, "broken")
    assert {"promise", "detail", "node", "at_s"} == set(said["broken"][0])
    assert "MASTER_ADDR" in said["broken"][0]["detail"]


def test_a_run_over_its_limit_is_undetermined(tmp_path: Path) -> None:
    path = tmp_path / "endless.toml"
    path.write_text(ENDLESS.replace("limit_s = 1e9", "limit_s = 600.0"))
    code, said = as_json(path)
    assert (code, said["verdict"]) == (3, "undetermined")


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    digests = [as_json("solo-crash", "--seed", seed)[1]["digest"] for seed in (1, 1, 2)]
    assert digests[0] == digests[1]
    assert as_json("solo-crash")[1]["seed"] == sim.SEED


def test_settings_and_nodes() -> None:
    _, said = as_json("solo", "--set", "workload.steps=7", "--set", "workload.step_s=2", "--set", "nodes=1")
    assert 14 < said["virtual_s"] < 20
    code, _, stderr = rally_sim("solo", "--nodes", 2)
    assert code == 2
    assert "solo means one" in stderr


def test_a_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("solo = true\nlocal_world_size = 2\n[workload]\nsteps = 5\n")
    code, said = as_json(path)
    assert (code, said["scenario"]) == (0, "mine")


def test_the_list() -> None:
    code, stdout, _ = rally_sim("--list")
    assert code == 0
    assert len(stdout.splitlines()) == len(scenarios.ALL)
    assert all(f"{s.name} " in stdout and s.about in stdout for s in scenarios.ALL.values())
    _, stdout, _ = rally_sim("--list", "--json")
    assert [each["name"] for each in json.loads(stdout)] == list(scenarios.ALL)


def test_a_terminal_gets_colours_and_the_same_words() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    code = sim_command(["solo"], environ={}, executable=sys.executable, stdout=terminal, stderr=terminal)
    assert code == 0
    assert "HELD" in terminal.getvalue()


# -- recordings ---------------------------------------------------------------------------------------------


def test_a_run_directory_is_like_that_of_a_real_job(tmp_path: Path) -> None:
    path = tmp_path / "run"
    _, said = as_json("solo-crash", "--seed", 4, "--run-dir", path)
    assert json.loads((path / "run.json").read_text())["simulated"] == {
        "scenario": "solo-crash",
        "subject": "rally",
        "seed": 4,
    }
    (file,) = path.glob("events-*.jsonl")
    assert len(file.read_text().splitlines()) == said["events"]

    shown = io.StringIO()
    assert show_command(str(path), as_json=False, state_dir=tmp_path, stdout=shown, stderr=shown) == 0
    assert "SIM seed 4" in shown.getvalue()
    assert "scenario solo-crash with rally" in shown.getvalue()
    assert "days ago" not in shown.getvalue()  # the simulated calendar is not ours


def test_an_agent_that_lost_power_has_vanished_whatever_runs_here(tmp_path: Path) -> None:
    scenario = tmp_path / "lost.toml"
    scenario.write_text('solo = true\n[[fault]]\nkind = "CrashNode"\ntarget = "node0"\nat_s = 10\n')
    path = tmp_path / "run"
    rally_sim(scenario, "--run-dir", path)
    shown = io.StringIO()
    show_command(str(path), as_json=True, state_dir=tmp_path, stdout=shown, stderr=shown)
    assert json.loads(shown.getvalue())["state"] == "vanished"


def test_a_run_directory_holds_one_run(tmp_path: Path) -> None:
    assert rally_sim("solo", "--run-dir", tmp_path / "run")[0] == 0
    code, _, stderr = rally_sim("solo", "--run-dir", tmp_path / "run")
    assert code == 2
    assert "holds a recording" in stderr


# -- tapes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tape.jsonl", "tape.jsonl.gz"])
def test_a_tape_repeats_its_run(tmp_path: Path, name: str) -> None:
    tape = tmp_path / name
    _, first = as_json("solo-crash", "--seed", 9, "--save-tape", tape)
    _, again = as_json("solo-crash", "--tape", tape)
    assert {**first, "wall_s": 0} == {**again, "wall_s": 0}


def test_tapes_of_the_same_run_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        rally_sim("solo-crash", "--save-tape", tmp_path / name)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def edited_tape(path: Path, **changes: object) -> Path:
    head, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(head), **changes}), *rest]) + "\n")
    return path


TAPES: dict[str, tuple[Callable[[Path], object], str]] = {
    "of another version": (lambda p: edited_tape(p, versions={"rally": "9.9"}), "rally 9.9"),
    "of another subject": (lambda p: edited_tape(p, subject="torch"), "--subject torch"),
    "of another format": (lambda p: edited_tape(p, version=99), "version 99 of the format"),
    "with a wrong header": (lambda p: edited_tape(p, seed="one"), "first line is wrong"),
    "cut off": (lambda p: edited_tape(p, choices=10**6), "cut off"),
    "no tape": (lambda p: p.write_text("hello\n"), "is no tape"),
    "empty": (lambda p: p.write_text(""), "is no tape"),
    "deep": (lambda p: p.write_text("[" * 100_000), "is no tape"),
    "binary": (lambda p: p.write_bytes(os.urandom(64)), "is no tape"),
    "broken gzip": (lambda p: p.write_bytes(b"\x1f\x8b\x08" + bytes(50)), "tape.jsonl"),
    "a decision that is none": (lambda p: p.write_text(p.read_text() + "[0,7,3]\n"), "is no decision"),
    "a decision of nothing": (lambda p: p.write_text(p.read_text() + "[99,0,1]\n"), "is no decision"),
    "a line that is none": (lambda p: p.write_text(p.read_text() + '{"a":1}\n'), "line"),
    "a directory": (lambda p: (p.unlink(), p.mkdir()), "Is a directory"),
    "absent": (lambda p: p.unlink(), "No such file"),
}


@pytest.mark.parametrize("case", TAPES)
def test_a_tape_that_does_not_fit_is_refused(tmp_path: Path, case: str) -> None:
    tape = tmp_path / "tape.jsonl"
    rally_sim("solo-crash", "--save-tape", tape)
    spoil, words = TAPES[case]
    spoil(tape)
    code, stdout, stderr = rally_sim("solo-crash", "--tape", tape)
    assert (code, stdout) == (2, "")
    assert words in stderr
    assert stderr.count("\n") == 1


def test_a_tape_of_another_scenario_says_what_differs(tmp_path: Path) -> None:
    tape = tmp_path / "tape"
    rally_sim("solo-crash", "--save-tape", tape)
    code, _, stderr = rally_sim("solo", "--tape", tape)
    assert code == 2
    assert "recorded with scenario 'solo-crash', and this is 'solo'" in stderr
    code, _, stderr = rally_sim("solo-crash", "--set", "workload.steps=9", "--tape", tape)
    assert code == 2
    assert "workload was" in stderr


def test_a_tape_that_does_not_fit_the_code_is_refused(tmp_path: Path) -> None:
    """As if the agent had changed since, within one version."""
    tape = tmp_path / "tape"
    rally_sim("solo-crash", "--save-tape", tape)
    lines = tape.read_text().splitlines()
    assert len(lines) > 2, "the scenario leaves something to be drawn"
    head = json.loads(lines[0])
    tape.write_text("\n".join([json.dumps({**head, "choices": head["choices"] - 1}), *lines[2:]]) + "\n")
    code, stdout, stderr = rally_sim("solo-crash", "--tape", tape)
    assert (code, stdout) == (2, "")
    assert "recorded with another" in stderr


# -- bad input ----------------------------------------------------------------------------------------------

BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown scenario": (("solo-crsh",), "did you mean solo-crash"),
    "unknown subject": (("solo", "--subject", "torc"), "did you mean torch"),
    "no nodes": (("happy", "--nodes", "0"), "0 nodes"),
    "a setting without a value": (("solo", "--set", "workload.steps"), "--set key=value"),
    "an unknown setting": (("solo", "--set", "workload.step=3"), "did you mean"),
    "a setting of another type": (("solo", "--set", "workload.steps=many"), "whole number"),
    "a fault in the past": (("solo-crash", "--set", "fault.0.at_s=-1"), "negative"),
    "a fault on a node that isn't there": (("solo-crash", "--set", "fault.0.target=nod9"), "nod9"),
    "no such file": (("./no/such.toml",), "can't be read"),
    "a trace that can't be written": (("solo", "--trace", "/no/such/folder/t"), "can't be written"),
    "a tape that can't be written": (("solo", "--save-tape", "/no/such/folder/t"), "can't be written"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_2(case: str) -> None:
    argv, words = BAD[case]
    code, stdout, stderr = rally_sim(*argv)
    assert code == 2
    assert words in stderr
    assert stderr.startswith("rally sim: ")
    assert stderr.count("\n") == 1
    assert not stdout or case.endswith("can't be written")


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("solo", "--list"),
        ("solo", "--seed", "x"),
        ("solo", "--seed", str(1 << 63)),
        ("solo", "--no-such-option"),
        ("solo", "--seed", "1", "--tape", "t"),
    ],
)
def test_bad_usage_is_exit_2(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        rally_sim(*argv)
    assert caught.value.code == 2
    assert "usage: rally sim" in capsys.readouterr().err


def test_malformed_toml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("solo = true\n\nnodes = = 3\n")
    code, _, stderr = rally_sim(path)
    assert code == 2
    assert "bad.toml" in stderr
    assert "line 3" in stderr


def test_without_greenlet_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name == "greenlet":
            raise ModuleNotFoundError("No module named 'greenlet'", name="greenlet")
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    code, _, stderr = rally_sim("solo")
    assert code == 2
    assert "pip install 'rallypoint[sim]'" in stderr


# -- Ctrl-C -------------------------------------------------------------------------------------------------


def test_ctrl_c_leaves_a_report_of_what_was_reached() -> None:
    scenario = Scenario("endless", solo=True, limit_s=1e9, quiet_by_s=1e9, workload=Workload(steps=10**9))
    before = signal.getsignal(signal.SIGINT)
    with sim._stopped_by_interrupt() as started:

        def begin(simulation: ScenarioRun) -> None:
            started(simulation)
            simulation.kernel.call_at(100 * 10**9, "Ctrl-C", lambda: signal.raise_signal(signal.SIGINT))

        report = simulate(scenario, "rally", 0, started=begin)
    assert report.verdict == "undetermined"
    assert 100 <= report.virtual_s < 110
    assert "Ctrl-C" in str(report)
    assert report.events
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_in_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "endless.toml"
    path.write_text(ENDLESS)
    process = subprocess.Popen(
        [sys.executable, "-m", "toolkit.fronts.cli", "sim", str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            # It says nothing while it works; that it works is seen by its use of the processor.
            times, deadline = psutil.Process(process.pid), time.monotonic() + 60
            while times.cpu_times().user < 1.0 and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 3, stderr
    assert stdout.startswith("? UNDETERMINED  endless")
    assert stderr == "rally sim: stopped by Ctrl-C; this is what was reached\n"


# -- --verify -----------------------------------------------------------------------------------------------


def test_verify_says_that_it_is_the_same_again() -> None:
    code, stdout, stderr = rally_sim("solo-crash", "--verify", "--json")
    assert code == 0
    assert stderr == (
        f"the same three times, once in a fresh process: digest {json.loads(stdout)['digest']}\n"
    )


def test_verify_repeats_a_file_with_settings_and_a_tape(tmp_path: Path) -> None:
    path, tape = tmp_path / "mine.toml", tmp_path / "tape.gz"
    path.write_text("solo = true\n[[workload.failure]]\nrank = 0\nat_step = 3\n")
    settings = ("--set", "workload.steps=9", f"--run-dir={tmp_path / 'run'}")
    assert rally_sim(path, *settings, "--save-tape", tape, "--verify")[0] == 0
    code, _, stderr = rally_sim(path, "--set", "workload.steps=9", "--tape", tape, "--verify")
    assert code == 0
    assert "the same three times" in stderr


# -- start-up -----------------------------------------------------------------------------------------------


def test_what_needs_no_torch_imports_none() -> None:
    code = (
        "import sys; from toolkit.fronts import cli; code = cli.main(['sim', 'solo', '--json']);"
        "sys.exit(code or ('torch' in sys.modules) or ('rich' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_fault_in_words_is_in_the_report() -> None:
    report = simulate(Scenario("one", solo=True, faults=(faults.PauseNode("node0", at_s=5, for_s=9),)))
    assert "stands still" in str(report)


@pytest.mark.torch
def test_ctrl_c_between_the_runs_of_verify_is_told_in_a_line() -> None:
    pytest.importorskip("torch")
    command = [sys.executable, "-m", "toolkit.fronts.cli", "sim", "happy-64", "--verify"]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "HELD" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 3, told
    assert "Traceback" not in told
    assert "stopped by Ctrl-C" in told
