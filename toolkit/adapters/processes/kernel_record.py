"""What the kernel records of the end of workers: cgroup counters of OOM kills, and its log where that may be read.

Counters are read when a worker starts and when it has failed; the difference is what happened meanwhile. None of this
needs privileges but the log, which says which process it was.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit.core.diagnosing.kernel_record import KernelRecord

#: what is read of the kernel's log after a failure, in messages
_MESSAGES_MAX = 5_000
#: from here on a limit is none: cgroup v1 says so with a number near 2**63
_NO_LIMIT = 1 << 60
_KILLED = re.compile(r"[Oo]ut of memory: Killed process (\d+)\b")
_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]{4,20})\): (\d{1,4}),")
_FAULT = re.compile(r"\[(\d+)\]: segfault at \S+ ip \S+ sp \S+ error \d+(?: in (\S{1,100}?)\[)?")


@dataclass(frozen=True, slots=True)
class _Group:
    """Files of one memory cgroup.

    Args:
        kills: holds the count of OOM kills, in a line "oom_kill N".
        limit: holds the limit in bytes.
    """

    kills: Path
    limit: Path


class KernelRecords:
    """Watches what the kernel records of the workers of one incarnation.

    Args:
        proc: where /proc is.
        cgroups: where cgroups are mounted.
        log: the kernel's log.
    """

    def __init__(
        self,
        proc: Path = Path("/proc"),
        cgroups: Path = Path("/sys/fs/cgroup"),
        log: Path = Path("/dev/kmsg"),
    ) -> None:
        self._proc = proc
        self._cgroups = cgroups
        self._groups: dict[int, _Group | None] = {}
        self._before: dict[Path, int | None] = {}
        #: kills that were told of already, by the file that counts them
        self._told: dict[Path, int] = {}
        self._log_fd = _opened_at_end(log)
        self._messages: list[str] = []

    def watch(self, pid: int) -> None:
        """A worker runs: remember where, and what has happened there so far."""
        group = _group_of(self._proc / str(pid) / "cgroup", self._cgroups)
        self._groups[pid] = group
        counter = self._counter(group)
        if counter not in self._before:
            self._before[counter] = _count(counter)

    def of(self, pid: int, *, killed: bool) -> KernelRecord:
        """What is on record of a worker that has failed.

        Args:
            killed: whether SIGKILL ended it.
        """
        group = self._groups.get(pid)
        counter = self._counter(group)
        before, now = self._before.get(counter), _count(counter)
        messages = self._new_messages()
        killed_pids = [int(pid_) for text in messages for pid_ in _KILLED.findall(text)]
        record = KernelRecord(
            counted=before is not None and now is not None,
            xids=tuple(
                f"{number} (GPU {where})" for text in messages for where, number in _XID.findall(text)
            )[-8:],
            fault=_fault_of(pid, messages),
            limit_bytes=_limit(group.limit) if group is not None else None,
        )
        kills = max(now - before, 0) if before is not None and now is not None else 0
        if pid in killed_pids:
            return replace(record, oom_kills=max(kills, 1), certain=True)
        # One kill explains one death: a second worker that got SIGKILL may have got it from somebody else.
        left = kills - self._told.get(counter, 0)
        if killed and left > 0:
            self._told[counter] = self._told.get(counter, 0) + 1
            return replace(record, oom_kills=left, certain=not killed_pids)
        return replace(record, oom_kills=0 if killed else kills)

    def _counter(self, group: _Group | None) -> Path:
        """Of its cgroup, or of the whole machine where that can't be seen."""
        return group.kills if group is not None else self._proc / "vmstat"

    def _new_messages(self) -> list[str]:
        """What the kernel has said since the start, what was read before included."""
        while self._log_fd >= 0 and len(self._messages) < _MESSAGES_MAX:
            try:
                self._messages.append(os.read(self._log_fd, 8192).decode(errors="replace"))
            except BrokenPipeError:
                continue  # the oldest were overwritten; the next read goes on behind them
            except OSError:
                break  # there are no more, for now
        return self._messages

    def close(self) -> None:
        """Release the log."""
        if self._log_fd >= 0:
            os.close(self._log_fd)
            self._log_fd = -1


def _opened_at_end(log: Path) -> int:
    try:
        fd = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1
    with suppress(OSError):
        os.lseek(fd, 0, os.SEEK_END)
    return fd


def _group_of(listing: Path, cgroups: Path) -> _Group | None:
    """The memory cgroup of a process: of v1 where memory is counted there, else of v2."""
    try:
        lines = listing.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    places = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    for _, controllers, path in places:
        if "memory" in controllers.split(","):
            return _existing(cgroups / "memory", path, "memory.oom_control", "memory.limit_in_bytes")
    for number, _, path in places:
        if number == "0":
            for root in (cgroups, cgroups / "unified"):
                if (found := _existing(root, path, "memory.events", "memory.max")) is not None:
                    return found
    return None


def _existing(root: Path, path: str, kills: str, limit: str) -> _Group | None:
    # The own one may count nothing, such as that which workers get from their agent. In a container the path may be the
    # host's, and the root of what is mounted is the container's own.
    own = root / path.lstrip("/")
    for folder in (own, *own.parents):
        if (folder / kills).is_file():
            return _Group(folder / kills, folder / limit)
        if folder == root:
            break
    return None


def _count(path: Path) -> int | None:
    with suppress(OSError, ValueError, UnicodeDecodeError):
        for line in path.read_text().splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    return None


def _limit(path: Path) -> int | None:
    """The nearest limit: of this cgroup, or of one above it."""
    found: list[int] = []
    for folder in (path.parent, *list(path.parent.parents)[:8]):
        with suppress(OSError, ValueError, UnicodeDecodeError):
            limit = int((folder / path.name).read_text())
            found += [limit] if limit < _NO_LIMIT else []
    return min(found, default=None)


def _fault_of(pid: int, messages: list[str]) -> str:
    for text in reversed(messages):
        for number, where in _FAULT.findall(text):
            if int(number) == pid:
                return f"in {where}" if where else ""
    return ""
