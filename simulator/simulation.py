"""Runs a scenario with a seed: builds the cluster, starts the agents, lets faults strike, and collects what happened.

The composition root of the simulator, and its only import of `toolkit.agent`: the agent in here is production's.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from simulator import wear
from simulator.adapters.bell import TaskBell
from simulator.adapters.clock import NodeClock
from simulator.adapters.connector import SimConnector
from simulator.adapters.control import SimControl
from simulator.adapters.host import NodeHost, TapeEntropy
from simulator.adapters.interrupts import ProcessInterrupts
from simulator.adapters.launcher import SimLauncher
from simulator.adapters.local_store import LocalStore
from simulator.adapters.sink import NoTelemetry, WorldSink
from simulator.adapters.store import StoreServer
from simulator.adapters.stores import SimStores
from simulator.adapters.tasks import ProcessTasks
from simulator.faults import Fault, FlappingJoiner, quiet_at_s
from simulator.kernel import SECOND, Kernel, LimitReached, Limits
from simulator.rng import Choice, Tape
from simulator.scenario import Scenario
from simulator.strike import Strikes, Struck
from simulator.subject import RUN_ID, Ended, Subject
from simulator.tripwire import Tripwire
from simulator.workloads import Jobs
from simulator.world import Process, Said, World
from toolkit.agent.launched import LaunchedAgent
from toolkit.agent.rendezvous import Offer, RallyRendezvous
from toolkit.agent.solo import SoloRendezvous
from toolkit.core.errors import ConfigurationError, SignalException
from toolkit.core.events import Event
from toolkit.core.failures import exit_code_of
from toolkit.core.launch_plan import LogLayout
from toolkit.core.model import WorkerSpec
from toolkit.core.rounds import Settings
from toolkit.ports import Ports

#: where the first node of a scenario serves the store of the job: torch's default port, too
STORE_PORT = 29400
#: the machine that serves it where no agent does
STORE_NODE = "store"
#: keys of `rdzv_conf` (as in `--rdzv-conf`) that our rendezvous knows, and what they set
SETTINGS = {
    "last_call_timeout": "last_call_s",
    "join_timeout": "join_timeout_s",
    "join_window": "join_window_s",
    "lease": "lease_s",
    "beat": "beat_s",
    "store_timeout": "store_timeout_s",
}


def store_host_of(scenario: Scenario) -> str:
    """The machine that serves the store of the job, or an empty string."""
    if scenario.solo:
        return ""
    return STORE_NODE if scenario.store_apart else scenario.first_node


def node_ports(process: Process, scenario: Scenario, jobs: Jobs) -> Ports:
    """The ports of an agent that runs in `process`."""
    node = process.node
    clock = NodeClock(node)
    interrupts = ProcessInterrupts(process)
    workload = scenario.plan(node.name).workload or scenario.workload
    bell = TaskBell(node.world.kernel, clock)
    process.control = control = SimControl(bell)
    return Ports(
        clock=clock,
        bell=bell,
        stores=SimStores(interrupts),
        launcher=SimLauncher(process, clock, workload, jobs),
        interrupts=interrupts,
        events=WorldSink(process),
        telemetry=NoTelemetry(),
        host=NodeHost(process, {}),
        entropy=TapeEntropy(process),
        tasks=ProcessTasks(process, clock),
        new_store=lambda: LocalStore(node.world.kernel),
        control=control,
    )


class RallySubject:
    """Our agent: `toolkit.agent.launched.LaunchedAgent`, unmodified.

    Args:
        rendezvous: makes the handler for an agent of several nodes; None is our own. Solo scenarios need none.
        surroundings: what must be in force while such handlers run; None is nothing.
        name: of this combination; `subject_named` knows it.
    """

    def __init__(
        self,
        rendezvous: Callable[[Process, Scenario, Ports], Any] | None = None,
        surroundings: Callable[[World], AbstractContextManager[None]] | None = None,
        name: str = "rally",
    ) -> None:
        self.name = name
        self._rendezvous = rendezvous
        self._surroundings = surroundings

    def surroundings(self, world: World, scenario: Scenario) -> AbstractContextManager[None]:
        """What the rendezvous handler needs."""
        if self._surroundings is None or scenario.solo:
            return nullcontext()
        return self._surroundings(world)

    def agent(
        self, process: Process, scenario: Scenario, jobs: Jobs, done: Callable[[Ended], None]
    ) -> Callable[[], None]:
        """The main task of one agent."""

        def run() -> None:
            ended = self._run(process, scenario, jobs)
            done(ended)
            process.end(ended.exit_code)

        return run

    def _run(self, process: Process, scenario: Scenario, jobs: Jobs) -> Ended:
        ports = node_ports(process, scenario, jobs)
        handler: Any = None
        try:
            handler = self._handler(process, scenario, ports)
            result = self._make(process, scenario, handler, ports).run()
        except SignalException as error:
            return Ended("SIGNAL", 128 + error.sigval, str(error))
        except Exception as error:  # noqa: BLE001 - the edge of the agent's process
            _shut_down(handler)
            return Ended("ERROR", 1, f"{type(error).__name__}: {error}")
        _shut_down(handler)
        return Ended(result.state.value, exit_code_of(result), "")

    def _handler(self, process: Process, scenario: Scenario, ports: Ports) -> Any:
        if scenario.solo:
            return SoloRendezvous(RUN_ID, ports)
        if self._rendezvous is not None:
            return self._rendezvous(process, scenario, ports)
        return _own_rendezvous(process, scenario, ports)

    def _make(self, process: Process, scenario: Scenario, handler: Any, ports: Ports) -> LaunchedAgent:
        plan = scenario.plan(process.node.name)
        spec = WorkerSpec(
            role=plan.role,
            local_world_size=plan.local_world_size or scenario.local_world_size,
            rdzv_handler=handler,
            entrypoint="train",
            max_restarts=scenario.max_restarts,
            restart_policy=scenario.policy,
        )
        return LaunchedAgent(
            spec,
            LogLayout("/logs"),
            exit_barrier_timeout=scenario.exit_barrier_timeout_s,
            shutdown_timeout=scenario.shutdown_timeout_s,
            ports=ports,
        )


def _own_rendezvous(process: Process, scenario: Scenario, ports: Ports) -> RallyRendezvous:
    """Our rendezvous, unmodified, over a store that the scenario's first node serves."""
    low, high = scenario.bounds
    plan = scenario.plan(process.node.name)
    conf = {SETTINGS[key]: float(value) for key, value in scenario.rdzv_conf.items() if key in SETTINGS}
    settings = Settings(
        min_nodes=low, max_nodes=high, max_restarts=scenario.max_restarts, spares=scenario.spares, **conf
    )
    offer = Offer(
        role=plan.role,
        local_world_size=plan.local_world_size or scenario.local_world_size,
        topology=plan.topology,
        node_rank=plan.node_rank,
        spare=plan.spare,
    )
    connector = SimConnector(process, store_host_of(scenario), STORE_PORT)
    return RallyRendezvous(RUN_ID, settings, offer, connector, ports)


