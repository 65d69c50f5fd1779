"""Status events as torch's event handlers know them, and their metadata.

`StatusEvent` has the fields and methods of `torch.distributed.elastic.events.Event`; a handler gets the same JSON.
Two of torch's mistakes are mended: numbers in `metadata` are numbers, not lists of one, and `timestamp` is set.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from toolkit.core.model import Worker, WorkerGroup


class EventSource(str, Enum):
    """Who speaks."""

    AGENT = "AGENT"
    WORKER = "WORKER"


@dataclass
class StatusEvent:
    """One event for torch's handlers.

    Args:
        name: "torchelastic.worker.status.<STATE>".
        source: who speaks.
        timestamp: milliseconds since the epoch.
        metadata: flat values.
    """

    name: str
    source: EventSource
    timestamp: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)

    def serialize(self) -> str:
        """JSON."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        return self.serialize()

    @staticmethod
    def deserialize(data: str | StatusEvent) -> StatusEvent:
        """The inverse of `serialize`."""
        if isinstance(data, StatusEvent):
            return data
        fields = json.loads(data)
        return StatusEvent(**(fields | {"source": EventSource[fields["source"]]}))


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """What every status event says of the agent.

    Args:
        hostname: fully qualified.
        total_run_time_s: whole seconds that the run took; 0 while it goes on.
        restarts: restarts that spent the budget.
        wall_ms: milliseconds since the epoch, now.
    """

    hostname: str
    total_run_time_s: int
    restarts: int
    wall_ms: int


def status_event(
    group: WorkerGroup,
    facts: AgentFacts,
    state: str,
    source: Any,
    worker: Worker | None = None,
    raw_error: str | None = None,
    duration_ms: float | None = None,
    exit_code: int | None = None,
    worker_pid: int | None = None,
) -> StatusEvent:
    """A status event about the agent, or about `worker`."""
    spec = group.spec
    details: dict[str, Any] = {
        "group_world_size": group.group_world_size,
        "entry_point": spec.get_entrypoint_name(),
    }
    if worker is not None:
        details |= {
            "local_rank": worker.local_rank,
            "role_rank": worker.role_rank,
            "role_world_size": worker.role_world_size,
            "exit_code": exit_code,
            "worker_pid": worker_pid,
        }
    metadata = {
        "run_id": spec.rdzv_handler.get_run_id(),
        "global_rank": None if worker is None else worker.global_rank,
        "group_rank": group.group_rank,
        "worker_id": None if worker is None else str(worker.id),
        "role": spec.role,
        "hostname": facts.hostname,
        "state": state,
        "total_run_time": facts.total_run_time_s,
        "rdzv_backend": spec.rdzv_handler.get_backend(),
        "raw_error": raw_error,
        "metadata": json.dumps(details),
        "agent_restarts": facts.restarts,
        "duration_ms": duration_ms,
    }
    return StatusEvent(f"torchelastic.worker.status.{state}", source, facts.wall_ms, metadata)
