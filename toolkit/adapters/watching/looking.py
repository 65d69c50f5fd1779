"""Looks at workers and all processes that they have started, by /proc: states, CPU time, output. Cheap; never waits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from toolkit.adapters.leftovers import process_tree
from toolkit.adapters.readings.process_table import Children, Facts, facts
from toolkit.core.hanging.hangs import Look, ProcessLook
from toolkit.core.hanging.watched import WatchedWorker

#: looks between two searches for the processes that a worker has started: they cost as much as all the rest
SEARCH_EVERY = 5


class Looking:
    """Looks at the workers of one incarnation. Used by one thread.

    Args:
        workers: all of them.
        facts_of: what is known of a process; None if there is none.
    """

    def __init__(
        self, workers: Sequence[WatchedWorker], facts_of: Callable[[int], Facts | None] = facts
    ) -> None:
        self._workers = tuple(workers)
        self._facts_of = facts_of
        self._children = Children()
        self._looks = 0
        self._search = True
        #: of each worker that was there last, its pid and those of its descendants, by local rank
        self.families: dict[int, tuple[int, ...]] = {}

    def look(self, notes: Mapping[int, tuple[int, int]], *, search: bool = False) -> list[Look]:
        """All that still run.

        Args:
            notes: the step that each has told, and when.
            search: whether to look for all their processes now.
        """
        self._search = search or self._looks % SEARCH_EVERY == 0
        self._looks += 1
        if self._search:
            self._children.next_beat({pid for family in self.families.values() for pid in family})
        before, self.families = self.families, {}
        looks = []
        for worker in self._workers:
            processes = self._processes(worker, before.get(worker.local_rank, ()))
            if processes:
                step, told_ns = notes.get(worker.local_rank, (None, 0))
                written = tuple(map(_written, worker.logs))
                looks.append(Look(worker.local_rank, processes, written, step, told_ns))
        return looks

    def _processes(self, worker: WatchedWorker, before: tuple[int, ...]) -> tuple[ProcessLook, ...]:
        """The worker's own first; none if that has ended."""
        own = self._facts_of(worker.pid)
        if own is None or own.ended:
            return ()
        family = self._children.family(worker.pid, before) if self._search else before or (worker.pid,)
        self.families[worker.local_rank] = family
        looks = [_process(worker.pid, own)]
        for pid in family[1:]:
            told = self._facts_of(pid)
            if told is not None and not told.ended:
                looks.append(_process(pid, told))
        return tuple(looks)


def _process(pid: int, told: Facts) -> ProcessLook:
    return ProcessLook(pid, told.state, told.cpu_s, tracer_of(pid) if told.state in ("T", "t") else 0)


def _written(path: str) -> tuple[int, int] | None:
    try:
        told = os.stat(path)  # noqa: PTH116 - a third of pathlib's time
    except OSError:
        return None
    return told.st_size, told.st_mtime_ns


def tracer_of(pid: int) -> int:
    """Process id of a debugger; 0 if there is none."""
    for line in _text(f"/proc/{pid}/status").splitlines():
        if line.startswith("TracerPid:"):
            number = line.removeprefix("TracerPid:").strip()
            return int(number) if number.isdecimal() else 0
    return 0


def catches(pid: int, signum: int) -> bool:
    """Whether a process has a handler for a signal, so that it does not die of it."""
    return bool(process_tree.caught(pid) >> (signum - 1) & 1)


def name_of(pid: int) -> str:
    """What a process calls itself, and its number."""
    name = _text(f"/proc/{pid}/comm").strip()
    return f"{name}, pid {pid}" if name else f"pid {pid}"


def where_in_kernel(pid: int) -> str:
    """The function of the kernel that a process sleeps in; empty where that is not told."""
    where = _text(f"/proc/{pid}/wchan").strip()
    return f"in {where}" if where not in ("", "0") else ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
