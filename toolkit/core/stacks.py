"""Where the threads of workers are, and which workers are in the same place: what a job that hangs is asked. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Frame:
    """A call. Line 0 where none is known."""

    function: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread.

    Args:
        name: empty if it has none.
        number: the kernel's; of the main thread it is the pid.
        frames: innermost first.
        idle: whether it waits for the kernel, as a thread in a sleep, a lock or a read does.
        holds_gil: whether it runs Python at this moment.
    """

    name: str
    number: int
    frames: tuple[Frame, ...]
    main: bool = False
    idle: bool = False
    holds_gil: bool = False


@dataclass(frozen=True, slots=True)
class Stacks:
    """The threads of one process, its main thread first."""

    threads: tuple[Thread, ...]

    @property
    def main(self) -> tuple[Frame, ...]:
        """Where the main thread is; empty if it is not in Python."""
        return next((thread.frames for thread in self.threads if thread.main), ())


@dataclass(frozen=True, slots=True)
class Unread:
    """Why the stacks of a process are not known, and what to do about it."""

    why: str


Answer: TypeAlias = Stacks | Unread


@dataclass(frozen=True, slots=True)
class Target:
    """A worker whose stacks are asked for.

    Args:
        host: where it runs, as its agent calls it.
        pid: 0 where it is no local process.
        started_wall_ns: when its agent said that it runs. A process that is younger has its pid by accident.
        node: its agent, which can be asked where it runs on another machine.
        local_rank: of that agent's workers.
    """

    global_rank: int
    host: str
    pid: int
    started_wall_ns: int
    node: str = ""
    local_rank: int = 0


@dataclass(frozen=True, slots=True)
class Alike:
    """Ranks whose main threads are in the same place, or of which the same is known.

    Args:
        global_ranks: ascending.
        where: the frames that they share, innermost first; or why they are not known.
    """

    global_ranks: tuple[int, ...]
    where: tuple[Frame, ...] | Unread


def grouped(answers: Iterable[tuple[int, Answer]]) -> list[Alike]:
    """Ranks by where they are, the odd ones out first: of small groups, then the others, then those not known.

    Args:
        answers: global ranks, and what is known of each.
    """
    found: dict[tuple[Frame, ...] | Unread, list[int]] = {}
    for rank, answer in answers:
        found.setdefault(answer if isinstance(answer, Unread) else answer.main, []).append(rank)
    groups = [Alike(tuple(sorted(ranks)), where) for where, ranks in found.items()]
    return sorted(groups, key=_odd_first)


def _odd_first(group: Alike) -> tuple[bool, int, Sequence[int]]:
    return isinstance(group.where, Unread), len(group.global_ranks), group.global_ranks
