"""Experiments on real processes: what is recorded, that nothing is left behind, and the command as a user has it."""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from simulator import Scenario, Workload, faults
from toolkit import Experiment, RestartVerdict
from toolkit.adapters.endpoint import port_problem
from toolkit.adapters.recording.experiment_file import read_experiment
from toolkit.adapters.recording.reader import read_run
from toolkit.core.errors import ConfigurationError, RecordingError
from toolkit.core.events import AgentStarted, WorkerStarted
from toolkit.fronts.experiment.local import LocalWorld

from .conftest import Command, Try

pytest.importorskip("torch")
pytest.importorskip("greenlet")
pytestmark = pytest.mark.torch

PATIENCE_S = 60.0
LONG = """
name = "long"
nodes = 2
quiet_by_s = {quiet_by_s}
[rdzv_conf]
beat = 0.5
lease = 2
[workload]
steps = 100000
step_s = 0.05
start_s = 0
term_s = "none"
leaks_child = true
"""

Start = Callable[..., Command]


def until(what: str, look: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not look():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.01)


def long(folder: Path, quiet_by_s: float = 600) -> str:
    """A scenario that ends by no means of its own."""
    path = folder / "long.toml"
    path.write_text(LONG.format(quiet_by_s=quiet_by_s))
    return str(path)


def workers(run: Path) -> int:
    """That have been started so far."""
    try:
        return sum(isinstance(event, WorkerStarted) for event in read_run(run).events())
    except RecordingError:
        return 0


def test_the_port_of_the_store_is_given_to_nobody_before_the_store_is_there(tmp_path: Path) -> None:
    world = LocalWorld(Scenario("kept", nodes=2), (), tmp_path / "run", "kept", {}, sys.executable)
    try:
        with closing(socket.socket()) as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", world.store_port))
        assert port_problem(world.store_port) is None, "the store itself can listen on it"
    finally:
        world.close()
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", world.store_port))


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGINT], ids=lambda sig: sig.name)
def test_nothing_is_left_of_an_experiment_that_is_ended(
    command: Start, tmp_path: Path, sig: signal.Signals
) -> None:
    """Agents, workers that ignore SIGTERM, and the children that these leave."""
    run = tmp_path / "run"
    started = command(long(tmp_path), "--world", "local", "--run-dir", str(run))
    until("both workers", lambda: workers(run) == 2)
    # Two agents, two workers and the child of each.
    until("all processes", lambda: len(started.its()) == 6)
    started.process.send_signal(sig)
    code, stdout, stderr = started.ended()
    until("the end of all processes", lambda: started.its() == [], 5)
    assert stdout == ""
    if sig == signal.SIGINT:
        assert code == 3
        assert stderr.endswith("rally experiment: stopped by Ctrl-C; all that it had started is gone\n")


def test_an_experiment_that_takes_too_long_is_broken_off(command: Start, tmp_path: Path) -> None:
    started = command(long(tmp_path, quiet_by_s=2), "--world", "local", "--run-dir", "run", "--json")
    code, stdout, _ = started.ended()
    said = json.loads(stdout)
    assert code == said["exit_code"] == 3
    [world] = said["worlds"]
    assert world["finding"] == "it was stopped after 2 s, and node0, node1 still ran"
    assert world["nodes"] == {f"node{n}": {"result": "RUNNING", "exit_code": None} for n in range(2)}
    assert started.its() == []


def test_both_worlds_as_a_user_has_them(command: Start, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'about = "a worker is killed"\nnodes = 2\nquiet_by_s = 60\n[rdzv_conf]\nbeat = 0.5\nlease = 2\n'
        "[workload]\nsteps = 10\nstep_s = 0.2\nstart_s = 0.1\n"
        '[[fault]]\nkind = "KillWorker"\ntarget = "rank0"\nat_s = 1.1\n'
    )
    code, stdout, stderr = command("mine.toml", "--run-dir", "here").ended()
    assert (code, stderr) == (0, "rally: runs on real processes; watch it with `rally top here/local`\n")
    lines = stdout.splitlines()
    assert lines[:3] == [
        "✓ mine with seed 0: the simulator and real processes agree",
        "  a worker is killed",
        "  ⚡ fault 1: at 1.1 s local rank 0 on node0 gets SIGKILL (rank0)",
    ]
    assert "node0 and node1, the same on both sides" in stdout
    assert any(line.split()[:4] == ["after", "round", "1:", "total"] for line in lines)
    assert lines[-2:] == [
        f"  recording of the simulator   {tmp_path}/here/sim",
        f"  recording of real processes  {tmp_path}/here/local",
    ]


