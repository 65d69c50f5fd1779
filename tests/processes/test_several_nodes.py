"""Several agents on one machine, meeting over torch's handlers on loopback."""

import signal
import socket
from pathlib import Path

import pytest

from toolkit.core.events import (
    AgentFinished,
    BarrierEntered,
    BarrierLeft,
    MembershipChanged,
    RendezvousCompleted,
    RendezvousStarted,
    WorkerStarted,
)

from .conftest import Rally, Script
from .jobs import Job, counted, until

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

LONG_S = 90.0


class Nodes:
    """Agents of one job, all recording into one run directory."""

    def __init__(self, rally: Rally, folder: Path, nnodes: str, meeting: tuple[str, ...]) -> None:
        self._rally = rally
        self._words = ("--nnodes", nnodes, "--rdzv-id", "job", *meeting)
        self.run_dir = folder / "shared"
        self.jobs: list[Job] = []

    def start(self, *words: str | Path) -> Job:
        self.jobs.append(self._rally(*self._words, *words, run_dir=self.run_dir))
        return self.jobs[-1]

    def lines(self, word: str) -> list[str]:
        """What the workers of all nodes said."""
        return [line for job in self.jobs for line in job.lines if line.startswith(word)]

    def wait_for_lines(self, word: str, count: int) -> list[str]:
        def look() -> bool:
            assert not any(job.ended() for job in self.jobs), self.told()
            return len(self.lines(word)) >= count

        until(f"{count} lines {word!r}", look, LONG_S)
        return self.lines(word)

    def assert_all_end_with(self, code: int = 0) -> None:
        for job in self.jobs:
            assert job.wait(LONG_S) == code, self.told()

    def told(self) -> str:
        return "\n".join(f"node {at}: {job.told()}" for at, job in enumerate(self.jobs))


def c10d(rally: Rally, folder: Path, nnodes: str, port: int) -> Nodes:
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}")
    return Nodes(rally, folder, nnodes, (*meeting, "--rdzv-conf", "last_call_timeout=1,join_timeout=60"))


RANKS = """
    names = ("RANK", "WORLD_SIZE", "ROLE_RANK", "GROUP_WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    say("up", *(os.environ[name] for name in names), os.environ["GROUP_RANK"], os.environ["LOCAL_RANK"])
"""


def test_two_nodes_share_the_ranks(rally: Rally, script: Script, tmp_path: Path, port: int) -> None:
    nodes = c10d(rally, tmp_path, "2", port)
    worker = script(RANKS)
    nodes.start("--nproc-per-node", "2", worker)
    nodes.start("--nproc-per-node", "3", worker)
    nodes.assert_all_end_with(0)
    said = sorted(tuple(map(int, line.split()[1:])) for line in nodes.lines("up"))
    ranks, worlds, role_ranks, groups, local_worlds, ports, group_ranks, local_ranks = zip(*said, strict=True)
    assert ranks == role_ranks == (0, 1, 2, 3, 4)
    assert set(worlds) == {5}
    assert set(groups) == {2}
    assert len(set(ports)) == 1
    assert counted(map(str, zip(group_ranks, local_worlds, strict=True))) in (
        {"(0, 2)": 2, "(1, 3)": 3},
        {"(0, 3)": 3, "(1, 2)": 2},
    )
    assert sorted(local_ranks) == [0, 0, 1, 1, 2]
    timeline = nodes.jobs[0].timeline()
    assert (timeline.state, len(timeline.nodes), timeline.restarts) == ("succeeded", 2, [])
    assert {node.barrier.outcome for node in timeline.nodes.values() if node.barrier} == {"complete"}
    assert "round 1: 2 nodes" in nodes.jobs[0].stderr


#: rank 1 of two, or 3 of four, fails once; all others wait until it has been started anew
FAILS_ONCE = """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    say("up", rank, os.environ["MASTER_PORT"])
    if not os.path.exists("failed"):
        if rank == world - 1:
            # Only when all others are up, so that each is seen to start twice.
            wait_for("go on")
            open("failed", "w").close()
            sys.exit(7)
        signal.pause()
"""


@pytest.mark.parametrize("nnodes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_crash_on_one_node_restarts_all(
    rally: Rally, script: Script, tmp_path: Path, port: int, nnodes: int
) -> None:
    nodes = c10d(rally, tmp_path, f"{nnodes}", port)
    worker = script(FAILS_ONCE)
    for _ in range(nnodes):
        nodes.start("--max-restarts", "2", worker)
    nodes.wait_for_lines("up", nnodes)
    (tmp_path / "go on").touch()
    nodes.assert_all_end_with(0)
    said = [line.split() for line in nodes.lines("up")]
    assert counted(rank for _, rank, _ in said) == {f"{rank}": 2 for rank in range(nnodes)}
    assert counted(port for _, _, port in said) == {port: nnodes for _, _, port in said}, "one store a round"
    assert len({port for _, _, port in said}) == 2, "no round uses the store of another"

    timeline = nodes.jobs[0].timeline()
    assert (timeline.state, len(timeline.nodes), timeline.rounds) == ("succeeded", nnodes, 2)
    [failure] = timeline.failures.values()
    assert (failure.global_rank, failure.exit_code, failure.first) == (nnodes - 1, 7, True)
    assert len(timeline.restarts) == nnodes
    # torch's handler: the node of the failure spends its budget, the others see it come back as one who waits to join
    assert sorted(restart.spends_budget for restart in timeline.restarts) == [False] * (nnodes - 1) + [True]
    [spent] = [restart for restart in timeline.restarts if restart.spends_budget]
    assert spent.node == failure.node