def _shut_down(handler: Any) -> None:
    try:
        if handler is not None:
            handler.shutdown()
    except Exception:  # noqa: BLE001 - a handler whose store is gone; the run has its result
        return


@dataclass(slots=True)
class NodeOutcome:
    """How the last agent of one node ended.

    Args:
        result: a WorkerState, "SIGNAL", "ERROR", "KILLED", "LOST" (its node has no power), "RUNNING" or "WAITING".
        exit_code: of its process, if it ended.
        exited_at_s: virtual seconds, if it ended.
        reason: in words.
        waits_for: what it waits for, if it runs.
    """

    result: str = "WAITING"
    exit_code: int | None = None
    exited_at_s: float | None = None
    reason: str = ""
    waits_for: str = ""


@dataclass(slots=True)
class Outcome:
    """Everything that a run left: what checkers and reports work on.

    Args:
        scenario: what was run, with the faults that struck it besides.
        subject: with whom.
        seed: and how.
        events: what the agents said, in the order of the world.
        said: when each of them was said, in the same order.
        nodes: how each ended.
        virtual_s: length of the run.
        steps: of the kernel.
        digest: of everything that happened.
        choices: the tape.
        finding: why the run could not be finished: a limit, a deadlock, a crash of a task; or empty.
        quiet_at_s: when the last fault that passes had passed.
        struck: faults in words, with the moment and the node they struck.
        hits: the same as values, without those that found nobody.
    """

    scenario: Scenario
    subject: str
    seed: int
    events: list[Event] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    nodes: dict[str, NodeOutcome] = field(default_factory=dict)
    virtual_s: float = 0.0
    steps: int = 0
    digest: str = ""
    choices: Sequence[Choice] = ()
    finding: str = ""
    quiet_at_s: float = 0.0
    struck: list[str] = field(default_factory=list)
    hits: list[Struck] = field(default_factory=list)


