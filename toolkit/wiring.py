"""The composition root: fills the ports from the adapters.

`LocalElasticAgent` and `SimpleElasticAgent` here are the agent's own classes with this machine as their world.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Any

from toolkit import surroundings
from toolkit.adapters.clock import SystemClock
from toolkit.adapters.control.orders import Orders
from toolkit.adapters.control.server import ControlServer, TcpAddress
from toolkit.adapters.entropy import SystemEntropy
from toolkit.adapters.from_torch.telemetry import TorchTelemetry
from toolkit.adapters.host import LocalHost
from toolkit.adapters.interrupts import DEFAULT_SIGNALS, SignalInterrupts
from toolkit.adapters.leftovers.orphans import Orphans
from toolkit.adapters.loop_bell import LoopBell
from toolkit.adapters.memory_store import MemoryStore
from toolkit.adapters.output.console import Console
from toolkit.adapters.output.pump import OutputPump
from toolkit.adapters.output.pumps import Pumps
from toolkit.adapters.processes.launcher import ProcessLauncher
from toolkit.adapters.recording.directory import RunDirectory
from toolkit.adapters.sinks import LoggingSink
from toolkit.adapters.stores import InterruptibleStores
from toolkit.adapters.tasks import Threads
from toolkit.adapters.watching.watcher import WorkerWatcher
from toolkit.agent import base, launched, rendezvous, solo
from toolkit.agent.rendezvous import Offer
from toolkit.core import rally_conf
from toolkit.core.actions import NoOrders
from toolkit.core.errors import ConfigurationError
from toolkit.core.hanging.hang_settings import hang_settings, health_port
from toolkit.core.hanging.watched import HangSettings
from toolkit.core.launch_plan import IncarnationLogs, LaunchPlan, LogsSpecs
from toolkit.core.model import DEFAULT_ROLE, RunResult, WorkerSpec
from toolkit.core.rounds import Settings
from toolkit.ports import EventSink, Ports, StoreConnector


def fresh_run_id() -> str:
    """A name for a job that nobody named: short enough to type, long enough to be alone in a state directory."""
    return SystemEntropy().token()[:8]


def node_name() -> str:
    """The name of this agent in its job."""
    return f"{LocalHost({}).hostname()}_{os.getpid()}"


def process_id() -> int:
    """Of this process."""
    return os.getpid()


def clock() -> SystemClock:
    """The clock of this machine."""
    return SystemClock()


def wall_ns() -> int:
    """Nanoseconds since the Unix epoch."""
    return SystemClock().wall_ns()


def aside(do: Callable[[], None], name: str) -> None:
    """Have something done in a thread of its own, which keeps no process from ending."""
    from toolkit.adapters import watch_thread  # it imports asyncio, which an agent does without

    watch_thread.run_aside(do, name)


def fresh_log_directory(base: Path, run_name: str) -> Path:
    """A folder for one run's logs under `base`, named as torchrun names it: the job and something unique.

    Raises:
        ConfigurationError: it can't be made.
    """
    try:
        base.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{run_name}_", dir=base))
    except OSError as error:
        raise ConfigurationError(
            f"log directory {base} can't be written ({error.strerror}); give another --log-dir"
        ) from error


def unused_folder(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3`, ... that is not there. In containers each agent has the same name."""
    number, unused = 2, path
    while unused.exists():
        number, unused = number + 1, path.with_name(f"{path.name}-{number}")
    return unused


def torch_rendezvous(**settings: Any) -> Any:
    """torch's rendezvous handler; see `toolkit.adapters.from_torch.rendezvous.RendezvousSettings` for the settings.

    The workers of each round get a store of their own: what torch does by default lets restarted workers read their
    predecessors' keys. Who sets the variable keeps what was set.
    """
    from toolkit.adapters.from_torch import rendezvous as adapter

    surroundings.set_default(adapter.FRESH_WORKER_STORE, "1")
    return adapter.make_handler(adapter.RendezvousSettings(**settings))


