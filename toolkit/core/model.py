"""The nouns of the agent: what is to run, the workers, their group, and how a run ended.

Names, fields and meaning are those of torch's `torch/distributed/elastic/agent/server/api.py` (2.13), so that
code written for it needs only another import. These classes are mutable because torch's are; their one owner
is the agent.
"""

from __future__ import annotations

import json
import signal
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import PurePath
from typing import Any

from toolkit.core.errors import SpecError
from toolkit.core.restarts import RestartJudge

DEFAULT_ROLE = "default"


@dataclass
class WorkerSpec:
    """What to run on this node, and how.

    Every node of a job runs one spec per agent; roles and sizes may differ between nodes.

    Args:
        role: the role of these workers; ranks are also counted within a role.
        local_world_size: workers on this node, at least 1.
        rdzv_handler: forms the group: ours, or any of torch's rendezvous handlers.
        fn: deprecated name of `entrypoint`.
        entrypoint: a Python function, or the path of a program.
        args: arguments of the entrypoint; `${local_rank}` in a string is replaced for each worker.
        max_restarts: how often a failed group is started again before the run fails.
        monitor_interval: upper bound in seconds of the time between two looks at the workers.
        master_port: port of the workers' store; None takes a fresh one each round.
        master_addr: address of the workers' store; None takes what the rendezvous says.
        local_addr: address of this node as others can reach it.
        event_log_handler: name of a handler of `torch.distributed.elastic.events`.
        numa_options: `torch.numa.binding.NumaOptions`.
        duplicate_stdout_filters: lines with any of these words also go into one filtered file.
        duplicate_stderr_filters: the same for stderr.
        virtual_local_rank: each worker sees one GPU, as device 0, and LOCAL_RANK=0.
        restart_policy: when a restart is due, delayed or forbidden; None is torch's meaning of
            `max_restarts`. Ours, not torch's.

    Raises:
        SpecError: a size or an interval that is not positive, or no entrypoint.
    """

    role: str
    local_world_size: int
    rdzv_handler: Any
    fn: Callable[..., Any] | None = None
    entrypoint: Callable[..., Any] | str | None = None
    args: tuple[Any, ...] = ()
    max_restarts: int = 3
    monitor_interval: float = 0.1
    master_port: int | None = None
    master_addr: str | None = None
    local_addr: str | None = None
    event_log_handler: str = "null"
    numa_options: Any | None = None
    duplicate_stdout_filters: list[str] | None = None
    duplicate_stderr_filters: list[str] | None = None
    virtual_local_rank: bool = False
    restart_policy: RestartJudge | None = None

    def __post_init__(self) -> None:
        if self.local_world_size <= 0:
            raise SpecError(f"local_world_size is {self.local_world_size}; it must be at least 1")
        if self.monitor_interval <= 0:
            raise SpecError(f"monitor_interval is {self.monitor_interval} s; it must be more than 0")
        if self.fn:
            warnings.warn(
                "WorkerSpec(fn=...) is deprecated; use WorkerSpec(entrypoint=...)",
                category=DeprecationWarning,
                stacklevel=3,
            )
            self.entrypoint = self.fn
        if not self.entrypoint:
            raise SpecError("entrypoint is missing; give a function or the path of a program")

    def get_entrypoint_name(self) -> str:
        """The base name of the program, or the qualified name of the function."""
        if isinstance(self.entrypoint, str):
            return PurePath(self.entrypoint).name
        assert self.entrypoint is not None, "checked when the spec was made"
        return str(getattr(self.entrypoint, "__qualname__", repr(self.entrypoint)))

    def get_script_name(self) -> str:
        """What people call this job: the script that a Python interpreter is given, else the entrypoint's name."""
        name = self.get_entrypoint_name()
        if not isinstance(self.entrypoint, str) or not name.startswith("python"):
            return name
        return next((PurePath(arg).name for arg in map(str, self.args) if not arg.startswith("-")), name)


class Worker:
    """One worker process, as the agent knows it.

    Ranks are -1 until a rendezvous has assigned them, and may change with the next one.

    Args:
        local_rank: rank among the workers of this agent.
        global_rank: rank among all workers of the job.
        role_rank: rank among all workers of the job with this role.
        world_size: number of workers of the job.
        role_world_size: number of workers of the job with this role.
    """

    __slots__ = ("id", "local_rank", "global_rank", "role_rank", "world_size", "role_world_size")

    def __init__(
        self,
        local_rank: int,
        global_rank: int = -1,
        role_rank: int = -1,
        world_size: int = -1,
        role_world_size: int = -1,
    ) -> None:
        #: set when the worker starts; its pid for a local agent
        self.id: Any = None
        self.local_rank = local_rank
        self.global_rank = global_rank
        self.role_rank = role_rank
        self.world_size = world_size
        self.role_world_size = role_world_size

    def __str__(self) -> str:
        return (
            f"local_rank={self.local_rank},global_rank={self.global_rank},role_rank={self.role_rank}"
            f",world_size={self.world_size},role_world_size={self.role_world_size}"
        )

    __repr__ = __str__


