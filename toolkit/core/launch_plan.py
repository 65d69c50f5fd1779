"""How each local rank is started, as a value: environment, arguments, log paths. A dry run.

The environment is torchrun's, name by name: user scripts and torch itself read it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntFlag
from pathlib import PurePath
from string import Template
from typing import Any, Protocol

from toolkit.core.diagnosing.kernel_record import KernelRecord
from toolkit.core.errors import ConfigurationError
from toolkit.core.model import WorkerGroup

#: the console, where torch's `LogsDest` writes an empty path
CONSOLE = ""


class Std(IntFlag):
    """Standard streams, with torch's numbers: 0 none, 1 stdout, 2 stderr, 3 both."""

    NONE = 0
    OUT = 1
    ERR = 2
    ALL = 3


_STD_VALUE = re.compile(r"[0-3]")
_STD_MAP = re.compile(r"\d+:[0-3](,\d+:[0-3])*")


def parse_std(text: str, option: str = "--redirects") -> Std | dict[int, Std]:
    """Parse what `--redirects` and `--tee` take: `3`, or `0:3,12:1` by local rank.

    torch reads local ranks of one digit only; this reads any.

    Raises:
        ConfigurationError: anything else.
    """
    if _STD_VALUE.fullmatch(text):
        return Std(int(text))
    if _STD_MAP.fullmatch(text):
        settings: dict[int, Std] = {}
        for part in text.split(","):
            rank, value = map(int, part.split(":"))
            if settings.setdefault(rank, Std(value)) != value:
                raise ConfigurationError(
                    f"{option} is {text!r}, which names local rank {rank} twice, with {settings[rank]:d} and {value}; "
                    "give it once"
                )
        return settings
    raise ConfigurationError(
        f"{option} is {text!r}; give 0 (none), 1 (stdout), 2 (stderr) or 3 (both), "
        "or a map by local rank such as 0:3,1:2"
    )


def std_of(setting: Std | Mapping[int, Std], local_rank: int) -> Std:
    """The setting for one local rank; ranks that a map doesn't name have none. torch's `Std` is as good as ours."""
    return Std(setting) if isinstance(setting, int) else setting.get(local_rank, Std.NONE)


@dataclass
class LogDestinations:
    """Where the streams go, by local rank. Field for field torch's `LogsDest`; an empty path is the console."""

    stdouts: dict[int, str] = field(default_factory=dict)
    stderrs: dict[int, str] = field(default_factory=dict)
    tee_stdouts: dict[int, str] = field(default_factory=dict)
    tee_stderrs: dict[int, str] = field(default_factory=dict)
    error_files: dict[int, str] = field(default_factory=dict)
    filtered_stdout: str = ""
    filtered_stderr: str = ""


class LogsSpecs(Protocol):
    """Decides where the streams go. torch's `LogsSpecs` classes fit as they are."""

    def reify(self, envs: dict[int, dict[str, str]]) -> Any:
        """Destinations for the workers with these environments, which it may add to."""
        ...


class IncarnationLogs(Protocol):
    """Ours: also told the incarnation, so that nothing is ever overwritten."""

    def for_incarnation(
        self, incarnation: int, restart_count: int, local_world_size: int
    ) -> LogDestinations: ...


