"""The gallery: fifteen things that torch 2.13's elastic agent gets wrong, each as a schedule that shows it.

Names of nodes matter: torch sorts nodes by their names to rank them, and the first node of a scenario serves the store.
"""

from __future__ import annotations

from dataclasses import dataclass

from simulator.faults import (
    ClockOffset,
    CrashNode,
    FlappingJoiner,
    SignalAgent,
    SlowLinks,
    StallStore,
)
from simulator.scenario import NodePlan, Scenario
from simulator.workloads import Fail, Workload

_SOURCE = "design gallery; torch 2.13"

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="scale-up",
        about="a runs alone (1:2), at 60 s b joins, and a keeps rank 0",
        source=_SOURCE,
        nodes=2,
        names=("node-a", "node-b"),
        min_nodes=1,
        workload=Workload(steps=240),
        plans={"node-b": NodePlan(start_s=60)},
        quiet_by_s=900,
        note="The agents share their store with the workers by default. Who has served it before publishes its "
        "address no more, and who joins waits for it in the new round's prefix for 60 s.",
    ),
    Scenario(
        name="moved-rank-0",
        about="b and c run (2:4), at 60 s a joins and sorts first",
        source=_SOURCE,
        nodes=3,
        names=("node-b", "node-c", "node-a"),
        min_nodes=2,
        max_nodes=4,
        workload=Workload(steps=24, step_s=10, checkpoint_every=1, collective_timeout_s=120),
        plans={"node-a": NodePlan(start_s=60)},
        quiet_by_s=1800,
        note="b and c keep the address that they learned in the first round; the new rank 0 serves another store. "
        "Steps are long, so that nobody is hit by a peer's restart before it knows of the joiner: see split-budget.",
    ),
    Scenario(
        name="store-stall",
        about="the store stalls for 20 s, then c joins",
        source=_SOURCE,
        nodes=3,
        names=("node-a", "node-b", "node-c"),
        min_nodes=1,
        max_nodes=3,
        workload=Workload(steps=240),
        # c ends before the others, whose store it uses.
        plans={"node-c": NodePlan(start_s=100, workload=Workload(steps=200))},
        faults=(StallStore(at_s=60, for_s=20),),
        quiet_by_s=1800,
        note="After the stall each node finds all heartbeats too old and evicts everybody, itself included; and who is "
        "not in the state sends no heartbeats.",
    ),
    Scenario(
        name="clock-skew",
        about="one of two nodes has a wall clock that is 20 s ahead",
        source=_SOURCE,
        nodes=2,
        names=("node-a", "node-b"),
        min_nodes=1,
        workload=Workload(steps=60),
        faults=(ClockOffset("node-b", offset_s=20),),
        quiet_by_s=900,
        note="Heartbeats are times of the sender's wall clock, and old after 15 s on the reader's.",
    ),
    Scenario(
        name="silent-node-loss",
        about="one of three nodes loses power, and its peers hang in a collective",
        source=_SOURCE,
        nodes=3,
        names=("node-a", "node-b", "node-c"),
        min_nodes=2,
        workload=Workload(steps=120, collective_timeout_s=600),
        faults=(CrashNode("node-c", at_s=60),),
        quiet_by_s=1800,
    ),
    Scenario(
        name="store-host-loss",
        about="the node that serves the store loses power, and two are left (2:3)",
        source=_SOURCE,
        nodes=3,
        names=("node-a", "node-b", "node-c"),
        min_nodes=2,
        workload=Workload(steps=120, collective_timeout_s=60),
        faults=(CrashNode("store-host", at_s=60),),
        quiet_by_s=900,
    ),
    Scenario(
        name="crash-in-rank-exchange",
        about="b loses power between the completion of the round and the exchange of ranks (2:3)",
        source=_SOURCE,
        nodes=3,
        names=("node-a", "node-b", "node-c"),
        min_nodes=2,
        workload=Workload(steps=60, collective_timeout_s=60),
        # b joins within 0.3 s of its start and looks again a second later; c completes the round in between.
        plans={"node-b": NodePlan(start_s=0.5), "node-c": NodePlan(start_s=1.0)},
        faults=(CrashNode("node-b", at_s=1.45),),
        quiet_by_s=900,
    ),
    Scenario(
        name="barrier-blocks-beat",
        about="a finishes, b trains for 200 s more, and c is parked as a spare (2:2)",
        source=_SOURCE,
        nodes=3,
        names=("node-a", "node-b", "node-c"),
        min_nodes=2,
        max_nodes=2,
        workload=Workload(steps=60, collective=False),
        plans={
            "node-b": NodePlan(workload=Workload(steps=260, collective=False)),
            "node-c": NodePlan(start_s=20),
        },
        quiet_by_s=1800,
    ),
    Scenario(
        name="late-joiner",
        about="a is done, b trains, and c joins (1:3)",
        source=_SOURCE,
        nodes=3,
        names=("node-a", "node-b", "node-c"),
        min_nodes=1,
        workload=Workload(steps=60, collective=False),
        plans={
            "node-b": NodePlan(workload=Workload(steps=160, collective=False)),
            "node-c": NodePlan(start_s=110),
        },
        quiet_by_s=1800,
    ),
    Scenario(
        name="bystander-closes",
        about="c joins a and b (2:3) with a broken script, and fails for good",
        source=_SOURCE,
        nodes=3,
        names=("node-a", "node-b", "node-c"),
        min_nodes=2,
        max_restarts=2,
        workload=Workload(steps=120, collective_timeout_s=60),
        plans={
            "node-c": NodePlan(
                start_s=10,
                workload=Workload(failures=(Fail(rank=2, at_s=1, exit_code=1, incarnations=None),)),
            )
        },
        quiet_by_s=1800,
    ),
    Scenario(
        name="flapping-joiner",
        about="b runs (1:2), and a joins and vanishes every minute",
        source=_SOURCE,
        nodes=2,
        names=("node-b", "node-a"),
        min_nodes=1,
        workload=Workload(steps=400, collective=False),
        faults=(FlappingJoiner("node-a", at_s=60, stays_s=20, away_s=40, times=8),),
        quiet_by_s=1800,
        note="The joiner sorts first, so that it becomes rank 0 and the round can form at all: see scale-up.",
    ),
    Scenario(
        name="barrier-after-failure",
        about="a succeeds, b fails for good",
        source=_SOURCE,
        nodes=2,
        names=("node-a", "node-b"),
        max_restarts=0,
        workload=Workload(steps=30, collective=False),
        plans={
            "node-b": NodePlan(
                workload=Workload(
                    steps=60, collective=False, failures=(Fail(rank=1, at_step=45, exit_code=1),)
                )
            )
        },
        quiet_by_s=900,
    ),
    Scenario(
        name="split-budget",
        about="a rank on a fails, and b sees the waiting node before its own worker notices",
        source=_SOURCE,
        nodes=2,
        names=("node-a", "node-b"),
        workload=Workload(
            steps=20, step_s=10, checkpoint_every=1, failures=(Fail(rank=0, at_s=35, exit_code=1),)
        ),
        quiet_by_s=900,
    ),
    Scenario(
        name="join-contention",
        about="80 agents start within 0.3 s, 15 ms away from the store (--nodes N)",
        source=_SOURCE,
        nodes=80,
        workload=Workload(steps=5),
        faults=(SlowLinks("node0", latency_s=0.015, for_s=None),),
        quiet_by_s=900,
        note="Simulated agents and stores compute in no time, so that attempts overlap only where messages take "
        "theirs; with 0.2 ms torch needs some 9 operations for each of 64 nodes. On a real machine a busy store "
        "and the growing state make up for that.",
    ),
    Scenario(
        name="sigterm-anywhere",
        about="a waits at the exit barrier and b trains; each gets SIGTERM three times",
        source=_SOURCE,
        nodes=2,
        names=("node-b", "node-a"),
        workload=Workload(steps=30, collective=False),
        plans={"node-b": NodePlan(workload=Workload(steps=200, collective=False, term_s=None))},
        faults=(
            SignalAgent("node-a", at_s=60, times=3),
            SignalAgent("node-b", at_s=100, times=3),
        ),
        quiet_by_s=900,
        note="b's workers ignore SIGTERM, so that there is a clean-up to abort. Other moments: "
        "--set fault.0.at_s=1.5.",
    ),
)


