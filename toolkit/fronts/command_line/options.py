"""What one `rally run` is to do: its arguments, typed and checked against each other.

Nothing here looks at the machine; `toolkit.fronts.preflight` does. torch is not imported.
"""

from __future__ import annotations

import re
import signal
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from toolkit.adapters.processes.script_path import run_script_path
from toolkit.core.errors import ConfigurationError
from toolkit.core.hanging.watched import HangSettings
from toolkit.core.launch_plan import Std, parse_std
from toolkit.fronts.command_line import (
    hang_options,
    log_options,
    option_values,
    rally_options,
    restart_options,
)
from toolkit.fronts.command_line.arguments import Arguments, build_parser, parse_arguments
from toolkit.fronts.command_line.control_options import ControlOptions, control_options
from toolkit.fronts.command_line.notices import notices
from toolkit.fronts.command_line.rally_options import MASTER_PORT, RallyOptions
from toolkit.fronts.command_line.rendezvous_settings import (
    C10D,
    DEFAULT_PORTS,
    KEYS,
    RALLY,
    STATIC,
    Endpoint,
    parse_conf,
    parse_endpoint,
    says_yes,
)
from toolkit.fronts.command_line.signal_options import forward_signals, signals_to_handle

__all__ = [
    "RunOptions",
    "ScriptKind",
    "build_parser",
    "parse",
    "parse_arguments",
    "run_script_path",
]

#: torch's `LaunchConfig`: how long the static store waits for the others
_STATIC_TIMEOUT_S = 900
_READ_TIMEOUT_S = 60