class ScenarioRun:
    """One run of a scenario; can be taken step by step.

    Args:
        scenario: what to run.
        subject: with whom.
        seed: fills the choice tape.
        recorded: a tape to repeat instead.
        tripwire: whether real clocks, sleeps, sockets, threads and entropy raise during the run.
    """

    def __init__(
        self,
        scenario: Scenario,
        subject: Subject,
        seed: int = 0,
        recorded: tuple[Choice, ...] = (),
        *,
        tripwire: bool = True,
    ) -> None:
        self.scenario = scenario
        self.subject = subject
        self.tape = Tape(seed, recorded)
        self.kernel = Kernel(self.tape, Limits(time_ns=int(scenario.limit_s * SECOND) + 1))
        self.world = World(
            self.kernel, [*scenario.node_names, *([STORE_NODE] if scenario.store_apart else [])]
        )
        if scenario.store_apart:
            self._serve_store()
        self._surroundings = subject.surroundings(self.world, scenario)
        self.jobs = Jobs(self.world)
        self.outcome = Outcome(scenario, subject.name, seed)
        self._tripwire = Tripwire() if tripwire else nullcontext()
        self.agents: dict[str, Process] = {}
        self._unended = 0
        #: whether a limit was reached, after which nothing can go on
        self._cut_off = False
        flapping = [fault.target for fault in scenario.faults if isinstance(fault, FlappingJoiner)]
        for name in scenario.node_names:
            self.outcome.nodes[name] = NodeOutcome()
            if name not in flapping:
                self.start_agent(name, scenario.plan(name).start_s)
        planned = (*scenario.faults, *wear.drawn(scenario, seed))
        self.outcome.quiet_at_s = quiet_at_s(planned)
        self._strikes = Strikes(self, planned)
        self.outcome.struck, self.outcome.hits = self._strikes.words, self._strikes.hits

    def start_agent(self, name: str, after_s: float = 0.0, *, boot: bool = False) -> None:
        """Start an agent on a node, now or later; with `boot` a node without power gets it first."""
        self._unended += 1
        self.kernel.call_after(
            int(after_s * SECOND), f"the agent on {name} starts", lambda: self._start(name, boot)
        )

    def _serve_store(self) -> None:
        StoreServer(self.world.nodes[STORE_NODE].start_process("store"), STORE_PORT).listen()

    def _start(self, name: str, boot: bool) -> None:
        if name == STORE_NODE:
            # No agent runs there; the service comes back with its machine, and without its memory.
            self._unended -= 1
            if not self.world.nodes[name].up:
                self.world.nodes[name].boot()
                self._serve_store()
            return
        node, outcome = self.world.nodes[name], self.outcome.nodes[name]
        if boot and not node.up:
            node.boot()
        previous = self.agents.get(name)
        if not node.up or (previous is not None and previous.alive):
            self._unended -= 1
            return
        process = node.start_process("agent")
        self.agents[name] = process
        outcome.result, outcome.exit_code, outcome.exited_at_s = "RUNNING", None, None
        process.on_exit.append(lambda code: self._exited(name, process, code))
        process.on_gone.append(lambda: self._gone(name, process))

        def done(ended: Ended) -> None:
            outcome.result, outcome.reason = ended.result, ended.reason

        process.spawn(self.subject.agent(process, self.scenario, self.jobs, done), "main")

    def _gone(self, name: str, process: Process) -> None:
        if self.agents.get(name) is not process:
            return
        self._unended -= 1
        if process.exit_code is None:
            self.outcome.nodes[name].result = "LOST"

    def _exited(self, name: str, process: Process, code: int) -> None:
        outcome = self.outcome.nodes[name]
        if outcome.result == "RUNNING":
            outcome.result = "KILLED"
            outcome.reason = (
                f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
            )
        outcome.exit_code, outcome.exited_at_s = code, self.kernel.now_ns / SECOND

    @property
    def over(self) -> bool:
        """Whether no agent runs or is still to come."""
        return self._unended <= 0

    @property
    def done(self) -> bool:
        """Whether nothing more happens: the job is over, or the run is stuck or at a limit, which is its finding."""
        return self.over or bool(self.outcome.finding)

    def run(self, until_s: float | None = None) -> Outcome:
        """Run to the end, or to a moment of virtual time."""
        self.go_on(None if until_s is None else int(until_s * SECOND))
        return self._collected()

    def go_on(self, until_ns: int | None = None, pause: Callable[[], bool] | None = None) -> bool:
        """Run to the end, to a moment of virtual time, or until `pause` says so, which is asked before each step.

        Returns:
            Whether that ended it that nothing was left to happen by `until_ns`, or at all.
        """

        def ended() -> bool:
            return self._unended <= 0

        def reached() -> bool:
            return self._unended <= 0 or (pause is not None and pause())

        try:
            with self._surroundings, self._tripwire:
                stopped = self.kernel.run(ended if pause is None else reached, until_ns)
        except LimitReached as error:
            self.outcome.finding, self._cut_off = str(error), True
            return False
        if not stopped and until_ns is None:
            self.outcome.finding = self._stuck()
        return not stopped

    def strike(self, fault: Fault) -> None:
        """Let a fault strike that no plan knew: now, or `at_s` from now on.

        Raises:
            ConfigurationError: the run is over, its target isn't there, or it would strike after the run's limit.
        """
        if self.over or self._cut_off:
            raise ConfigurationError(
                f"the run is over since {self.kernel.now_ns / SECOND:g} s, and can't be struck any more; "
                "go back to an earlier moment"
            )
        planned = replace(fault, at_s=self.kernel.now_ns / SECOND + fault.at_s)
        outcome = self.outcome
        outcome.scenario = replace(outcome.scenario, faults=(*outcome.scenario.faults, planned))
        outcome.quiet_at_s = max(outcome.quiet_at_s, quiet_at_s((planned,)))
        # Who waited for what never came may go on now.
        outcome.finding = ""
        with self._surroundings, self._tripwire:
            self._strikes.add(planned, int(fault.at_s * SECOND))

    def _stuck(self) -> str:
        waiting = [task for task in self.kernel.waiting() if task.owner is not None]
        return "nothing is left to happen, and these still wait: " + "; ".join(
            f"{task.name} for {task.waits_for}" for task in waiting[:8]
        )

    def broken_off(self, why: str) -> Outcome:
        """What was reached by a run that was broken off from outside."""
        self.outcome.finding = self.outcome.finding or why
        return self._collected()

    def so_far(self) -> Outcome:
        """What was reached by now; the run can go on after that. Not a copy, save for the finding."""
        finding = self.outcome.finding
        try:
            return replace(self._collected())
        finally:
            self.outcome.finding = finding

    def _collected(self) -> Outcome:
        outcome = self.outcome
        outcome.events, outcome.said = self.world.events, self.world.said
        outcome.virtual_s, outcome.steps = self.kernel.now_ns / SECOND, self.kernel.steps
        outcome.digest, outcome.choices = self.kernel.digest(), self.tape.choices
        if isinstance(self._tripwire, Tripwire) and self._tripwire.touched:
            outcome.finding = outcome.finding or str(self._tripwire.touched[0])
        for task, error in self.kernel.crashes:
            outcome.finding = outcome.finding or f"{task.name} crashed: {type(error).__name__}: {error}"
        for name, process in self.agents.items():
            main = next((task for task in process.tasks if not task.done), None) if process.alive else None
            outcome.nodes[name].waits_for = "" if main is None else main.waits_for
        return outcome

    def close(self) -> None:
        """Unwind what is left. The simulation can't go on after that."""
        # What ends from here on is no outcome.
        self.agents = {}
        for node in self.world.nodes.values():
            for process in list(node.processes.values()):
                process.vanish()
        with self._surroundings:
            self.kernel.close()
