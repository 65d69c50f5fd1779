"""The contract of `Clock`: monotonic time goes on and never back; wall time is nanoseconds since the epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.agent.world import Time
from toolkit.adapters.clock import SystemClock
from toolkit.ports import Clock

from .worlds import SimWorld


@dataclass(frozen=True, slots=True)
class ClockAdapter:
    """A clock, and what makes its time pass."""

    make: Callable[[], Clock]
    pass_time: Callable[[], object]


def _simulated(drift: float = 0.0, offset_s: float = 0.0, after_s: float = 0.0) -> ClockAdapter:
    world = SimWorld()
    from simulator.adapters.clock import NodeClock

    def pass_time(seconds: float = 0.001) -> None:
        world.kernel.run(until_ns=world.kernel.now_ns + int(seconds * 1e9))

    world.node.drift(drift)
    world.node.clock_offset_s = offset_s
    pass_time(after_s)
    return ClockAdapter(lambda: NodeClock(world.node), pass_time)


def _fake() -> ClockAdapter:
    fake = Time()
    return ClockAdapter(lambda: fake, lambda: fake.advance(0.001))


ADAPTERS: dict[str, Callable[[], ClockAdapter]] = {
    "system": lambda: ClockAdapter(SystemClock, lambda: time.sleep(0.001)),
    "simulated": _simulated,
    "simulated-wrong": lambda: _simulated(drift=-0.3, offset_s=-86400.0, after_s=1000.0),
    "fake": _fake,
}

#: 2020-01-01 and 2100-01-01
WALL_MIN_NS, WALL_MAX_NS = 1_577_836_800 * 10**9, 4_102_444_800 * 10**9


@pytest.fixture(params=ADAPTERS.values(), ids=list(ADAPTERS))
def adapter(request: pytest.FixtureRequest) -> ClockAdapter:
    made: ClockAdapter = request.param()
    return made


def test_monotonic_time_never_goes_back(adapter: ClockAdapter) -> None:
    clock = adapter.make()
    readings = [clock.now_ns() for _ in range(1000)]
    assert all(isinstance(reading, int) for reading in readings)
    assert readings == sorted(readings)


def test_monotonic_time_goes_on(adapter: ClockAdapter) -> None:
    clock = adapter.make()
    before_ns = clock.now_ns()
    adapter.pass_time()
    assert clock.now_ns() > before_ns


def test_two_clocks_of_one_node_agree(adapter: ClockAdapter) -> None:
    first, second = adapter.make(), adapter.make()
    before_ns, between_ns, after_ns = first.now_ns(), second.now_ns(), first.now_ns()
    assert before_ns <= between_ns <= after_ns


def test_wall_time_is_nanoseconds_since_the_epoch(adapter: ClockAdapter) -> None:
    now_ns = adapter.make().wall_ns()
    assert isinstance(now_ns, int)
    assert WALL_MIN_NS < now_ns < WALL_MAX_NS
