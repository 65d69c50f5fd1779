"""Every name of torch's `torch/distributed/elastic/agent/server/api.py`: change the import, keep the code.

Deliberately here and not torch's: errors carry messages, `run()` never returns None, numbers in event metadata are
numbers. See `toolkit/README.md` for the list.
"""

from __future__ import annotations

from toolkit.adapters.host import fq_hostname as _get_fq_hostname
from toolkit.agent.barrier import TERMINAL_STATE_SYNC_ID as _TERMINAL_STATE_SYNC_ID
from toolkit.agent.base import ElasticAgent
from toolkit.core.errors import SignalException
from toolkit.core.launch_plan import LogLayout, Std
from toolkit.core.model import (
    DEFAULT_ROLE,
    ProcessFailure,
    RunResult,
    Worker,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
    _RoleInstanceInfo,
)
from toolkit.core.restarts import RestartPolicy, RestartVerdict
from toolkit.core.status import EventSource
from toolkit.core.status import StatusEvent as Event
from toolkit.wiring import LocalElasticAgent, RallyRendezvous, SimpleElasticAgent, SoloRendezvous

__all__ = [
    "WorkerSpec",
    "Worker",
    "WorkerState",
    "WorkerGroup",
    "RunResult",
    "ElasticAgent",
    "SimpleElasticAgent",
    "LocalElasticAgent",
    "DEFAULT_ROLE",
    "Event",
    "EventSource",
    "LogLayout",
    "ProcessFailure",
    "RestartPolicy",
    "RestartVerdict",
    "SignalException",
    "RallyRendezvous",
    "SoloRendezvous",
    "Std",
    "_RoleInstanceInfo",
    "_TERMINAL_STATE_SYNC_ID",
    "_get_fq_hostname",
]
