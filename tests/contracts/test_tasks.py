"""The contract of `Tasks`: what is spawned runs beside the caller, bells wake it, and one at a time holds a lock."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from toolkit.adapters.tasks import Threads
from toolkit.ports import Bell, Tasks

from .worlds import RealWorld, SimWorld

#: how long something that should happen at once may take on a busy machine, in seconds
SOON_S = 20.0
#: how long a wait that nobody ends lasts, in seconds
SHORT_S = 0.05


def _simulated(world: SimWorld) -> Tasks:
    from simulator.adapters.clock import NodeClock
    from simulator.adapters.tasks import ProcessTasks

    return ProcessTasks(world.process, NodeClock(world.node))


ADAPTERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Tasks]]] = {
    "threads": (RealWorld, lambda world: Threads()),
    "simulated": (SimWorld, _simulated),
}


@pytest.fixture(params=list(ADAPTERS))
def adapter(request: pytest.FixtureRequest) -> tuple[Callable[[], Any], Callable[[Any], Tasks]]:
    return ADAPTERS[request.param]


@pytest.fixture
def world(adapter: tuple[Callable[[], Any], Callable[[Any], Tasks]]) -> Iterator[Any]:
    made = adapter[0]()
    yield made
    made.close()


@pytest.fixture
def tasks(adapter: tuple[Callable[[], Any], Callable[[Any], Tasks]], world: Any) -> Tasks:
    return adapter[1](world)


class Several:
    """Tasks that are waited for: each rings a bell of its own at its end."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._ends: list[Bell] = []

    def start(self, run: Callable[[], None]) -> None:
        end = self._tasks.new_bell()

        def body() -> None:
            try:
                run()
            finally:
                end.ring()

        self._ends.append(end)
        self._tasks.spawn(body, f"test-{len(self._ends)}")

    def wait(self) -> None:
        assert all(end.wait(SOON_S) for end in self._ends), "one did not end"


def test_what_is_spawned_runs_while_the_caller_waits(world: Any, tasks: Tasks) -> None:
    there, back, said = tasks.new_bell(), tasks.new_bell(), list[str]()

    def answer() -> None:
        assert there.wait(SOON_S)
        said.append("answer")
        back.ring()

    tasks.spawn(answer, "test-answer")
    said.append("question")
    there.ring()
    assert back.wait(SOON_S)
    assert said == ["question", "answer"]


def test_spawning_does_not_wait_for_the_end(world: Any, tasks: Tasks) -> None:
    hold, held = tasks.new_bell(), Several(tasks)
    began = world.now_s()
    held.start(lambda: assert_rung(hold))
    assert world.now_s() - began < SOON_S / 2
    hold.ring()
    held.wait()


def assert_rung(bell: Bell) -> None:
    assert bell.wait(SOON_S)


def test_many_run_beside_each_other(world: Any, tasks: Tasks) -> None:
    """Each waits for the one before it, and the first for the last to have begun."""
    bells = [tasks.new_bell() for _ in range(20)]
    order: list[int] = []
    several = Several(tasks)

    def link(at: int) -> None:
        assert_rung(bells[at])
        order.append(at)
        if at + 1 < len(bells):
            bells[at + 1].ring()

    for at in reversed(range(len(bells))):
        several.start(lambda at=at: link(at))
    bells[0].ring()
    several.wait()
    assert order == list(range(20))


def test_bells_are_separate(world: Any, tasks: Tasks) -> None:
    one, other = tasks.new_bell(), tasks.new_bell()
    one.ring()
    assert other.wait(SHORT_S) is False
    assert one.wait(0.0) is True


def test_a_task_can_spawn_another(world: Any, tasks: Tasks) -> None:
    done = tasks.new_bell()
    tasks.spawn(lambda: tasks.spawn(done.ring, "test-inner"), "test-outer")
    assert done.wait(SOON_S)


def test_a_lock_can_be_held_again_and_again(world: Any, tasks: Tasks) -> None:
    lock = tasks.new_lock()
    for _ in range(3):
        with lock:
            pass


def test_an_error_under_a_lock_gives_it_back(world: Any, tasks: Tasks) -> None:
    lock, done = tasks.new_lock(), tasks.new_bell()
    with pytest.raises(KeyError), lock:
        raise KeyError

    def hold() -> None:
        with lock:
            done.ring()

    tasks.spawn(hold, "test-hold")
    assert done.wait(SOON_S)


def test_what_is_done_under_a_lock_is_done_by_one_at_a_time(world: Any, tasks: Tasks) -> None:
    lock, several, count = tasks.new_lock(), Several(tasks), [0]
    rounds = 300

    def add() -> None:
        for _ in range(rounds):
            with lock:
                before = count[0]
                count[0] = before + 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(4):
            several.start(add)
        several.wait()
    finally:
        sys.setswitchinterval(interval)
    assert count == [4 * rounds]


def test_locks_are_separate(world: Any, tasks: Tasks) -> None:
    one, other, done = tasks.new_lock(), tasks.new_lock(), tasks.new_bell()

    def hold_other() -> None:
        with other:
            done.ring()

    with one:
        tasks.spawn(hold_other, "test-other")
        assert done.wait(SOON_S)


# -- it ends with the process ---------------------------------------------------------------------------------


def test_a_thread_is_called_by_its_name() -> None:
    tasks, said = Threads(), list[str]()
    done = tasks.new_bell()

    def tell() -> None:
        said.append(threading.current_thread().name)
        done.ring()

    tasks.spawn(tell, "rally-keeper")
    assert done.wait(SOON_S)
    assert said == ["rally-keeper"]


def test_a_thread_that_never_ends_does_not_keep_the_process() -> None:
    """One process, because only its end shows it."""
    code = (
        "from toolkit.adapters.tasks import Threads\n"
        "tasks = Threads()\n"
        "begun = tasks.new_bell()\n"
        "tasks.spawn(lambda: (begun.ring(), tasks.new_bell().wait(None)), 'stuck')\n"
        "assert begun.wait(20)\n"
        "print('over')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "over\n", "")


def test_a_simulated_task_ends_with_its_process() -> None:
    world = SimWorld()
    other = world.other_node.start_process("agent")
    from simulator.adapters.clock import NodeClock
    from simulator.adapters.tasks import ProcessTasks

    tasks, steps = ProcessTasks(other, NodeClock(world.other_node)), list[float]()

    def tick() -> None:
        bell = tasks.new_bell()
        while True:
            bell.wait(1.0)
            steps.append(world.now_s())

    def body() -> None:
        tasks.spawn(tick, "test-tick")
        pause = _simulated(world).new_bell()
        pause.wait(3.5)
        other.end(-9)
        pause.wait(10.0)

    try:
        world.run(body)
        assert len(steps) == 3
    finally:
        world.close()
