"""Workers that hang, in words: for the narration, `rally show` and the screen. Pure."""

from __future__ import annotations

from toolkit.core.events import WorkersHung, WorkersRecovered
from toolkit.core.words import ranks

#: lines of stacks that go to a console
STACK_LINES_MAX = 40
#: what somebody can do, where the agent does nothing
_REMEDIES = {
    "stopped": "`kill -CONT {pid}` lets it go on",
    "stuck": "the kernel waits for a disk, a network file system or a driver; see dmesg",
}


def hung(event: WorkersHung) -> str:
    """What hangs, where to look first, and what is done or can be done."""
    odd = (
        f"; {ranks(event.odd)} {'is' if len(event.odd) == 1 else 'are'} elsewhere than most"
        if event.odd
        else ""
    )
    return f"hangs: {event.why}{odd}; {_done(event)}"


def _done(event: WorkersHung) -> str:
    if event.kills:
        by_rank = {worker.local_rank: worker.global_rank for worker in event.workers}
        killed = [by_rank.get(rank, rank) for rank in event.kills]
        return f"killing {ranks(killed)}"
    if any(worker.kind == "traced" for worker in event.workers):
        return "nothing is done about it while the debugger is there"
    first = event.workers[0] if event.workers else None
    return _REMEDIES.get(first.kind if first else "", "--on-hang restart would start anew").format(
        pid=first.pid if first else 0
    )


def recovered(event: WorkersRecovered) -> str:
    """Who moves again."""
    return f"{ranks(event.global_ranks)} {'moves' if len(event.global_ranks) == 1 else 'move'} again"


def stack_lines(stacks: str) -> list[str]:
    """The stacks for a console; of many, the first lines."""
    lines = stacks.splitlines()
    if len(lines) <= STACK_LINES_MAX:
        return lines
    return [*lines[:STACK_LINES_MAX], "... `rally show` has them all"]