class ScriptKind(Enum):
    """What SCRIPT is."""

    SCRIPT = "script"
    MODULE = "module"
    PROGRAM = "program"
    RUN_PATH = "run-path"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """One run, as asked for.

    Args:
        kind: what `script` is.
        script: path, module or program.
        script_args: its arguments.
        python: the interpreter that PYTHON_EXEC names, or None for this one.
        min_nodes: nodes that must be there, at least 1.
        max_nodes: nodes that may be there.
        nproc: workers of this node, or a word that `preflight.resolve_nproc` turns into a number.
        standalone: this node alone.
        rdzv_backend: name of the backend.
        rdzv_endpoint: its address; for rally and static made of `master_addr` and `master_port`; empty for none.
        rdzv_id: name of the job; "none" if nobody gave one.
        rdzv_conf: settings for torch's `RendezvousParameters`.
        rally: what our own rendezvous is to do; None for another backend.
        node_rank: rank of this node, for static.
        master_addr: address of node 0, for rally and static.
        master_port: port of node 0; None if nobody gave one.
        local_addr: address of this node, or None.
        role: role of the workers.
        max_restarts: at least 0.
        restart_policy: its text, or None for the plain budget; see `restart_options.judge_of`.
        monitor_interval_s: more than 0.
        start_method: of multiprocessing.
        shutdown_timeout_s: at least 0.
        exit_barrier_timeout_s: more than 0.
        signals_to_handle: death signals.
        forward_signals: signals that go on to the workers.
        event_log_handler: name of torch's handler.
        log_dir: folder for logs, or None.
        redirects: streams to files.
        tee: streams to files and console.
        local_ranks_filter: local ranks that show on the console; None for all.
        stdout_filters: words.
        stderr_filters: words.
        log_line_prefix_template: of teed lines, or None.
        logs_specs: name of a plug-in, or None.
        numa_binding: mode of torch's NUMA binding, or None.
        virtual_local_rank: each worker sees one GPU.
        omp_num_threads_unset: whether OMP_NUM_THREADS is not in the environment.
        run_dir: folder of this run, or None.
        log_max_bytes: what one stream of one worker may fill on the disk, or None.
        quiet: no status line, no notices.
        control: where other machines may watch, or None.
        readings_interval_s: between two readings of what the workers use; 0 for none.
        hangs: what is done about workers that hang.
        notices: sentences on options that have no effect or may be meant otherwise.
    """

    kind: ScriptKind
    script: str
    script_args: tuple[str, ...]
    python: str | None
    min_nodes: int
    max_nodes: int
    nproc: int | str
    standalone: bool
    rdzv_backend: str
    rdzv_endpoint: str
    rdzv_id: str
    rdzv_conf: Mapping[str, str | int]
    rally: RallyOptions | None
    node_rank: int
    master_addr: str
    master_port: int | None
    local_addr: str | None
    role: str
    max_restarts: int
    restart_policy: str | None
    monitor_interval_s: float
    start_method: str
    shutdown_timeout_s: int
    exit_barrier_timeout_s: float
    signals_to_handle: tuple[signal.Signals, ...]
    forward_signals: tuple[signal.Signals, ...]
    event_log_handler: str
    log_dir: str | None
    redirects: Std | Mapping[int, Std]
    tee: Std | Mapping[int, Std]
    local_ranks_filter: frozenset[int] | None
    stdout_filters: tuple[str, ...]
    stderr_filters: tuple[str, ...]
    log_line_prefix_template: str | None
    logs_specs: str | None
    numa_binding: str | None
    virtual_local_rank: bool
    omp_num_threads_unset: bool
    run_dir: str | None
    log_max_bytes: int | None
    quiet: bool
    control: ControlOptions | None
    readings_interval_s: float
    hangs: HangSettings
    notices: tuple[str, ...] = ()

    @property
    def solo(self) -> bool:
        """Whether this node needs no other: our own rendezvous serves, and torch is not imported.

        That is `--standalone`, and one node with no endpoint, or with the endpoint `localhost:0` that torch's
        documentation gives for one node. etcd and plug-ins were asked for by name and are used.
        """
        if self.standalone:
            return True
        several = self.max_nodes > 1 if self.rally is None else self.rally.several
        if several or self.rdzv_backend not in (RALLY, STATIC, C10D):
            return False
        return not self.rdzv_endpoint or self._endpoint_is_any_local_port()

    @property
    def backend(self) -> str:
        """How the nodes meet, as recordings call it."""
        return "solo" if self.solo else self.rdzv_backend

    def _endpoint_is_any_local_port(self) -> bool:
        address = self.endpoint_address
        return address is not None and address.is_any_local_port

    @property
    def run_id(self) -> str | None:
        """The job's name for the rendezvous; None where a fresh one is to be made."""
        fresh = self.standalone or (self.solo and self.rdzv_id == "none")
        return None if fresh else self.rdzv_id

    @property
    def endpoint_address(self) -> Endpoint | None:
        """Host and port where the nodes meet; None if they don't, or if it is a file or a plug-in's."""
        return _endpoint_address(self.rdzv_backend, self.rdzv_endpoint, self.rdzv_conf)

    @property
    def master(self) -> Endpoint | None:
        """MASTER_ADDR and MASTER_PORT of all workers, where they are known beforehand: with static, not solo."""
        return self.endpoint_address if self.rdzv_backend == STATIC and not self.solo else None

    @property
    def hosted_endpoint(self) -> bool | None:
        """Whether this agent serves the endpoint; None where that depends on whose address it is."""
        if self.rally is not None:
            return self.rally.may_host
        if self.rdzv_backend == STATIC:
            return self.node_rank == 0
        if self.rdzv_backend == C10D:
            return says_yes(self.rdzv_conf["is_host"]) if "is_host" in self.rdzv_conf else None
        return False

    @property
    def endpoint_timeout_s(self) -> float:
        """How long this agent may wait for the endpoint, as long as torch's handlers do."""
        if self.rally is not None:
            return self.rally.settings.store_timeout_s
        if self.rdzv_backend == STATIC:
            return int(self.rdzv_conf.get("timeout", _STATIC_TIMEOUT_S))
        return int(self.rdzv_conf.get("read_timeout", _READ_TIMEOUT_S))

    @property
    def fixed_port(self) -> int | None:
        """The port that this agent or its workers must be able to listen on, if it is given."""
        if self.solo:
            return self.master_port or None
        address = self.endpoint_address
        return address.port if address is not None and self.hosted_endpoint else None

    def command(self, executable: str) -> tuple[str | Callable[..., None], tuple[str, ...]]:
        """What each worker runs: a program or a function, and its arguments.

        Args:
            executable: the interpreter if PYTHON_EXEC names none.
        """
        match self.kind:
            case ScriptKind.RUN_PATH:
                return run_script_path, (self.script, *self.script_args)
            case ScriptKind.PROGRAM:
                return self.script, self.script_args
            case ScriptKind.MODULE:
                return self.python or executable, ("-u", "-m", self.script, *self.script_args)
            case ScriptKind.SCRIPT:
                return self.python or executable, ("-u", self.script, *self.script_args)

    def omp_num_threads(self, nproc: int) -> int | None:
        """What OMP_NUM_THREADS is to be for `nproc` workers; None leaves it as it is."""
        return 1 if self.omp_num_threads_unset and nproc > 1 else None


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> RunOptions:
    """Read the command line of `rally run`.

    Args:
        argv: the words behind `rally run`.
        environ: the environment; only looked up in.

    Raises:
        ConfigurationError: something that can't be, whatever machine this is.
        SystemExit: with code 0 after `--help`.
    """
    arguments = parse_arguments(argv, environ)
    values = arguments.values
    min_nodes, max_nodes = _nodes(values.nnodes, arguments.name("nnodes"))
    conf = parse_conf(values.rdzv_conf, values.rdzv_backend, arguments.name("rdzv_conf"))
    max_restarts = option_values.at_least_0(values.max_restarts, arguments.name("max_restarts"), "restarts")
    death_signals = signals_to_handle(values.signals_to_handle, arguments.name("signals_to_handle"))
    rally = None
    if values.rdzv_backend == RALLY:
        rally = rally_options.rally_options(arguments, min_nodes, max_nodes, conf, environ)
    endpoint = _endpoint(arguments, max_nodes > 1 if rally is None else rally.several, conf)
    options = RunOptions(
        kind=_kind(values),
        script=values.training_script,
        script_args=tuple(values.training_script_args),
        python=environ.get("PYTHON_EXEC") or None,
        min_nodes=min_nodes,
        max_nodes=max_nodes,
        nproc=option_values.nproc(values.nproc_per_node, arguments.name("nproc_per_node")),
        standalone=values.standalone,
        rdzv_backend=values.rdzv_backend,
        rdzv_endpoint=endpoint,
        rdzv_id=values.rdzv_id,
        rdzv_conf=_handler_conf(conf, values),
        rally=rally,
        node_rank=_node_rank(arguments, max_nodes),
        master_addr=values.master_addr,
        master_port=_master_port(arguments),
        local_addr=values.local_addr or None,
        role=values.role,
        max_restarts=max_restarts,
        restart_policy=restart_options.restart_policy(values, arguments.sources),
        monitor_interval_s=option_values.positive(
            values.monitor_interval, arguments.name("monitor_interval")
        ),
        start_method=values.start_method,
        shutdown_timeout_s=option_values.shutdown_timeout(arguments, environ),
        exit_barrier_timeout_s=option_values.positive(
            values.exit_barrier_timeout, arguments.name("exit_barrier_timeout")
        ),
        signals_to_handle=death_signals,
        forward_signals=forward_signals(values.forward_signals, death_signals, arguments.sources),
        event_log_handler=values.event_log_handler,
        log_dir=values.log_dir or None,
        redirects=parse_std(values.redirects, arguments.name("redirects")),
        tee=parse_std(values.tee, arguments.name("tee")),
        local_ranks_filter=option_values.ranks(
            values.local_ranks_filter, arguments.name("local_ranks_filter")
        ),
        stdout_filters=tuple(values.duplicate_stdout_filters),
        stderr_filters=tuple(values.duplicate_stderr_filters),
        log_line_prefix_template=environ.get("TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"),
        logs_specs=values.logs_specs,
        numa_binding=values.numa_binding,
        virtual_local_rank=values.virtual_local_rank,
        omp_num_threads_unset="OMP_NUM_THREADS" not in environ,
        run_dir=values.run_dir or None,
        log_max_bytes=log_options.log_max_bytes(values.log_max_size, arguments.name("log_max_size")),
        quiet=values.quiet,
        control=control_options(values, arguments.sources),
        readings_interval_s=option_values.readings_interval(
            values.readings_interval, arguments.name("readings_interval")
        ),
        hangs=hang_options.hang_options(values, arguments.sources, environ),
        notices=(
            *notices(arguments, min_nodes, max_nodes, conf, endpoint),
            *hang_options.notices(values, arguments.sources, environ),
        ),
    )
    _check_nodes_can_meet(options, arguments)
    return options


