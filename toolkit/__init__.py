"""Rallypoint: the elastic agent for GPU worker groups that you can watch, break and replay.

The names are loaded when they are first used: importing this package costs milliseconds and never imports torch.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.api import (
        ElasticAgent,
        LocalElasticAgent,
        LogLayout,
        RallyRendezvous,
        RestartPolicy,
        RestartVerdict,
        RunResult,
        SimpleElasticAgent,
        SoloRendezvous,
        Worker,
        WorkerGroup,
        WorkerSpec,
        WorkerState,
    )
    from toolkit.fronts.experiment.experiment import Experiment, ExperimentResult
    from toolkit.fronts.notebook.job import Job
    from toolkit.fronts.notebook.launching import attach, launch
    from toolkit.fronts.notebook.simulation import Simulation
    from toolkit.stop_request import stop_requested, stop_seconds_left
    from toolkit.worker_progress import progress

__version__ = "0.1.0"

#: those that are not in `toolkit.api`, and where they are
_HOMES = {
    "Experiment": "toolkit.fronts.experiment.experiment",
    "ExperimentResult": "toolkit.fronts.experiment.experiment",
    "Job": "toolkit.fronts.notebook.job",
    "Simulation": "toolkit.fronts.notebook.simulation",
    "attach": "toolkit.fronts.notebook.launching",
    "launch": "toolkit.fronts.notebook.launching",
    "progress": "toolkit.worker_progress",
    "stop_requested": "toolkit.stop_request",
    "stop_seconds_left": "toolkit.stop_request",
}

__all__ = [
    "ElasticAgent",
    "Experiment",
    "ExperimentResult",
    "Job",
    "LocalElasticAgent",
    "LogLayout",
    "RallyRendezvous",
    "RestartPolicy",
    "RestartVerdict",
    "RunResult",
    "SimpleElasticAgent",
    "Simulation",
    "SoloRendezvous",
    "Worker",
    "WorkerGroup",
    "WorkerSpec",
    "WorkerState",
    "attach",
    "launch",
    "progress",
    "stop_requested",
    "stop_seconds_left",
    "__version__",
]


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext toolkit`: values show themselves, and `%%rally` runs a cell. Importing the package does it, too."""
    from toolkit.fronts.notebook import formatters, magic

    formatters.register(shell)
    magic.register(shell)


def _greet_ipython() -> None:
    """Importing the package where IPython runs is enough; elsewhere nothing more is imported."""
    if "IPython" not in sys.modules:
        return
    from toolkit.fronts.notebook.shell import running_shell

    shell = running_shell()
    if shell is not None:
        load_ipython_extension(shell)


def __getattr__(name: str) -> Any:
    if name in __all__:
        value = getattr(importlib.import_module(_HOMES.get(name, "toolkit.api")), name)
        globals()[name] = value  # found at once from now on: a training script calls `progress` at every step
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


_greet_ipython()