@dataclass(frozen=True, slots=True)
class LogLayout:
    """Where logs go: one folder per incarnation. No run loses what an earlier one has left in the same root: logs are
    appended to, and its error files get a number.

    Args:
        root: the folder; logs are at `<root>/<folder>_<incarnation>/<local_rank>/stdout.log`.
        redirects: streams that go to files only.
        tee: streams that go to files and to the console.
        console_ranks: local ranks whose streams show on the console; None shows all.
        folder: name of the folders, without their number.
    """

    root: str
    redirects: Std | Mapping[int, Std] = Std.NONE
    tee: Std | Mapping[int, Std] = Std.NONE
    console_ranks: frozenset[int] | None = None
    folder: str = "attempt"

    def for_incarnation(self, incarnation: int, restart_count: int, local_world_size: int) -> LogDestinations:
        """Destinations of one incarnation. Makes no files."""
        base = PurePath(self.root) / f"{self.folder}_{incarnation}"
        to = LogDestinations(
            filtered_stdout=str(base / "filtered_stdout.log"),
            filtered_stderr=str(base / "filtered_stderr.log"),
        )
        for rank in range(local_world_size):
            to.error_files[rank] = str(base / str(rank) / "error.json")
            shown = self.console_ranks is None or rank in self.console_ranks
            streams = (
                (Std.OUT, "stdout.log", to.stdouts, to.tee_stdouts),
                (Std.ERR, "stderr.log", to.stderrs, to.tee_stderrs),
            )
            for std, name, plain, teed in streams:
                tee = bool(std_of(self.tee, rank) & std)
                if tee or std_of(self.redirects, rank) & std:
                    plain[rank] = str(base / str(rank) / name)
                    if tee and shown:
                        teed[rank] = plain[rank]
                else:
                    plain[rank] = CONSOLE if shown else "/dev/null"
        return to


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """How one worker is started.

    Args:
        local_rank: its local rank.
        global_rank: its global rank.
        env: what is added to the environment of the agent.
        args: arguments of the entrypoint, macros replaced; strings for a program.
        stdout: path of its stdout; empty for the console.
        stderr: path of its stderr; empty for the console.
        tee_stdout: whether stdout also shows on the console.
        tee_stderr: whether stderr also shows on the console.
        error_file: where torch's `@record` writes its error, or empty.
        prefix: what a teed line begins with.
    """

    local_rank: int
    global_rank: int
    env: Mapping[str, str]
    args: tuple[Any, ...]
    stdout: str = CONSOLE
    stderr: str = CONSOLE
    tee_stdout: bool = False
    tee_stderr: bool = False
    error_file: str = ""
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """How all workers of one incarnation are started.

    Args:
        role: their role.
        incarnation: counts the starts on this node, from 0.
        entrypoint: a function, or the path of a program.
        workers: by local rank, `[local_world_size]`.
        start_method: of multiprocessing, for functions.
        numa_options: torch's `NumaOptions`, or None.
        stdout_filters: words; teed stdout lines with one of them also go to `filtered_stdout`.
        stderr_filters: the same for stderr.
        filtered_stdout: path.
        filtered_stderr: path.
    """

    role: str
    incarnation: int
    entrypoint: Callable[..., Any] | str
    workers: tuple[WorkerPlan, ...]
    start_method: str = "spawn"
    numa_options: Any | None = None
    stdout_filters: tuple[str, ...] = ()
    stderr_filters: tuple[str, ...] = ()
    filtered_stdout: str = ""
    filtered_stderr: str = ""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A process that a worker has started and that is there though the worker has ended.

    Args:
        pid: its process id.
        name: of its program, as the kernel keeps it.
        local_rank: of the worker in whose session it is; None if it has left that (setsid, a daemon).
        caught: bit N-1 is set for each signal N for which it has a handler.
        supervises: whether it is the supervisor of an agent that ran in a worker, and is about to end.
    """

    pid: int
    name: str
    local_rank: int | None = None
    caught: int = 0
    supervises: bool = False

    def handles(self, signum: int) -> bool:
        """Whether it does something of its own when it gets this signal."""
        return bool(self.caught >> (signum - 1) & 1)

    @property
    def escaped(self) -> bool:
        """Whether it has left the sessions of all workers, and is the users' own."""
        return self.local_rank is None and not self.supervises

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class WorkerExit:
    """How one worker ended.

    Args:
        local_rank: its local rank.
        pid: its process id.
        exit_code: as `subprocess` counts: -N for death by signal N.
        at_ns: the agent's monotonic time when it learned of it.
        wall_s: seconds since the epoch of the same moment.
        return_value: what the function returned; None for programs.
        problem: why an exit with code 0 is a failure all the same, or empty.
        error_file: path of its error file, if there is one.
        error_data: what that file holds, if it could be read.
        error_unusable: whether that is only a sentence on why the file can't be used.
        last_words: the end of its stderr, if it is kept.
        said_at_ns: nanoseconds since the epoch of its error file or, without one, of its last words; 0 if not known.
        kernel: what the kernel has on record of it, if that was asked.
        step: that it told last by `toolkit.progress`; None if it never did.
        there: whether its process is there all the same, because nothing ends it.
    """

    local_rank: int
    pid: int
    exit_code: int
    at_ns: int
    wall_s: int
    return_value: Any = None
    problem: str = ""
    error_file: str = ""
    error_data: Mapping[str, Any] | None = None
    error_unusable: bool = False
    last_words: str = ""
    said_at_ns: int = 0
    kernel: KernelRecord | None = None
    step: int | None = None
    there: bool = False

    @property
    def failed(self) -> bool:
        """Whether the worker did not end well."""
        return self.exit_code != 0 or bool(self.problem)


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """What the plan needs besides the group.

    Args:
        run_id: the job.
        restart_count: restarts that spent the budget so far.
        incarnation: starts on this node so far.
        use_agent_store: whether the agents host the workers' store.
        start_method: of multiprocessing, for functions.
        prefix_template: `string.Template` for the prefix of teed lines, or None for "[role local_rank]:".
        variables: more of the environment of each worker, by local rank.
    """

    run_id: str
    restart_count: int
    incarnation: int
    use_agent_store: bool
    start_method: str = "spawn"
    prefix_template: str | None = None
    variables: Sequence[Mapping[str, str]] = ()