@dataclass(frozen=True, slots=True)
class Shows:
    """What a scenario shows of torch.

    Args:
        promise: that it breaks.
        detail: a pattern for how.
    """

    promise: str
    detail: str


SHOWS: dict[str, Shows] = {
    "scale-up": Shows("no-needless-end", r"waited 60 s for key '.*/MASTER_ADDR', in vain"),
    "moved-rank-0": Shows(
        "one-master", r"were told MASTER_ADDR node-b.*, node-a was told MASTER_ADDR node-a"
    ),
    "store-stall": Shows("one-round-running", r"two worlds at once .* node-c trains as rank 0 of 1"),
    "clock-skew": Shows("ranks-exact", r"node-b was told that it is rank 1 of 1"),
    "silent-node-loss": Shows("dead-node-noticed", r"noticed after 600 s"),
    "store-host-loss": Shows("no-needless-end", r"the fault struck node-a, with 3 of 3 restarts left"),
    "crash-in-rank-exchange": Shows("no-needless-end", r"the fault struck node-b.*role_info/1"),
    "barrier-blocks-beat": Shows("no-restart-after-success", r"node-b restarts its healthy workers"),
    "late-joiner": Shows("no-restart-after-success", r"node-c joins .* finished work is run again"),
    "bystander-closes": Shows("same-result", r"node-a ERROR, node-b ERROR and node-c FAILED"),
    "flapping-joiner": Shows("membership-restarts-bounded", r"healthy workers were restarted 8 times"),
    "barrier-after-failure": Shows(
        "barrier-hears-failure", r"for 285 s \(timeout\) for node-b, .*could not say"
    ),
    "split-budget": Shows("one-restart-count", r"node-a counts 1 and node-b counts 0 restarts"),
    "join-contention": Shows("operations-bounded", r"store operations, \d+ for each node"),
    "sigterm-anywhere": Shows("signal-ends-agent", r"node-a was told to end at 60.0 s and ended \d+ s later"),
}
