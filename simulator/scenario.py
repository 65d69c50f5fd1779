"""A scenario: everything about a simulated job but its seed, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from simulator.faults import ROLES, Fault
from simulator.workloads import Workload
from toolkit.core.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class NodePlan:
    """What differs from node to node.

    Args:
        start_s: when its agent starts.
        role: of its workers.
        local_world_size: workers; None is the scenario's.
        workload: what its workers do; None is the scenario's.
    """

    start_s: float = 0.0
    role: str = "trainer"
    local_world_size: int | None = None
    workload: Workload | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """A job, its cluster, its faults and what must hold.

    Args:
        name: for reports.
        about: one line: what it shows.
        source: where it comes from: an issue, a measurement, a plain case.
        nodes: how many there are; names are node0, node1, ... unless `names` says otherwise.
        names: host names, `[nodes]`; they decide how torch sorts the nodes.
        min_nodes: agents without which no round starts; None is all.
        max_nodes: agents that a round admits; None is all.
        local_world_size: workers of each node.
        max_restarts: the budget.
        workload: what the workers do.
        plans: what differs from node to node, by name.
        faults: what goes wrong, and when.
        solo: one node without a rendezvous service.
        rdzv_conf: for torch's handler, as `--rdzv-conf`.
        shutdown_timeout_s: between SIGTERM and SIGKILL.
        exit_barrier_timeout_s: how long finished nodes wait.
        quiet_by_s: when all agents must have ended, counted from the last fault that passes; the bound on liveness.
        limit_s: virtual time after which the run is stopped, undetermined.
        checkers: names of the checkers that judge it; empty means all.
        note: what a reader should know, for instance why torch passes.
    """

    name: str = "unnamed"
    about: str = ""
    source: str = ""
    nodes: int = 1
    names: tuple[str, ...] = ()
    min_nodes: int | None = None
    max_nodes: int | None = None
    local_world_size: int = 1
    max_restarts: int = 3
    workload: Workload = field(default_factory=Workload)
    plans: Mapping[str, NodePlan] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    solo: bool = False
    rdzv_conf: Mapping[str, str] = field(default_factory=dict)
    shutdown_timeout_s: float = 30.0
    exit_barrier_timeout_s: float = 300.0
    quiet_by_s: float = 1800.0
    limit_s: float = 7200.0
    checkers: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise ConfigurationError(f"scenario {self.name!r} has {self.nodes} nodes; it needs at least 1")
        if self.names and len(self.names) != self.nodes:
            raise ConfigurationError(
                f"scenario {self.name!r} names {len(self.names)} of its {self.nodes} nodes; name all"
            )
        if len(set(self.node_names)) != self.nodes:
            raise ConfigurationError(
                f"scenario {self.name!r} has two nodes of one name: {', '.join(self.node_names)}"
            )
        low, high = self.bounds
        if not 1 <= low <= high:
            raise ConfigurationError(
                f"scenario {self.name!r} asks for {low} to {high} nodes in a round; give 1 <= min <= max"
            )
        if self.solo and self.nodes != 1:
            raise ConfigurationError(
                f"scenario {self.name!r} is solo and has {self.nodes} nodes; solo means one"
            )
        object.__setattr__(self, "faults", tuple(self.faults))
        for name in (*self.plans, *(fault.target for fault in self.faults)):
            if name not in self.node_names and name not in ROLES:
                near = get_close_matches(name, [*self.node_names, *ROLES], n=2)
                remedy = (
                    f"did you mean {' or '.join(near)}?"
                    if near
                    else f"its nodes are {', '.join(self.node_names[:8])}"
                )
                raise ConfigurationError(
                    f"scenario {self.name!r} speaks of node {name!r}, which isn't there; {remedy}"
                )

    @property
    def node_names(self) -> tuple[str, ...]:
        """Host names, `[nodes]`."""
        return self.names or tuple(f"node{index}" for index in range(self.nodes))

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest number of nodes in a round."""
        low = self.nodes if self.min_nodes is None else self.min_nodes
        high = self.nodes if self.max_nodes is None else self.max_nodes
        return low, high

    def plan(self, name: str) -> NodePlan:
        """What is special about a node."""
        return self.plans.get(name, NodePlan())
