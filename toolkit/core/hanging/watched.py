"""What an agent and whoever watches its workers tell each other (`toolkit.ports.Watch`), and what is done about hangs.

Values only, which every run needs; how hangs are recognised is in `core/hanging/hangs.py`, and loaded beside the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Action = Literal["report", "restart", "off"]
ACTIONS: tuple[str, ...] = get_args(Action)

#: torch's D-state check is off by default; a busy network file system holds a process for seconds, not for a minute
STUCK_S = 60.0
#: NCCL's watchdog aborts a collective after 600 s, and takes the evidence with it: this is well before
TIMEOUT_S = 300.0
#: what the message of a worker begins with that was killed because it hung
HUNG = "hung: "


@dataclass(frozen=True, slots=True)
class HangSettings:
    """What is done about workers that hang.

    Args:
        action: "report" tells of them; "restart" also kills who is to blame, and the restart policy decides; "off" does
            not look.
        timeout_s: how long a worker may be silent, or stand at a step.
        stuck_s: how long it may be in uninterruptible sleep.
        stuck_fails: whether that fails the group whatever `action` says, as torch's variable has it.
        timers: whether torch's file timers are heard.
        timer_file: where their pipe is to be; empty for a fresh place.
    """

    action: Action = "report"
    timeout_s: float = TIMEOUT_S
    stuck_s: float = STUCK_S
    stuck_fails: bool = False
    timers: bool = False
    timer_file: str = ""


@dataclass(frozen=True, slots=True)
class Condemned:
    """A worker that the agent is to kill.

    Args:
        signum: with this signal.
        why: what its failure says.
    """

    local_rank: int
    signum: int
    why: str


@dataclass(frozen=True, slots=True)
class WatchedWorker:
    """A worker that runs, as whoever watches it needs to know it.

    Args:
        logs: files that it writes, or that are written for it.
    """

    local_rank: int
    global_rank: int
    pid: int
    logs: tuple[str, ...] = ()


class NoWatch:
    """Implements `toolkit.ports.Watch` for an agent whose workers nobody watches."""

    def prepare(self, local_world_size: int) -> Sequence[Mapping[str, str]]:
        """No variables."""
        return [{}] * local_world_size

    def begin(
        self, incarnation: int, workers: Sequence[WatchedWorker], *, alone: bool, say: Any, bell: Any
    ) -> None:
        """Nobody looks."""

    def condemned(self) -> Sequence[Condemned]:
        """Nobody."""
        return ()

    def steps(self) -> Mapping[int, int]:
        """Nothing is known of them."""
        return {}

    def end(self) -> None:
        """Nobody looked."""