def wait_less_for_names() -> None:
    """Have this process wait 2 s for a name service that does not answer, and not 10 s.

    torch's store asks for the name of each peer that connects, in the thread that serves all of them (2.6 to 2.13). To
    be called before the first name is looked up. What the user has set counts; the workers do not inherit it.
    """
    surroundings.set_for_libraries("RES_OPTIONS", "timeout:1 attempts:2")


def load_torch_quietly() -> None:
    """Import torch for this agent, so that its C++ code keeps quiet about connections that break: we say it ourselves.

    What is set by the user counts; the workers do not inherit it.

    Raises:
        ConfigurationError: torch can't be imported.
    """
    from toolkit.adapters.from_torch import tcp_store

    with surroundings.default_for_now(tcp_store.LOG_LEVEL, tcp_store.LOG_LEVEL_QUIET):
        tcp_store.load_torch()


def rally_rendezvous(
    host: str,
    port: int,
    *,
    may_host: bool | None,
    run_id: str,
    settings: Settings,
    offer: Offer,
    ports: Ports,
) -> rendezvous.RallyRendezvous:
    """Our own rendezvous of several nodes, over a store at `host:port`.

    Args:
        host: name or address of the machine that hosts the store; an IPv6 address without brackets.
        may_host: True if this agent must host it, False if it must not; None: the first agent on that machine does.
        run_id: the job.
        settings: what all its nodes have in common.
        offer: what this node brings.

    Raises:
        ConfigurationError: torch, whose store it is, can't be imported.
    """
    connector = _store_at(host, port, may_host)
    return rendezvous.RallyRendezvous(run_id, settings, offer, connector, ports)


def _store_at(host: str, port: int, may_host: bool | None) -> StoreConnector:
    from toolkit.adapters.from_torch.tcp_store import TcpStoreConnector

    load_torch_quietly()
    return TcpStoreConnector(host, port, may_host=may_host)


class RallyRendezvous(rendezvous.RallyRendezvous):
    """Our rendezvous of several nodes, for a `WorkerSpec`.

    Roles, sizes and the budget are the spec's. The nodes meet at a store that the machine of the endpoint hosts: its
    first agent serves it.

    Args:
        endpoint: "host:port", the same on every node.
        run_id: the job, the same on every node.
        min_nodes: nodes without which no round starts.
        max_nodes: nodes that a round admits; None is as many as `min_nodes`.
        spares: nodes that may wait beside a full round; None means any number.
        topology: a label; nodes with one label get ranks beside each other.
        node_rank: the group rank that this node wants; None leaves it open.
        local_addr: what the others call this machine; None finds out.
        conf: as `--rdzv-conf`: join_timeout, last_call_timeout, lease, beat, ...

    Raises:
        ConfigurationError: a value that can't be, or torch, whose store it is, can't be imported.
    """

    def __init__(
        self,
        endpoint: str,
        run_id: str,
        min_nodes: int,
        max_nodes: int | None = None,
        *,
        spares: int | None = None,
        topology: str = "",
        node_rank: int | None = None,
        local_addr: str | None = None,
        conf: Mapping[str, str] | None = None,
    ) -> None:
        host, _, port = endpoint.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise ConfigurationError(f"the endpoint is {endpoint!r}; give host:port, such as head:29400")
        settings = rally_conf.job_settings(
            conf or {}, min_nodes=min_nodes, max_nodes=max_nodes or min_nodes, spares=spares, name="conf"
        )
        offer = Offer("default", 1, local_addr, topology, node_rank)
        connector = _store_at(host.strip("[]"), int(port), None)
        super().__init__(run_id, settings, offer, connector, system_ports())


def numa_options(mode: str | None) -> Any | None:
    """torch's NUMA options for a mode, or None for none."""
    if mode is None:
        return None
    from toolkit.adapters.processes import numa

    return numa.options(mode)


def logs_specs_plugin(name: str, **settings: Any) -> LogsSpecs:
    """The `LogsSpecs` that a plug-in of the group "torchrun.logs_specs" makes."""
    from toolkit.adapters.from_torch import logs as torch_logs

    made: LogsSpecs = torch_logs.plugin(name, **settings)
    return made


def standard_console() -> Console:
    """The console of this process."""
    return Console(_descriptor(sys.stdout, 1), _descriptor(sys.stderr, 2))


