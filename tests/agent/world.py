"""A small world for the agent: one node, virtual time, workers that do what a script says.

Time moves only in `bell.wait`: to the next happening, or by the timeout. Nothing runs in parallel.
"""

from __future__ import annotations

import heapq
import itertools
import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from toolkit.adapters.memory_store import MemoryStore
from toolkit.adapters.tasks import Threads
from toolkit.agent.launched import LaunchedAgent
from toolkit.agent.solo import SoloRendezvous
from toolkit.core.actions import Action, Outcome
from toolkit.core.errors import LaunchError, SignalException, StoreTimeoutError
from toolkit.core.events import Event
from toolkit.core.hanging.watched import Condemned, WatchedWorker
from toolkit.core.launch_plan import LaunchPlan, Leftover, LogLayout, WorkerExit
from toolkit.core.lost_output import LostOutput
from toolkit.core.model import WorkerSpec
from toolkit.ports import Ports

SECOND = 1_000_000_000


class StuckError(AssertionError):
    """The agent waits for ever."""


class Time:
    """Virtual time: implements Clock, and knows what happens next."""

    def __init__(self) -> None:
        self.ns = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def now_ns(self) -> int:
        return self.ns

    def wall_ns(self) -> int:
        return 1_700_000_000 * SECOND + self.ns

    def at(self, after_s: float, happening: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.ns + int(after_s * SECOND), next(self._order), happening))

    def advance(self, timeout_s: float | None) -> None:
        """To the next happening within the timeout, which then happens; else by the timeout."""
        limit_ns = None if timeout_s is None else self.ns + int(timeout_s * SECOND)
        if self._heap and (limit_ns is None or self._heap[0][0] <= limit_ns):
            at_ns, _, happening = heapq.heappop(self._heap)
            self.ns = max(self.ns, at_ns)
            happening()
        elif limit_ns is None:
            raise StuckError("nothing will ever happen")
        else:
            self.ns = limit_ns


class FakeBell:
    """Implements Bell."""

    def __init__(self, time: Time) -> None:
        self._time = time
        self._rung = False
        self.waits: list[float | None] = []

    def ring(self) -> None:
        self._rung = True

    def wait(self, timeout_s: float | None) -> bool:
        self.waits.append(timeout_s)
        if not self._rung:
            self._time.advance(timeout_s)
        rung, self._rung = self._rung, False
        return rung


class FakeInterrupts:
    """Implements Interrupts; `send` is the outside world."""

    def __init__(self) -> None:
        self._bell: FakeBell | None = None
        self._pending: list[int] = []
        self._forwarded: list[int] = []
        self._count = 0
        self._raising = False
        self.was_handling = False

    @contextmanager
    def handling(self, bell: FakeBell) -> Iterator[None]:
        self._bell, self.was_handling = bell, True
        yield
        self._bell = None

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        self._raising = True
        try:
            self._raise_pending()
            yield
        finally:
            self._raising = False

    def send(self, sig: signal.Signals) -> None:
        self._count += 1
        self._pending.append(sig)
        if self._bell is not None:
            self._bell.ring()
        if self._raising:
            self._raise_pending()

    def _raise_pending(self) -> None:
        signum = self.take()
        if signum is not None:
            raise SignalException("got a signal", signal.Signals(signum))

    def take(self) -> int | None:
        return self._pending.pop(0) if self._pending else None

    def count(self) -> int:
        return self._count

    def forward(self, sig: signal.Signals) -> None:
        self._forwarded.append(sig)
        if self._bell is not None:
            self._bell.ring()

    def take_forwarded(self) -> list[int]:
        taken, self._forwarded = self._forwarded, []
        return taken


class FakeStores:
    """Implements Stores: a key that is not there never comes, and time passes."""

    def __init__(self, time: Time) -> None:
        self._time = time

    def wait(self, store: Any, keys: list[str], timeout_s: float) -> None:
        if not store.check(keys):
            self._time.ns += int(timeout_s * SECOND)
            raise StoreTimeoutError(f"{keys} did not come within {timeout_s} s")


@dataclass(frozen=True)
class Script:
    """What one worker does.

    Args:
        runs_s: ends by itself after this time; None never does.
        exit_code: with which it ends by itself.
        value: what it returns.
        dies_after_s: how long it takes to end after SIGTERM; None ignores it.
        killable: whether SIGKILL ends it.
        said: the end of its stderr.
        said_s: when it said the last of that, after its start; None is when it ended.
        dies_with: its exit code after SIGTERM; None is death by that signal.
        handles: signals that are no death to it, from the second look on: its handlers take a moment.
    """

    runs_s: float | None = 1.0
    exit_code: int = 0
    value: Any = None
    dies_after_s: float | None = 0.0
    killable: bool = True
    said: str = ""
    said_s: float | None = None
    dies_with: int | None = None
    handles: frozenset[int] = frozenset()


