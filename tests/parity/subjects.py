"""The two sides of the parity suite: torch's classes and ours, under the same names."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch.distributed.elastic.agent.server import api as torch_api
from torch.distributed.elastic.agent.server import local_elastic_agent as torch_local
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs

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

    def local(
        self, handler: Any, logs: Path | Any, options: dict[str, Any] | None = None, **fields: Any
    ) -> Any:
        """The agent for processes of this machine.

        Args:
            logs: torch's LogsSpecs, or a folder for torch's DefaultLogsSpecs.
            options: of the agent.
            fields: of the spec.
        """
        specs = DefaultLogsSpecs(log_dir=str(logs)) if isinstance(logs, Path) else logs
        return self.local_agent(self.spec(handler, **fields), specs, **(options or {}))


@cache
def subject_named(name: str) -> Subject:
    """torch's classes, ours, or torch's own LocalElasticAgent over our base ("rebased")."""
    match name:
        case "torch":
            return Subject("torch", torch_api, torch_local.LocalElasticAgent)
        case "rally":
            return Subject("rally", rally_api, rally_api.LocalElasticAgent)
        case "rebased":
            return Subject("rebased", rally_api, _rebased_local_agent())
    raise ValueError(name)


def _rebased_local_agent() -> type:
    """torch's LocalElasticAgent as it stands in its module, with one import changed."""
    source = inspect.getsource(torch_local)
    theirs, ours = "from torch.distributed.elastic.agent.server.api import", "from toolkit.api import"
    assert source.count(theirs) == 1, "this torch imports the base classes in another way"
    module = ModuleType("rebased_local_elastic_agent")
    exec(compile(source.replace(theirs, ours), torch_local.__file__, "exec"), vars(module))
    agent: type = module.LocalElasticAgent
    assert issubclass(agent, rally_api.SimpleElasticAgent)
    return agent
