"""The sampler beside the agent: it says what runs, only while it runs, and holds nobody up."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.agent.world import Recorded
from tests.leaks import nothing_left
from toolkit.adapters.clock import SystemClock
from toolkit.adapters.host import LocalHost
from toolkit.adapters.readings import sampler as sampling
from toolkit.adapters.readings.sampler import ReadingsSampler
from toolkit.adapters.sinks import FanOut
from toolkit.adapters.tasks import Threads
from toolkit.agent.reporting import Reporter
from toolkit.core import events as ev
from toolkit.ports import Ports

from .fake_gpus import FakeDriver, FakeGpu

PATIENCE_S = 20.0
#: the shortest one that yields a percentage each time
INTERVAL_S = 0.25


class Agent:
    """Says events as an agent does, through a real reporter, with a sampler among its sinks."""

    def __init__(self, sampler: ReadingsSampler) -> None:
        self.recorded = Recorded()
        ports = SimpleNamespace(
            events=FanOut((self.recorded, sampler)), clock=SystemClock(), host=LocalHost({}), tasks=Threads()
        )
        self._reporter = Reporter(cast(Ports, ports), lambda: "job")
        sampler.begin(self._reporter.say_while)
        self.say = self._reporter.say

    def start(self, *pids: int, incarnation: int = 0) -> None:
        self.say(ev.WorkersStarting, incarnation=incarnation, count=len(pids))
        for rank, pid in enumerate(pids):
            self.say(
                ev.WorkerStarted,
                incarnation=incarnation,
                local_rank=rank,
                global_rank=rank,
                role_rank=rank,
                world_size=len(pids),
                worker_id=str(pid),
                pid=pid,
            )
        self.say(ev.WorkersStarted, incarnation=incarnation)

    def exit(self, rank: int, code: int, *, incarnation: int = 0, stopped: bool = False) -> None:
        self.say(
            ev.WorkerExited,
            incarnation=incarnation,
            local_rank=rank,
            global_rank=rank,
            pid=1,
            exit_code=code,
            stopped_by_agent=stopped,
        )

    @property
    def readings(self) -> list[ev.ReadingsTaken]:
        return [event for event in self.recorded.events if isinstance(event, ev.ReadingsTaken)]

    def wait_for(self, count: int) -> list[ev.ReadingsTaken]:
        until(f"{count} readings", lambda: len(self.readings) >= count)
        return self.readings


def until(what: str, look: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


@pytest.fixture
def sleepers() -> Iterator[list[int]]:
    """Pids of three processes that run."""
    processes = [subprocess.Popen(["sleep", "1000"]) for _ in range(3)]
    yield [process.pid for process in processes]
    for process in processes:
        process.kill()
        process.wait()


Make = Callable[..., ReadingsSampler]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[ReadingsSampler] = []

    def sampler(interval_s: float = INTERVAL_S, driver: FakeDriver | None = None) -> ReadingsSampler:
        made.append(ReadingsSampler(interval_s, notes.append, lambda: driver))
        return made[-1]

    notes: list[str] = []
    with nothing_left():
        yield sampler
        for one in made:
            one.close()
        # `close` itself hardly waits.
        until("the end of its threads", lambda: not [t for t in threading.enumerate() if _is_ours(t)])


def _is_ours(thread: threading.Thread) -> bool:
    return thread.name in ("rally-readings", "rally-gpus")


def test_it_says_what_the_workers_use_while_they_run(make: Make, sleepers: list[int]) -> None:
    gpu = FakeGpu(0, running=[sleepers[1]])
    agent = Agent(make(driver=FakeDriver(gpu)))
    agent.start(*sleepers)
    first, second = agent.wait_for(2)[:2]
    assert [worker.local_rank for worker in first.workers] == [0, 1, 2]
    assert all(0 <= worker.cpu_percent < 50 and worker.rss_bytes > 100_000 for worker in first.workers)
    assert [told.local_ranks for told in first.gpus] == [[1]]
    assert 0.2 <= (second.mono_ns - first.mono_ns) / 1e9 < 2
    assert (first.run_id, first.incarnation) == ("job", 0)
    agent.say(ev.WorkersStopped)
    count = len(agent.readings)
    time.sleep(2 * INTERVAL_S)  # what must not come has this long
    assert len(agent.readings) == count
    events = agent.recorded.events
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


def test_it_follows_a_restart_and_leaves_out_who_has_ended(make: Make, sleepers: list[int]) -> None:
    agent = Agent(make())
    agent.start(*sleepers)
    agent.wait_for(1)
    agent.exit(1, 0)
    count = len(agent.readings)
    agent.wait_for(count + 2)
    assert [worker.local_rank for worker in agent.readings[-1].workers] == [0, 2]
    agent.say(ev.WorkersStopped)
    count = len(agent.readings)
    agent.start(sleepers[2], incarnation=1)
    agent.exit(0, 0, incarnation=0)  # late, of the one before
    reading = agent.wait_for(count + 1)[-1]
    assert (reading.incarnation, [w.local_rank for w in reading.workers]) == (1, [0])


def test_a_failure_is_read_at_once(make: Make, sleepers: list[int]) -> None:
    agent = Agent(make(1.0))
    agent.start(*sleepers)
    agent.wait_for(1)
    agent.exit(0, 1)
    failed_ns = agent.recorded.events[-1].mono_ns
    reading = agent.wait_for(2)[1]
    assert (reading.mono_ns - failed_ns) / 1e9 < 0.8
    assert [worker.local_rank for worker in reading.workers] == [1, 2]
    agent.exit(1, 143, stopped=True)
    after = agent.wait_for(3)[2]
    assert (after.mono_ns - failed_ns) / 1e9 > 0.5, "those that are stopped are not worth a look of their own"


def test_no_worker_means_no_thread_and_no_reading(make: Make) -> None:
    sampler = make()
    agent = Agent(sampler)
    agent.say(ev.RendezvousStarted, backend="solo")
    agent.start(0)  # no local process
    assert agent.readings == []
    agent.say(ev.AgentFinished, result="SUCCEEDED", reason="", duration_s=1.0)
    sampler.close()
    agent.start(1)
    assert not [t for t in threading.enumerate() if _is_ours(t)]


class Stuck:
    """A sink that takes readings only while it may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.tried = 0

    def emit(self, event: ev.Event) -> None:
        if isinstance(event, ev.ReadingsTaken):
            self.tried += 1
            assert self.may.wait(PATIENCE_S)


