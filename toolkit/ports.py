"""What the agent asks of the world: one Protocol per outside thing, and one frozen value that holds them all.

The agent sees nothing else. Production fills the ports from `toolkit.adapters`, the simulator from
`simulator.adapters`; each port has a contract suite in `tests/contracts/` that all its adapters pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from toolkit.core.actions import Action, NoOrders, Outcome
from toolkit.core.events import Event
from toolkit.core.hanging.watched import Condemned, NoWatch, WatchedWorker
from toolkit.core.job_report import FailureRecord, JobReport
from toolkit.core.launch_plan import LaunchPlan, Leftover, WorkerExit
from toolkit.core.lost_output import LostOutput
from toolkit.core.model import WorkerSpec
from toolkit.core.rounds import Over, Ring


class Clock(Protocol):
    """Time of this node. Two nodes' times are never compared."""

    def now_ns(self) -> int:
        """Monotonic nanoseconds."""
        ...

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch; may jump. For people and torch's formats only."""
        ...


class Bell(Protocol):
    """Wakes the agent's loop. Rung by worker exits, signals, control; one waiter, any number of ringers."""

    def ring(self) -> None:
        """Wake the waiter, now or at its next wait. Never blocks; safe in a signal handler and any thread."""
        ...

    def wait(self, timeout_s: float | None) -> bool:
        """Block until rung or until `timeout_s` has passed (None: no limit).

        Returns:
            True if it was rung since the last wait; that ring is then used up.
        """
        ...


class Store(Protocol):
    """The operations of torch's `Store` that the agent uses. torch's own stores fit as they are.

    Values are bytes; a str is stored as UTF-8. Keys are str.
    """

    def set(self, key: str, value: str | bytes, /) -> None: ...
    def get(self, key: str, /) -> bytes:
        """The value; waits for the key up to the store's timeout."""
        ...

    def add(self, key: str, amount: int, /) -> int:
        """Add to a counter that starts at 0 and return the sum."""
        ...

    def append(self, key: str, value: str | bytes, /) -> None:
        """Put `value` behind the value of `key`; a missing key is made."""
        ...

    def multi_get(self, keys: list[str], /) -> list[bytes]: ...
    def multi_set(self, keys: list[str], values: list[str] | list[bytes], /) -> None: ...
    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes, /) -> bytes:
        """Set if the value is `expected` (or, if the key is missing, if `expected` is empty)."""
        ...

    def check(self, keys: list[str], /) -> bool:
        """Whether all keys exist; never waits."""
        ...

    def wait(self, keys: list[str], timeout: timedelta, /) -> None:
        """Block until all keys exist. Raises an error after `timeout`."""
        ...

    def delete_key(self, key: str, /) -> bool: ...


class Stores(Protocol):
    """Makes waits on any store, torch's or ours, end the same way."""

    def wait(self, store: Any, keys: list[str], timeout_s: float) -> None:
        """Wait until all keys exist; a death signal ends the wait at once or within a fraction of a second.

        Raises:
            StoreTimeoutError: `timeout_s` has passed.
            StoreError: the store failed.
            SignalException: a death signal came.
        """
        ...


class StoreConnector(Protocol):
    """Makes connections to the one store where the nodes of a job meet, which one of them may host."""

    @property
    def where(self) -> str:
        """The store in words: its host and port. Every error about it names this."""
        ...

    @property
    def hosting(self) -> bool:
        """Whether this agent hosts the store, so that it must be the last to leave. Known after `connect`."""
        ...

    @property
    def local_address(self) -> str:
        """What the others can call this machine: this end of the connection. Known after `connect`."""
        ...

    def connect(self, timeout_s: float) -> Store:
        """A connection of its own; hosts the store first where that is this agent's part. Blocks.

        Raises:
            StoreError: nobody answered within `timeout_s`, or what answered is no such store.
        """
        ...

    def close(self) -> None:
        """Let go of the store, if this agent hosts it."""
        ...


class Rendezvous(Protocol):
    """Forms the group. torch's `RendezvousHandler`s fit as they are.

    `next_rendezvous` returns a value with `store`, `rank`, `world_size` and `bootstrap_store_info`
    (`master_addr`, `master_port`). A handler may have an attribute `rings_bell`: true if it wakes the agent
    when a node waits to join, so that nobody needs to ask `num_nodes_waiting` again and again.
    """

    @property
    def use_agent_store(self) -> bool:
        """Whether the workers use the store that the agent hosts, at MASTER_ADDR:MASTER_PORT."""
        ...

    def get_backend(self) -> str: ...
    def next_rendezvous(self) -> Any: ...
    def is_closed(self) -> bool: ...
    def set_closed(self) -> None: ...
    def num_nodes_waiting(self) -> int: ...
    def get_run_id(self) -> str: ...
    def shutdown(self) -> bool: ...


