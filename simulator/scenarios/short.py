"""Short scenarios, a few seconds each: to be run on real processes, too, where they must go as they do in here.

Faults strike well away from checkpoints and from each other, so that what a machine adds to each step moves nothing
behind something else.
"""

from __future__ import annotations

from simulator.faults import CrashNode, KillAgent, KillWorker, StallStore
from simulator.scenario import NodePlan, Scenario
from simulator.workloads import Workload

_SOURCE = "plain case"
#: patience that fits a run of seconds
_CONF = {"beat": "0.5", "lease": "2", "join_window": "1", "last_call_timeout": "2"}

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="short-worker-crash",
        about="in a few seconds: a worker is killed, and all start again from the last checkpoint",
        source=_SOURCE,
        nodes=3,
        local_world_size=2,
        rdzv_conf=_CONF,
        workload=Workload(steps=16, step_s=0.2, start_s=0.2, checkpoint_every=8),
        faults=(KillWorker("node1", at_s=2.6, local_rank=1),),
        quiet_by_s=60,
    ),
    Scenario(
        name="short-agent-kill",
        about="in a few seconds: an agent is killed, its workers with it, and it comes back later",
        source=_SOURCE,
        nodes=3,
        min_nodes=2,
        rdzv_conf=_CONF,
        workload=Workload(steps=40, step_s=0.2, start_s=0.2, checkpoint_every=4),
        faults=(KillAgent("node1", at_s=1.6, restart_after_s=5),),
        quiet_by_s=60,
    ),
    Scenario(
        name="short-agent-crash",
        about="in a few seconds: a node loses power, the others go on without it, and it comes back",
        source=_SOURCE,
        nodes=3,
        min_nodes=2,
        rdzv_conf=_CONF,
        workload=Workload(steps=40, step_s=0.2, start_s=0.2, checkpoint_every=4),
        faults=(CrashNode("node1", at_s=1.6, reboot_after_s=6),),
        quiet_by_s=60,
    ),
    Scenario(
        name="short-store-stall",
        about="in a few seconds: the store stands still, and a worker is killed while it does",
        source=_SOURCE,
        nodes=2,
        store_apart=True,
        rdzv_conf=_CONF,
        workload=Workload(steps=20, step_s=0.2, start_s=0.2, checkpoint_every=4),
        faults=(StallStore(at_s=1.6, for_s=4), KillWorker("node1", at_s=2.8)),
        quiet_by_s=60,
    ),
    Scenario(
        name="short-scale-up",
        about="in a few seconds: two of three nodes run, and the third one comes late",
        source=_SOURCE,
        nodes=3,
        min_nodes=2,
        rdzv_conf=_CONF,
        workload=Workload(steps=36, step_s=0.2, start_s=0.2, checkpoint_every=4),
        plans={"node2": NodePlan(start_s=4)},
        quiet_by_s=60,
    ),
)
