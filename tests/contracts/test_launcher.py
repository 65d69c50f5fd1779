"""The contract of `Launcher` and `Workers`: all start or none, exits are told in their order and ring the bell."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest

from tests.agent.world import FakeBell, FakeLauncher, Script
from tests.leaks import nothing_left
from toolkit.adapters.clock import SystemClock
from toolkit.adapters.loop_bell import LoopBell
from toolkit.adapters.processes.launcher import ProcessLauncher
from toolkit.core.errors import LaunchError
from toolkit.core.launch_plan import LaunchPlan, WorkerExit, WorkerPlan
from toolkit.ports import Bell, Clock, Workers
from toolkit.wiring import new_pump, standard_console

from .worlds import FakeWorld, RealWorld, SimWorld, World

#: how long something that should happen at once may take on a busy machine, in seconds
SOON_S = 20.0


class Node(Protocol):
    """A launcher, its bell and clock, and a hand that reaches its processes from outside."""

    bell: Bell
    clock: Clock

    def start(self, size: int, exits: Mapping[int, int] | None = None, **behaviour: bool) -> Workers:
        """Start workers that run until they are told to end.

        Args:
            size: how many.
            exits: exit codes by local rank, of those that end by themselves at once.
            behaviour: `stubborn` ignores SIGTERM, `leaking` leaves a child behind.
        """
        ...

    def start_with_a_failure(self, size: int, failing: int) -> Workers:
        """The same, but one local rank can't be started."""
        ...

    def start_and_give_up(self, size: int, after: int) -> Workers:
        """The same, but the start is given up when it was asked about so many workers."""
        ...

    def kill_one(self, workers: Workers, local_rank: int) -> None:
        """SIGKILL from outside to one worker, not to its group."""
        ...

    def alive(self) -> int:
        """How many of the processes that were started, and of those that they started, run."""
        ...

    def close(self) -> None: ...


# -- real processes -----------------------------------------------------------------------------------------

_WORKER = """
import pathlib, signal, subprocess, sys
ready, stubborn, leaking, code = sys.argv[1:]
if stubborn == "True":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if leaking == "True":
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    pathlib.Path(ready + ".child").write_text(str(child.pid))
pathlib.Path(ready).touch()
if code != "none":
    import os
    os._exit(int(code))
while True:
    signal.pause()
"""


class RealNode:
    """Processes of this machine."""

    def __init__(self, world: RealWorld, folder: Path) -> None:
        self.bell = LoopBell()
        self.clock = SystemClock()
        self._launcher = ProcessLauncher(self.clock, dict(os.environ), new_pump(standard_console()))
        self._folder = folder
        self._pids: list[int] = []
        #: children of this process that are none of ours, such as the resource tracker of multiprocessing
        self._others = {child.pid for child in psutil.Process().children(recursive=True)}

    def start(
        self,
        size: int,
        exits: Mapping[int, int] | None = None,
        *,
        stubborn: bool = False,
        leaking: bool = False,
        failing: int | None = None,
        give_up: Callable[[], bool] = lambda: False,
    ) -> Workers:
        plans = [
            WorkerPlan(
                local_rank=rank,
                global_rank=rank,
                env={},
                args=(
                    "-c",
                    _WORKER,
                    str(self._ready(rank)),
                    str(stubborn),
                    str(leaking),
                    str((exits or {}).get(rank, "none")),
                ),
                stdout=os.devnull,
                stderr=os.devnull,
                # A folder under a file can't be made.
                error_file=str(Path(__file__, "error.json")) if rank == failing else "",
            )
            for rank in range(size)
        ]
        plan = LaunchPlan("r", 0, sys.executable, tuple(plans))
        workers = self._launcher.start(plan, self.bell, give_up)
        self._pids += workers.ids().values()
        _wait_for(lambda: all(self._ready(rank).exists() for rank in range(size)))
        children = self._folder.glob("*.child")
        self._pids += [int(path.read_text()) for path in children]
        return workers

    def _ready(self, rank: int) -> Path:
        return self._folder / f"ready-{rank}"

    def start_with_a_failure(self, size: int, failing: int) -> Workers:
        return self.start(size, failing=failing)

    def start_and_give_up(self, size: int, after: int) -> Workers:
        return self.start(size, give_up=_after(after))

    def kill_one(self, workers: Workers, local_rank: int) -> None:
        os.kill(workers.ids()[local_rank], signal.SIGKILL)

    def alive(self) -> int:
        own = {child.pid for child in psutil.Process().children(recursive=True)} - self._others
        return sum(_runs(pid) for pid in {*self._pids, *own})

    def close(self) -> None:
        for pid in filter(_runs, self._pids):
            os.kill(pid, signal.SIGKILL)
        self._launcher.close()
        self.bell.close()


