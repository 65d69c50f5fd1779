"""An experiment as values: what struck whom, how each node ended. Both worlds note the same."""

from __future__ import annotations

import msgspec


class NodeEnd(msgspec.Struct, frozen=True):
    """How the last agent of a node ended.

    Args:
        result: as in `AgentFinished`; "KILLED", "LOST" (with its machine), "RUNNING" or "WAITING" (it never started).
        exit_code: None where it has none, or none is known.
    """

    result: str
    exit_code: int | None = None


class Strike(msgspec.Struct, frozen=True):
    """A fault that struck.

    Args:
        kind: name of the fault.
        node: whom.
        at_s: seconds of the experiment's clock.
        until_s: when it had passed; None for what stays.
        words: what happened.
    """

    kind: str
    node: str
    at_s: float
    until_s: float | None
    words: str


class NotedExperiment(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an experiment beside its events.

    Args:
        world: "sim" or "local".
        scenario: as TOML.
        seed: of the experiment.
        began_wall_ns: the start of the experiment's clock, by the wall clock of the nodes.
        strikes: in their order.
        words: all faults as they struck, or found nobody.
        ends: how each node ended.
        finding: why it was broken off, or empty.
    """

    world: str
    scenario: str
    seed: int
    began_wall_ns: int
    strikes: list[Strike] = []
    words: list[str] = []
    ends: dict[str, NodeEnd] = {}
    finding: str = ""