@pytest.mark.slow
def test_process_groups_over_two_nodes_come_back(
    rally: Rally, script: Script, tmp_path: Path, port: int
) -> None:
    """One round for each crash: none reads what the workers of the last one left in their store."""
    crashes = 3
    worker = script(f"""
        import glob
        import torch
        import torch.distributed as dist

        dist.init_process_group("gloo")
        total = torch.tensor([dist.get_rank() + 1])
        dist.all_reduce(total)
        assert total.item() == 3, total
        before = len(glob.glob("crash *"))
        dist.barrier()
        say("init", before, dist.get_rank())
        if before < {crashes}:
            if dist.get_rank() == 1:
                wait_for(f"go {{before}}")
                open(f"crash {{before}}", "w").close()
                os._exit(7)
            dist.barrier()
        dist.destroy_process_group()
    """)
    nodes = c10d(rally, tmp_path, "2", port)
    for _ in range(2):
        nodes.start("--max-restarts", "10", worker)
    for crash in range(crashes):
        nodes.wait_for_lines(f"init {crash}", 2)
        (tmp_path / f"go {crash}").touch()
    nodes.assert_all_end_with(0)
    expected = {f"init {crash} {rank}": 1 for crash in range(crashes + 1) for rank in range(2)}
    assert counted(nodes.lines("init")) == expected
    timeline = nodes.jobs[0].timeline()
    assert (timeline.state, timeline.rounds) == ("succeeded", crashes + 1)


def test_a_node_that_joins_later_is_taken_in(rally: Rally, script: Script, tmp_path: Path, port: int) -> None:
    """With a store for each round torch's handler can; with its own default both agents end with an error."""
    nodes = c10d(rally, tmp_path, "1:2", port)
    worker = script("""
        world = os.environ["WORLD_SIZE"]
        say("up", world, os.environ["RANK"])
        if world == "1":
            signal.pause()
    """)
    first = nodes.start("--max-restarts", "0", worker)
    nodes.wait_for_lines("up 1 0", 1)
    nodes.start("--max-restarts", "0", worker)
    nodes.assert_all_end_with(0)
    assert counted(nodes.lines("up")) == {"up 1 0": 1, "up 2 0": 1, "up 2 1": 1}
    assert [event.nodes_waiting for event in first.events(MembershipChanged)] == [1]
    timeline = first.timeline()
    assert (timeline.state, timeline.restarts_used, timeline.failures) == ("succeeded", 0, {})
    [restart] = timeline.restarts
    assert not restart.spends_budget
    assert "1 node waits to join" in restart.reason
    worlds = sorted(event.group_world_size for event in first.events(RendezvousCompleted))
    assert worlds == [1, 2, 2]


def test_two_nodes_with_fixed_ranks(rally: Rally, script: Script, tmp_path: Path, port: int) -> None:
    meeting = ("--rdzv-backend", "static", "--master-addr", "127.0.0.1", "--master-port", f"{port}")
    nodes = Nodes(rally, tmp_path, "2", meeting)
    worker = script(RANKS)
    nodes.start("--node-rank", "1", "--nproc-per-node", "2", worker)
    nodes.start("--node-rank", "0", "--nproc-per-node", "2", worker)
    nodes.assert_all_end_with(0)
    said = [line.split()[1:] for line in nodes.jobs[0].lines]
    assert sorted(words[0] for words in said) == ["2", "3"]
    assert {words[5] for words in said} == {f"{port}"}
    assert sorted(line.split()[1] for line in nodes.jobs[1].lines) == ["0", "1"]
    assert nodes.jobs[0].timeline().state == "succeeded"


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM], ids=lambda sig: sig.name)
def test_a_signal_while_waiting_for_the_other_node(
    rally: Rally, script: Script, tmp_path: Path, port: int, sig: signal.Signals
) -> None:
    nodes = c10d(rally, tmp_path, "2", port)
    job = nodes.start(script(RANKS))
    job.wait_for_events(RendezvousStarted)
    job.signal(sig)
    assert job.wait(10) == 128 + sig, job.told()
    assert "Traceback" not in job.stderr
    assert job.events(WorkerStarted) == []
    assert (job.timeline().state, job.timeline().reason) == ("stopped", f"the agent got {sig.name}")


def test_a_burst_of_signals_while_waiting_for_the_other_node(
    rally: Rally, script: Script, tmp_path: Path, port: int
) -> None:
    """The second one must not break off the clean-up after the first."""
    job = c10d(rally, tmp_path, "2", port).start(script(RANKS))
    job.wait_for_events(RendezvousStarted)
    for sig in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        job.signal(sig)
    assert job.wait(10) - 128 in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT), job.told()
    assert "Traceback" not in job.stderr
    assert [event.result for event in job.events(AgentFinished)] == ["SIGNAL"]


def test_a_signal_in_the_exit_barrier(rally: Rally, script: Script, tmp_path: Path, port: int) -> None:
    """The node that is done stops waiting, and the other one can still finish."""
    nodes = c10d(rally, tmp_path, "2", port)
    worker = script("say('up'); wait_for(sys.argv[1])")
    host = nodes.start(worker, "go on")
    until("the host of the store", lambda: _listens(port), LONG_S)
    guest = nodes.start(worker, "worker.py")
    [entered] = guest.wait_for_events(BarrierEntered, timeout_s=LONG_S)
    assert entered.members == 2
    guest.signal(signal.SIGTERM)
    assert guest.wait(10) == 128 + signal.SIGTERM, nodes.told()
    [left] = guest.events(BarrierLeft)
    assert left.outcome == "interrupted"
    (tmp_path / "go on").touch()
    assert host.wait(LONG_S) == 0, nodes.told()
    results = counted(node.result for node in host.timeline().nodes.values())
    assert results == {"SUCCEEDED": 1, "SIGNAL": 1}


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