def _after(answers: int) -> Callable[[], bool]:
    """No, so many times; then yes."""
    counter = itertools.count()
    return lambda: next(counter) >= answers


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_S
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


# -- simulated processes ------------------------------------------------------------------------------------


class SimNode:
    """Processes of a simulated node."""

    def __init__(self, world: SimWorld, folder: Path) -> None:
        from simulator.adapters.bell import TaskBell
        from simulator.adapters.clock import NodeClock

        self._world = world
        self.clock = NodeClock(world.node)
        self.bell = TaskBell(world.kernel, self.clock)

    def start(
        self,
        size: int,
        exits: Mapping[int, int] | None = None,
        *,
        stubborn: bool = False,
        leaking: bool = False,
        give_up: Callable[[], bool] = lambda: False,
    ) -> Workers:
        from simulator.adapters.launcher import SimLauncher
        from simulator.workloads import Fail, Jobs, Workload

        workload = Workload(
            steps=10**6,
            collective=False,
            term_s=None if stubborn else 0.1,
            leaks_child=leaking,
            failures=tuple(Fail(rank, at_s=0.01, exit_code=code) for rank, code in (exits or {}).items()),
        )
        env = {
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "node0",
            "MASTER_PORT": "1",
            "TORCHELASTIC_RUN_ID": "r",
        }
        plans = [WorkerPlan(rank, rank, {**env, "RANK": str(rank)}, ()) for rank in range(size)]
        launcher = SimLauncher(self._world.process, self.clock, workload, Jobs(self._world.cluster))
        return launcher.start(LaunchPlan("r", 0, "train", tuple(plans)), self.bell, give_up)

    def start_with_a_failure(self, size: int, failing: int) -> Workers:
        self._world.node.failing_starts.append(failing)
        return self.start(size)

    def start_and_give_up(self, size: int, after: int) -> Workers:
        return self.start(size, give_up=_after(after))

    def kill_one(self, workers: Workers, local_rank: int) -> None:
        self._world.node.processes[workers.ids()[local_rank]].receive(signal.SIGKILL)

    def alive(self) -> int:
        return sum(p.alive and p is not self._world.process for p in self._world.node.processes.values())

    def close(self) -> None:
        pass


# -- the fakes of the agent's tests -------------------------------------------------------------------------


class FakeNode:
    """Workers that follow scripts, in virtual time."""

    def __init__(self, world: FakeWorld, folder: Path) -> None:
        self.clock = world.time
        self.bell = FakeBell(world.time)
        self._world = world
        self._started: list[Any] = []

    def start(self, size: int, exits: Mapping[int, int] | None = None, *, stubborn: bool = False) -> Workers:
        scripts = [
            Script(
                runs_s=0.01 if rank in (exits or {}) else None,
                exit_code=(exits or {}).get(rank, 0),
                dies_after_s=None if stubborn else 0.1,
            )
            for rank in range(size)
        ]
        plan = LaunchPlan("r", 0, "train", tuple(WorkerPlan(rank, rank, {}, ()) for rank in range(size)))
        workers = FakeLauncher(self._world.time, [scripts]).start(plan, self.bell)
        self._started.append(workers)
        return workers

    def start_with_a_failure(self, size: int, failing: int) -> Workers:
        plan = LaunchPlan("r", 0, "train", ())
        return FakeLauncher(self._world.time, [LaunchError("no")]).start(plan, self.bell)

    def start_and_give_up(self, size: int, after: int) -> Workers:
        plan = LaunchPlan("r", 0, "train", ())
        return FakeLauncher(self._world.time, [[]]).start(plan, self.bell, lambda: True)

    def kill_one(self, workers: Workers, local_rank: int) -> None:
        workers._end_after(0, local_rank, -signal.SIGKILL)  # type: ignore[attr-defined]

    def alive(self) -> int:
        return sum(len(workers.running()) for workers in self._started)

    def close(self) -> None:
        pass