def test_what_is_recorded(on_processes: Try) -> None:
    """Nodes by the names of the scenario, each agent in a file of its own, and what struck whom."""
    scenario = Scenario(
        name="recorded",
        names=("left", "right"),
        min_nodes=1,
        nodes=2,
        rdzv_conf={"beat": "0.5", "lease": "2", "join_window": "0.5", "last_call_timeout": "1"},
        workload=Workload(steps=30, step_s=0.1, start_s=0.1, checkpoint_every=2),
        faults=(
            faults.KillAgent("last-joiner", at_s=0.9),
            faults.KillWorker("right", at_s=1.5, local_rank=0),
            faults.SlowNode("left", at_s=200),
        ),
        quiet_by_s=60,
    )
    result = on_processes(scenario)
    assert result.noted == read_experiment(result.path)
    first, second, late = result.noted.words
    gone = result.noted.strikes[0].node
    assert first == f"at 0.9 s the agent on {gone} is killed (last-joiner)"
    if gone == "right":
        assert second.endswith("struck nothing, no such worker runs")
    assert late == "at 200 s left is 10 times slower for 60 s: struck nothing, the run had ended"
    other = "left" if gone == "right" else "right"
    assert (result.ends[gone].result, result.ends[gone].exit_code) == ("KILLED", -9)
    assert (result.ends[other].result, result.ends[other].exit_code) == ("SUCCEEDED", 0)
    started = [event for event in result.events if isinstance(event, AgentStarted)]
    assert sorted(event.hostname for event in started) == ["left", "right"]
    assert all(event.node == f"{event.hostname}_{event.pid}" for event in started)
    assert result.compare(result).agree


def alone(**fields: object) -> Scenario:
    """One node without a rendezvous, whose worker is killed."""
    struck = (faults.KillWorker("node0", at_s=3.0),)
    workload = Workload(steps=30, step_s=0.2, start_s=0.1, checkpoint_every=1)
    return Scenario(**{"name": "alone", "solo": True, "faults": struck, "workload": workload, **fields})  # type: ignore[arg-type]


class Unforgiving:
    """A restart policy of one's own."""

    def judge(self, cause: object, past: object, **given: object) -> RestartVerdict:
        return RestartVerdict(allowed=False, reason="once is enough")


@pytest.mark.parametrize("policy", ["never", Unforgiving()], ids=["text", "object"])
def test_restart_policies_of_a_scenario_are_those_of_its_agents(
    policy: object, simulated: Try, on_processes: Try
) -> None:
    scenario = alone(restart_policy=policy)
    for result in (simulated(scenario), on_processes(scenario)):
        assert (result.timeline.state, result.timeline.restarts_total) == ("failed", 0)


def test_a_backoff_is_waited_out_in_both_worlds(simulated: Try, on_processes: Try) -> None:
    for result in (simulated(alone(backoff_s=1.5)), on_processes(alone(backoff_s=1.5))):
        [restart] = result.timeline.restarts
        assert restart.total_s is not None and restart.total_s >= 1.5


def test_failures_that_a_seed_draws_are_the_same_in_both_worlds(simulated: Try, on_processes: Try) -> None:
    # That seed draws one at 3.5 s, and the next one long after the end of the slowest run.
    scenario = alone(faults=(), mtbf_s=20, mtbf_hits="worker", max_restarts=100)
    ours, real = simulated(scenario, 55), on_processes(scenario, 55)
    assert (
        [strike.words for strike in ours.noted.strikes]
        == [strike.words for strike in real.noted.strikes]
        != []
    )
    assert ours.timeline.restarts_used == real.timeline.restarts_used == 1
    assert not any("had ended" in words for words in real.noted.words), "of what was drawn nobody knew"


@dataclass(frozen=True)
class Flood(faults.Fault):
    """A fault of one's own."""

    def strike(self, place: Any) -> None:
        place.let(faults.PauseNode(self.target, for_s=1))


def test_what_only_the_simulator_can_do_is_refused_before_anything_starts(tmp_path: Path) -> None:
    for scenario, words in (
        (alone(faults=(Flood("node0", 1.0),)), "Flood is a fault of your own"),
        (alone(faults=(faults.ClockStep("node0", 1.0, step_s=5),)), "all nodes share this machine's clocks"),
        (alone(restart_policy=3), "restart_policy is 3"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            Experiment(scenario, "local", run_dir=tmp_path / "run")
    with pytest.raises(ConfigurationError, match="seed is 'x'; give a whole number"):
        Experiment("solo", seed="x")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