class JobRendezvous(Rendezvous, Protocol):
    """A rendezvous that also shares why rounds end, who failed and how the job ends: `toolkit.agent.rendezvous`.

    What `next_rendezvous` returns has `base`, `round`, `epoch`, `restarts`, `seat`, `coordinator` and `past` besides.
    """

    def attach(
        self,
        say: Callable[..., None],
        ports: Ports,
        spec: WorkerSpec,
        heed: Callable[[], None] = lambda: None,
    ) -> None:
        """An agent takes this rendezvous for its own.

        Args:
            say: takes events as `say(kind, **fields)`, from any thread.
            heed: called in each wait of the agent's; what it raises ends the wait.
        """
        ...

    def patience_s(self) -> float:
        """How long the loop may wait before it calls `over` again, in seconds."""
        ...

    def over(self) -> Over | None:
        """What became of this agent's round; None while it goes on. Never blocks."""
        ...

    def still_in(self) -> bool:
        """Whether this agent's round goes on, as of now."""
        ...

    def fail(self, records: Sequence[FailureRecord], ring: Ring | None, why: str) -> Over:
        """Say that workers of this node have failed, and what is to follow; returns what was decided for all."""
        ...

    def restart(self, why: str) -> Over | None:
        """End the round of all nodes at no cost to the budget; None where nothing is started again any more."""
        ...

    def hurry(self) -> None:
        """End the back-off before the next start, for all nodes."""
        ...

    def stop(self, why: str) -> bool:
        """End the job for all nodes. Returns whether it has ended."""
        ...

    def succeed(self) -> Over | None:
        """Say that this node has succeeded; returns what had ended the round before, if anything."""
        ...

    def wait_for_end(self) -> Over:
        """The exit barrier."""
        ...

    def report(self) -> JobReport:
        """How the job ended."""
        ...

    def leave(self, reason: str = "") -> None:
        """Leave the job; `reason` is told to a round that goes on. Bounded; raises nothing."""
        ...


class Workers(Protocol):
    """The processes of one incarnation of the group, from their start until they are closed."""

    def ids(self) -> Mapping[int, int]:
        """Process ids by local rank."""
        ...

    def exits(self) -> Sequence[WorkerExit]:
        """Workers that have ended, in the order in which they did. Never blocks."""
        ...

    def running(self) -> Sequence[int]:
        """Local ranks of those that have not."""
        ...

    def signal(self, signum: int, local_ranks: Sequence[int] | None = None) -> None:
        """Send a signal to the process group of each worker that still runs, or of those among `local_ranks`.

        One that asks for stops (`toolkit.stop_requested`) gets those that it handles alone.
        """
        ...

    def forward(self, signum: int, local_ranks: Sequence[int]) -> Sequence[int]:
        """Send a signal to the first process of each of these workers, unless it would die of it.

        Returns:
            Those that got it. Who has no handler for it, or not yet, did not; nor did who has ended.
        """
        ...

    def kill(self) -> None:
        """SIGKILL to the process group of every worker, also of those whose first process is gone.

        And to what these have left behind.
        """
        ...

    def left_behind(self) -> Sequence[Leftover]:
        """What workers that have ended had started and is still there, as far as it can get a signal of its own.

        The bell is rung when one of these ends, where the kernel tells. Never blocks.
        """
        ...

    def signal_left(self, signum: int) -> None:
        """Send a signal to each of these, once; not to who has had it with the group of its worker."""
        ...

    def notices(self) -> Sequence[str]:
        """Sentences for people about what keeps these processes from outliving the agent, each once."""
        ...

    def losses(self) -> Sequence[LostOutput]:
        """Output that did not reach its log, as far as this has not told of it. What is new rings the bell."""
        ...

    def close(self) -> Sequence[LostOutput]:
        """Flush logs and release what is held for these workers. Their processes must be gone or given up.

        Returns:
            What `losses` would.
        """
        ...


class Launcher(Protocol):
    """Starts workers."""

    def start(self, plan: LaunchPlan, bell: Bell, give_up: Callable[[], bool]) -> Workers:
        """Start all workers of the plan; from then on each exit rings `bell`.

        Args:
            give_up: asked before each worker; true ends the start.

        Raises:
            LaunchError: one could not be started, or `give_up` said so; those that were are killed.
        """
        ...


class Interrupts(Protocol):
    """Death signals to the agent."""

    def handling(self, bell: Bell) -> AbstractContextManager[None]:
        """While entered, death signals are counted and ring the bell. Restores the old handlers on leaving.

        Does nothing where handlers can't be installed (another thread than the main one). Re-entrant.
        """
        ...

    def interruptible(self) -> AbstractContextManager[None]:
        """While entered, a death signal raises SignalException at once: for calls into foreign code that blocks.

        A signal that came before raises on entering.
        """
        ...

    def take(self) -> int | None:
        """The oldest signal that nobody took yet."""
        ...

    def count(self) -> int:
        """Signals so far, taken or not."""
        ...

    def take_forwarded(self) -> Sequence[int]:
        """Signals that are meant for the workers and that nobody took yet, each once. They ring the bell, too."""
        ...


