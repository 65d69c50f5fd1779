"""What workers use with all processes that they have started: CPU time, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolkit.adapters.readings.process_table import Children, facts
from toolkit.core.events import WorkerReading

#: the clock of CPU time ticks a hundred times a second: over less than this a percentage would be noise
ELAPSED_MIN_S = 0.2


@dataclass(frozen=True, slots=True)
class _Used:
    """What a worker had used at one time, and in percent since the time before; None the first time."""

    cpu_s: float
    at_ns: int
    percent: float | None = None


@dataclass(slots=True)
class _Sum:
    """Of one family. `early_s` is CPU time of its new members that they used before the reading before."""

    cpu_s: float = 0.0
    early_s: float = 0.0
    rss_bytes: int = 0
    processes: int = 0


class WorkerProcesses:
    """Reads what the workers of one incarnation use. Used by one thread."""

    def __init__(self) -> None:
        self._children = Children()
        self._used: dict[int, _Used] = {}
        self._known: set[int] = set()
        #: of each worker that was read last, its pid and those of its descendants
        self.families: Mapping[int, tuple[int, ...]] = {}

    def take(self, pids: Mapping[int, int], now_ns: int) -> list[WorkerReading]:
        """Readings of those that still run, and were looked at before. Their processes are in `families`, then.

        Args:
            pids: of the workers, by local rank.
            now_ns: monotonic.
        """
        self._children.next_beat(self._known)
        readings, families = [], {}
        for local_rank, pid in sorted(pids.items()):
            family = self._children.family(pid, self.families.get(local_rank, ()))
            before = self._used.get(local_rank)
            summed = self._summed(family, (now_ns - before.at_ns) / 1e9 if before else 0.0)
            if summed is not None:
                families[local_rank] = family
                percent = self._percent(local_rank, summed, now_ns)
                if percent is not None:
                    readings.append(_reading(local_rank, percent, summed))
        self.families = families
        self._known = {pid for family in families.values() for pid in family}
        return readings

    def _summed(self, family: Sequence[int], elapsed_s: float) -> _Sum | None:
        """Of all that run; None if the first one, the worker itself, does not.

        The CPU time of a process that ended is in that of its parent, once it was reaped: the sum over all, with what
        they have reaped, does not fall when one of them ends.
        """
        summed = _Sum()
        for pid in family:
            told = facts(pid)
            if pid == family[0] and (told is None or told.ended):
                return None
            if told is None:
                continue  # gone meanwhile
            summed.cpu_s += told.cpu_s
            if pid not in self._known and told.age_s > elapsed_s:
                summed.early_s += told.cpu_s
            summed.rss_bytes += told.rss_bytes
            summed.processes += not told.ended
        return summed

    def _percent(self, local_rank: int, summed: _Sum, now_ns: int) -> float | None:
        before = self._used.get(local_rank)
        if before is None:
            used = _Used(summed.cpu_s, now_ns)
        elif (elapsed_s := (now_ns - before.at_ns) / 1e9) < ELAPSED_MIN_S:
            return before.percent
        else:
            # A process that left the family, such as a daemon, took its CPU time with it.
            used_s = max(0.0, summed.cpu_s - summed.early_s - before.cpu_s)
            used = _Used(summed.cpu_s, now_ns, round(used_s / elapsed_s * 100, 1))
        self._used[local_rank] = used
        return used.percent


def _reading(local_rank: int, percent: float, summed: _Sum) -> WorkerReading:
    return WorkerReading(
        local_rank=local_rank,
        cpu_percent=percent,
        rss_bytes=summed.rss_bytes,
        processes=summed.processes,
    )
