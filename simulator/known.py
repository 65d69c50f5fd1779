"""What is known to break with our agent, only because of torch's rendezvous handler. The list can only shrink.

`tests/simulator/test_gallery.py` holds all scenarios against it: what is listed breaks, by just these promises, and all
else holds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Known:
    """Why a scenario does not hold yet.

    Args:
        promises: that are broken.
        reason: what in torch's handler does it.
    """

    promises: tuple[str, ...]
    reason: str


KNOWN: dict[str, Known] = {
    "store-stall": Known(
        ("one-round-running",),
        "after a stall every heartbeat looks old, so that everybody is evicted and beats no more; the next one to "
        "join forms a world of its own",
    ),
    "clock-skew": Known(
        ("ranks-exact",),
        "a heartbeat carries the sender's wall clock, and each reader compares it with its own",
    ),
    "silent-node-loss": Known(
        ("dead-node-noticed",),
        "an evicted node leaves the state, and no agent is told: `num_nodes_waiting` is all that is ever asked",
    ),
    "store-host-loss": Known(
        ("dead-node-noticed", "everyone-ends", "no-needless-end"),
        "the store's client waits without a timeout until TCP gives up, under the handler's lock; then there is no "
        "other store",
    ),
    "crash-in-rank-exchange": Known(
        ("no-needless-end",),
        "the handler gives no ranks, so that agents exchange them over the store, and wait 60 s for a dead one",
    ),
    "late-joiner": Known(
        ("no-needless-end", "same-result"),
        "whoever waits to join makes the others leave the round, and a member that has finished never comes; when its "
        "barrier is over, the store goes with it",
    ),
    "bystander-closes": Known(
        ("one-restart-count", "same-result"),
        "the handler is closed by any agent that fails, and knows no cause; each agent counts its own restarts",
    ),
    "flapping-joiner": Known(
        ("dead-node-noticed", "membership-restarts-bounded"),
        "whoever joins while there is room is announced at once, however often; and nobody is told when it vanishes",
    ),
    "barrier-after-failure": Known(
        ("barrier-hears-failure", "same-result"),
        "the handler shares no outcome of a node: the barrier's keys, which are torch's, count who has come and "
        "nothing else",
    ),
    "split-budget": Known(
        ("one-restart-count",),
        "each agent counts the restarts that it sees; the handler carries no count of the job",
    ),
    "join-contention": Known(
        ("operations-bounded",),
        "every node replaces one state by compare-and-set, and all but one fail and read it again",
    ),
}
