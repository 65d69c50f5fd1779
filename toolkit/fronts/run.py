"""`rally run`: from the command line to an exit code."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import toolkit
from toolkit import wiring
from toolkit.adapters.control.server import TcpAddress
from toolkit.adapters.interrupts import SignalInterrupts
from toolkit.adapters.leftovers.orphans import Orphans
from toolkit.adapters.output.console import Console
from toolkit.adapters.output.pump import LAGGING_S
from toolkit.adapters.output.pumps import Pumps
from toolkit.adapters.processes import error_file
from toolkit.adapters.readings.sampler import ReadingsSampler
from toolkit.adapters.recording.directory import (
    RunDirectory,
    fresh_run_directory,
    note_elsewhere,
    open_for_writing,
)
from toolkit.adapters.recording.layout import path_safe
from toolkit.adapters.sinks import FanOut
from toolkit.agent.rendezvous import Offer
from toolkit.agent.solo import SoloRendezvous
from toolkit.core.errors import (
    ConfigurationError,
    LaunchError,
    RendezvousRefusedError,
    SignalException,
)
from toolkit.core.failures import exit_code_of
from toolkit.core.launch_plan import IncarnationLogs, LogLayout, LogsSpecs
from toolkit.core.model import NOT_AVAILABLE, RunResult, WorkerSpec
from toolkit.core.restarts import RestartJudge
from toolkit.core.words import plural
from toolkit.fronts import preflight
from toolkit.fronts.command_line import restart_options
from toolkit.fronts.command_line.options import RunOptions, parse
from toolkit.fronts.command_line.rally_options import RallyOptions
from toolkit.fronts.early_stop import tell_early_stop
from toolkit.fronts.lost_logs import RecordingNotice
from toolkit.fronts.narration import Narration
from toolkit.fronts.status import StatusLine
from toolkit.fronts.troubles import in_words
from toolkit.ports import Ports
from toolkit.surroundings import state_directory
from toolkit.views.wording import wants_colour

#: nothing was started, because what was asked for can't be
BAD_INPUT = 2
#: the agent itself failed
AGENT_FAILED = 1
#: how long the console may take for what is left at the end, in seconds
FLUSH_S = 1.0


def run_command(
    argv: Sequence[str],
    environ: Mapping[str, str],
    cwd: Path,
    executable: str,
    interrupts: SignalInterrupts | None = None,
) -> int:
    """Run a job to its end.

    Args:
        argv: the words behind `rally run`.
        environ: the environment.
        cwd: where relative paths start.
        executable: the Python interpreter for scripts.
        interrupts: what has the signals of this process already; None takes them, and gives them back at the end.

    Returns:
        0 if all local workers succeeded, the first failed worker's exit code, 128 + signal for a death by signal,
        2 for what can't be run, 1 if the agent failed.
    """
    with ExitStack() as cleanup:
        console = wiring.standard_console()
        cleanup.callback(console.close)
        cleanup.callback(console.flush, FLUSH_S)
        say = _Voice(console)
        if interrupts is None:
            interrupts = SignalInterrupts(wiring.process_id())
            interrupts.install()
            cleanup.callback(interrupts.uninstall)
        try:
            options, checked, policy = _checked(argv, environ, cwd, executable, say, interrupts)
            # From here on there is a recording, and it tells of signals.
            job = _prepare(options, checked, policy, environ, cwd, executable, argv)
            return _run(job, console, say, cleanup, interrupts)
        except ConfigurationError as error:
            say(f"rally run: {error}")
            return BAD_INPUT
        except SignalException as error:
            say(f"rally run: stopped by {error.sigval.name} before anything was started")
            return 128 + error.sigval


class _Voice:
    """Writes lines to stderr, past whatever else is on the console."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, line: str) -> None:
        self.write(line + "\n")

    def write(self, text: str) -> None:
        self._console.write("err", text.encode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class _Job:
    """A run that can be started.

    Args:
        options: as asked for.
        nproc: workers of this node.
        run_id: the job.
        directory: where it is recorded.
        log_dir: where its workers' logs go, if not beside the recording.
        local_addr: what peers call this machine, or None.
        environ: the environment of the agent.
        executable: the Python interpreter for scripts.
        restart_policy: what decides about restarts; None is the plain budget.
    """

    options: RunOptions
    nproc: int
    run_id: str
    directory: RunDirectory
    log_dir: Path | None
    local_addr: str | None
    environ: Mapping[str, str]
    executable: str
    restart_policy: RestartJudge | None


def _checked(
    argv: Sequence[str],
    environ: Mapping[str, str],
    cwd: Path,
    executable: str,
    say: _Voice,
    interrupts: SignalInterrupts,
) -> tuple[RunOptions, preflight.Checked, RestartJudge | None]:
    """Read the command line, and check everything that can be checked before anything starts.

    Raises:
        SignalException: a death signal came.
        ConfigurationError: what is asked for can't be.
    """
    with interrupts.interruptible():
        options = parse(argv, environ)
        interrupts.choose(options.signals_to_handle, options.forward_signals)
        for notice in () if options.quiet else options.notices:
            say(f"rally: note: {notice}")
        if not options.solo:
            wiring.wait_less_for_names()
        patience = _Patience(say if not options.quiet else _nothing)
        policy = restart_options.judge_of(options.restart_policy, cwd)
        return options, preflight.check(options, environ, cwd, executable, patience.on_wait), policy


def _prepare(
    options: RunOptions,
    checked: preflight.Checked,
    policy: RestartJudge | None,
    environ: Mapping[str, str],
    cwd: Path,
    executable: str,
    argv: Sequence[str],
) -> _Job:
    """Make the folders: that of the logs first, so that no recording is left of a run that can't be."""
    run_id = options.run_id or wiring.fresh_run_id()
    log_dir = None
    if options.log_dir is not None and options.logs_specs is None:
        log_dir = wiring.fresh_log_directory(cwd / options.log_dir, path_safe(run_id))
    directory = _open_run_directory(options, cwd, run_id, _described(options, checked.nproc, argv))
    return _Job(
        options, checked.nproc, run_id, directory, log_dir, checked.local_addr, environ, executable, policy
    )


class _Patience:
    """Tells of a wait that goes on, first after 2 s, then less and less often."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._next_s = 2.0

    def on_wait(self, waited_s: float, why: str) -> None:
        if waited_s >= self._next_s:
            self._next_s = waited_s + min(max(waited_s, 5.0), 60.0)
            self._say(f"rally: waiting for the rendezvous endpoint, {waited_s:.0f} s so far: {why}")


def _open_run_directory(
    options: RunOptions, cwd: Path, run_id: str, description: Mapping[str, Any]
) -> RunDirectory:
    now_ns = wiring.wall_ns()
    if options.run_dir is not None:
        directory = open_for_writing(cwd / options.run_dir, run_id, description, started_wall_ns=now_ns)
        note_elsewhere(state_directory(), directory, started_wall_ns=now_ns)
        return directory
    return fresh_run_directory(state_directory(), run_id, description, started_wall_ns=now_ns)


def _described(options: RunOptions, nproc: int, argv: Sequence[str]) -> dict[str, Any]:
    """What `run.json` says of this run."""
    return {
        "argv": ["rally", "run", *map(_printable, argv)],
        "entrypoint": _printable(" ".join((options.script, *options.script_args))),
        "role": options.role,
        "local_world_size": nproc,
        "min_nodes": options.min_nodes,
        "max_nodes": options.max_nodes,
        "max_restarts": options.max_restarts,
        **({} if options.restart_policy is None else {"restart_policy": options.restart_policy}),
        "backend": options.backend,
        "endpoint": "" if options.solo else options.rdzv_endpoint,
        **_described_rally(options),
        "host": platform.node(),
        "pid": wiring.process_id(),
        "versions": {"rallypoint": toolkit.__version__, "python": platform.python_version()},
    }


def _described_rally(options: RunOptions) -> dict[str, Any]:
    """What it says besides where our own rendezvous is used."""
    rally = options.rally
    if rally is None or options.solo:
        return {}
    return {
        "spares": rally.settings.spares,
        "topology": rally.topology,
        "node_rank": rally.node_rank,
        "lease_s": rally.settings.lease_s,
    }


def _printable(word: str) -> str:
    """A word of a command line, which need not be UTF-8."""
    return word.encode("utf-8", "backslashreplace").decode()


def _run(job: _Job, console: Console, say: _Voice, cleanup: ExitStack, interrupts: SignalInterrupts) -> int:
    options = job.options
    node = wiring.node_name()
    status = StatusLine(
        console,
        wiring.clock(),
        quiet=options.quiet,
        term=job.environ.get("TERM", ""),
        no_color=bool(job.environ.get("NO_COLOR")),
        unicode="utf" in (sys.stderr.encoding or "").lower(),
    )
    cleanup.callback(status.close)
    narration = Narration(
        say.write if not options.quiet else _nothing,
        reminders=not status.active,
        colour=wants_colour(console.is_tty("err"), job.environ),
    )
    cleanup.callback(narration.close)
    recording = job.directory.open_sink(node)
    cleanup.callback(recording.close)
    notice = RecordingNotice(recording, str(job.directory.events_path(node)), narration.say)
    cleanup.callback(notice.close)
    readings = _readings(options, narration.say)
    control = wiring.control_server(
        job.directory, node, _control_address(job), narration.say, options.local_addr
    )
    cleanup.callback(control.close)
    if control.tcp is not None:
        narration.say(f"watch and control at {control.url}")
    orphans = Orphans()
    cleanup.callback(orphans.end)
    pumps = Pumps(
        console,
        capture_console=status.active,
        log_max_bytes=options.log_max_bytes,
        console_may_lag=True,
        keep_words=True,
    )
    ports = wiring.system_ports(
        orders=control.orders,
        orphans=orphans,
        events=FanOut((recording, narration, status, notice, *readings, control.feed)),
        interrupts=interrupts,
        inherited=_inherited(job),
        new_pump=pumps.new,
        hangs=options.hangs,
        note=narration.say,
    )
    for sampler in readings:
        sampler.ask_for_steps(ports.watch.steps)
    cleanup.callback(_finish_output, pumps, interrupts)
    try:
        with interrupts.interruptible():  # it may import torch, and wait for a store
            handler = _rendezvous(job, ports)
    except SignalException as error:
        tell_early_stop(job.options, job.run_id, job.nproc, error, ports)
        return _stopped(job, error, narration)
    agent = wiring.LocalElasticAgent(
        _spec(job, handler),
        _logs(job, node),
        start_method=options.start_method,
        exit_barrier_timeout=options.exit_barrier_timeout_s,
        log_line_prefix_template=options.log_line_prefix_template,
        shutdown_timeout=options.shutdown_timeout_s,
        ports=ports,
    )
    for sampler in readings:
        cleanup.callback(sampler.close)
        sampler.begin(agent.say_while)
    return _supervise(job, agent, handler, ports, narration, interrupts)


def _readings(options: RunOptions, note: Callable[[str], None]) -> tuple[ReadingsSampler, ...]:
    """The one that reads what the workers use, if that is wanted."""
    interval_s = options.readings_interval_s
    return (ReadingsSampler(interval_s, note),) if interval_s > 0 else ()


def _control_address(job: _Job) -> TcpAddress | None:
    """Where other machines may watch, if they may."""
    control = job.options.control
    if control is None:
        return None
    files = (
        None if name is None else Path(name).absolute()
        for name in (control.token_file, control.tls_cert, control.tls_key, control.tls_ca)
    )
    return TcpAddress(control.address.host, control.address.port, *files)


def _nothing(text: str) -> None:
    """What `--quiet` says."""


def _inherited(job: _Job) -> dict[str, str]:
    """The environment of the workers, before what each of them gets for itself."""
    inherited = dict(job.environ)
    threads = job.options.omp_num_threads(job.nproc)
    if threads is not None:
        inherited["OMP_NUM_THREADS"] = str(threads)
    # For an agent inside a worker, as torchrun has it; and for `toolkit.stop_requested`.
    inherited["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(sig.name for sig in job.options.signals_to_handle)
    inherited["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(job.options.shutdown_timeout_s)
    return inherited


def _rendezvous(job: _Job, ports: Ports) -> Any:
    options = job.options
    if options.solo:
        return SoloRendezvous(
            job.run_id, ports, master_addr=options.master_addr, master_port=options.master_port or None
        )
    if options.rally is not None:
        return _rally_rendezvous(job, options.rally, ports)
    return wiring.torch_rendezvous(
        backend=options.rdzv_backend,
        endpoint=options.rdzv_endpoint,
        run_id=job.run_id,
        min_nodes=options.min_nodes,
        max_nodes=options.max_nodes,
        local_addr=options.local_addr or job.local_addr,
        config=options.rdzv_conf,
    )


def _rally_rendezvous(job: _Job, rally: RallyOptions, ports: Ports) -> Any:
    address = job.options.endpoint_address
    assert address is not None, "our own rendezvous always has an endpoint"
    offer = Offer(
        role=job.options.role,
        local_world_size=job.nproc,
        address=job.options.local_addr,
        topology=rally.topology,
        node_rank=rally.node_rank,
        spare=rally.spare,
    )
    return wiring.rally_rendezvous(
        address.host,
        address.port,
        may_host=rally.may_host,
        run_id=job.run_id,
        settings=rally.settings,
        offer=offer,
        ports=ports,
    )


def _spec(job: _Job, handler: Any) -> WorkerSpec:
    options = job.options
    entrypoint, args = options.command(job.executable)
    return WorkerSpec(
        role=options.role,
        local_world_size=job.nproc,
        rdzv_handler=handler,
        entrypoint=entrypoint,
        args=args,
        max_restarts=options.max_restarts,
        monitor_interval=options.monitor_interval_s,
        master_addr=options.master.host if options.master else None,
        master_port=options.master.port if options.master else None,
        local_addr=options.local_addr,
        event_log_handler=options.event_log_handler,
        numa_options=wiring.numa_options(options.numa_binding),
        duplicate_stdout_filters=list(options.stdout_filters),
        duplicate_stderr_filters=list(options.stderr_filters),
        virtual_local_rank=options.virtual_local_rank,
        restart_policy=job.restart_policy,
    )


def _logs(job: _Job, node: str) -> LogsSpecs | IncarnationLogs:
    options = job.options
    if options.logs_specs is not None:
        return wiring.logs_specs_plugin(
            options.logs_specs,
            log_dir=options.log_dir,
            redirects=options.redirects,
            tee=options.tee,
            local_ranks_filter=options.local_ranks_filter,
        )
    root = job.log_dir or wiring.unused_folder(job.directory.logs / path_safe(node))
    return LogLayout(str(root), options.redirects, options.tee, options.local_ranks_filter)


def _supervise(
    job: _Job,
    agent: wiring.LocalElasticAgent,
    handler: Any,
    ports: Ports,
    narration: Narration,
    interrupts: SignalInterrupts,
) -> int:
    """Run the agent and say how it ended."""
    destination = job.options.event_log_handler
    try:
        result = agent.run()
    except SignalException as error:
        # The rendezvous stays open: other nodes may go on, or wait for this one to come back.
        _record(ports, agent.get_event_failed, destination)
        return _stopped(job, error, narration)
    except LaunchError as error:
        _record(ports, agent.get_event_failed, destination)
        _shut_down_quietly(handler, interrupts)
        narration.say(f"the workers can't be started: {error}")
        return AGENT_FAILED
    except RendezvousRefusedError as error:
        _record(ports, agent.get_event_failed, destination)
        _shut_down_quietly(handler, interrupts)
        narration.say(f"refused: {error}")
        return AGENT_FAILED
    except Exception as error:  # noqa: BLE001 - the edge of the process; the event stream has the details
        _record(ports, agent.get_event_failed, destination)
        _shut_down_quietly(handler, interrupts)
        narration.say(f"the agent failed: {in_words(error)}; {_where(job)}")
        return AGENT_FAILED
    _record(ports, agent.get_event_succeeded, destination)
    _shut_down_quietly(handler, interrupts)
    _pass_up_failure(job, result)
    return _tell_result(job, result, agent.restarts, narration)


def _stopped(job: _Job, error: SignalException, narration: Narration) -> int:
    narration.say(f"stopped by {error.sigval.name}; {_where(job)}")
    return 128 + error.sigval


def _finish_output(pumps: Pumps, interrupts: SignalInterrupts) -> None:
    """Wait for a slow console. After a signal nobody wants to, be it one that comes meanwhile."""
    if not interrupts.count():
        try:
            with interrupts.interruptible():
                pumps.finish(LAGGING_S)
            return
        except SignalException:
            pass  # the run has its result
    pumps.finish(FLUSH_S)


def _record(ports: Ports, make_event: Callable[[], Any], destination: str) -> None:
    if ports.telemetry.wanted(destination):
        ports.telemetry.record(make_event(), destination)


def _shut_down_quietly(handler: Any, interrupts: SignalInterrupts) -> None:
    interrupts.forget()  # the run has its result; only a signal from now on ends this wait
    try:
        with interrupts.interruptible():
            handler.shutdown()
    except Exception:  # noqa: BLE001 - torch's and anybody's handlers; the run has its result already
        return


def _where(job: _Job) -> str:
    path = job.directory.path
    name = path.name if path.parent == state_directory().absolute() else shlex.quote(str(path))
    return f"`rally show {name}` tells what happened"


def _tell_result(job: _Job, result: RunResult, restarts: int, narration: Narration) -> int:
    code = exit_code_of(result)
    if code:
        narration.say(f"{_failed_in_words(result, code)}; {_where(job)}")
    elif restarts:
        narration.say(f"succeeded after {plural(restarts, 'restart')}; {_where(job)}")
    return code


def _failed_in_words(result: RunResult, code: int) -> str:
    """That it failed, and whose fault it is where the workers of this node have succeeded."""
    if not result.return_values:
        return f"failed with exit code {code}"
    first = next(iter(result.failures.values()), None)
    whose = f": {first.message}" if first is not None else ""
    return f"the job failed, though the workers of this node succeeded{whose}; exit code {code}"


def _pass_up_failure(job: _Job, result: RunResult) -> None:
    """An agent that is a worker itself hands the first failure on to whoever started it, as torchrun does."""
    path = job.environ.get("TORCHELASTIC_ERROR_FILE")
    first = next(iter(result.failures.values()), None)
    if not path or first is None:
        return
    if first.error_file != NOT_AVAILABLE:
        error_file.write(path, first.error_file_data, first.exitcode)
    elif isinstance(first.message, dict):  # as its stderr had it
        error_file.write(path, {"message": first.message}, first.exitcode)