def _descriptor(stream: Any, otherwise: int) -> int:
    # A notebook's stdout has no descriptor; workers then write to the process's own.
    try:
        return int(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return otherwise


def system_ports(
    *,
    events: EventSink | None = None,
    signals: Sequence[Signals] | None = None,
    inherited: Mapping[str, str] | None = None,
    new_pump: Callable[[LaunchPlan], OutputPump] | None = None,
    orders: Orders | None = None,
    hangs: HangSettings | None = None,
    note: Callable[[str], None] = lambda text: None,
    orphans: Orphans | None = None,
    interrupts: SignalInterrupts | None = None,
) -> Ports:
    """The ports of an agent on this machine.

    Args:
        events: where typed events go; None is Python's logging.
        signals: the death signals; None is what `TORCHELASTIC_SIGNALS_TO_HANDLE` names, or torchrun's default.
        inherited: the environment of the workers; None is that of this process.
        new_pump: makes what carries the output of one incarnation; None writes to this process's console.
        orders: what somebody outside tells the agent; None is for nobody.
        orphans: takes in what workers leave, in a process that is the agent's alone; None leaves the process as it is.
        hangs: what is done about workers that hang; None reports them, and does what torch's variables say.
        note: takes sentences for people.
        interrupts: what has this process's signals already; None for new ones, with `signals`.

    Raises:
        ConfigurationError: one of torch's variables has a value that can't be.
    """
    clock = SystemClock()
    host = LocalHost(surroundings.environment() if inherited is None else inherited)
    if interrupts is None:
        interrupts = SignalInterrupts(host.pid(), _signals_from_environment() if signals is None else signals)
    bell = LoopBell()
    if orders is not None:
        orders.rings(bell.ring)
    return Ports(
        clock=clock,
        bell=bell,
        stores=InterruptibleStores(interrupts, clock),
        launcher=ProcessLauncher(clock, host.environment(), new_pump or _console_pump, orphans),
        interrupts=interrupts,
        events=events or LoggingSink(),
        telemetry=TorchTelemetry(),
        host=host,
        entropy=SystemEntropy(),
        tasks=Threads(),
        new_store=MemoryStore,
        control=orders or NoOrders(),
        watch=WorkerWatcher(hang_settings(surroundings.environment()) if hangs is None else hangs, note=note),
    )


def control_server(
    directory: RunDirectory,
    node: str,
    address: TcpAddress | None,
    tell: Callable[[str], None],
    reachable: str | None = None,
) -> ControlServer:
    """The control endpoint of an agent: in its run directory, and on an address if one is given.

    Args:
        tell: takes sentences for people, from any thread.
        reachable: by what other machines reach this one; None takes its full name.

    Raises:
        ConfigurationError: the address can't be listened on.
    """
    server = ControlServer(node, directory.events_path(node), tell)
    if address is not None:
        host = LocalHost({})
        names = (host.hostname(), host.fq_hostname())
        server.listen_on(address, names, reachable or names[1])
    server.listen_in(directory.path, surroundings.short_lived_directories())
    return server


def _console_pump(plan: LaunchPlan) -> OutputPump:
    return new_pump(standard_console())(plan)


def new_pump(console: Console, **settings: Any) -> Callable[[LaunchPlan], OutputPump]:
    """What makes the output pump of one incarnation; `settings` are those of `OutputPump`."""
    return Pumps(console, **settings).new


def _signals_from_environment() -> Sequence[Signals]:
    names = surroundings.environment().get("TORCHELASTIC_SIGNALS_TO_HANDLE")
    if not names:
        return DEFAULT_SIGNALS
    return [signal_named(name.strip()) for name in names.split(",")]


def signal_named(name: str) -> Signals:
    """The signal of that name.

    Raises:
        ConfigurationError: there is none.
    """
    try:
        return Signals[name]
    except KeyError:
        raise ConfigurationError(
            f"{name!r} is not a signal; name signals like SIGTERM,SIGUSR1 in TORCHELASTIC_SIGNALS_TO_HANDLE"
        ) from None


def check_watch(hangs: HangSettings, environ: Mapping[str, str]) -> None:
    """That what torch's variables ask for can be had here: a pipe for timers, a port for the health check.

    Raises:
        ConfigurationError: it can't.
    """
    if hangs.timers and hangs.timer_file:
        from toolkit.adapters.watching.timers import check_place

        check_place(hangs.timer_file)
    port = health_port(environ)
    if port is not None:
        from toolkit.adapters.watching.health import check_port

        check_port(port)


def _health_check(ports: Ports) -> Any | None:
    """What answers at the port that torch's variable names, if it is set."""
    port = health_port(surroundings.environment())
    if port is None or not isinstance(ports.watch, WorkerWatcher):
        return None
    from toolkit.adapters.watching.health import HealthCheck

    return HealthCheck(port, ports.watch.loop_lives)


@dataclass(frozen=True, slots=True)
class _SoloPorts:
    host: LocalHost
    new_store: Callable[[], MemoryStore] = MemoryStore


class SoloRendezvous(solo.SoloRendezvous):
    """The rendezvous of one node alone, for a `WorkerSpec`: no service, no torch, fresh ports.

    Args:
        run_id: the job; None makes a name.
        master_addr: address that the workers use to reach each other.
        master_port: fixed port for the workers' store; None takes a fresh one each round.
    """

    def __init__(
        self, run_id: str | None = None, *, master_addr: str = "127.0.0.1", master_port: int | None = None
    ) -> None:
        ports = _SoloPorts(LocalHost(surroundings.environment()))
        super().__init__(run_id or fresh_run_id(), ports, master_addr, master_port)


class SimpleElasticAgent(base.SimpleElasticAgent):
    """The agent's loop with this machine as its world; for subclasses that start workers in a way of their own.

    Args and hooks are those of torch's class of the same name, plus `ports`.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        exit_barrier_timeout: float = 300,
        shutdown_timeout: float = 30,
        *,
        ports: Ports | None = None,
    ) -> None:
        super().__init__(spec, exit_barrier_timeout, shutdown_timeout, ports=ports or system_ports())


def _hangs(stuck_s: float | None) -> HangSettings:
    """What is reported, and what is said in a program of uninterruptible sleep."""
    settings = hang_settings(surroundings.environment())
    if stuck_s is None:
        return settings
    return replace(settings, stuck_s=stuck_s if stuck_s > 0 else settings.stuck_s, stuck_fails=stuck_s > 0)


class LocalElasticAgent(launched.LaunchedAgent):
    """Runs the workers as processes of this machine.

    Args are those of torch's class of the same name; those that are not described in `LaunchedAgent`:

    Args:
        health_check_server: anything with `stop()`, called when the agent shuts down.
        uninterruptible_state_timeout: seconds that a worker may be in uninterruptible sleep before the group fails; 0
            for a report only; None is what `TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT` says. Not for other ports.
        ports: another world.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        logs_specs: LogsSpecs | IncarnationLogs,
        start_method: str = "spawn",
        exit_barrier_timeout: float = 300,
        log_line_prefix_template: str | None = None,
        shutdown_timeout: float = 30,
        health_check_server: Any | None = None,
        uninterruptible_state_timeout: float | None = None,
        *,
        ports: Ports | None = None,
    ) -> None:
        super().__init__(
            spec,
            logs_specs,
            start_method,
            exit_barrier_timeout,
            log_line_prefix_template,
            shutdown_timeout,
            ports=ports or system_ports(hangs=_hangs(uninterruptible_state_timeout)),
        )
        self._health_check_server = health_check_server
        self._health = _health_check(self._ports) if health_check_server is None else None

    def run(self, role: str = DEFAULT_ROLE) -> RunResult:
        """Run the workers to their end, as `toolkit.agent.base` has it."""
        try:
            return super().run(role)
        finally:
            if self._health is not None:
                self._health.close()

    def _shutdown(self, death_sig: Signals = SIGTERM, timeout: int = 30) -> None:
        server, self._health_check_server = self._health_check_server, None
        if server is not None:
            server.stop()
        super()._shutdown(death_sig, timeout)