ADAPTERS: dict[str, tuple[Callable[[], World], Callable[[Any, Path], Node]]] = {
    "processes": (RealWorld, RealNode),
    "simulated": (SimWorld, SimNode),
    "fake": (FakeWorld, FakeNode),
}


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def world(adapter: str) -> Iterator[World]:
    with nothing_left():
        made = ADAPTERS[adapter][0]()
        yield made
        made.close()


@pytest.fixture
def node(adapter: str, world: World, tmp_path: Path) -> Iterator[Node]:
    made = ADAPTERS[adapter][1](world, tmp_path)
    yield made
    made.close()


def exits_of(node: Node, workers: Workers, count: int) -> list[WorkerExit]:
    """Wait, by the bell alone, until so many have ended."""
    for _ in itertools.takewhile(lambda _: len(workers.exits()) < count, range(1000)):
        assert node.bell.wait(SOON_S), "an exit rings the bell"
    return list(workers.exits())


def end(node: Node, workers: Workers, size: int) -> None:
    workers.kill()
    exits_of(node, workers, size)
    assert list(workers.losses()) == []
    assert workers.close() in ([], ())


class TestRunning:
    def test_all_have_ids_and_run(self, node: Node) -> None:
        workers = node.start(3)
        ids = workers.ids()
        assert sorted(ids) == [0, 1, 2]
        assert len(set(ids.values())) == 3
        assert all(pid > 1 for pid in ids.values())
        assert sorted(workers.running()) == [0, 1, 2]
        assert list(workers.exits()) == []
        assert node.alive() == 3
        end(node, workers, 3)

    def test_while_nothing_ends_the_bell_is_silent(self, node: Node) -> None:
        workers = node.start(2)
        node.bell.wait(0.0)
        assert node.bell.wait(0.1) is False
        end(node, workers, 2)

    def test_ids_stay_when_workers_are_gone(self, node: Node) -> None:
        workers = node.start(2, exits={0: 0, 1: 0})
        ids = dict(workers.ids())
        exits = exits_of(node, workers, 2)
        assert dict(workers.ids()) == ids
        assert {each.local_rank: each.pid for each in exits} == ids
        end(node, workers, 2)


class TestExits:
    @pytest.mark.parametrize("code", [0, 1, 77])
    def test_an_exit_rings_and_has_its_code(self, node: Node, code: int) -> None:
        workers = node.start(2, exits={1: code})
        (told,) = exits_of(node, workers, 1)
        assert (told.local_rank, told.exit_code, told.failed) == (1, code, code != 0)
        assert list(workers.running()) == [0]
        end(node, workers, 2)

    def test_exits_come_in_their_order_and_stay(self, node: Node) -> None:
        workers = node.start(3)
        for count, rank in enumerate((2, 0, 1), 1):
            node.kill_one(workers, rank)
            told = exits_of(node, workers, count)
            assert [each.local_rank for each in told] == [2, 0, 1][:count]
            assert told[-1].exit_code == -signal.SIGKILL
        assert list(workers.running()) == []
        assert [each.local_rank for each in workers.exits()] == [2, 0, 1]
        end(node, workers, 3)

    def test_the_time_of_an_exit_is_when_it_was_learned(self, node: Node) -> None:
        began_ns = node.clock.now_ns()
        workers = node.start(1, exits={0: 1})
        (told,) = exits_of(node, workers, 1)
        assert began_ns <= told.at_ns <= node.clock.now_ns()
        assert abs(told.wall_s - node.clock.wall_ns() / 1e9) < SOON_S
        end(node, workers, 1)