class Order(Protocol):
    """An action, and somebody who waits to hear what becomes of it."""

    @property
    def action(self) -> Action: ...

    @property
    def withdrawn(self) -> str:
        """Why it is not to be done any more, or an empty string. Does not change once it is taken."""
        ...

    def answer(self, outcome: Outcome) -> None:
        """Say what became of it. Never blocks."""
        ...


class Control(Protocol):
    """What somebody outside tells this agent to do. An order that comes rings the agent's bell."""

    def waiting(self) -> bool:
        """Whether there is an order that nobody took yet."""
        ...

    def take(self) -> Order | None:
        """The oldest of them. Never blocks."""
        ...

    def met(self, store: Store, group_rank: int, group_world_size: int) -> None:
        """This agent has its place in a round, whose agents can tell each other things by that store. Never blocks."""
        ...


class SayWhile(Protocol):
    """Says an event with the agent's header, if `still` holds in the moment in which it is said."""

    def __call__(self, still: Callable[[], bool], kind: type[Event], /, **fields: Any) -> None: ...


class Watch(Protocol):
    """Looks, beside the agent's loop, whether the workers still move. Raises nothing and holds nobody up."""

    def prepare(self, local_world_size: int) -> Sequence[Mapping[str, str]]:
        """Get ready for workers that are about to start. Returns variables for each of them, by local rank."""
        ...

    def begin(
        self, incarnation: int, workers: Sequence[WatchedWorker], *, alone: bool, say: SayWhile, bell: Bell
    ) -> None:
        """They run.

        Args:
            alone: whether this node is the whole group.
            say: takes what there is to tell.
            bell: rung when somebody is condemned, and again and again as long as he lives.
        """
        ...

    def condemned(self) -> Sequence[Condemned]:
        """Workers that the agent is to kill; each as long as it runs."""
        ...

    def steps(self) -> Mapping[int, int]:
        """The step that each worker has told last, by local rank; known until the next `prepare`."""
        ...

    def end(self) -> None:
        """They are to be stopped, or never ran: look no more. May be called again."""
        ...


class EventSink(Protocol):
    """Takes the typed events."""

    def emit(self, event: Event) -> None:
        """Never raises; blocks for a bounded, short time at the most."""
        ...


class Telemetry(Protocol):
    """torch's event and metric handlers, where somebody uses them."""

    def put_metric(self, name: str, value: int, group: str) -> None: ...

    def wanted(self, destination: str) -> bool:
        """Whether anybody receives what is recorded for this handler; if not, events need not be made."""
        ...

    def record(self, event: Any, destination: str) -> None: ...


class Host(Protocol):
    """This machine."""

    def hostname(self) -> str:
        """Short and cheap; no name service is asked."""
        ...

    def fq_hostname(self) -> str:
        """Fully qualified; looked up once."""
        ...

    def pid(self) -> int: ...

    def environment(self) -> Mapping[str, str]:
        """The environment that workers inherit."""
        ...

    def reserve_port(self) -> Reservation:
        """A free TCP port that nobody else is given until it is released."""
        ...


class Reservation(Protocol):
    """A port that is kept for a worker to listen on."""

    @property
    def port(self) -> int: ...

    def release(self) -> None: ...


class Tasks(Protocol):
    """Code that runs beside the agent's loop."""

    def spawn(self, run: Callable[[], None], name: str) -> None:
        """Start `run` beside the caller. Nobody waits for its end; it must not raise, and it ends with the process."""
        ...

    def new_bell(self) -> Bell:
        """A bell for what was spawned; not to be rung by a signal handler."""
        ...

    def new_lock(self) -> AbstractContextManager[Any]:
        """What only one may hold at a time, for moments: who holds it does not wait for anything. Not re-entrant."""
        ...


class Entropy(Protocol):
    """Randomness."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...

    def token(self) -> str:
        """A fresh identifier: letters and digits, at least 64 bits."""
        ...


@dataclass(frozen=True, slots=True)
class Ports:
    """All ports of one agent."""

    clock: Clock
    bell: Bell
    stores: Stores
    launcher: Launcher
    interrupts: Interrupts
    events: EventSink
    telemetry: Telemetry
    host: Host
    entropy: Entropy
    tasks: Tasks
    new_store: Callable[[], Store]
    """A fresh in-memory store."""
    control: Control = field(default_factory=NoOrders)
    watch: Watch = field(default_factory=NoWatch)
