"""The restart budget means what it says, the exit code says who failed, and the recording tells the same story."""

import signal
from itertools import pairwise
from pathlib import Path

import pytest

from toolkit.core.events import DecisionMade

from .conftest import Rally, Script
from .jobs import counted

#: says its incarnation; rank 1 then ends as RANK_1_<restart count> or, without that, RANK_1 says; others wait for it
WORKER = """
    rank, attempt = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
    say("up", rank, attempt)
    end = os.environ.get(f"RANK_{rank}_{attempt}") or os.environ.get(f"RANK_{rank}") or "0"
    if end == "wait":
        signal.pause()
    if end.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[end])
    sys.exit(int(end))
"""


@pytest.fixture
def worker(script: Script) -> Path:
    return script(WORKER)


def codes(how: str) -> tuple[int | None, str, int]:
    """Exit code and signal of a worker, and exit code of the agent."""
    return (None, how, 128 + signal.Signals[how]) if how.startswith("SIG") else (int(how), "", int(how))


@pytest.mark.parametrize("how", ["1", "7", "SIGKILL", "SIGSEGV"])
@pytest.mark.parametrize("budget", [0, 1, 3])
def test_a_worker_that_fails_each_time_spends_the_whole_budget(
    rally: Rally, worker: Path, budget: int, how: str
) -> None:
    exit_code, signal_name, agents_code = codes(how)
    env = {"RANK_0": "wait", "RANK_1": how}
    job = rally("--standalone", "--nproc-per-node", "2", "--max-restarts", f"{budget}", worker, env=env)
    assert job.wait() == agents_code, job.told()
    starts = counted(line for line in job.lines if line.startswith("up 1"))
    assert starts == {f"up 1 {attempt}": 1 for attempt in range(budget + 1)}

    timeline = job.timeline()
    assert (timeline.state, timeline.restarts_used, timeline.restarts_max) == ("failed", budget, budget)
    failures = list(timeline.failures.values())
    assert [failure.incarnation for failure in failures] == list(range(budget + 1))
    assert {(f.global_rank, f.exit_code, f.signal, f.first, f.told) for f in failures} == {
        (1, exit_code, signal_name, True, True)
    }
    [node] = timeline.nodes.values()
    assert (node.failed_ranks, node.incarnation) == ((1,), budget)
    decisions = job.events(DecisionMade)
    assert [decision.action for decision in decisions] == ["restart"] * budget + ["fail"]
    assert [decision.restarts_left for decision in decisions] == [*range(budget - 1, -1, -1), 0]
    spent = {0: "no restarts are allowed", 1: "the only restart is used up"}
    reason = spent.get(budget, f"all {budget} restarts are used up")
    assert reason in decisions[-1].reason
    assert reason in job.stderr
    # rank 0 did not fail: it was stopped, each time
    assert {past.state for past in (*node.ranks[0].past, node.ranks[0].now)} == {"stopped"}


@pytest.mark.parametrize("how", ["1", "SIGKILL", "SIGSEGV"])
@pytest.mark.parametrize("budget", [1, 3])
def test_a_worker_that_fails_once_spends_one_restart(
    rally: Rally, worker: Path, budget: int, how: str
) -> None:
    exit_code, signal_name, _ = codes(how)
    env = {"RANK_0_0": "wait", "RANK_1_0": how}
    job = rally("--standalone", "--nproc-per-node", "2", "--max-restarts", f"{budget}", worker, env=env)
    assert job.wait() == 0, job.told()
    # Whether rank 0 came to say its first line before it was stopped is left open.
    assert counted(line for line in job.lines if line.startswith("up") and line != "up 0 0") == {
        "up 1 0": 1,
        "up 0 1": 1,
        "up 1 1": 1,
    }
    timeline = job.timeline()
    assert (timeline.state, timeline.restarts_used, timeline.rounds) == ("succeeded", 1, 2)
    [failure] = timeline.failures.values()
    assert (failure.global_rank, failure.incarnation, failure.exit_code, failure.signal) == (
        1,
        0,
        exit_code,
        signal_name,
    )
    [restart] = timeline.restarts
    assert restart.spends_budget
    assert "a worker failed" in restart.reason
    phases = [restart.detect_s, restart.stop_s, restart.rendezvous_s, restart.start_s, restart.total_s]
    assert all(phase is not None and 0 <= phase < 10 for phase in phases), phases
    [node] = timeline.nodes.values()
    assert {rank: known.now.state for rank, known in node.ranks.items()} == {0: "succeeded", 1: "succeeded"}


def test_each_incarnation_meets_at_another_port(rally: Rally, script: Script) -> None:
    worker = script("say('port', os.environ['MASTER_PORT']); sys.exit(1)")
    job = rally("--standalone", "--max-restarts", "5", worker)
    assert job.wait() == 1
    ports = [line for line in job.lines if line.startswith("port")]
    assert len(ports) == 6
    assert all(before != after for before, after in pairwise(ports))


def test_exit_code_0_only_if_all_succeeded(rally: Rally, worker: Path) -> None:
    well = rally("--standalone", "--nproc-per-node", "3", worker)
    assert well.wait() == 0, well.told()
    assert well.timeline().state == "succeeded"
    one_fails = rally("--standalone", "--nproc-per-node", "3", worker, env={"RANK_2": "5"})
    assert one_fails.wait() == 5, one_fails.told()
    assert one_fails.timeline().state == "failed"


def test_the_exit_code_is_that_of_the_worker_that_failed_first(
    rally: Rally, script: Script, tmp_path: Path
) -> None:
    """Rank 0 fails only when it is told to stop, with a code of its own."""
    worker = script("""
        if os.environ["RANK"] == "0":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(99))
            open("ready", "w").close()
            wait_for_signals()
        wait_for("ready")
        sys.exit(17)
    """)
    job = rally("--standalone", "--nproc-per-node", "2", worker)
    assert job.wait() == 17, job.told()
    timeline = job.timeline()
    assert [(failure.global_rank, failure.first) for failure in timeline.failures.values()] == [(1, True)]
    [node] = timeline.nodes.values()
    assert (node.ranks[0].now.state, node.ranks[0].now.exit_code) == ("stopped", 99)
