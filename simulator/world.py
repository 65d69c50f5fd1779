"""The cluster: nodes, the processes on them and the links between them. Physics only: no agent, no policy, no verdicts.

A process is what can be killed or stopped; a node is what can lose power, be paused or run slowly. When either dies,
its tasks never run again, and what it held (listeners, connections) is dead before anybody else moves.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from simulator.kernel import SECOND, Kernel, Task
from toolkit.core.events import Event

#: wall clocks of nodes start around here (2026-01-01), in nanoseconds since the epoch
WALL_START_NS = 1_767_225_600 * SECOND
#: one way between two nodes, and between two processes of one node
LINK_NS, LOOPBACK_NS = 200_000, 20_000


class Node:
    """One machine.

    Args:
        world: where it stands.
        name: its host name.
        index: counts the nodes, from 0.
    """

    def __init__(self, world: World, name: str, index: int) -> None:
        self.world = world
        self.name = name
        self.index = index
        self.address = f"10.0.{index // 250}.{index % 250 + 1}"
        self.up = True
        self.boots = 1
        self.booted_ns = 0
        self.paused = False
        #: work takes so many times longer
        self.slowness = 1.0
        #: seconds that its wall clock is ahead
        self.clock_offset_s = 0.0
        #: share by which both its clocks run too fast
        self.clock_drift = 0.0
        self.disk_full = False
        self.processes: dict[int, Process] = {}
        self._ports = itertools.count(40_000)

    def start_process(self, name: str, *, parent: Process | None = None) -> Process:
        """A new process; the node must be up."""
        assert self.up, f"{self.name} is down, and {name} can't be started there"
        process = Process(self, next(self.world.pids), name, parent)
        self.processes[process.pid] = process
        return process

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
        self.booted_ns = self.world.kernel.now_ns

    def pause(self) -> None:
        """Everything on it stands still; its clocks go on."""
        self.paused = True

    def unpause(self) -> None:
        """Everything on it goes on."""
        self.paused = False
        for process in self.processes.values():
            if not process.paused:
                self.world.kernel.resume(process)


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
        #: what it does on a signal; without it a signal ends it
        self.on_signal: Callable[[int], None] | None = None

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

    def vanish(self) -> None:
        """It is gone without a word. Its tasks never run again."""
        if not self.alive:
            return
        self.alive = False
        for task in self.tasks:
            self.node.world.kernel.kill(task)
        for release in self.on_gone:
            release()

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
                if not self.paused:
                    self.node.world.kernel.resume(self)
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
    """

    latency_ns: int = LINK_NS
    cut: bool = False


class Network:
    """Carries messages between processes, in order on each connection, or swallows them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._links: dict[tuple[str, str], Link] = {}

    def link(self, source: Node, target: Node) -> Link:
        """The link in this direction; changes to it count from now on."""
        return self._links.setdefault((source.name, target.name), Link())

    def latency_ns(self, source: Node, target: Node) -> int | None:
        """How long a message takes now; None if it never arrives."""
        if not (source.up and target.up):
            return None
        if source is target:
            return LOOPBACK_NS
        link = self.link(source, target)
        if link.cut:
            return None
        # Up to a tenth more: no two messages take exactly as long.
        return link.latency_ns + self._world.kernel.tape.draw("latency", link.latency_ns // 10 + 1)


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
        self.network = Network(self)
        #: what listens where: (address, port) -> a server
        self.listeners: dict[tuple[str, int], Any] = {}
        self.events: list[Event] = []

    def node_at(self, address: str) -> Node | None:
        """The node with that address or name; up or not."""
        return next((n for n in self.nodes.values() if address in (n.address, n.name)), None)
