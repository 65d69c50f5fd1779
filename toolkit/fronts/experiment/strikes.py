"""Lets the faults of a scenario strike processes of this machine: each at its second, on a node looked up then.

The counterpart of `simulator.strike`, by real means: signals, connections that are cut, and a file that the workers
read. What several faults do to one thing is what is in force of all of them together.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from toolkit.adapters.experiment.processes import HeldProcess
from toolkit.adapters.experiment.worker import GPU_ERROR_SIGNAL
from toolkit.core.events import RendezvousCompleted, WorkerExited, WorkerStarted
from toolkit.core.experiment import Strike
from toolkit.fronts.experiment.local import LocalNode, LocalWorld

if TYPE_CHECKING:
    from simulator import faults

_T = TypeVar("_T")

_NO_AGENT, _NO_WORKER = "no agent runs there", "no such worker runs"


@dataclass(slots=True)
class _Force:
    """What is in force on one node: values by the number of their fault."""

    pauses: dict[int, None] = field(default_factory=dict)
    slow: dict[int, float] = field(default_factory=dict)
    starts: dict[int, float] = field(default_factory=dict)
    cuts: dict[int, bool] = field(default_factory=dict)
    latencies: dict[int, float] = field(default_factory=dict)
    stalls: dict[int, None] = field(default_factory=dict)


class LocalStrikes:
    """All faults of one run.

    Args:
        world: what they strike.
        seed: says which node "any" is.
    """

    def __init__(self, world: LocalWorld, seed: int) -> None:
        self._world = world
        self._seed = seed
        #: what has struck whom, and what found nobody, in words
        self.words: list[str] = []
        #: what has struck whom
        self.hits: list[Strike] = []
        self._forces = {name: _Force() for name in world.nodes}
        self._stops: dict[int, HeldProcess] = {}

    def begin(self) -> None:
        """Put all faults on the agenda; those of second 0 come before any agent starts."""
        for number, fault in enumerate(self._world.planned):
            if fault.at_s == 0:
                self._strike(number, fault)
            else:
                self._world.agenda.at(fault.at_s, partial(self._strike, number, fault))

    def not_struck(self) -> list[str]:
        """Faults that were planned for later than the end of the run, in words."""
        end_s = self._world.agenda.now_s
        late = [fault for fault in self._world.scenario.faults if fault.at_s > end_s]
        return [f"{fault.words()}: struck nothing, the run had ended" for fault in late]

    def _strike(self, number: int, fault: faults.Fault) -> None:
        node = self._resolve(fault)
        if node is None:
            self.words.append(f"{fault.words()}: struck nothing, there is no {fault.target} now")
            return
        found = replace(fault, target=node.name)
        role = "" if node.name == fault.target else f" ({fault.target})"
        missed = self._apply(number, found, node)
        self.words.append(f"{found.words()}{role}" + (f": struck nothing, {missed}" if missed else ""))
        if not missed:
            self._hit(found, f"{found.what()}{role}")

    def _hit(self, fault: faults.Fault, words: str) -> None:
        at_s = self._world.agenda.now_s
        until_s = None if fault.stays() else at_s + fault.lasts_s()
        self.hits.append(Strike(type(fault).__name__, fault.target, at_s, until_s, words))

    # -- who ----------------------------------------------------------------------------------------------------

    def _resolve(self, fault: faults.Fault) -> LocalNode | None:
        nodes = self._world.nodes
        match fault.target:
            case "rank0":
                return self._rank0()
            case "store-host":
                return nodes.get(self._world.store_node)
            case "last-joiner":
                alive = [node for node in nodes.values() if node.running is not None]
                return max(alive, key=lambda node: node.started_s, default=None)
            case "any":
                from simulator.rng import Tape

                up = [node for node in nodes.values() if node.up]
                return up[Tape(self._seed).draw(f"target of {fault.words()}", len(up))] if up else None
            case name:
                return nodes[name]

    def _rank0(self) -> LocalNode | None:
        latest: dict[str, int] = {}
        for event in self._world.events():
            if isinstance(event, RendezvousCompleted):
                name = event.node.rpartition("_")[0]
                latest.pop(name, None)
                latest[name] = event.group_rank
        zeros = [name for name, rank in latest.items() if rank == 0 and self._world.nodes[name].up]
        return self._world.nodes[zeros[-1]] if zeros else None

    def _worker(self, node: LocalNode, local_rank: int) -> int | None:
        """Process id of a worker that runs."""
        pid: int | None = None
        agent = node.running
        for event in self._world.events():
            if agent is None or event.node != f"{node.name}_{agent.pid}":
                continue
            if isinstance(event, WorkerStarted | WorkerExited) and event.local_rank == local_rank:
                pid = event.pid if isinstance(event, WorkerStarted) else None
        return pid

    # -- what ---------------------------------------------------------------------------------------------------

    def _apply(self, number: int, fault: faults.Fault, node: LocalNode) -> str:
        """Do it. Returns why nothing was struck, or nothing."""
        from simulator import faults

        match fault:
            case faults.CrashNode():
                return self._crash(node, fault.reboot_after_s)
            case faults.KillAgent():
                if not self._world.signal_agent(node, signal.SIGKILL):
                    return _NO_AGENT
                if fault.restart_after_s is not None:
                    self._world.start_agent(node.name, fault.restart_after_s)
                return ""
            case faults.PauseAgent():
                return self._stop_agent(number, node, fault.for_s)
            case faults.SignalAgent():
                return self._signal_agent(node, fault)
            case faults.KillWorker():
                return self._signal_worker(node, fault.local_rank, signal.Signals[fault.signal])
            case faults.FailWorker():
                signum = signal.SIGKILL if fault.cause == "oom" else GPU_ERROR_SIGNAL
                return self._signal_worker(node, fault.local_rank, signum)
            case faults.FlappingJoiner():
                if node.running is None:
                    self._world.start_agent(node.name, boot=True)
                self._vanishes(node, fault, fault.stays_s, fault.times)
                return ""
            case faults.ConnectionDrop():
                return "" if self._world.links.reset(node.name) else "it has no connections"
            case _:
                return self._enforce(number, fault, node)

    def _enforce(self, number: int, fault: faults.Fault, node: LocalNode) -> str:
        """What lasts, and is in force together with others of its kind."""
        from simulator import faults

        force = self._forces[node.name]
        match fault:
            case faults.PauseNode():
                self._holds(force.pauses, number, None, fault.for_s, node)
            case faults.SlowNode():
                self._holds(force.slow, number, fault.factor, fault.for_s, node)
            case faults.SlowWorker():
                return self._slow_worker(node, fault)
            case faults.SlowStart():
                self._holds(force.starts, number, fault.extra_s, fault.for_s, node)
            case faults.Partition():
                self._holds(force.cuts, number, fault.one_way, fault.for_s, node)
            case faults.SlowLinks():
                self._holds(force.latencies, number, fault.latency_s, fault.for_s, node)
            case faults.StallStore():
                if node.name != self._world.store_node:
                    return "it serves no store"
                self._holds(force.stalls, number, None, fault.for_s, node)
            case _:
                raise AssertionError(f"nobody knows what {type(fault).__name__} does here")
        return ""

    def _holds(
        self, kind: dict[int, _T], number: int, value: _T, for_s: float | None, node: LocalNode
    ) -> None:
        kind[number] = value
        self._settle(node)

        def passed() -> None:
            # A crash may have ended it before.
            kind.pop(number, None)
            self._settle(node)

        if for_s is not None:
            self._later(for_s, passed)

    def _later(self, after_s: float, action: Callable[[], object]) -> None:
        self._world.agenda.at(self._world.agenda.now_s + after_s, action)

    def _settle(self, node: LocalNode) -> None:
        """Make the node and its links what all that is in force makes of them."""
        world, force = self._world, self._forces[node.name]
        if node.paused != bool(force.pauses):
            node.paused = bool(force.pauses)
            (world.pause if node.paused else world.go_on)(node)
        if node.stalled != bool(force.stalls):
            node.stalled = bool(force.stalls)
            world.stall_store(node, node.stalled)
        node.slow = math.prod(force.slow.values())
        node.start_delay_s = sum(force.starts.values())
        world.settle_node(node)
        self._settle_links()

    def _settle_links(self) -> None:
        cut: list[tuple[str, str]] = []
        latencies: dict[tuple[str, str], float] = {}
        for source, sending in self._forces.items():
            for target, hearing in self._forces.items():
                if source == target:
                    continue
                # Whoever is cut off one way is not heard, but hears.
                if sending.cuts or not all(hearing.cuts.values()):
                    cut.append((source, target))
                late_s = max([0.0, *sending.latencies.values(), *hearing.latencies.values()])
                if late_s:
                    latencies[source, target] = late_s
        self._world.links.settle(cut, latencies)

    def _crash(self, node: LocalNode, reboot_after_s: float | None) -> str:
        if not node.up:
            return "it has no power"
        self._world.crash(node)
        # A machine that starts again is not paused; its links and its speed are what they were.
        self._forces[node.name].pauses.clear()
        node.paused = False
        if reboot_after_s is not None:
            self._world.start_agent(node.name, reboot_after_s, boot=True)
        return ""

    def _stop_agent(self, number: int, node: LocalNode, for_s: float | None) -> str:
        agent = node.running
        if agent is None or not self._world.signal_agent(node, signal.SIGSTOP):
            return _NO_AGENT
        self._stops[number] = agent

        def go_on() -> None:
            del self._stops[number]
            if agent not in self._stops.values() and node.running is agent and not node.paused:
                self._world.signal_agent(node, signal.SIGCONT)

        if for_s is not None:
            self._later(for_s, go_on)
        return ""

    def _signal_agent(self, node: LocalNode, fault: faults.SignalAgent) -> str:
        agent, signum = node.running, signal.Signals[fault.signal]
        if agent is None:
            return _NO_AGENT
        for turn in range(fault.times):
            self._later(turn * fault.every_s, partial(agent.send, signum))
        return ""

    def _signal_worker(self, node: LocalNode, local_rank: int, signum: int) -> str:
        pid = self._worker(node, local_rank)
        return "" if pid is not None and self._world.signal_worker(pid, signum) else _NO_WORKER

    def _slow_worker(self, node: LocalNode, fault: faults.SlowWorker) -> str:
        pid = self._worker(node, fault.local_rank)
        if pid is None:
            return _NO_WORKER
        node.slow_workers[pid] = node.slow_workers.get(pid, 1.0) * fault.factor
        self._world.settle_node(node)

        def pass_by() -> None:
            node.slow_workers[pid] /= fault.factor
            self._world.settle_node(node)

        if fault.for_s is not None:
            self._later(fault.for_s, pass_by)
        return ""

    def _vanishes(self, node: LocalNode, fault: faults.FlappingJoiner, after_s: float, times: int) -> None:
        from simulator import faults

        def vanish() -> None:
            back_s = fault.away_s if times > 1 else None
            self._crash(node, back_s)
            self._hit(faults.CrashNode(node.name, reboot_after_s=back_s), f"{node.name} vanishes")
            if times > 1:
                self._vanishes(node, fault, fault.away_s + fault.stays_s, times - 1)

        self._later(after_s, vanish)