class TestSignals:
    def test_a_signal_reaches_all_that_run(self, node: Node) -> None:
        workers = node.start(2)
        workers.signal(signal.SIGTERM)
        exits = exits_of(node, workers, 2)
        assert [each.exit_code for each in exits] == [-signal.SIGTERM] * 2
        assert node.alive() == 0
        end(node, workers, 2)

    def test_a_signal_reaches_only_those_that_are_named(self, node: Node) -> None:
        workers = node.start(2)
        workers.signal(signal.SIGTERM, [1])
        exits = exits_of(node, workers, 1)
        assert [(each.local_rank, each.exit_code) for each in exits] == [(1, -signal.SIGTERM)]
        assert list(workers.running()) == [0]
        workers.signal(signal.SIGTERM, [0, 1])
        exits_of(node, workers, 2)
        end(node, workers, 2)

    def test_who_has_ended_gets_no_signal_and_that_is_no_error(self, node: Node) -> None:
        workers = node.start(2, exits={0: 5})
        exits_of(node, workers, 1)
        workers.signal(signal.SIGTERM)
        exits = exits_of(node, workers, 2)
        assert [(each.local_rank, each.exit_code) for each in exits] == [(0, 5), (1, -signal.SIGTERM)]
        workers.signal(signal.SIGTERM)
        assert len(workers.exits()) == 2
        end(node, workers, 2)

    def test_who_ignores_sigterm_does_not_survive_a_kill(self, node: Node) -> None:
        workers = node.start(2, stubborn=True)
        workers.signal(signal.SIGTERM)
        node.bell.wait(0.3)
        assert len(workers.running()) == 2
        workers.kill()
        assert [each.exit_code for each in exits_of(node, workers, 2)] == [-signal.SIGKILL] * 2
        end(node, workers, 2)

    def test_nobody_dies_of_a_signal_that_is_handed_on(self, node: Node) -> None:
        """These workers have no handler for it."""
        workers = node.start(2)
        assert list(workers.forward(signal.SIGUSR1, [0, 1])) == []
        assert list(workers.running()) == [0, 1]
        end(node, workers, 2)
        assert list(workers.forward(signal.SIGUSR1, [0, 1])) == [], "nor who is gone"

    def test_killing_twice_does_no_harm(self, node: Node) -> None:
        workers = node.start(1)
        workers.kill()
        workers.kill()
        assert [each.exit_code for each in exits_of(node, workers, 1)] == [-signal.SIGKILL]
        end(node, workers, 1)

    @pytest.mark.parametrize("adapter", ["processes", "simulated"], indirect=True)
    def test_a_kill_reaches_what_a_dead_worker_left_behind(self, node: Node) -> None:
        workers = node.start(1, exits={0: 0}, leaking=True)
        exits_of(node, workers, 1)
        assert node.alive() == 1
        workers.kill()
        if isinstance(node, RealNode):
            _wait_for(lambda: node.alive() == 0)
        assert node.alive() == 0
        workers.close()


class TestFailedStart:
    @pytest.mark.parametrize("failing", [0, 1, 2])
    def test_all_start_or_none(self, node: Node, failing: int) -> None:
        with pytest.raises(LaunchError):
            node.start_with_a_failure(3, failing)
        assert node.alive() == 0

    @pytest.mark.parametrize("after", [0, 1, 2])
    def test_a_start_that_is_given_up_leaves_nothing(self, node: Node, after: int) -> None:
        with pytest.raises(LaunchError, match="given up"):
            node.start_and_give_up(3, after)
        assert node.alive() == 0

    def test_the_next_start_works(self, node: Node) -> None:
        with pytest.raises(LaunchError):
            node.start_with_a_failure(2, 1)
        workers = node.start(2)
        assert node.alive() == 2
        end(node, workers, 2)


def test_two_incarnations_have_nothing_to_do_with_each_other(node: Node) -> None:
    first = node.start(1, exits={0: 1})
    exits_of(node, first, 1)
    second = node.start(1)
    assert list(second.exits()) == []
    assert len(first.exits()) == 1
    assert set(first.ids().values()).isdisjoint(second.ids().values()) or isinstance(node, FakeNode)
    end(node, second, 1)
    first.close()
