"""Lets the faults of a scenario strike the cluster: each at its time, on a node that is looked up at that moment.

What several faults do to one thing is what is in force of all of them together: the end of one never undoes another.
"""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from simulator import faults
from simulator.adapters.store import StoreServer
from simulator.faults import Fault
from simulator.kernel import SECOND, Kernel
from simulator.world import LINK_NS, Node, Process, World
from toolkit.core.events import Event, RendezvousCompleted


class Cluster(Protocol):
    """What faults strike: a running simulation."""

    @property
    def world(self) -> World:
        """Its nodes."""
        ...

    @property
    def agents(self) -> Mapping[str, Process]:
        """The latest agent of each node that had one."""
        ...

    def start_agent(self, name: str, after_s: float = 0.0, *, boot: bool = False) -> None:
        """Start an agent on a node, now or later; with `boot` a node without power gets it first."""
        ...


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault that has struck a node.

    Args:
        kind: name of the fault's class; each time that a flapping joiner vanishes is a CrashNode of its own.
        node: whom.
        at_s: when.
        until_s: when it had passed; infinite for what stays.
        words: what happened.
    """

    kind: str
    node: str
    at_s: float
    until_s: float
    words: str


@dataclass(slots=True)
class _Force:
    """What is in force on one node: values by the number of their fault."""

    pauses: dict[int, None] = field(default_factory=dict)
    slow: dict[int, float] = field(default_factory=dict)
    disks: dict[int, None] = field(default_factory=dict)
    starts: dict[int, float] = field(default_factory=dict)
    cuts: dict[int, bool] = field(default_factory=dict)
    latencies: dict[int, float] = field(default_factory=dict)


class Strikes:
    """All faults of one run.

    Args:
        cluster: what they strike.
        planned: the faults.
    """

    def __init__(self, cluster: Cluster, planned: tuple[Fault, ...]) -> None:
        self._cluster = cluster
        #: what has struck whom, and what found nobody, in words
        self.words: list[str] = []
        #: what has struck whom
        self.hits: list[Struck] = []
        self._kernel: Kernel = cluster.world.kernel
        self._nodes = cluster.world.nodes
        self._forces = {name: _Force() for name in self._nodes}
        self._stops: dict[int, Process] = {}
        self._numbers = itertools.count()
        for fault in planned:
            self._plan(next(self._numbers), fault)

    def add(self, fault: Fault, after_ns: int) -> None:
        """One more, that strikes now or later."""
        number = next(self._numbers)
        if after_ns > 0:
            what = f"fault: {fault.what()}"
            self._kernel.call_after(after_ns, what, partial(self._strike, number, fault))
        else:
            self._strike(number, fault)

    def _plan(self, number: int, fault: Fault) -> None:
        if fault.at_s == 0:
            # How the world is from the start, before anybody acts.
            self._strike(number, fault)
        else:
            strike = partial(self._strike, number, fault)
            self._kernel.call_at(int(fault.at_s * SECOND), f"fault: {fault.what()}", strike)

    def _strike(self, number: int, fault: Fault) -> None:
        node = self._resolve(fault)
        if node is None:
            self.words.append(f"{fault.words()}: struck nothing, there is no {fault.target} now")
            return
        found = replace(fault, target=node.name)
        role = "" if node.name == fault.target else f" ({fault.target})"
        place = Place(self, node, found)
        missed = (found.strike(place) or "") if faults.is_own(found) else self._apply(number, found, node)
        self.words.append(f"{found.words()}{role}" + (f": struck nothing, {missed}" if missed else ""))
        if not missed:
            self._hit(found, f"{found.what()}{role}")
        place.let_all()

    @property
    def cluster(self) -> Cluster:
        """What they strike."""
        return self._cluster

    def _hit(self, fault: Fault, words: str) -> None:
        at_s = self._kernel.now_ns / SECOND
        until_s = math.inf if fault.stays() else at_s + fault.lasts_s()
        self.hits.append(Struck(type(fault).__name__, fault.target, at_s, until_s, words))

    # -- who ------------------------------------------------------------------------------------------------

    def _resolve(self, fault: Fault) -> Node | None:
        match fault.target:
            case "rank0":
                return self._rank0()
            case "store-host":
                return store_host(self._cluster.world)
            case "last-joiner":
                alive = [agent for agent in self._cluster.agents.values() if agent.alive]
                return max(alive, key=lambda agent: agent.pid).node if alive else None
            case "busy":
                return self._one_of(fault, [node for node in self._up() if _is_busy(node)])
            case "any":
                return self._one_of(fault, self._up())
            case name:
                return self._nodes[name]

    def _up(self) -> list[Node]:
        return [node for node in self._nodes.values() if node.up]

    def _one_of(self, fault: Fault, nodes: list[Node]) -> Node | None:
        # The label is the fault, so that leaving out another one does not move this one's draw.
        return nodes[self._kernel.tape.draw(f"target of {fault.words()}", len(nodes))] if nodes else None

    def _rank0(self) -> Node | None:
        latest = _latest_rounds(self._cluster.world.events)
        zeros = [name for name, rank in latest.items() if rank == 0 and self._nodes[name].up]
        return self._nodes[zeros[-1]] if zeros else None

    # -- what -----------------------------------------------------------------------------------------------

    def _apply(self, number: int, fault: Fault, node: Node) -> str:
        """Do it. Returns why nothing was struck, or nothing."""
        match fault:
            case faults.CrashNode():
                return self._crash(node, fault.reboot_after_s)
            case faults.CrashAtOperation():
                self._at_operation(node, fault.number, partial(self._crash_at_operation, node, fault))
            case faults.PauseAtOperation():
                self._at_operation(node, fault.number, partial(self._pause_at_operation, number, node, fault))
            case faults.DropAtOperation():
                self._at_operation(node, fault.number, partial(self._drop_at_operation, node, fault))
            case faults.KillAgent():
                return self._kill_agent(node, fault.restart_after_s)
            case faults.PauseAgent():
                return self._stop_agent(number, node, fault.for_s)
            case faults.SignalAgent():
                return self._signal_agent(node, fault)
            case faults.KillWorker():
                return _signal_worker(node, fault)
            case faults.FailWorker():
                return _fail_worker(node, fault)
            case faults.SlowWorker():
                return self._slow_worker(node, fault)
            case faults.FlappingJoiner():
                return self._flap(node, fault, fault.times)
            case faults.StallStore():
                return self._stall(node, fault.for_s)
            case faults.ConnectionDrop():
                return self._drop_connections(node)
            case faults.FailSpawn():
                node.failing_starts.append(fault.local_rank)
            case faults.ClockOffset():
                node.clock_offset_s = fault.offset_s
            case faults.ClockStep():
                node.clock_offset_s += fault.step_s
            case faults.ClockDrift():
                node.drift(fault.share)
            case _:
                self._enforce(number, fault, node)
        return ""

    def _enforce(self, number: int, fault: Fault, node: Node) -> None:
        """What lasts, and is in force together with others of its kind."""
        force = self._forces[node.name]
        match fault:
            case faults.PauseNode():
                force.pauses[number] = None
                self._passes(fault.for_s, node, lambda: force.pauses.pop(number, None))
            case faults.SlowNode():
                force.slow[number] = fault.factor
                self._passes(fault.for_s, node, lambda: force.slow.pop(number, None))
            case faults.FillDisk():
                force.disks[number] = None
                self._passes(fault.for_s, node, lambda: force.disks.pop(number, None))
            case faults.SlowStart():
                force.starts[number] = fault.extra_s
                self._passes(fault.for_s, node, lambda: force.starts.pop(number, None))
            case faults.Partition():
                force.cuts[number] = fault.one_way
                self._passes(fault.for_s, node, lambda: force.cuts.pop(number, None))
            case faults.SlowLinks():
                force.latencies[number] = fault.latency_s
                self._passes(fault.for_s, node, lambda: force.latencies.pop(number, None))
            case _:
                raise AssertionError(f"nobody knows what {type(fault).__name__} does")
        self._settle(node)

    def _passes(self, for_s: float | None, node: Node, undo: Callable[[], object]) -> None:
        if for_s is None:
            return

        def passed() -> None:
            undo()
            self._settle(node)

        self._kernel.call_after(int(for_s * SECOND), f"a fault on {node.name} has passed", passed)

    def _settle(self, node: Node) -> None:
        """Make the node and its links what all that is in force makes of them."""
        force = self._forces[node.name]
        if force.pauses and not node.paused:
            node.pause()
        elif node.paused and not force.pauses:
            node.unpause()
        node.slowness = 1.0
        for factor in force.slow.values():
            node.slowness *= factor
        node.disk_full = bool(force.disks)
        node.start_delay_s = sum(force.starts.values())
        for other in self._nodes.values():
            if other is not node:
                self._settle_link(node, other)
                self._settle_link(other, node)

    def _settle_link(self, source: Node, target: Node) -> None:
        network = self._cluster.world.network
        sending, hearing = self._forces[source.name], self._forces[target.name]
        # Whoever is cut off one way is not heard, but hears.
        if sending.cuts or not all(hearing.cuts.values()):
            network.cut(source, target)
        else:
            network.mend(source, target)
        slow_s = [*sending.latencies.values(), *hearing.latencies.values()]
        network.link(source, target).latency_ns = max([LINK_NS, *(int(s * SECOND) for s in slow_s)])

    def _crash(self, node: Node, reboot_after_s: float | None) -> str:
        if not node.up:
            return "it has no power"
        node.crash()
        # A machine that starts again is not paused; its links, its disk and its speed are what they were.
        self._forces[node.name].pauses.clear()
        if reboot_after_s is not None:
            self._cluster.start_agent(node.name, reboot_after_s, boot=True)
        return ""

    def _at_operation(self, node: Node, number: int, strike: Callable[[], None]) -> None:
        agent = self._agent(node)
        node.on_operation[(0 if agent is None else agent.operations) + number] = strike

    def _crash_at_operation(self, node: Node, fault: faults.CrashAtOperation) -> None:
        self._crash(node, fault.back_after_s)
        self._hit(faults.CrashNode(node.name, reboot_after_s=fault.back_after_s), fault.what())

    def _pause_at_operation(self, number: int, node: Node, fault: faults.PauseAtOperation) -> None:
        if not self._stop_agent(number, node, fault.for_s):
            self._hit(faults.PauseAgent(node.name, for_s=fault.for_s), fault.what())

    def _drop_at_operation(self, node: Node, fault: faults.DropAtOperation) -> None:
        agent = self._agent(node)
        if agent is None:
            return
        store = store_host(self._cluster.world)
        there_ns = 0 if store is None else self._cluster.world.network.route(node, store).latency_ns() or 0
        # The request takes up to a tenth more than the latency, and the answer as long again.
        after_ns = there_ns * 3 // 2 if fault.answer_lost else 0

        def drop() -> None:
            for connection in list(agent.connections):
                connection.reset("connection reset by peer")
            self._hit(faults.ConnectionDrop(node.name), fault.what())

        self._kernel.call_after(after_ns, f"connections of the agent on {node.name} are reset", drop)

    def _agent(self, node: Node) -> Process | None:
        agent = self._cluster.agents.get(node.name)
        return agent if agent is not None and agent.alive else None

    def _kill_agent(self, node: Node, restart_after_s: float | None) -> str:
        agent = self._agent(node)
        if agent is None:
            return "no agent runs there"
        agent.receive(signal.SIGKILL)
        if restart_after_s is not None:
            self._cluster.start_agent(node.name, restart_after_s)
        return ""

    def _stop_agent(self, number: int, node: Node, for_s: float | None) -> str:
        agent = self._agent(node)
        if agent is None:
            return "no agent runs there"
        self._stops[number] = agent
        agent.receive(signal.SIGSTOP)

        def go_on() -> None:
            del self._stops[number]
            if agent not in self._stops.values():
                agent.receive(signal.SIGCONT)

        if for_s is not None:
            self._kernel.call_after(int(for_s * SECOND), f"the agent on {node.name} goes on", go_on)
        return ""

    def _signal_agent(self, node: Node, fault: faults.SignalAgent) -> str:
        agent = self._agent(node)
        if agent is None:
            return "no agent runs there"
        signum = signal.Signals[fault.signal]
        for turn in range(fault.times):
            after_ns = int(turn * fault.every_s * SECOND)
            what = f"{fault.signal} to the agent on {node.name}"
            self._kernel.call_after(after_ns, what, partial(agent.receive, signum))
        return ""

    def _slow_worker(self, node: Node, fault: faults.SlowWorker) -> str:
        worker = _worker(node, fault.local_rank)
        if worker is None:
            return _NO_WORKER
        worker.slowness *= fault.factor

        def pass_by() -> None:
            worker.slowness /= fault.factor

        self._passes(fault.for_s, node, pass_by)
        return ""

    def _stall(self, node: Node, for_s: float) -> str:
        servers = [server for server in _stores(self._cluster.world) if server.process.node is node]
        if not servers:
            return "it serves no store"
        for server in servers:
            until_ns = self._kernel.now_ns + int(for_s * SECOND)
            server.stalled_until_ns = max(server.stalled_until_ns, until_ns)
        return ""

    def _drop_connections(self, node: Node) -> str:
        dropped = [
            connection
            for other in self._up()
            for process in other.processes.values()
            for connection in process.connections
            if connection.reaches(node)
        ]
        for connection in dropped:
            connection.reset("connection reset by peer")
        return "" if dropped else "it has no connections"

    def _flap(self, node: Node, fault: faults.FlappingJoiner, times: int) -> str:
        if self._agent(node) is None:
            self._cluster.start_agent(node.name, boot=True)
        self._vanishes(node, fault, fault.stays_s, times)
        return ""

    def _vanishes(self, node: Node, fault: faults.FlappingJoiner, after_s: float, times: int) -> None:
        def vanish() -> None:
            node.crash()
            self._forces[node.name].pauses.clear()
            back_s = fault.away_s if times > 1 else None
            self._hit(faults.CrashNode(node.name, reboot_after_s=back_s), f"{node.name} vanishes")
            if times > 1:
                self._cluster.start_agent(node.name, fault.away_s, boot=True)
                self._vanishes(node, fault, fault.away_s + fault.stays_s, times - 1)

        self._kernel.call_after(int(after_s * SECOND), f"{node.name} vanishes", vanish)


class Place:
    """Where a fault of one's own strikes, and what it may do there.

    What it does by other faults (`let`) is known to checkers and excuses as these are. What it does to the node itself,
    such as `place.node.slowness *= 3`, is known to nobody else: promises that it made impossible count as broken.

    Args:
        strikes: of the run.
        node: that was found.
        fault: that strikes.
    """

    def __init__(self, strikes: Strikes, node: Node, fault: Fault) -> None:
        self._strikes = strikes
        self._fault = fault
        #: parts that wait until the whole has been told; None when it has
        self._parts: list[Fault] | None = []
        #: the node that is struck
        self.node = node

    @property
    def nodes(self) -> Mapping[str, Node]:
        """All nodes, by name, in their order."""
        return self._strikes.cluster.world.nodes

    @property
    def agents(self) -> Mapping[str, Process]:
        """The latest agent of each node that had one."""
        return self._strikes.cluster.agents

    def let(self, fault: Fault) -> None:
        """Let another fault strike as a part of this one: at once, or `at_s` seconds from now.

        Raises:
            ConfigurationError: the node isn't there.
        """
        faults.check_target(fault, self.nodes)
        if self._parts is None:
            self._let(fault)
        else:
            self._parts.append(fault)

    def let_all(self) -> None:
        """The fault has been told; now its parts strike."""
        parts, self._parts = self._parts, None
        for part in parts or ():
            self._let(part)

    def _let(self, fault: Fault) -> None:
        now_s = self._kernel.now_ns / SECOND
        self._strikes.add(replace(fault, at_s=now_s + fault.at_s), int(fault.at_s * SECOND))

    def later(self, after_s: float, do: Callable[[], object]) -> None:
        """Do something `after_s` seconds from now: take back what was done, for instance."""

        def now() -> None:
            do()

        self._kernel.call_after(int(after_s * SECOND), f"fault: more of {self._fault.what()}", now)

    def draw(self, what: str, bound: int) -> int:
        """A number from 0 to below `bound`, from the seed.

        Args:
            what: is drawn, in words; so that the draw does not depend on other faults.
        """
        return self._kernel.tape.draw(f"{what} of {self._fault.words()}", bound)

    @property
    def _kernel(self) -> Kernel:
        return self._strikes.cluster.world.kernel


def store_host(world: World) -> Node | None:
    """The node that serves the rendezvous store; None if none does."""
    # Its port is a fixed one, below those that agents get for the stores of their workers.
    served = sorted(_stores(world), key=lambda server: server.port)
    return served[0].process.node if served else None


def _stores(world: World) -> list[StoreServer]:
    found: list[StoreServer] = []
    for server in world.listeners.values():
        if isinstance(server, StoreServer) and server not in found:
            found.append(server)
    return found


def _is_busy(node: Node) -> bool:
    return any(connection.busy for process in node.processes.values() for connection in process.connections)


def _latest_rounds(events: list[Event]) -> dict[str, int]:
    """Group rank by node in the last round it was part of; who came last stands last."""
    latest: dict[str, int] = {}
    for event in events:
        if isinstance(event, RendezvousCompleted):
            name = event.node.rpartition("_")[0]
            latest.pop(name, None)
            latest[name] = event.group_rank
    return latest


def _worker(node: Node, local_rank: int) -> Process | None:
    workers = [process for process in node.processes.values() if process.local_rank == local_rank]
    return workers[-1] if workers else None


_NO_WORKER = "no such worker runs"


def _signal_worker(node: Node, fault: faults.KillWorker) -> str:
    worker = _worker(node, fault.local_rank)
    if worker is None:
        return _NO_WORKER
    worker.receive(signal.Signals[fault.signal])
    return ""


def _fail_worker(node: Node, fault: faults.FailWorker) -> str:
    worker = _worker(node, fault.local_rank)
    if worker is None:
        return _NO_WORKER
    if fault.cause == "oom":
        worker.receive(signal.SIGKILL)
        return ""
    # As torch's @record leaves it.
    worker.last_words = {
        "message": {
            "message": "RuntimeError: CUDA error: an uncorrectable memory error was found",
            "extraInfo": {
                "py_callstack": "RuntimeError: CUDA error: an uncorrectable memory error was found"
            },
        }
    }
    worker.end(1)
    return ""
