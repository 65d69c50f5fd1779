"""What the system tells of processes: CPU time, memory, and who their children are. Cheap where there are many.

Linux is asked directly: psutil takes three times as long for a process, and for children it reads all of /proc, on a
machine with 10,000 processes a tenth of a second each time. Linux can tell the children of one thread; but a worker may
have hundreds of threads, and only few of them ever start a process. So all threads are looked at when a process is new
and then now and then, and in between only those that had children, and the first one. Where there is no such /proc
psutil is asked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: beats between two looks at all threads of a process
ALL_THREADS_EVERY = 5
#: processes of one worker that are counted
PROCESSES_MAX = 4_096

_KERNEL_TELLS_FACTS = Path("/proc/self/stat").exists()
_KERNEL_TELLS_CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children").exists()


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one process.

    Args:
        cpu_s: user and system, its own and of the children that it has reaped.
        age_s: since its start; 0 where only psutil is asked, which is off by up to a second.
        ended: whether it only waits to be reaped.
        state: the letter in /proc/PID/stat; empty where only psutil is asked.
    """

    cpu_s: float
    rss_bytes: int
    age_s: float
    ended: bool
    state: str = ""


def facts(pid: int) -> Facts | None:
    """What a process has used; None if there is no such process, or nobody may ask."""
    return _facts_from_proc(pid) if _KERNEL_TELLS_FACTS else _facts_from_psutil(pid)


def _facts_from_proc(pid: int) -> Facts | None:
    try:
        # The name, in brackets, may have anything in it. Numbers are those of proc(5), less 3.
        fields = _contents(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        ticks = int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])
        started_s = int(fields[19]) / _TICKS_PER_S
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - started_s
        state = fields[0].decode()
        return Facts(ticks / _TICKS_PER_S, int(fields[21]) * _PAGE_BYTES, age_s, state in ("Z", "X"), state)
    except (OSError, ValueError, IndexError):
        return None


_TICKS_PER_S, _PAGE_BYTES = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


def _facts_from_psutil(pid: int) -> Facts | None:
    import psutil  # late: 20 ms, and not for Linux

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            ended = process.status() == psutil.STATUS_ZOMBIE
            rss_bytes = 0 if ended else process.memory_info().rss
            return Facts(sum(process.cpu_times()[:4]), rss_bytes, 0.0, ended)
    except (psutil.Error, OSError):
        return None


class Children:
    """Finds the descendants of processes again and again. Used by one thread."""

    def __init__(self) -> None:
        self._beat = 0
        #: of each process its threads that are looked at on each beat
        self._parents: dict[int, list[str]] = {}

    def next_beat(self, alive: set[int]) -> None:
        """Another round of looks; only those in `alive` are known from before."""
        self._beat += 1
        self._parents = {pid: threads for pid, threads in self._parents.items() if pid in alive}

    def family(self, pid: int, before: Sequence[int]) -> tuple[int, ...]:
        """`pid` and its descendants, at most `PROCESSES_MAX`.

        Args:
            before: what this said the last time. Who ended may have been a thread, whose children now are another's:
                if somebody is missing, all threads are looked at.
        """
        found = self._found(pid)
        if set(before) - set(found):
            for parent in before:
                self._parents.pop(parent, None)
            found = self._found(pid)
        return tuple(found)

    def _found(self, pid: int) -> list[int]:
        found, seen = [pid], {pid}
        for parent in found:
            new = [child for child in self._of(parent) if child not in seen][: PROCESSES_MAX - len(found)]
            seen.update(new)
            found += new  # and so its children are looked for, too
        return found

    def _of(self, pid: int) -> list[int]:
        try:
            return self._of_threads(pid) if _KERNEL_TELLS_CHILDREN else _children_from_psutil(pid)
        except (OSError, ValueError):
            return []  # it is gone

    def _of_threads(self, pid: int) -> list[int]:
        known = self._parents.get(pid)
        # Not all processes on the same beat.
        if known is None or (self._beat + pid) % ALL_THREADS_EVERY == 0:
            threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - a third of pathlib's time
        else:
            threads = known
        children, parents = [], []
        for thread in threads:
            found = _children_of_thread(pid, thread)
            children += found
            if found or thread == str(pid):
                parents.append(thread)
        if threads is not known:
            self._parents[pid] = parents
        return children


def _children_of_thread(pid: int, thread: str) -> list[int]:
    try:
        return [int(word) for word in _contents(f"/proc/{pid}/task/{thread}/children").split()]
    except OSError:
        return []  # it has ended


def _children_from_psutil(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def _contents(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, _PORTION)
        while len(data) % _PORTION == 0 and (more := os.read(fd, _PORTION)):
            data += more
        return data
    finally:
        os.close(fd)


_PORTION = 1 << 12
