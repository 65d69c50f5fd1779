"""Where ours differs from torch's on purpose: what each does, and why. The cases read what to expect from here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """One matter in which the two differ.

    Args:
        torch: what torch's class does (2.13).
        rally: what ours does.
        reason: why.
    """

    torch: Any
    rally: Any
    reason: str


DIFFERENCES = {
    "scalars in event metadata": Difference(
        torch=lambda value: [value],
        rally=lambda value: value,
        reason="torch writes 1-tuples (a comma at the end of an assignment), so local_rank 0 reaches handlers as [0]",
    ),
    "event has a time": Difference(
        torch=False,
        rally=True,
        reason="torch's events carry timestamp 0, so that a handler can't order them",
    ),
    "result of a node that is not needed": Difference(
        torch=None,
        rally="STOPPED",
        reason="callers ask result.is_failed(); None makes a graceful exit an AttributeError",
    ),
    "result of an unhealthy group without restarts": Difference(
        torch="UNHEALTHY",
        rally="FAILED",
        reason="is_failed() is False for UNHEALTHY, so that torch's launcher takes the run for a success",
    ),
    "unhealthy run counts as failed": Difference(
        torch=False,
        rally=True,
        reason="the same mistake, in the metrics: a run that ended UNHEALTHY is counted as run_success_*",
    ),
    "failures hold workers that the agent stopped": Difference(
        torch=True,
        rally=False,
        reason="torch's own docstring says that they are in neither list; they hide who failed first",
    ),
    "message of an exit code without error file": Difference(
        torch="To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html",
        rally="exited with code 3",
        reason="the sentence says what happened; a link to a page says nothing",
    ),
    "errorTraits where there is no error file": Difference(
        torch=True,
        rally=False,
        reason="torch adds them to a dict that all failures share; nothing reads them",
    ),
    "a program that is not there": Difference(
        torch="FileNotFoundError",
        rally="LaunchError",
        reason="ours names the local rank and the program, and is one class for all that can't be started",
    ),
    "signal handlers after a run": Difference(
        torch="replaced",
        rally="restored",
        reason="an agent that is used as a library must leave the process as it found it",
    ),
    "error for an unexpected state": Difference(
        torch="Exception",
        rally="UnknownGroupState",
        reason="ours has a class that can be caught; it is an Exception all the same",
    ),
    "workers use the agents' store over c10d": Difference(
        torch=True,
        rally=False,
        reason="restarted workers read their predecessors' keys there; a job of both kinds of agent needs "
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun too, or nodes wait for an address that nobody writes",
    ),
    "variables that only one side gives": Difference(
        torch=set(),
        rally={"RALLY_STACKS", "RALLY_STEPS", "RALLY_WORKER_OF"},
        reason="the way of `toolkit.progress` to the agent, and the mark of what ends with it",
    ),
    "a function that leaves by os._exit(0)": Difference(
        torch="waits for ever",
        rally="FAILED",
        reason="no return value will come, and the process is gone: waiting helps nobody",
    ),
}

#: names of torch's module that are not ours, with the reason
ABSENT_NAMES = {
    "logger": "what ours says goes out as typed events; its logger is logging.getLogger('toolkit')",
}

#: parameters of torch's classes that ours don't take (yet), with the reason
ABSENT_PARAMETERS: dict[tuple[str, str], str] = {}
