"""Simulated workers beyond the contract: who dies with whom, what a pause does, what a start costs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from simulator.adapters.bell import TaskBell
from simulator.adapters.clock import NodeClock
from simulator.adapters.launcher import START_NS, SimLauncher, SimWorkers
from simulator.kernel import SECOND
from simulator.workloads import Fail, Jobs, Workload
from tests.contracts.worlds import SimWorld
from toolkit.core.launch_plan import LaunchPlan, WorkerPlan

STEADY = Workload(steps=10**6, collective=False)


class Launching(SimWorld):
    """An agent's process that starts workers."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = NodeClock(self.node)
        self.bell = TaskBell(self.kernel, self.clock)
        self.jobs = Jobs(self.cluster)

    def start(self, workload: Workload = STEADY, size: int = 2, *, die_with_agent: bool = True) -> SimWorkers:
        env = {
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "node0",
            "MASTER_PORT": "1",
            "TORCHELASTIC_RUN_ID": "r",
        }
        plans = tuple(WorkerPlan(rank, rank, {**env, "RANK": str(rank)}, ()) for rank in range(size))
        launcher = SimLauncher(self.process, self.clock, workload, self.jobs, die_with_agent=die_with_agent)
        return launcher.start(LaunchPlan("r", 0, "train", plans), self.bell)

    def workers_alive(self) -> int:
        return sum(p.alive and p is not self.process for p in self.node.processes.values())

    def exits_by(self, at_s: float, workers: SimWorkers) -> list[tuple[int, int]]:
        while (left_s := at_s - self.now_s()) > 0:
            self.bell.wait(left_s)
        return [(told.local_rank, told.exit_code) for told in workers.exits()]


@pytest.fixture
def sim() -> Iterator[Launching]:
    made = Launching()
    yield made
    made.close()


def outside(sim: Launching, at_s: float, what: Callable[[], object]) -> None:
    sim.kernel.call_at(int(at_s * SECOND), "the test", lambda: (what(), None)[1])


def test_a_start_takes_the_agent_a_while_for_each_worker(sim: Launching) -> None:
    def body() -> None:
        began_ns = sim.kernel.now_ns
        sim.start(size=8)
        assert sim.kernel.now_ns - began_ns == 8 * START_NS

    sim.run(body)


@pytest.mark.parametrize("stubborn", [True, False])
def test_workers_and_their_children_die_with_the_agent(sim: Launching, stubborn: bool) -> None:
    workload = Workload(steps=10**6, leaks_child=True, term_s=None if stubborn else 0.1)
    sim.process.spawn(lambda: sim.start(workload), "main")
    sim.kernel.run(until_ns=SECOND)
    assert sim.workers_alive() == 4
    sim.process.end(1)
    assert sim.workers_alive() == 0


def test_programs_of_torchrun_outlive_it(sim: Launching) -> None:
    sim.process.spawn(lambda: sim.start(die_with_agent=False), "main")
    sim.kernel.run(until_ns=SECOND)
    sim.process.receive(signal.SIGKILL)
    assert sim.workers_alive() == 2


def test_a_power_cut_takes_all_at_once_and_tells_nobody(sim: Launching) -> None:
    started: list[SimWorkers] = []
    sim.process.spawn(lambda: started.append(sim.start()), "main")
    sim.kernel.run(until_ns=SECOND)
    sim.node.crash()
    sim.kernel.run(until_ns=10 * SECOND)
    assert list(started[0].exits()) == []


def test_a_stopped_worker_takes_its_sigterm_when_it_goes_on(sim: Launching) -> None:
    def body() -> None:
        workers = sim.start(size=1)
        process = sim.node.processes[workers.ids()[0]]
        process.receive(signal.SIGSTOP)
        workers.signal(signal.SIGTERM)
        assert sim.exits_by(20.0, workers) == []
        process.receive(signal.SIGCONT)
        assert sim.exits_by(21.0, workers) == [(0, -signal.SIGTERM)]

    sim.run(body)


def test_a_slow_node_takes_longer_to_end(sim: Launching) -> None:
    def body() -> None:
        sim.node.slowness = 50.0
        workers = sim.start(Workload(steps=10**6, term_s=0.1), size=1)
        workers.signal(signal.SIGTERM)
        assert sim.exits_by(4.0, workers) == []
        assert sim.exits_by(6.0, workers) == [(0, -signal.SIGTERM)]

    sim.run(body)


def test_a_planned_failure_happens_in_its_incarnations_only(sim: Launching) -> None:
    workload = Workload(
        steps=5, checkpoint_every=0, failures=(Fail(0, at_s=1.0, exit_code=7, incarnations=2),)
    )

    def body() -> None:
        codes = []
        for _ in range(3):
            workers = sim.start(workload, size=1)
            (told,) = sim.exits_by(sim.now_s() + 30.0, workers)
            codes.append(told[1])
        assert codes == [7, 7, 0]

    sim.run(body)


def test_a_peer_that_dies_takes_the_others_out_of_their_collective(sim: Launching) -> None:
    def body() -> None:
        workers = sim.start(Workload(steps=1000), size=3)
        sim.exits_by(10.0, workers)
        sim.node.processes[workers.ids()[1]].receive(signal.SIGKILL)
        exits = sim.exits_by(20.0, workers)
        assert exits[0] == (1, -signal.SIGKILL)
        assert sorted(exits[1:]) == [(0, 1), (2, 1)]

    sim.run(body)


def test_a_peer_that_is_silent_takes_them_out_after_the_collectives_timeout(sim: Launching) -> None:
    def body() -> None:
        workers = sim.start(Workload(steps=1000, collective_timeout_s=60.0), size=2)
        sim.exits_by(10.0, workers)
        sim.node.processes[workers.ids()[1]].receive(signal.SIGSTOP)
        assert sim.exits_by(60.0, workers) == []
        assert sim.exits_by(75.0, workers) == [(0, -signal.SIGABRT)]

    sim.run(body)