def _kind(values: Namespace) -> ScriptKind:
    if values.run_path:
        if not values.training_script.startswith("/"):
            raise ConfigurationError(
                f"--run-path needs an absolute path, and the script is {values.training_script!r}; "
                "write its path from the root, or leave --run-path out"
            )
        return ScriptKind.RUN_PATH
    if values.no_python and values.module:
        raise ConfigurationError(
            "--module and --no-python exclude each other: a module is run by Python; leave one of them out"
        )
    if values.no_python:
        return ScriptKind.PROGRAM
    return ScriptKind.MODULE if values.module else ScriptKind.SCRIPT


def _nodes(text: str, name: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*([+-]?\d+)\s*(?::\s*([+-]?\d+)\s*)?", text)
    if match is None:
        raise ConfigurationError(
            f"{name} is {text!r}; give a number of nodes such as 2, or MIN:MAX such as 1:4"
        )
    low, high = int(match[1]), int(match[2] or match[1])
    if low < 1:
        raise ConfigurationError(f"{name} is {text!r}; a job has at least 1 node")
    if low > high:
        raise ConfigurationError(f"{name} is {text!r}, more at least than at most; write {high}:{low}")
    return low, high


def _endpoint(arguments: Arguments, several: bool, conf: Mapping[str, str]) -> str:
    """The endpoint as torchrun has it: with static it is made of the master's address where it is missing.

    With rally as well, so that a command line for static works as it is.
    """
    values = arguments.values
    endpoint: str = values.rdzv_endpoint.strip()
    if values.standalone:
        return ""
    if not endpoint and values.rdzv_backend in (RALLY, STATIC) and several:
        port = MASTER_PORT if values.master_port is None else values.master_port
        host = values.master_addr
        endpoint = f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
        name = arguments.name("master_addr")
    else:
        name = arguments.name("rdzv_endpoint")
    _endpoint_address(values.rdzv_backend, endpoint, conf, name)
    return endpoint


def _endpoint_address(
    backend: str, endpoint: str, conf: Mapping[str, str | int], name: str = "--rdzv-endpoint"
) -> Endpoint | None:
    known = backend in KEYS
    a_file = backend == C10D and str(conf.get("store_type", "tcp")).lower() == "file"
    if not known or a_file:
        return None
    if not endpoint:
        return Endpoint("localhost", DEFAULT_PORTS[backend]) if backend in DEFAULT_PORTS else None
    return parse_endpoint(endpoint, backend, name)


def _handler_conf(conf: Mapping[str, str], values: Namespace) -> dict[str, str | int]:
    """What torchrun adds to the settings of the backend."""
    settings: dict[str, str | int] = {"timeout": _STATIC_TIMEOUT_S, **conf}
    if values.rdzv_backend == STATIC:
        settings["rank"] = values.node_rank
    return settings


def _node_rank(arguments: Arguments, max_nodes: int) -> int:
    values, name = arguments.values, arguments.name("node_rank")
    rank = option_values.at_least_0(values.node_rank, name, "nodes before this one")
    if rank >= max_nodes and values.rdzv_backend in (RALLY, STATIC) and not values.standalone:
        raise ConfigurationError(
            f"{name} is {rank}, and with --nnodes {values.nnodes} the last rank is {max_nodes - 1}; "
            "give the number of all nodes with --nnodes, and count ranks from 0"
        )
    return rank


def _master_port(arguments: Arguments) -> int | None:
    port: int | None = arguments.values.master_port
    if port is not None and not 0 <= port <= 65535:
        raise ConfigurationError(f"{arguments.name('master_port')} is {port}; give a port from 1 to 65535")
    return port


def _check_nodes_can_meet(options: RunOptions, arguments: Arguments) -> None:
    if options.standalone:
        if options.min_nodes > 1:
            raise ConfigurationError(
                f"--standalone runs one node, and {arguments.name('nnodes')} asks for {options.min_nodes}; "
                "leave --standalone out and give --rdzv-endpoint, or leave --nnodes out"
            )
        return
    if options.solo:
        return
    address = options.endpoint_address
    if address is not None and address.port == 0:
        raise ConfigurationError(
            f"the endpoint {address} has port 0, any free one, which the other nodes can't know; "
            "give a port such as 29500, the same on every node"
        )