@dataclass
class FakeWorkers:
    """Implements Workers."""

    time: Time
    bell: FakeBell
    scripts: Sequence[Script]
    first_pid: int
    ends: list[WorkerExit] = field(default_factory=list)
    signals: list[int] = field(default_factory=list)
    closed: bool = False
    loses_logs: bool = False
    forwarded: list[tuple[int, int]] = field(default_factory=list)
    looks: int = 0
    lost: list[LostOutput] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.started_wall_ns = self.time.wall_ns()
        for rank, script in enumerate(self.scripts):
            if script.runs_s is not None:
                self._end_after(script.runs_s, rank, script.exit_code, script.value)

    def _end_after(self, after_s: float, rank: int, code: int, value: Any = None) -> None:
        def end() -> None:
            if rank in self._running():
                self.ends.append(self._end(rank, code, value))
                self.bell.ring()

        self.time.at(after_s, end)

    def _end(self, rank: int, code: int, value: Any) -> WorkerExit:
        script, now_ns = self.scripts[rank], self.time.wall_ns()
        said_ns = now_ns if script.said_s is None else self.started_wall_ns + int(script.said_s * SECOND)
        return WorkerExit(
            rank,
            self.first_pid + rank,
            code,
            self.time.ns,
            now_ns // SECOND,
            value,
            last_words=script.said,
            said_at_ns=said_ns if script.said else 0,
        )

    def _running(self) -> list[int]:
        ended = {end.local_rank for end in self.ends}
        return [rank for rank in range(len(self.scripts)) if rank not in ended]

    def ids(self) -> Mapping[int, int]:
        return {rank: self.first_pid + rank for rank in range(len(self.scripts))}

    def exits(self) -> Sequence[WorkerExit]:
        return list(self.ends)

    def running(self) -> Sequence[int]:
        return self._running()

    def signal(self, signum: int, local_ranks: Sequence[int] | None = None) -> None:
        self.signals.append(signum)
        for rank in [r for r in self._running() if local_ranks is None or r in local_ranks]:
            delay_s = self.scripts[rank].dies_after_s
            if delay_s is not None:
                code = self.scripts[rank].dies_with
                self._end_after(delay_s, rank, -signum if code is None else code)

    def forward(self, signum: int, local_ranks: Sequence[int]) -> Sequence[int]:
        self.looks += 1
        ready = [rank for rank in local_ranks if signum in self.scripts[rank].handles and self.looks > 1]
        got = [rank for rank in self._running() if rank in ready]
        self.forwarded += [(rank, signum) for rank in got]
        return got

    def kill(self) -> None:
        self.signals.append(signal.SIGKILL)
        for rank in self._running():
            if self.scripts[rank].killable:
                self._end_after(0, rank, -signal.SIGKILL)

    def left_behind(self) -> Sequence[Leftover]:
        return ()

    def signal_left(self, signum: int) -> None:
        pass

    def notices(self) -> Sequence[str]:
        return ()

    def losses(self) -> Sequence[LostOutput]:
        lost, self.lost = self.lost, []
        return lost

    def close(self) -> Sequence[LostOutput]:
        self.closed = True
        return [LostOutput("stdout.log: disk full, 7 bytes lost")] if self.loses_logs else []


class FakeLauncher:
    """Implements Launcher: the n-th start follows the n-th row of scripts, the last row for ever."""

    def __init__(self, time: Time, rows: Sequence[Sequence[Script] | Exception]) -> None:
        self._time = time
        self._rows = rows
        self.plans: list[LaunchPlan] = []
        self.started: list[FakeWorkers] = []

    def start(
        self, plan: LaunchPlan, bell: FakeBell, give_up: Callable[[], bool] = lambda: False
    ) -> FakeWorkers:
        if give_up():
            raise LaunchError("the start was given up")
        row = self._rows[min(len(self.plans), len(self._rows) - 1)]
        self.plans.append(plan)
        if isinstance(row, Exception):
            raise row
        workers = FakeWorkers(self._time, bell, row, first_pid=100 * len(self.plans))
        self.started.append(workers)
        return workers


