"""The contract of `Bell`: no ring is lost, many rings are one, and ringing never blocks."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.agent.world import FakeBell
from toolkit.adapters.loop_bell import LoopBell
from toolkit.adapters.tasks import Threads
from toolkit.ports import Bell

from .worlds import FakeWorld, RealWorld, SimWorld, World

#: timeout of waits that are meant to end earlier, in seconds
LONG_S = 30.0
#: how long a wake-up may take on a busy machine, in seconds
SOON_S = 5.0
#: how long a wait that nobody ends lasts, in seconds
SHORT_S = 0.05


@dataclass(frozen=True, slots=True)
class BellAdapter:
    """A bell and where it hangs.

    Args:
        new_world: makes the world.
        make: makes a bell in it; one with a `close` is closed after the test.
    """

    new_world: Callable[[], World]
    make: Callable[[Any], Any]


def _simulated(world: SimWorld) -> Bell:
    from simulator.adapters.bell import TaskBell
    from simulator.adapters.clock import NodeClock

    return TaskBell(world.kernel, NodeClock(world.node))


def _of_a_task(world: SimWorld) -> Bell:
    from simulator.adapters.clock import NodeClock
    from simulator.adapters.tasks import ProcessTasks

    return ProcessTasks(world.process, NodeClock(world.node)).new_bell()


ADAPTERS = {
    "loop": BellAdapter(RealWorld, lambda world: LoopBell()),
    "thread": BellAdapter(RealWorld, lambda world: Threads().new_bell()),
    "simulated": BellAdapter(SimWorld, _simulated),
    "simulated task": BellAdapter(SimWorld, _of_a_task),
    "fake": BellAdapter(FakeWorld, lambda world: FakeBell(world.time)),
}


@pytest.fixture(params=ADAPTERS.values(), ids=list(ADAPTERS))
def adapter(request: pytest.FixtureRequest) -> BellAdapter:
    chosen: BellAdapter = request.param
    return chosen


@pytest.fixture
def world(adapter: BellAdapter) -> Iterator[World]:
    made = adapter.new_world()
    yield made
    made.close()


@pytest.fixture
def bell(adapter: BellAdapter, world: World) -> Iterator[Bell]:
    made = adapter.make(world)
    yield made
    if hasattr(made, "close"):
        made.close()


@pytest.fixture
def loop_bell() -> Iterator[Bell]:
    made = LoopBell()
    yield made
    made.close()


@pytest.fixture(params=["loop", "thread"])
def real_bell(request: pytest.FixtureRequest, loop_bell: Bell) -> Bell:
    return loop_bell if request.param == "loop" else Threads().new_bell()


def wakes_soon(world: World, bell: Bell, timeout_s: float | None = LONG_S) -> bool:
    began_s = world.now_s()
    rung = bell.wait(timeout_s)
    return rung and world.now_s() - began_s < SOON_S


def test_without_a_ring_the_wait_lasts_its_time(world: World, bell: Bell) -> None:
    began_s = world.now_s()
    assert bell.wait(SHORT_S) is False
    assert SHORT_S * 0.9 <= world.now_s() - began_s < SHORT_S + SOON_S


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
def test_a_wait_without_time_only_looks(world: World, bell: Bell, timeout_s: float) -> None:
    assert bell.wait(timeout_s) is False
    bell.ring()
    assert bell.wait(timeout_s) is True


@pytest.mark.parametrize("timeout_s", [LONG_S, None])
def test_a_ring_before_the_wait_is_kept(world: World, bell: Bell, timeout_s: float | None) -> None:
    bell.ring()
    assert wakes_soon(world, bell, timeout_s)


def test_a_ring_wakes_once(world: World, bell: Bell) -> None:
    bell.ring()
    assert bell.wait(LONG_S) is True
    assert bell.wait(0.0) is False


def test_many_rings_are_one_and_do_not_block(world: World, bell: Bell) -> None:
    for _ in range(100_000):  # more than a pipe holds
        bell.ring()
    assert wakes_soon(world, bell)
    assert bell.wait(0.0) is False


@pytest.mark.parametrize("timeout_s", [LONG_S, None])
def test_a_ring_from_elsewhere_wakes_the_waiter(world: World, bell: Bell, timeout_s: float | None) -> None:
    world.later(SHORT_S, bell.ring)
    assert wakes_soon(world, bell, timeout_s)


def test_each_ring_from_elsewhere_wakes_once(world: World, bell: Bell) -> None:
    for _ in range(5):
        world.later(SHORT_S, bell.ring)
        assert wakes_soon(world, bell)
        assert bell.wait(0.0) is False


def test_no_ring_of_several_threads_is_lost(real_bell: Bell) -> None:
    bell = real_bell
    rounds = 200
    turn = threading.Semaphore(0)

    def ring_each_turn() -> None:
        for _ in range(rounds):
            turn.acquire(timeout=SOON_S)
            bell.ring()

    ringers = [threading.Thread(target=ring_each_turn) for _ in range(2)]
    for ringer in ringers:
        ringer.start()
    for _ in range(rounds * len(ringers)):
        turn.release()
        assert bell.wait(SOON_S) is True
    for ringer in ringers:
        ringer.join(SOON_S)


def test_what_was_said_before_a_ring_is_seen_after_the_wait(real_bell: Bell) -> None:
    """Also if the ring falls between the end of a wait and the using up of the ring that ended it."""
    bell, count = real_bell, 2000
    said: list[int] = []

    def tell() -> None:
        for at in range(count):
            said.append(at)
            bell.ring()

    teller = threading.Thread(target=tell)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        teller.start()
        while len(said) < count:
            assert bell.wait(SOON_S), f"{len(said)} of {count} were said"
    finally:
        sys.setswitchinterval(interval)
        teller.join(SOON_S)


# Only the bell of the loop: no signal handler rings that of a thread, whose ring would wait for itself there.


def test_a_signal_handler_wakes_the_waiter(loop_bell: Bell) -> None:
    bell = loop_bell
    before = signal.signal(signal.SIGUSR1, lambda signum, frame: bell.ring())
    main = threading.main_thread().ident
    assert main is not None
    sender = threading.Timer(SHORT_S, lambda: signal.pthread_kill(main, signal.SIGUSR1))
    try:
        sender.start()
        assert wakes_soon(RealWorld(), bell)
        sender.join(SOON_S)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_handler_that_rings_during_a_ring_does_no_harm(loop_bell: Bell) -> None:
    bell = loop_bell
    before = signal.signal(signal.SIGALRM, lambda signum, frame: bell.ring())
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        deadline = time.monotonic() + 0.1
        while time.monotonic() < deadline:
            bell.ring()
            assert bell.wait(SOON_S) is True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
