"""What the agent does next, as a table and two functions. Each decision is a value with its reason.

Nothing here acts. `toolkit.agent.base` asks, and carries out what it is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from toolkit.core.model import WorkerState
from toolkit.core.restarts import RestartVerdict
from toolkit.core.rounds import Over

_S = WorkerState

#: which state of the group may follow which; a checker holds recordings against it
LEGAL_STEPS: dict[WorkerState, frozenset[WorkerState]] = {
    _S.INIT: frozenset({_S.HEALTHY, _S.FAILED, _S.UNKNOWN, _S.STOPPED}),
    _S.HEALTHY: frozenset({_S.UNHEALTHY, _S.SUCCEEDED, _S.FAILED, _S.STOPPED, _S.UNKNOWN}),
    _S.UNHEALTHY: frozenset({_S.HEALTHY, _S.SUCCEEDED, _S.FAILED, _S.STOPPED, _S.UNKNOWN}),
    _S.STOPPED: frozenset({_S.HEALTHY, _S.FAILED, _S.UNKNOWN}),
    _S.FAILED: frozenset({_S.STOPPED}),
    _S.SUCCEEDED: frozenset({_S.STOPPED}),
    _S.UNKNOWN: frozenset({_S.STOPPED, _S.FAILED}),
}


@dataclass(frozen=True, slots=True)
class Continue:
    """The workers run; look again when something changes."""

    reason: str = "workers are running"


@dataclass(frozen=True, slots=True)
class Finish:
    """All local workers succeeded: wait for the other agents, then end."""

    reason: str


@dataclass(frozen=True, slots=True)
class Restart:
    """Stop the workers, form the group anew and start them again.

    Args:
        reason: why.
        spends_budget: whether it counts against `max_restarts`; a change of membership does not.
        delay_s: seconds to wait after the workers are stopped.
        free: whether it follows a failure and spends nothing, because the restart policy says so.
        verdict: what the restart policy said; empty where none was asked.
    """

    reason: str
    spends_budget: bool
    delay_s: float = 0.0
    free: bool = False
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Fail:
    """Stop the workers; the run has failed. `verdict` is what the restart policy said, if it was asked."""

    reason: str
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Abort:
    """The agent lost track of the group; it must not guess."""

    reason: str


Decision = Continue | Finish | Restart | Fail | Abort


def after_monitor(state: WorkerState, verdict: RestartVerdict | None) -> Decision:
    """What follows from the state of the group.

    Args:
        state: what the monitor saw.
        verdict: what the restart policy says; needed for UNHEALTHY and FAILED only.
    """
    match state:
        case WorkerState.HEALTHY:
            return Continue()
        case WorkerState.SUCCEEDED:
            return Finish("all local workers succeeded")
        case WorkerState.UNHEALTHY | WorkerState.FAILED:
            assert verdict is not None, "a failed group needs the verdict of the restart policy"
            what = "a worker failed" if state == WorkerState.FAILED else "the workers are unhealthy"
            if verdict.allowed:
                return Restart(
                    f"{what}; {verdict.reason}",
                    not verdict.free,
                    verdict.delay_s,
                    verdict.free,
                    verdict.reason,
                )
            return Fail(f"{what}; {verdict.reason}", verdict.reason)
        case WorkerState.INIT | WorkerState.STOPPED | WorkerState.UNKNOWN:
            return Abort(f"worker group is in state {state.value} while it should be running")
        case _:
            assert_never(state)


def after_round(over: Over) -> Decision:
    """What follows for a member from what became of its round, which was decided for all."""
    match over.kind:
        case "restart" | "membership" | "evicted":
            return Restart(over.reason, over.spends, over.delay_s, over.free, over.verdict)
        case "failed":
            return Fail(over.reason)
        case "succeeded":
            return Finish(over.reason)
        case _:
            assert_never(over.kind)


def after_membership(nodes_waiting: int, group_rank: int | None) -> Decision:
    """What follows from the number of nodes that wait to join."""
    if nodes_waiting <= 0:
        return Continue()
    noun = "node waits" if nodes_waiting == 1 else "nodes wait"
    return Restart(f"{nodes_waiting} {noun} to join (seen by group rank {group_rank})", spends_budget=False)