def plan_launch(
    group: WorkerGroup,
    settings: LaunchSettings,
    logs: LogsSpecs | IncarnationLogs,
    inherited: Mapping[str, str],
) -> LaunchPlan:
    """Plan the start of all workers of `group`, whose ranks must be assigned.

    Args:
        inherited: the environment that workers inherit; read, not copied.

    Raises:
        ConfigurationError: virtual local ranks with fewer visible GPUs than workers.
    """
    spec = group.spec
    assert spec.entrypoint is not None, "checked when the spec was made"
    envs = {w.local_rank: worker_environment(group, w.local_rank, settings, inherited) for w in group.workers}
    for env, more in zip(envs.values(), settings.variables, strict=False):
        env.update(more)
    to = _destinations(logs, settings, envs)
    return LaunchPlan(
        role=spec.role,
        incarnation=settings.incarnation,
        entrypoint=spec.entrypoint,
        workers=tuple(
            WorkerPlan(
                local_rank=worker.local_rank,
                global_rank=worker.global_rank,
                env=envs[worker.local_rank],
                args=_arguments(spec.args, worker.local_rank, as_text=isinstance(spec.entrypoint, str)),
                stdout=to.stdouts.get(worker.local_rank, CONSOLE),
                stderr=to.stderrs.get(worker.local_rank, CONSOLE),
                tee_stdout=worker.local_rank in to.tee_stdouts,
                tee_stderr=worker.local_rank in to.tee_stderrs,
                error_file=envs[worker.local_rank].get("TORCHELASTIC_ERROR_FILE", ""),
                prefix=_prefix(settings.prefix_template, spec.role, worker.global_rank, worker.local_rank),
            )
            for worker in group.workers
        ),
        start_method=settings.start_method,
        numa_options=spec.numa_options,
        stdout_filters=tuple(spec.duplicate_stdout_filters or ()),
        stderr_filters=tuple(spec.duplicate_stderr_filters or ()),
        filtered_stdout=to.filtered_stdout,
        filtered_stderr=to.filtered_stderr,
    )


def _destinations(
    logs: LogsSpecs | IncarnationLogs, settings: LaunchSettings, envs: dict[int, dict[str, str]]
) -> LogDestinations | Any:
    if not hasattr(logs, "for_incarnation"):
        return logs.reify(envs)
    to = logs.for_incarnation(settings.incarnation, settings.restart_count, len(envs))
    for rank, env in envs.items():
        env["TORCHELASTIC_ERROR_FILE"] = to.error_files[rank]
    return to


def worker_environment(
    group: WorkerGroup, local_rank: int, settings: LaunchSettings, inherited: Mapping[str, str]
) -> dict[str, str]:
    """The variables that one worker gets on top of what it inherits."""
    spec, worker = group.spec, group.workers[local_rank]
    env = {
        "RANK": str(worker.global_rank),
        "GROUP_RANK": str(group.group_rank),
        "ROLE_RANK": str(worker.role_rank),
        "ROLE_NAME": spec.role,
        "LOCAL_WORLD_SIZE": str(spec.local_world_size),
        "WORLD_SIZE": str(worker.world_size),
        "GROUP_WORLD_SIZE": str(group.group_world_size),
        "ROLE_WORLD_SIZE": str(worker.role_world_size),
        "MASTER_ADDR": str(group.master_addr),
        "MASTER_PORT": str(group.master_port),
        "TORCHELASTIC_RESTART_COUNT": str(settings.restart_count),
        "TORCHELASTIC_MAX_RESTARTS": str(spec.max_restarts),
        "TORCHELASTIC_RUN_ID": settings.run_id,
        "TORCHELASTIC_USE_AGENT_STORE": str(settings.use_agent_store),
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": inherited.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
        "LOCAL_RANK": "0" if spec.virtual_local_rank else str(local_rank),
    }
    if spec.virtual_local_rank:
        env["CUDA_VISIBLE_DEVICES"] = _visible_device(inherited.get("CUDA_VISIBLE_DEVICES"), local_rank)
    return env


def _visible_device(inherited: str | None, local_rank: int) -> str:
    if inherited is None:
        return str(local_rank)
    devices = [device.strip() for device in inherited.split(",")]
    if local_rank >= len(devices):
        raise ConfigurationError(
            f"CUDA_VISIBLE_DEVICES={inherited} has {len(devices)} devices, and local rank {local_rank} needs one of "
            "its own (--virtual-local-rank); start fewer workers or show more devices"
        )
    return devices[local_rank]


def _arguments(args: Sequence[Any], local_rank: int, *, as_text: bool) -> tuple[Any, ...]:
    replaced = (
        Template(arg).safe_substitute(local_rank=str(local_rank)) if isinstance(arg, str) else arg
        for arg in args
    )
    return tuple(str(arg) for arg in replaced) if as_text else tuple(replaced)


def _prefix(template: str | None, role: str, rank: int, local_rank: int) -> str:
    if template is None:
        return f"[{role}{local_rank}]:"
    return Template(template).safe_substitute(role_name=role, rank=rank, local_rank=local_rank)
