"""The cluster: nodes, the processes on them and the links between them. Physics only: no agent, no policy, no verdicts.

A process is what can be killed or stopped; a node is what can lose power, be paused or run slowly. When either dies,
its tasks never run again, and what it held (listeners, connections) is dead before anybody else moves.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

from simulator.kernel import SECOND, Kernel, Task
from toolkit.core.actions import Action
from toolkit.core.events import Event

#: wall clocks of nodes start around here (2026-01-01), in nanoseconds since the epoch
WALL_START_NS = 1_767_225_600 * SECOND
#: one way between two nodes, and between two processes of one node
LINK_NS, LOOPBACK_NS = 200_000, 20_000


#: when TCP sends again what was not acknowledged, in nanoseconds after the first time, and when it gives up
_FIRST_RESEND_NS, _LONGEST_PAUSE_NS, _GIVE_UP_NS = SECOND // 5, 120 * SECOND, 924 * SECOND


#: behind each host name in the full one
DOMAIN = ".sim"


class Connection(Protocol):
    """What can be reset."""

    @property
    def busy(self) -> bool:
        """Whether an answer is awaited on it."""
        ...

    def reaches(self, node: Node) -> bool:
        """Whether one of its ends is there."""
        ...

    def reset(self, why: str) -> None:
        """It breaks at both ends."""
        ...


class Control(Protocol):
    """Takes orders for an agent."""

    def put(self, action: Action) -> Any:
        """Give one."""
        ...


class Node:
    """One machine.

    Args:
        world: where it stands.
        name: its host name.
        index: counts the nodes, from 0.
    """

    def __init__(self, world: World, name: str, index: int) -> None:
        self.world = world
        self._kernel = world.kernel
        self.name = name
        self.index = index
        self.address = f"10.0.{index // 250}.{index % 250 + 1}"
        self.up = True
        self.boots = 1
        self.paused = False
        #: work takes so many times longer
        self.slowness = 1.0
        #: seconds that its wall clock is ahead
        self.clock_offset_s = 0.0
        #: share by which both its clocks run too fast, since when, and how far ahead they were then
        self.clock_drift = 0.0
        self._drifts_since_ns = 0
        self._ahead_then_ns = 0
        #: the moment of its boot, as its clocks count from the start of the world
        self._booted_ns = 0
        #: what its clocks are ahead of the world's, while they do not drift
        self.gained_ns = 0
        self.disk_full = False
        #: seconds that a worker which starts here takes more, before user code
        self.start_delay_s = 0.0
        #: local ranks whose next start fails, as a full process table would make it
        self.failing_starts: list[int] = []
        self.processes: dict[int, Process] = {}
        #: what strikes when its agent sends the store operation of that number
        self.on_operation: dict[int, Callable[[], None]] = {}
        self._ports = itertools.count(40_000)

    @property
    def full_name(self) -> str:
        """Its name with the domain."""
        return f"{self.name}{DOMAIN}"

    def start_process(self, name: str, *, parent: Process | None = None) -> Process:
        """A new process; the node must be up."""
        assert self.up, f"{self.name} is down, and {name} can't be started there"
        process = Process(self, next(self.world.pids), name, parent)
        self.processes[process.pid] = process
        return process

    def drift(self, share: float) -> None:
        """From now on both its clocks run that share too fast; what they have gained so far stays."""
        self._ahead_then_ns, self._drifts_since_ns = self.ahead_ns, self.world.kernel.now_ns
        self.clock_drift = share
        self.gained_ns = self._ahead_then_ns - self._booted_ns

    @property
    def ahead_ns(self) -> int:
        """What its clocks have gained by drift since the start of the world."""
        return self._ahead_then_ns + int((self._kernel.now_ns - self._drifts_since_ns) * self.clock_drift)

    @property
    def uptime_ns(self) -> int:
        """Since its boot, as its own oscillator counts."""
        return self._kernel.now_ns + self.ahead_ns - self._booted_ns

    def free_port(self) -> int:
        """A port that was not given before."""
        return next(self._ports)

    def crash(self) -> None:
        """Power cut: everything on it is gone, and nobody is told."""
        if not self.up:
            return
        self.up = False
        for process in list(self.processes.values()):
            process.vanish()
        self.processes.clear()

    def boot(self) -> None:
        """Power is back; nothing runs yet."""
        assert not self.up, f"{self.name} is up already"
        self.up, self.paused = True, False
        self.boots += 1
        self._booted_ns = self._kernel.now_ns + self.ahead_ns
        self.gained_ns = self._ahead_then_ns - self._booted_ns
        self.failing_starts.clear()

    def pause(self) -> None:
        """Everything on it stands still; its clocks go on."""
        self.paused = True

    def unpause(self) -> None:
        """Everything on it goes on."""
        self.paused = False
        for process in list(self.processes.values()):
            process.go_on()


class Process:
    """One process of a node; owner of tasks.

    Args:
        node: where it runs.
        pid: unique in the world.
        name: for the trace.
        parent: who started it.
    """

    def __init__(self, node: Node, pid: int, name: str, parent: Process | None) -> None:
        self.node = node
        self.pid = pid
        self.label = name
        self.parent = parent
        self.alive = True
        self.stopped = False
        self.exit_code: int | None = None
        self.tasks: list[Task] = []
        #: called in the hub, in order, when it ends other than by a power cut; then its descriptors are closed
        self.on_exit: list[Callable[[int], None]] = []
        #: called in the hub when it is gone, for whatever reason: what it held is dead
        self.on_gone: list[Callable[[], None]] = []
        #: called in the hub when it goes on after a pause
        self.on_resume: list[Callable[[], None]] = []
        #: what it does on a signal; without it a signal ends it
        self.on_signal: Callable[[int], None] | None = None
        #: what an agent is told by somebody at its machine
        self.control: Control | None = None
        #: of a worker
        self.local_rank: int | None = None
        #: its work takes so many times longer
        self.slowness = 1.0
        #: what it writes into its error file when it fails
        self.last_words: dict[str, Any] | None = None
        #: store operations that it has sent
        self.operations = 0
        #: what breaks when connections are reset
        self.connections: list[Connection] = []
        #: signals that came while it was paused
        self._held_signals: list[int] = []

    @property
    def name(self) -> str:
        """For the trace."""
        return f"{self.node.name}/{self.label}"

    @property
    def paused(self) -> bool:
        """Whether its tasks stand still."""
        return self.stopped or self.node.paused

    def spawn(self, run: Callable[[], Any], name: str, after_ns: int = 0) -> Task:
        """A task of this process."""
        task = self.node.world.kernel.spawn(run, f"{self.name}/{name}", self, after_ns)
        self.tasks.append(task)
        return task

    def end(self, exit_code: int) -> None:
        """It ends; -N for death by signal N. Its parent is told, its connections are closed."""
        if not self.alive:
            return
        self.exit_code = exit_code
        self.vanish()
        self.node.processes.pop(self.pid, None)
        for tell in self.on_exit:
            tell(exit_code)

    def did_operation(self) -> None:
        """It has sent a store operation; some fault may wait for that."""
        self.operations += 1
        if not self.node.on_operation:
            return  # as nearly always
        strike = None if self.parent is not None else self.node.on_operation.pop(self.operations, None)
        if strike is not None:
            kernel, what = self.node.world.kernel, f"{self.node.name} is struck at a store operation"
            kernel.call_after(0, what, strike)
            # It does nothing more before it is struck.
            kernel.park(what, 1)

    def vanish(self) -> None:
        """It is gone without a word. Its tasks never run again."""
        if not self.alive:
            return
        self.alive = False
        for task in self.tasks:
            self.node.world.kernel.kill(task)
        for release in self.on_gone:
            release()

    def go_on(self) -> None:
        """Take up what came while it was paused, if nothing pauses it any more."""
        if self.paused or not self.alive:
            return
        self.node.world.kernel.resume(self)
        for take_up in self.on_resume:
            take_up()
        held, self._held_signals = self._held_signals, []
        for signum in held:
            self.receive(signum)

    def receive(self, signum: int) -> None:
        """A signal arrives. SIGKILL, SIGSTOP and SIGCONT do what they do; others what `on_signal` does, or end it."""
        if not self.alive:
            return
        match signum:
            case signal.SIGKILL:
                self.end(-signum)
            case signal.SIGSTOP:
                self.stopped = True
            case signal.SIGCONT:
                self.stopped = False
                self.go_on()
            case _ if self.paused:
                self._held_signals.append(signum)
            case _ if self.on_signal is None:
                self.end(-signum)
            case _:
                self.on_signal(signum)


@dataclass(slots=True)
class Link:
    """One direction between two nodes.

    Args:
        latency_ns: one way.
        cut: nothing arrives, and nobody is told.
        unheard: what was sent since it was cut.
    """

    latency_ns: int = LINK_NS
    cut: bool = False
    unheard: list[_Unheard] = field(default_factory=list)


@dataclass(slots=True)
class _Unheard:
    sent_ns: int
    boots: tuple[int, int]
    what: str
    arrive: Callable[[], None]

    def sent_again_ns(self, from_ns: int) -> int | None:
        """When TCP sends it again, at `from_ns` or later; None if it has given up."""
        pause_ns, at_ns = _FIRST_RESEND_NS, self.sent_ns + _FIRST_RESEND_NS
        while at_ns < from_ns:
            pause_ns = min(2 * pause_ns, _LONGEST_PAUSE_NS)
            at_ns += pause_ns
        return at_ns if at_ns - self.sent_ns <= _GIVE_UP_NS else None


class Route:
    """What carries messages from one node to another, in this direction.

    Args:
        kernel: of the world.
        source: who sends.
        target: who gets them.
        link: between the two.
    """

    __slots__ = ("_kernel", "_source", "_target", "_link", "_draw")

    def __init__(self, kernel: Kernel, source: Node, target: Node, link: Link) -> None:
        self._kernel = kernel
        self._source, self._target = source, target
        self._link = link
        self._draw = kernel.tape.drawer("latency")

    def send(self, what: str, arrive: Callable[[], None]) -> None:
        """Have `arrive` called in the hub when a message has come, which a lost host prevents and a cut link delays."""
        latency_ns = self.latency_ns()
        if latency_ns is not None:
            self._kernel.call_after(latency_ns, what, arrive)
        elif self._source.up and self._target.up:
            boots = (self._source.boots, self._target.boots)
            self._link.unheard.append(_Unheard(self._kernel.now_ns, boots, what, arrive))

    def latency_ns(self) -> int | None:
        """How long a message takes now; None if it doesn't arrive now."""
        source, link = self._source, self._link
        if not (source.up and self._target.up):
            return None
        if source is self._target:
            return LOOPBACK_NS
        if link.cut:
            return None
        # Up to a tenth more: no two messages take exactly as long.
        return link.latency_ns + self._draw(link.latency_ns // 10 + 1)


class Network:
    """Carries messages between processes, in order on each connection, or swallows them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._links: dict[tuple[str, str], Link] = {}
        #: how many links are cut
        self.cuts = 0
        #: called in the hub when a link that was cut is whole again
        self.on_mend: list[Callable[[], None]] = []

    def link(self, source: Node, target: Node) -> Link:
        """The link in this direction; changes to it count from now on."""
        ends = (source.name, target.name)
        link = self._links.get(ends)
        if link is None:
            link = self._links[ends] = Link()
        return link

    def cut(self, source: Node, target: Node) -> None:
        """From now on nothing arrives in this direction."""
        link = self.link(source, target)
        self.cuts += not link.cut
        link.cut = True

    def mend(self, source: Node, target: Node) -> None:
        """Messages arrive again; those that were sent meanwhile when TCP sends them the next time."""
        link, kernel = self.link(source, target), self._world.kernel
        if not link.cut:
            return
        link.cut = False
        self.cuts -= 1
        unheard, link.unheard = link.unheard, []
        for message in unheard:
            at_ns = message.sent_again_ns(kernel.now_ns)
            if at_ns is not None and message.boots == (source.boots, target.boots):
                resend = partial(self.route(source, target).send, message.what, message.arrive)
                kernel.call_at(at_ns, f"again: {message.what}", resend)
        for tell in self.on_mend:
            tell()

    def route(self, source: Node, target: Node) -> Route:
        """The way from one node to the other, for many messages."""
        return Route(self._world.kernel, source, target, self.link(source, target))


class Said(NamedTuple):
    """When an event was said.

    Args:
        at_ns: virtual time, which no node knows.
        operations: what all stores had done until then.
    """

    at_ns: int
    operations: int


class World:
    """Everything outside the agents.

    Args:
        kernel: of this run.
        names: host names, one for each node.
    """

    def __init__(self, kernel: Kernel, names: list[str]) -> None:
        self.kernel = kernel
        self.pids = itertools.count(1000)
        self.nodes = {name: Node(self, name, index) for index, name in enumerate(names)}
        self._by_address = {node.address: node for node in self.nodes.values()}
        self.network = Network(self)
        #: what listens where: (address, port) -> a server
        self.listeners: dict[tuple[str, int], Any] = {}
        #: what agents said, in the order of the world, and for each when it was said and how many store operations
        #: had been done by then
        self.events: list[Event] = []
        self.said: list[Said] = []
        self.operations = 0

    def say(self, event: Event) -> None:
        """Keep what an agent says."""
        self.events.append(event)
        self.said.append(Said(self.kernel.now_ns, self.operations))

    def node_at(self, address: str) -> Node | None:
        """The node with that address, name or full name; up or not."""
        return self.nodes.get(address.removesuffix(DOMAIN)) or self._by_address.get(address)
