"""The deterministic cluster of failing nodes in which the agent of `toolkit` runs unmodified, and torch's beside it.

    from simulator import Scenario, faults, scenarios, simulate

    report = simulate(scenarios.moved_rank_0, subject="torch", seed=1)
    print(report)

Names are loaded when they are asked for: the checkers alone, which also judge recordings, need no greenlet.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator import checkers, faults, planning, scenarios
    from simulator.report import Report, simulate
    from simulator.scenario import NodePlan, Scenario
    from simulator.simulation import Simulation
    from simulator.sweeps import sweep
    from simulator.workloads import Fail, Workload

_HOMES = {
    "Fail": "workloads",
    "NodePlan": "scenario",
    "Report": "report",
    "Scenario": "scenario",
    "Simulation": "simulation",
    "Workload": "workloads",
    "simulate": "report",
    "sweep": "sweeps",
}
_MODULES = ("checkers", "faults", "planning", "scenarios")

__all__ = [
    "Fail",
    "NodePlan",
    "Report",
    "Scenario",
    "Simulation",
    "Workload",
    "checkers",
    "faults",
    "planning",
    "scenarios",
    "simulate",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"simulator.{name}")
    if name in _HOMES:
        return getattr(import_module(f"simulator.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'simulator' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