def test_a_sink_that_is_stuck_with_a_reading_gets_no_second_one(make: Make, sleepers: list[int]) -> None:
    """What it then misses is not caught up with."""
    stuck, said = Stuck(), []

    def say(still: Callable[[], bool], kind: type[ev.Event], /, **fields: Any) -> None:
        # Without the reporter, whose lock the agent would wait for.
        assert still()
        stuck.emit(kind(**fields))
        said.append(time.monotonic())

    sampler = make()
    agent = Agent(sampler)
    sampler.begin(say)
    agent.start(*sleepers)
    until("a try", lambda: stuck.tried)
    time.sleep(4 * INTERVAL_S)
    began_s = time.monotonic()
    agent.exit(0, 0)
    assert time.monotonic() - began_s < 0.1, "the agent's own events do not wait"
    assert stuck.tried == 1
    stuck.may.set()
    until("three more", lambda: len(said) >= 4)
    assert said[3] - said[0] > 2 * INTERVAL_S, "no burst"


def test_the_end_does_not_wait_for_what_is_stuck(make: Make, sleepers: list[int]) -> None:
    stuck = Stuck()
    sampler = make()
    agent = Agent(sampler)
    sampler.begin(lambda still, kind, /, **fields: stuck.emit(kind(**fields)))
    agent.start(*sleepers)
    until("a try", lambda: stuck.tried)
    began_s = time.monotonic()
    sampler.close()
    assert time.monotonic() - began_s < 1.0
    stuck.may.set()


def test_a_reading_that_comes_too_late_is_not_said(make: Make, sleepers: list[int]) -> None:
    """The workers are stopped while it is taken."""
    driver = FakeDriver(FakeGpu(0))
    driver.answers.clear()
    sampler = make(2.0, driver)
    agent = Agent(sampler)
    agent.start(*sleepers)
    until("that it asks for the GPUs", lambda: [t for t in threading.enumerate() if t.name == "rally-gpus"])
    agent.say(ev.WorkersStopped)
    driver.answers.set()
    sampler.close()
    assert agent.readings == []


def test_an_error_costs_a_reading_and_nothing_else(make: Make, sleepers: list[int]) -> None:
    tries: list[int] = []

    def say(still: Callable[[], bool], kind: type[ev.Event], /, **fields: Any) -> None:
        tries.append(1)
        raise RuntimeError("no")

    sampler = make()
    agent = Agent(sampler)
    sampler.begin(say)
    agent.start(*sleepers)
    until("a second try", lambda: len(tries) >= 2)


def test_a_gpu_driver_that_hangs_costs_only_its_part(make: Make, sleepers: list[int]) -> None:
    driver = FakeDriver(FakeGpu(0))
    driver.answers.clear()
    agent = Agent(make(driver=driver))
    agent.start(*sleepers)
    assert all(reading.workers and not reading.gpus for reading in agent.wait_for(2))
    driver.answers.set()
    until("its readings", lambda: agent.readings[-1].gpus)


def test_after_many_readings_they_get_sparser(
    make: Make, sleepers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "SPARSER_AFTER", ((8, 4), (11, 400)))
    agent = Agent(make())
    agent.start(sleepers[0])
    times = [reading.mono_ns / 1e9 for reading in agent.wait_for(4)]
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps[:2]) < 3 * INTERVAL_S < gaps[2]
    time.sleep(2 * INTERVAL_S)
    assert len(agent.readings) == 4


def test_while_all_sleep_they_get_sparser_until_one_wakes(
    make: Make, sleepers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "ASLEEP_AFTER", 2)
    monkeypatch.setattr(sampling, "ASLEEP_EVERY", 4)
    agent = Agent(make())
    agent.start(*sleepers)
    times = [reading.mono_ns / 1e9 for reading in agent.wait_for(4)]
    assert times[1] - times[0] < 3 * INTERVAL_S < times[3] - times[2]
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        agent.start(busy.pid, sleepers[0], incarnation=1)
        until("five", lambda: sum(reading.incarnation == 1 for reading in agent.readings) >= 5)
    finally:
        busy.kill()
        busy.wait()
    awake = [reading.mono_ns / 1e9 for reading in agent.readings if reading.incarnation == 1]
    assert min(after - before for before, after in pairwise(awake)) < 3 * INTERVAL_S


def test_a_node_with_gpus_is_never_asleep(
    make: Make, sleepers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "ASLEEP_AFTER", 1)
    monkeypatch.setattr(sampling, "ASLEEP_EVERY", 1000)
    agent = Agent(make(driver=FakeDriver(FakeGpu(0, running=[sleepers[1]]))))
    agent.start(*sleepers)
    agent.wait_for(5)