class WorkerState(str, Enum):
    """The state of a worker group. Workers of a group change state together.

    INIT → HEALTHY | UNHEALTHY → SUCCEEDED | FAILED, with STOPPED in between when the agent stops the workers to
    start them again. UNKNOWN means that the agent lost track; it does not recover from that. The legal steps
    are in `toolkit.core.decisions.LEGAL_STEPS`.
    """

    UNKNOWN = "UNKNOWN"
    INIT = "INIT"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @staticmethod
    def is_running(state: WorkerState) -> bool:
        """Whether the processes exist, healthy or not."""
        return state in (WorkerState.HEALTHY, WorkerState.UNHEALTHY)


class WorkerGroup:
    """The workers of one spec on this node, with what the last rendezvous said about them.

    Args:
        spec: what the workers run.
    """

    __slots__ = (
        "spec",
        "workers",
        "store",
        "group_rank",
        "group_world_size",
        "state",
        "master_addr",
        "master_port",
    )

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.workers: list[Worker] = [Worker(local_rank=i) for i in range(spec.local_world_size)]
        self.store: Any = None
        self.group_rank: int | None = None
        self.group_world_size: int | None = None
        self.master_addr: str | None = None
        self.master_port: int | None = None
        self.state = WorkerState.INIT


class _RoleInstanceInfo:
    """What one agent tells the others so that ranks can be assigned over unequal nodes.

    The wire form is torch's, so that agents of both kinds can share a rendezvous.
    """

    __slots__ = ("role", "rank", "local_world_size")

    def __init__(self, role: str, rank: int, local_world_size: int) -> None:
        self.role = role
        self.rank = rank
        self.local_world_size = local_world_size

    def serialize(self) -> bytes:
        """JSON, UTF-8."""
        fields = {"role": self.role, "rank": self.rank, "local_world_size": self.local_world_size}
        return json.dumps(fields).encode()

    @staticmethod
    def deserialize(data: bytes) -> _RoleInstanceInfo:
        """The inverse of `serialize`. Raises ValueError or KeyError for anything else."""
        fields = json.loads(data.decode())
        return _RoleInstanceInfo(fields["role"], fields["rank"], fields["local_world_size"])

    @staticmethod
    def compare(obj1: _RoleInstanceInfo, obj2: _RoleInstanceInfo) -> int:
        """Order by role, then by rank: negative, zero or positive, for `functools.cmp_to_key`."""
        if obj1.role == obj2.role:
            return obj1.rank - obj2.rank
        return 1 if obj1.role > obj2.role else -1

    @staticmethod
    def find_role_boundaries(roles_infos: Sequence[_RoleInstanceInfo], role: str) -> tuple[int, int]:
        """First and last index of `role` in a list that is sorted by role; (-1, -1) if it is not there."""
        indices = [i for i, info in enumerate(roles_infos) if info.role == role]
        return (indices[0], indices[-1]) if indices else (-1, -1)


#: what torch writes where a failed worker left no error file
NOT_AVAILABLE = "<N/A>"


@dataclass
class ProcessFailure:
    """How one worker failed. Fields and meaning are those of torch's class of the same name.

    Unlike torch's it reads no file: `toolkit.adapters.processes.error_file` does, and survives a truncated one.

    Args:
        local_rank: the worker's local rank.
        pid: its process id.
        exitcode: its exit code; -N for death by signal N.
        error_file: the worker's error file, or "<N/A>".
        error_file_data: what the error file holds; `{"message": "<NONE>"}` without one.
        message: what happened: a sentence, or the `message` object of torch's error file.
        timestamp: seconds since the epoch of the failure.
        diagnosis: what it died of (a `Diagnosis`), which torch's class does not have; or None.
    """

    local_rank: int
    pid: int
    exitcode: int
    error_file: str = NOT_AVAILABLE
    error_file_data: dict[str, Any] = field(default_factory=lambda: {"message": "<NONE>"})
    message: Any = ""
    timestamp: int = 0
    diagnosis: Any = field(default=None, repr=False, compare=False)

    def signal_name(self) -> str:
        """The name of the signal that ended the worker, or "<N/A>"."""
        if self.exitcode >= 0:
            return NOT_AVAILABLE
        try:
            return signal.Signals(-self.exitcode).name
        except ValueError:
            return NOT_AVAILABLE

    def timestamp_isoformat(self) -> str:
        """The time of the failure, YYYY-MM-DD_HH:MM:SS, local time."""
        return datetime.fromtimestamp(self.timestamp).isoformat(sep="_")

    def summary(self) -> str:
        """The message as one line."""
        text = self.message.get("message", "") if isinstance(self.message, dict) else self.message
        return str(text).strip().split("\n", 1)[0]

    def traceback(self) -> str:
        """The worker's traceback, or an empty string."""
        if not isinstance(self.message, dict):
            return ""
        extra = self.message.get("extraInfo")
        return str(extra.get("py_callstack", "")) if isinstance(extra, dict) else ""


@dataclass
class RunResult:
    """How a run ended on this node: all workers succeeded, or it failed.

    Args:
        state: SUCCEEDED or FAILED; STOPPED when this node was not needed and left.
        return_values: what the function returned, by global rank; None for programs.
        failures: the workers that failed, by global rank. Workers that the agent stopped are in neither.
    """

    state: WorkerState
    return_values: dict[int, Any] = field(default_factory=dict)
    failures: dict[int, Any] = field(default_factory=dict)

    def is_failed(self) -> bool:
        """Whether the run failed."""
        return self.state == WorkerState.FAILED
