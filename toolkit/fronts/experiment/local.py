"""A scenario on this machine: one agent process for each node, and their workers, as real as they get on one machine.

Each node has an address of its own on the loopback device and a gate to the others, which the experiment can cut. The
clock starts when all agents of the beginning have loaded what they need, and are let go: what Python and torch take to
load is no part of the experiment. Those that come later, or again, are loaded in time where there is time.

The first node's agent hosts the store, as in the simulator. Where the store is to stall, or is a machine of its own, it
is a process of its own, so that it can stand still while the agent does not.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit import wiring
from toolkit.adapters.experiment import worker
from toolkit.adapters.experiment.agenda import Agenda
from toolkit.adapters.experiment.links import Links
from toolkit.adapters.experiment.processes import (
    MARK,
    HeldProcess,
    kill_all,
    send,
    signal_all,
)
from toolkit.adapters.host import PortReservation
from toolkit.adapters.recording.reader import read_run
from toolkit.core import rally_conf
from toolkit.core.errors import LaunchError, RecordingError
from toolkit.core.events import AgentFinished, AgentStarted, Event
from toolkit.core.experiment import NodeEnd
from toolkit.fronts.experiment.supported import HOST, check_local, store_is_a_process
from toolkit.fronts.given_policy import as_options

if TYPE_CHECKING:
    from simulator.faults import Fault
    from simulator.scenario import Scenario

#: the folder in a run directory with what only the experiment needs
FOLDER = "experiment"
#: how long agents may take to load, in seconds
_LOAD_S = 120.0
#: exit code of `rally run` for what can't be run
_REFUSED = 2
#: signals to an agent that its store gets, too, where that is a process of its own
_FOR_THE_STORE = (signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL)


@dataclass(slots=True)
class LocalNode:
    """One node: its agents one after another, and what is in force on it.

    Args:
        name: as in the scenario.
        address: on the loopback device.
        mark: that all its processes have.
        up: whether it has power.
        agent: the latest that was let go.
        next: one that loads, or waits for its start.
        wanted: whether that one is to start as soon as it can.
        lives: agents that were started to load.
        store: the process that serves the store, if that is this node's part and no agent's.
        lost: whether its agent was lost with its power.
        started_s: when its latest agent was let go.
        paused: whether all of it stands still.
        stalled: whether the store that it serves stands still.
        slow: work on it takes so many times longer.
        start_delay_s: what workers take more before user code.
        slow_workers: of single workers, by process id.
    """

    name: str
    address: str
    mark: str
    up: bool = True
    agent: HeldProcess | None = None
    next: HeldProcess | None = None
    wanted: bool = False
    lives: int = 0
    store: HeldProcess | None = None
    lost: bool = False
    started_s: float = 0.0
    paused: bool = False
    stalled: bool = False
    slow: float = 1.0
    start_delay_s: float = 0.0
    slow_workers: dict[int, float] = field(default_factory=dict)

    @property
    def running(self) -> HeldProcess | None:
        """Its agent, if it runs."""
        return self.agent if self.agent is not None and self.agent.exit_code() is None else None


class LocalWorld:
    """One run of a scenario on this machine. Everything that it starts ends with it.

    Args:
        scenario: what to run.
        planned: all faults that will strike: those of the scenario, and those that its seed has drawn.
        run_dir: where the agents record; made if missing.
        run_id: the job.
        environ: what the agents inherit.
        executable: the Python interpreter.

    Raises:
        ConfigurationError: the scenario has what only the simulator can do, or needs what isn't installed.
    """

    def __init__(
        self,
        scenario: Scenario,
        planned: tuple[Fault, ...],
        run_dir: Path,
        run_id: str,
        environ: Mapping[str, str],
        executable: str,
    ) -> None:
        check_local(scenario)
        self.scenario, self.planned = scenario, planned
        self.run_dir = run_dir.absolute()
        self.folder = self.run_dir / FOLDER
        self.agenda = Agenda()
        self._run_id, self._environ, self._executable = run_id, environ, executable
        self._token = wiring.fresh_run_id()
        #: how each node ended, and the start of the clock; known after the run
        self.ends: dict[str, NodeEnd] = {}
        self.began_wall_ns = 0
        self._unended = 0
        self._opened: list[HeldProcess] = []
        apart = store_is_a_process(scenario)
        self.store_node = "" if scenario.solo else HOST if scenario.store_apart else scenario.first_node
        self._hosted = not apart
        names = [*scenario.node_names, *([HOST] if scenario.store_apart else [])]
        self.nodes = {
            name: LocalNode(name, f"127.0.{at // 250}.{at % 250 + 1}", f"{self._token}/{name}/")
            for at, name in enumerate(names)
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        self._policy = self._written_policy()
        #: kept until the run is over, so that nobody else on this machine is given the port of its store
        self._reserved = PortReservation()
        self.store_port = self._reserved.port
        self.links = Links(
            {node.name: node.address for node in self.nodes.values()},
            (self.store_node, "127.0.0.1", self.store_port),
        )

    # -- the run ------------------------------------------------------------------------------------------------

    def run(self, begin: Callable[[], None]) -> bool:
        """Run to the end, or to the limit.

        Args:
            begin: called when the clock starts; puts the faults on the agenda.

        Returns:
            Whether all agents ended by themselves.

        Raises:
            LaunchError: an agent can't be started.
        """
        from simulator.faults import FlappingJoiner, quiet_at_s

        scenario = self.scenario
        try:
            flapping = [fault.target for fault in scenario.faults if isinstance(fault, FlappingJoiner)]
            for name in scenario.node_names:
                if name not in flapping:
                    self.start_agent(name, scenario.plan(name).start_s)
            if not self._hosted:
                self._load_store(self.nodes[self.store_node])
            if not self.agenda.run(lambda: all(map(_is_ready, self.nodes.values())), _LOAD_S):
                raise LaunchError(f"the agents have not loaded within {_LOAD_S:g} s; is the machine busy?")
            self.agenda.start_clock()
            self.began_wall_ns = wiring.wall_ns()
            if not self._hosted:
                self._serve(self.nodes[self.store_node])
            begin()
            limit_s = min(scenario.limit_s, quiet_at_s(self.planned) + scenario.quiet_by_s)
            over = self.agenda.run(lambda: self._unended <= 0, limit_s)
            self.ends = self._endings()
            return over
        finally:
            self.close()

    def close(self) -> None:
        """Kill what is left. Harmless the second time."""
        left = kill_all(f"{self._token}/")
        for process in self._opened:
            process.close()
        self._opened.clear()
        self.agenda.close()
        self.links.close()
        self._reserved.release()
        if left:
            raise LaunchError(f"processes of the experiment can't be killed: {', '.join(map(str, left))}")

    def finding(self, over: bool) -> str:
        """What went wrong with the run itself, or nothing.

        Args:
            over: whether all agents ended by themselves.
        """
        began = {event.node for event in self.events() if isinstance(event, AgentStarted)}
        for node in self.nodes.values():
            # Agents refuse in one line what they can't begin with.
            agent = node.agent
            if agent is None or f"{node.name}_{agent.pid}" in began or agent.exit_code() != _REFUSED:
                continue
            return f"the agent on {node.name} did not begin: {agent.said()}"
        if over:
            return ""
        going_on = [name for name, end in self.ends.items() if end.result == "RUNNING"]
        return f"it was stopped after {self.agenda.now_s:.0f} s, and {', '.join(going_on)} still ran"

    def _endings(self) -> dict[str, NodeEnd]:
        finished = {event.node: event.result for event in self.events() if isinstance(event, AgentFinished)}
        ends = {}
        for name in self.scenario.node_names:
            node = self.nodes[name]
            if node.agent is None:
                ends[name] = NodeEnd("WAITING", None)
                continue
            code = node.agent.exit_code()
            said = finished.get(f"{name}_{node.agent.pid}")
            if node.lost:
                ends[name] = NodeEnd(said or "LOST", None if said is None else code)
            elif code is None:
                ends[name] = NodeEnd("RUNNING", None)
            else:
                ends[name] = NodeEnd(said or ("KILLED" if code < 0 else "ERROR"), code)
        return ends

    def events(self) -> list[Event]:
        """What the agents have said so far."""
        try:
            return list(read_run(self.run_dir).events())
        except RecordingError:
            return []

    # -- agents -------------------------------------------------------------------------------------------------

    def start_agent(self, name: str, after_s: float = 0.0, *, boot: bool = False) -> None:
        """Start an agent on a node, now or later; with `boot` a node without power gets it first."""
        self._unended += 1
        node = self.nodes[name]
        if name != HOST:
            self._load(node)
        self.agenda.at(self.agenda.now_s + after_s, partial(self._start, node, boot))

    def _start(self, node: LocalNode, boot: bool) -> None:
        if boot and not node.up:
            node.up = True
            self.links.restore(node.name)
        if node.store is not None and node.store.exit_code() is not None:
            self._load_store(node)
        if node.name == HOST:
            self._unended -= 1
            return
        if not node.up or node.running is not None or node.next is None:
            self._unended -= 1
            return
        node.wanted = True
        self._let_go(node)

    def _let_go(self, node: LocalNode) -> None:
        process = node.next
        if process is None or not (node.wanted and process.ready):
            return
        node.agent, node.next, node.wanted, node.lost = process, None, False, False
        node.started_s = self.agenda.now_s
        self.settle_node(node)
        fd = process.end_fd()
        self.agenda.watch(fd, partial(self._ended, process, fd))
        process.let_go()

    def _ended(self, process: HeldProcess, fd: int) -> None:
        if process.exit_code() is not None:
            self.agenda.unwatch(fd)
            self._unended -= 1

    def _load(self, node: LocalNode) -> None:
        if node.next is None:
            node.lives += 1
            argv = [self._executable, "-m", "toolkit.fronts.experiment.agent", node.name, *self._words(node)]
            node.next = self._held(node, argv, f"{node.name}.{node.lives}", partial(self._let_go, node))
            self.settle_node(node)

    def _load_store(self, node: LocalNode) -> None:
        argv = [self._executable, "-m", "toolkit.adapters.experiment.store", f"{self.store_port}"]
        output = f"store.{len(self._opened)}"
        node.store = self._held(node, argv, output, partial(self._serve, node))

    def _serve(self, node: LocalNode) -> None:
        if node.store is not None and node.store.ready and self.agenda.started:
            node.store.let_go()

    def _held(
        self, node: LocalNode, argv: list[str], name: str, when_ready: Callable[[], None]
    ) -> HeldProcess:
        environ = {
            # What is slow is said by the scenario, and not by the name service that torch's store asks.
            "RES_OPTIONS": "timeout:1 attempts:1",
            **self._environ,
            MARK: node.mark,
            # What only lists this run is not wanted once for each agent.
            "XDG_STATE_HOME": str(self.folder / "state"),
        }
        output = self.folder / f"{name}.txt"
        process = HeldProcess(argv, environ=environ, cwd=self.folder, output=output)
        self._opened.append(process)
        fd = process.ready_fd()

        def ready() -> None:
            self.agenda.unwatch(fd)
            if not process.take_word() and process.exit_code() != -signal.SIGKILL:
                raise LaunchError(
                    f"an agent on {node.name} did not load: {process.said() or 'it said nothing'}"
                )
            when_ready()

        self.agenda.watch(fd, ready)
        return process

    def _words(self, node: LocalNode) -> list[str]:
        """Of `rally run` on that node."""
        scenario, plan = self.scenario, self.scenario.plan(node.name)
        words: list[Any] = ["run", "--run-dir", self.run_dir, "--quiet", "--readings-interval", 0]
        words += ["--nproc-per-node", scenario.workers_of(node.name), "--role", plan.role]
        words += ["--max-restarts", scenario.max_restarts, *self._policy]
        words += ["--shutdown-timeout", ceil(scenario.shutdown_timeout_s), "--rdzv-id", self._run_id]
        if scenario.solo:
            words += ["--exit-barrier-timeout", scenario.exit_barrier_timeout_s]
        else:
            low, high = scenario.bounds
            hosts = self._hosted and node.name == self.store_node
            port = self.store_port if hosts else self.links.to_store[node.name]
            conf = {key: text for key, text in scenario.rdzv_conf.items() if key in rally_conf.KEYS}
            conf |= {"is_host": str(hosts).lower(), **({"spare": "true"} if plan.spare else {})}
            words += ["--nnodes", f"{low}:{high}", "--rdzv-backend", rally_conf.RALLY]
            words += ["--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", node.address]
            words += ["--rdzv-conf", ",".join(f"{key}={text}" for key, text in conf.items())]
            words += [] if scenario.spares is None else ["--spares", scenario.spares]
            words += ["--topology", plan.topology] if plan.topology else []
            words += [] if plan.node_rank is None else ["--node-rank", plan.node_rank]
        return [str(word) for word in (*words, worker.__file__, self.folder, node.name)]

    def _written_policy(self) -> list[str]:
        """The options for the scenario's restart policy; one that is an object is written to a file."""
        options, files = as_options({"restart_policy": self.scenario.policy}, self.folder)
        for name, data in files.items():
            (self.folder / name).write_bytes(data)
        text = options["restart_policy"]
        return [] if text is None else ["--restart-policy", text]

    # -- what faults do -----------------------------------------------------------------------------------------

    def settle_node(self, node: LocalNode) -> None:
        """Let its workers know what is in force."""
        workload = self.scenario.plan(node.name).workload if node.name != HOST else None
        said = {
            "workload": asdict(workload or self.scenario.workload),
            "gate": self.links.to_peers[node.name],
            "slow": node.slow,
            "slow_workers": node.slow_workers,
            "start_delay_s": node.start_delay_s,
        }
        part = self.folder / f".{node.name}.json"
        part.write_text(json.dumps(said))
        part.replace(self.folder / f"{node.name}.json")

    def crash(self, node: LocalNode) -> None:
        """Power cut: everything on the node is gone, and nobody is told."""
        self.links.lose(node.name)
        node.lost = node.lost or node.running is not None
        node.up = False
        if node.next is not None and node.wanted:
            self._unended -= 1
        # One that waits for its start is no part of the node yet.
        spared = node.next
        kill_all(node.mark, spared=() if spared is None or node.wanted else (spared.pid,))
        if node.wanted:
            node.next, node.wanted = None, False

    def pause(self, node: LocalNode) -> None:
        """All processes of the node stand still."""
        signal_all(node.mark, signal.SIGSTOP, spared=self._waiting(node))

    def go_on(self, node: LocalNode) -> None:
        """And go on."""
        signal_all(node.mark, signal.SIGCONT)

    def _waiting(self, node: LocalNode) -> tuple[int, ...]:
        return () if node.next is None else (node.next.pid,)

    def signal_agent(self, node: LocalNode, signum: int) -> bool:
        """A signal to its agent, and to the store that stands for a part of it. Returns whether it runs."""
        agent = node.running
        if agent is None:
            return False
        for process in (agent, node.store):
            if process is None or (process is node.store and signum not in _FOR_THE_STORE):
                continue
            if signum == signal.SIGKILL:
                process.kill()  # it may start again at once
            else:
                process.send(signum)
        return True

    def stall_store(self, node: LocalNode, stands: bool) -> bool:
        """Let the store stand still, or go on. Returns whether it is there."""
        if node.store is None or node.store.exit_code() is not None:
            return False
        node.store.send(signal.SIGSTOP if stands else signal.SIGCONT)
        return True

    def signal_worker(self, pid: int, signum: int) -> bool:
        """A signal to one worker. Returns whether it was there."""
        return send(pid, signum)


def _is_ready(node: LocalNode) -> bool:
    return all(process is None or process.ready for process in (node.next, node.store))


def usual_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What agents inherit: the user's surroundings, without what is meant for an agent or a worker."""
    return {key: value for key, value in environ.items() if not key.startswith(_NOT_INHERITED)}


_NOT_INHERITED = ("PET_", "TORCHELASTIC_", "RALLY_", "MASTER_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_")
