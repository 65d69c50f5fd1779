"""The two sides of the parity suite: torch's classes and ours, under the same names."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from torch.distributed.elastic.agent.server import api as torch_api
from torch.distributed.elastic.agent.server import local_elastic_agent as torch_local

import toolkit.api as rally_api

from .differences import DIFFERENCES


@dataclass(frozen=True)
class Subject:
    """One side.

    Args:
        name: "torch" or "rally".
        api: the module with the names of the seed.
        local_agent: the agent for processes of this machine.
    """

    name: str
    api: ModuleType
    local_agent: type

    def spec(self, handler: Any, **fields: Any) -> Any:
        """A WorkerSpec that is quick to monitor, with `fields` on top."""
        plain = {
            "role": "default",
            "local_world_size": 1,
            "entrypoint": sys.executable,
            "max_restarts": 0,
            "monitor_interval": 0.01,
        }
        return self.api.WorkerSpec(rdzv_handler=handler, **(plain | fields))

    def expects(self, difference: str) -> Any:
        """What this side does in the matter of a deliberate difference."""
        return getattr(DIFFERENCES[difference], self.name)


@cache
def subject_named(name: str) -> Subject:
    """The side of that name."""
    if name == "torch":
        return Subject("torch", torch_api, torch_local.LocalElasticAgent)
    return Subject("rally", rally_api, rally_api.LocalElasticAgent)
