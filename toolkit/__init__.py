"""Rallypoint: the elastic agent for GPU worker groups that you can watch, break and replay.

The names are loaded when they are first used: importing this package costs milliseconds and never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.api import (
        ElasticAgent,
        LocalElasticAgent,
        LogLayout,
        RallyRendezvous,
        RestartPolicy,
        RunResult,
        SimpleElasticAgent,
        SoloRendezvous,
        Worker,
        WorkerGroup,
        WorkerSpec,
        WorkerState,
    )
    from toolkit.fronts.experiment.experiment import Experiment, ExperimentResult

__version__ = "0.1.0"

__all__ = [
    "ElasticAgent",
    "Experiment",
    "ExperimentResult",
    "LocalElasticAgent",
    "LogLayout",
    "RallyRendezvous",
    "RestartPolicy",
    "RunResult",
    "SimpleElasticAgent",
    "SoloRendezvous",
    "Worker",
    "WorkerGroup",
    "WorkerSpec",
    "WorkerState",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in ("Experiment", "ExperimentResult"):
        return getattr(importlib.import_module("toolkit.fronts.experiment.experiment"), name)
    if name in __all__:
        return getattr(importlib.import_module("toolkit.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
