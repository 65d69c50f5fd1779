"""What of a scenario can be had on real processes of this machine; the rest is refused before anything starts."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.core import rally_conf
from toolkit.core.errors import ConfigurationError
from toolkit.fronts.given_policy import as_options

if TYPE_CHECKING:
    from simulator.faults import Fault
    from simulator.scenario import Scenario

#: the machine that serves the store where no agent does; called as in the simulator
HOST = "store"
#: each is a process that has loaded torch
_NODES_MAX = 32
#: why this machine can't have them
_ONLY_SIMULATED = {
    "ClockOffset": "all nodes share this machine's clocks",
    "ClockStep": "all nodes share this machine's clocks",
    "ClockDrift": "all nodes share this machine's clocks",
    "FillDisk": "all nodes share this machine's disk",
    "FailSpawn": "nothing makes one start of a process fail and not the next",
    "CrashAtOperation": "nobody counts the store operations of a real agent",
    "PauseAtOperation": "nobody counts the store operations of a real agent",
    "DropAtOperation": "nobody counts the store operations of a real agent",
}


def check_local(scenario: Scenario) -> None:
    """Whether it can run here.

    Raises:
        ConfigurationError: it can't; names what is in the way, and what can be done.
    """
    problem = next(filter(None, (*map(_wrong_fault, scenario.faults), _wrong_nodes(scenario))), "")
    if problem:
        raise ConfigurationError(f"scenario {scenario.name!r} can't run on real processes: {problem}")
    low, high = scenario.bounds
    # A policy that is an object has to reach the agents.
    as_options({"restart_policy": scenario.policy}, Path())
    conf = {key: text for key, text in scenario.rdzv_conf.items() if key in rally_conf.KEYS}
    name = f"rdzv_conf of scenario {scenario.name!r}"
    rally_conf.job_settings(conf, min_nodes=low, max_nodes=high, spares=scenario.spares, name=name)
    if sys.platform != "linux":
        raise ConfigurationError(
            f"experiments on real processes need Linux, and this is {sys.platform}; --world sim runs"
        )
    if not scenario.solo and importlib.util.find_spec("torch") is None:
        raise ConfigurationError(
            "agents of several nodes meet in a store of torch, and torch is not installed; install rallypoint[torch], "
            "or take --world sim"
        )


def _wrong_fault(fault: Fault) -> str:
    from simulator.faults import is_own

    name = type(fault).__name__
    if is_own(fault):
        return (
            f"{name} is a fault of your own, and what it does it does to simulated nodes; take --world sim, or name "
            "the faults of simulator.faults that it is made of"
        )
    if name in _ONLY_SIMULATED:
        return f"{name} is for the simulator only, {_ONLY_SIMULATED[name]}; take --world sim, or leave it out"
    if fault.target == "busy":
        return f'{name} strikes "busy", and nobody sees whether a real agent waits for the store; name a node'
    return ""


def _wrong_nodes(scenario: Scenario) -> str:
    if scenario.nodes > _NODES_MAX:
        return f"it has {scenario.nodes} nodes, and here each is a process that loads torch; give {_NODES_MAX} at most"
    for name in scenario.node_names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,60}", name) or name == HOST:
            return f"it has a node called {name!r}; use letters, digits, dots and dashes, and not {HOST!r}"
    return ""


def store_is_a_process(scenario: Scenario) -> bool:
    """Whether the store is served by a process of its own: as a machine of its own, or to stall without its agent."""
    from simulator.faults import StallStore

    stalls = any(isinstance(fault, StallStore) for fault in scenario.faults)
    return not scenario.solo and (scenario.store_apart or stalls)
