"""A scenario: everything about a simulated job but its seed, as one value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from simulator import wear
from simulator.checkers.values import Checker
from simulator.faults import Fault, check
from simulator.named_fields import NamedFields
from simulator.workloads import Workload
from toolkit.core.errors import ConfigurationError
from toolkit.core.restart_spec import policy_of
from toolkit.core.restarts import PLAIN_BUDGET, RestartPolicy
from toolkit.core.words import did_you_mean


@dataclass(frozen=True, slots=True)
class NodePlan(NamedFields):
    """What differs from node to node.

    Args:
        start_s: when its agent starts.
        role: of its workers.
        local_world_size: workers; None is the scenario's.
        workload: what its workers do; None is the scenario's.
        topology: a label; nodes with one label get ranks beside each other.
        node_rank: the group rank that it wants; None leaves it open.
        spare: whether it would rather wait until somebody is to be replaced.
    """

    start_s: float = 0.0
    role: str = "trainer"
    local_world_size: int | None = None
    workload: Workload | None = None
    topology: str = ""
    node_rank: int | None = None
    spare: bool = False


@dataclass(frozen=True, slots=True)
class Scenario(NamedFields):
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
        backoff_s: wait before the first restart, which doubles with each further one. Only our agent knows it.
        restart_policy: when a restart is due, delayed or forbidden, beyond that; None is torch's meaning of
            `max_restarts`. A text is as in `--restart-policy`. Only our agent knows it.
        workload: what the workers do.
        plans: what differs from node to node, by name.
        faults: what goes wrong, and when.
        mtbf_s: mean time between failures of one node, in seconds; a run draws them from its seed, beside `faults`.
            None is none. A cluster of N nodes has one every `mtbf_s / N`.
        mtbf_hits: what such a failure is: "node", which loses power, or "worker", one of the node's that is killed.
        repair_s: until a node that failed so starts again; None is never.
        solo: one node without a rendezvous service.
        store_apart: whether a machine of its own serves the store, as a service would; only for our agent.
        rdzv_conf: as `--rdzv-conf`; each rendezvous takes what it knows.
        spares: nodes that may wait beside a full round; None means any number. Only our rendezvous knows it.
        shutdown_timeout_s: between SIGTERM and SIGKILL.
        exit_barrier_timeout_s: how long finished nodes wait.
        quiet_by_s: when all agents must have ended, counted from the last fault that passes; the bound on liveness.
        limit_s: virtual time after which the run is stopped, undetermined.
        checkers: names of the checkers that judge it, none of them meaning all; and `Checker`s of one's own, which
            judge it besides.
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
    backoff_s: float = 0.0
    restart_policy: RestartPolicy | str | None = None
    workload: Workload = field(default_factory=Workload)
    plans: Mapping[str, NodePlan] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    mtbf_s: float | None = None
    mtbf_hits: str = "node"
    repair_s: float | None = 60.0
    solo: bool = False
    store_apart: bool = False
    rdzv_conf: Mapping[str, str] = field(default_factory=dict)
    spares: int | None = None
    shutdown_timeout_s: float = 30.0
    exit_barrier_timeout_s: float = 300.0
    quiet_by_s: float = 1800.0
    limit_s: float = 7200.0
    checkers: tuple[str | Checker, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.restart_policy, str):
            object.__setattr__(self, "restart_policy", policy_of(self.restart_policy, "restart_policy"))
        given: object = self.faults
        if isinstance(given, Fault):
            raise ConfigurationError(
                f"scenario {self.name!r} has a fault where a list of them should be; give faults=[{given!r}]"
            )
        object.__setattr__(self, "faults", tuple(self.faults))
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "checkers", tuple(self.checkers))
        for problem in (self._wrong_size(), self._wrong_names(), self._wrong_workload(), wear.problem(self)):
            if problem:
                raise ConfigurationError(f"scenario {self.name!r} {problem}")
        self._check_faults()

    def _wrong_size(self) -> str:
        low, high = self.bounds
        if self.nodes < 1:
            return f"has {self.nodes} nodes; it needs at least 1"
        if not 1 <= low <= high:
            return f"asks for {low} to {high} nodes in a round; give 1 <= min <= max"
        if self.solo and self.nodes != 1:
            return f"is solo and has {self.nodes} nodes; solo means one"
        if self.max_restarts < 0:
            return f"has max_restarts {self.max_restarts}; it can't be negative"
        if not 0 <= self.backoff_s < math.inf:
            return f"has backoff_s {self.backoff_s}; give 0 or more seconds"
        if self.backoff_s and self.restart_policy is not None:
            return "has a backoff_s and a restart_policy; leave out one: a policy has a back-off of its own"
        size = min(self.workers_of(name) for name in self.node_names)
        return f"has a node with {size} workers; each needs at least 1" if size < 1 else ""

    def _wrong_names(self) -> str:
        if self.names and len(self.names) != self.nodes:
            return f"names {len(self.names)} of its {self.nodes} nodes; name all"
        if len(set(self.node_names)) != self.nodes:
            return f"has two nodes of one name: {', '.join(self.node_names)}"
        for name, plan in self.plans.items():
            if name not in self.node_names:
                nodes = f"its nodes are {', '.join(self.node_names[:8])}"
                remedy = did_you_mean(name, self.node_names, nodes)
                return f"speaks of node {name!r}, which isn't there; {remedy}"
            if not plan.start_s >= 0:
                return f"starts {name} at {plan.start_s} s; a time can't be negative"
        return ""

    def _wrong_workload(self) -> str:
        ranks = sum(self.workers_of(name) for name in self.node_names)
        for workload in (self.workload, *(plan.workload for plan in self.plans.values())):
            for failure in () if workload is None else workload.failures:
                if not 0 <= failure.rank < ranks:
                    return f"lets rank {failure.rank} fail, which isn't there; give 0 to {ranks - 1}"
        return ""

    def _check_faults(self) -> None:
        workers = {name: self.workers_of(name) for name in self.node_names}
        for fault in self.faults:
            check(fault, workers)
            if fault.at_s > self.limit_s:
                raise ConfigurationError(
                    f"scenario {self.name!r} is stopped at {self.limit_s:g} s, before {fault.what()} "
                    f"at {fault.at_s:g} s; let it strike earlier, or give a higher limit_s"
                )

    @property
    def node_names(self) -> tuple[str, ...]:
        """Host names, `[nodes]`."""
        return self.names or tuple(f"node{index}" for index in range(self.nodes))

    @property
    def first_node(self) -> str:
        """The first of them. Asked for each node, so that it must not cost all of them."""
        return self.names[0] if self.names else "node0"

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest number of nodes in a round."""
        low = self.nodes if self.min_nodes is None else self.min_nodes
        high = self.nodes if self.max_nodes is None else self.max_nodes
        return low, high

    @property
    def policy(self) -> RestartPolicy | None:
        """What its agents get: `restart_policy`, or a plain budget that waits `backoff_s`; None is a plain one."""
        if not self.backoff_s:
            assert not isinstance(self.restart_policy, str), "a scenario makes a policy of its text"
            return self.restart_policy
        longest_s = max(self.backoff_s, PLAIN_BUDGET.backoff_max_s)
        return RestartPolicy(backoff_s=self.backoff_s, backoff_max_s=longest_s)

    @property
    def step_s(self) -> float:
        """What an undisturbed training step takes: as long as on the slowest node, which the others wait for."""
        special = (plan.workload.step_s for plan in self.plans.values() if plan.workload is not None)
        planned = sum(plan.workload is not None for plan in self.plans.values())
        return max((*special, *([self.workload.step_s] if planned < self.nodes else [])))

    def plan(self, name: str) -> NodePlan:
        """What is special about a node."""
        return self.plans.get(name, NodePlan())

    def workers_of(self, name: str) -> int:
        """Local world size of a node."""
        planned = self.plan(name).local_world_size
        return self.local_world_size if planned is None else planned