class FakeHost:
    """Implements Host."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = environment or {}
        self._ports = itertools.count(29501)
        self.released: list[int] = []

    def hostname(self) -> str:
        return "node"

    def fq_hostname(self) -> str:
        return "node.example"

    def pid(self) -> int:
        return 1

    def environment(self) -> Mapping[str, str]:
        return self._environment

    def reserve_port(self) -> Any:
        return FakeReservation(next(self._ports), self.released)


@dataclass
class FakeReservation:
    """Implements Reservation."""

    port: int
    released: list[int]

    def release(self) -> None:
        self.released.append(self.port)


class FakeEntropy:
    """Implements Entropy: the same numbers each time."""

    def __init__(self) -> None:
        self._numbers = random.Random(0)

    def random(self) -> float:
        return self._numbers.random()

    def token(self) -> str:
        return f"{self._numbers.getrandbits(128):032x}"


@dataclass
class FakeOrder:
    """Implements Order."""

    action: Action
    withdrawn: str = ""
    outcome: Outcome | None = None

    def answer(self, outcome: Outcome) -> None:
        self.outcome = outcome


class FakeControl:
    """Implements Control; `put` is somebody outside."""

    def __init__(self, bell: FakeBell) -> None:
        self._bell = bell
        self._queue: list[FakeOrder] = []
        self.rounds: list[tuple[Any, int, int]] = []

    def put(self, action: Action, withdrawn: str = "") -> FakeOrder:
        order = FakeOrder(action, withdrawn)
        self._queue.append(order)
        self._bell.ring()
        return order

    def waiting(self) -> bool:
        return bool(self._queue)

    def met(self, store: Any, group_rank: int, group_world_size: int) -> None:
        self.rounds.append((store, group_rank, group_world_size))

    def take(self) -> FakeOrder | None:
        return self._queue.pop(0) if self._queue else None


class FakeWatch:
    """Implements Watch; `condemn` is what somebody saw."""

    def __init__(self, time: Time) -> None:
        self._time = time
        self._bell: Any = None
        self._condemned: list[Condemned] = []
        self.begun: list[tuple[int, Sequence[WatchedWorker], bool]] = []
        self.told: dict[int, int] = {}
        self.watching = False

    def condemn(
        self, local_rank: int, signum: int = signal.SIGKILL, why: str = "hung: it does not move"
    ) -> None:
        if self.watching:
            self._condemned.append(Condemned(local_rank, signum, why))
            self._ring()

    def _ring(self) -> None:
        if self._condemned:
            self._bell.ring()
            self._time.at(1.0, self._ring)

    def prepare(self, local_world_size: int) -> Sequence[Mapping[str, str]]:
        self.end()
        return [{"RALLY_STEPS": f"slot {rank}"} for rank in range(local_world_size)]

    def begin(
        self, incarnation: int, workers: Sequence[WatchedWorker], *, alone: bool, say: Any, bell: Any
    ) -> None:
        self.begun.append((incarnation, workers, alone))
        self._bell, self.watching = bell, True

    def condemned(self) -> Sequence[Condemned]:
        return tuple(self._condemned)

    def steps(self) -> Mapping[int, int]:
        return self.told

    def end(self) -> None:
        self._condemned, self.watching = [], False


@dataclass
class Recorded:
    """Implements EventSink and Telemetry."""

    events: list[Event] = field(default_factory=list)
    metrics: list[tuple[str, int]] = field(default_factory=list)
    status: list[Any] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def put_metric(self, name: str, value: int, group: str) -> None:
        self.metrics.append((name, value))

    def wanted(self, destination: str) -> bool:
        return True

    def record(self, event: Any, destination: str) -> None:
        self.status.append(event)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class World:
    """Everything around one agent.

    Args:
        rows: what the workers of each start do, or an error of the launcher.
    """

    def __init__(self, *rows: Sequence[Script] | Exception) -> None:
        self.time = Time()
        self.bell = FakeBell(self.time)
        self.interrupts = FakeInterrupts()
        self.recorded = Recorded()
        self.launcher = FakeLauncher(self.time, rows)
        self.host = FakeHost()
        self.control = FakeControl(self.bell)
        self.watch = FakeWatch(self.time)
        self.ports = Ports(
            clock=self.time,
            bell=self.bell,
            stores=FakeStores(self.time),
            launcher=self.launcher,  # type: ignore[arg-type]
            interrupts=self.interrupts,  # type: ignore[arg-type]
            events=self.recorded,
            telemetry=self.recorded,
            host=self.host,
            entropy=FakeEntropy(),
            tasks=Threads(),
            new_store=MemoryStore,
            control=self.control,
            watch=self.watch,
        )

    def spec(self, **changes: Any) -> WorkerSpec:
        size = next(len(row) for row in self.launcher._rows if not isinstance(row, Exception))
        fields: dict[str, Any] = {
            "role": "trainer",
            "local_world_size": size,
            "rdzv_handler": SoloRendezvous("job", self.ports),
            "entrypoint": "train",
        }
        return WorkerSpec(**(fields | changes))

    def agent(self, *, shutdown_timeout: float = 30, **changes: Any) -> LaunchedAgent:
        return LaunchedAgent(
            self.spec(**changes), LogLayout("/logs"), shutdown_timeout=shutdown_timeout, ports=self.ports
        )


def crashes(script: Script = Script(), *, exit_code: int = 1, at_s: float = 1.0) -> Script:
    """The same worker, but it fails."""
    return replace(script, runs_s=at_s, exit_code=exit_code)


__all__ = ["LaunchError", "Script", "StuckError", "World", "crashes"]
