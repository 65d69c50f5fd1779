"""The processes of this machine as /proc shows them, and those among them that belong to one agent's workers.

The supervisor runs this without the rest of the toolkit, so it imports next to nothing: no typing, no dataclasses.

What belongs to a run is found by all of these together, since each of them can be shaken off:

* the session and the process group of a worker (setsid leaves them),
* the parents, as long as they live (a daemon's first parent ends),
* the mark in the environment (a clean environment is without it),
* the mark in a limit that all are born with and nobody has a reason to change: how long a real-time task may run
  without a pause (RLIMIT_RTTIME). In microseconds the mark is more than 100,000 years: as good as none.
"""
# pathlib would take as long to import as the supervisor to start.
# ruff: noqa: PTH208

from __future__ import annotations

import os
import time

try:
    import resource
except ImportError:  # not Unix
    resource = None  # type: ignore[assignment]

#: the variable that marks what workers have started; its value is the tokens of all agents above, "OUTER/INNER"
MARK = "RALLY_WORKER_OF"
#: set to anything but 0 in the environment of a process with a session of its own, it keeps that process alive
KEEP = "RALLY_KEEP"

#: what the supervisor of an agent calls itself
SUPERVISOR = "rally-supervisor"

_SWEEP = b"/adapters/leftovers/sweep.py"
_MARK = MARK.encode() + b"="
_KEEP = KEEP.encode() + b"="
_GONE = "ZX"

#: what a limit has at least that is a mark, and how many of its bits say which incarnation
_LIMIT_MARK, _WITHIN_BITS = 1 << 62, 20

#: flags of a process in its `stat`: it is ending, it is the kernel's own
_EXITING, _KTHREAD = 0x4, 0x200000
#: how often and how far apart is read what the kernel has not set up yet, in seconds
_EXEC_LOOKS, _EXEC_S = 50, 0.001


class Seen:
    """One process at one moment. Its pid and its start time together are its own for ever."""

    __slots__ = ("group", "name", "parent", "pid", "session", "started", "state")

    def __init__(
        self, pid: int, name: str, state: str, parent: int, group: int, session: int, started: int
    ) -> None:
        self.pid = pid
        #: the first 15 letters of the program's name
        self.name = name
        #: a letter; Z is a zombie
        self.state = state
        self.parent = parent
        self.group = group
        self.session = session
        #: clock ticks since boot
        self.started = started


def look(pid: int) -> Seen | None:
    """A process, or None if there is none of that number."""
    try:
        text = _read(f"/proc/{pid}/stat").decode("utf-8", "replace")
    except OSError:
        return None
    # The name may hold anything, blanks and brackets too.
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    if len(fields) < 20:
        return None
    return Seen(
        pid,
        head.partition("(")[2],
        fields[0],
        int(fields[1]),
        int(fields[2]),
        int(fields[3]),
        int(fields[19]),
    )


def snapshot() -> dict[int, Seen]:
    """All processes, by pid. Not of one moment: who forks meanwhile may be missed, so look again."""
    try:
        names = os.listdir("/proc")
    except OSError:
        return {}
    found = (look(int(name)) for name in names if name.isdecimal())
    return {seen.pid: seen for seen in found if seen is not None}


def children(pid: int) -> list[int] | None:
    """The children of a process, zombies too; None where the kernel does not tell."""
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        for task in tasks:
            try:
                found += map(int, _read(f"/proc/{pid}/task/{task}/children").split())
            except ProcessLookupError:
                continue  # a thread that has ended since
            except FileNotFoundError:
                if task == str(pid):
                    return None  # a kernel without CONFIG_PROC_CHILDREN
    except OSError:
        return None
    return found


def environment(pid: int) -> bytes:
    """The environment with which a process began, each entry followed by a zero byte; empty if it can't be read.

    A process amid an exec has none for a moment: it is waited for, since without its mark it would pass for a stranger.
    """
    return _settled(pid, "environ")


def _settled(pid: int, name: str) -> bytes:
    """The file of a process that says with what it was started, once the kernel knows; empty if it can't be read."""
    path = f"/proc/{pid}/{name}"
    try:
        for _ in range(_EXEC_LOOKS):
            if words := _read(path):
                return words
            if not _is_amid_exec(pid):
                break
            time.sleep(_EXEC_S)
        return _read(path)  # the exec may have been over just before it was asked for
    except OSError:
        return b""


def _is_amid_exec(pid: int) -> bool:
    """Whether the kernel has not said yet where the environment of a process ends, but will."""
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return len(fields) > 48 and fields[48] == b"0" and not int(fields[6]) & (_EXITING | _KTHREAD)


def caught(pid: int) -> int:
    """The signals for which a process has a handler: bit N-1 for signal N. 0 where that can't be read."""
    try:
        _, found, rest = _read(f"/proc/{pid}/status").partition(b"\nSigCgt:")
    except OSError:
        return 0
    return int(rest.split()[0], 16) if found else 0


def limit_mark(token: str) -> int:
    """The number that stands for a token in a limit: of an agent, or of one of its incarnations, "AGENT.N"."""
    agent, _, incarnation = token.partition(".")
    number = 0xCBF29CE484222325  # FNV-1a
    for byte in agent.encode():
        number = (number ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    within = int(incarnation) % (1 << _WITHIN_BITS) if incarnation.isdecimal() else 0
    return _LIMIT_MARK | number % (_LIMIT_MARK >> _WITHIN_BITS) << _WITHIN_BITS | within


def _limits(pid: int) -> tuple[int, int] | None:
    """The limit that carries the mark, soft and hard; None where it can't be known."""
    try:
        return resource.prlimit(pid, resource.RLIMIT_RTTIME)
    except (AttributeError, OSError):
        return None


def set_limit_mark(number: int, pid: int = 0) -> bool:
    """Mark a process, or this one. Returns whether it is; not where somebody has set that limit to something."""
    limits = _limits(pid)
    if limits is None or not _may_be_marked(limits):
        return False
    try:
        resource.prlimit(pid, resource.RLIMIT_RTTIME, (number, limits[1]))
    except (OSError, ValueError):
        return False
    return True


def against_limit_mark() -> str:
    """Why this machine can't mark that way; "" if it can."""
    limits = _limits(0)
    if limits is None:
        return "the kernel does not tell of RLIMIT_RTTIME"
    if not _may_be_marked(limits):
        return "RLIMIT_RTTIME is set (ulimit -R)"
    return ""


def _may_be_marked(limits: tuple[int, int]) -> bool:
    soft, hard = limits
    free = resource.RLIM_INFINITY
    return (soft == free or soft & _LIMIT_MARK != 0) and (hard == free or hard & _LIMIT_MARK != 0)


def _has_limit_mark(pid: int, mark: int, ignored_bits: int) -> bool:
    limits = _limits(pid)
    return limits is not None and limits[0] >> ignored_bits == mark >> ignored_bits


def supervises(pid: int) -> bool:
    """Whether a process is the supervisor of some agent, or what that becomes at its end."""
    words = _settled(pid, "cmdline").split(b"\0")
    return SUPERVISOR.encode() in words or any(word.endswith(_SWEEP) for word in words)


def marked_with(token: bytes, entries: bytes) -> bool:
    """Whether an environment has the mark of the agent with this token, or of one below it."""
    at = 0 if entries.startswith(_MARK) else entries.find(b"\0" + _MARK) + 1
    if at == 0 and not entries.startswith(_MARK):
        return False
    value = entries[at + len(_MARK) :].partition(b"\0")[0]
    return token in value.split(b"/")


def wants_to_stay(entries: bytes) -> bool:
    """Whether an environment says that its process is to be kept."""
    at = entries.find(_KEEP)
    starts = at == 0 or (at > 0 and entries[at - 1] == 0)
    return starts and entries[at + len(_KEEP) :].partition(b"\0")[0] not in (b"", b"0")


def family(
    seen: dict[int, Seen],
    token: bytes,
    sessions: set[int],
    roots: set[int],
    since: int,
    strangers: set[int],
) -> list[Seen]:
    """The living processes that belong to an agent's workers.

    Args:
        seen: all processes.
        token: of the agent.
        sessions: ids of the workers' sessions and groups.
        roots: pids that belong to it for other reasons.
        since: when its first worker can have been started, in clock ticks; whoever is older is a stranger.
        strangers: pids that don't belong to it, whatever else holds: the agent, the supervisor.
    """
    mark = limit_mark(token.decode())
    ignored_bits = 0 if b"." in token else _WITHIN_BITS  # an agent's are those of all its incarnations
    found: dict[int, Seen] = {}
    children_of: dict[int, list[Seen]] = {}
    kept: set[int] = set()
    unmarked: list[Seen] = []
    for each in seen.values():
        if each.started < since or each.pid in strangers or each.state in _GONE:
            continue
        children_of.setdefault(each.parent, []).append(each)
        if each.session in sessions or each.group in sessions:
            found[each.pid] = each
            continue
        entries = environment(each.pid)
        if wants_to_stay(entries):
            kept.add(each.pid)
        elif marked_with(token, entries):
            found[each.pid] = each
        elif each.pid in roots or _has_limit_mark(each.pid, mark, ignored_bits):
            unmarked.append(each)
    for each in unmarked:
        # What says that it is to stay can't say so for a child that has dropped its environment.
        if not _is_below(kept, each, seen):
            found[each.pid] = each
    waiting = list(found)
    while waiting:
        for child in children_of.get(waiting.pop(), ()):
            if child.pid not in found and child.pid not in kept:
                found[child.pid] = child
                waiting.append(child.pid)
    return list(found.values())


def _is_below(pids: set[int], one: Seen, seen: dict[int, Seen]) -> bool:
    """Whether one of these is among the parents of a process."""
    above: Seen | None = one
    passed = set()
    while above is not None and above.parent not in passed:  # a snapshot is not of one moment
        if above.parent in pids:
            return True
        passed.add(above.parent)
        above = seen.get(above.parent)
    return False


def send(seen: Seen, signum: int) -> bool:
    """Send a signal to this process and to nobody else who has got its number since. Returns whether it is gone."""
    import signal  # late: a supervisor that never has to do this starts in half the time

    try:
        fd = os.pidfd_open(seen.pid)
    except ProcessLookupError:
        return True
    except (OSError, AttributeError):
        return _send_by_number(seen, signum)
    try:
        if not is_there(seen):
            return True
        signal.pidfd_send_signal(fd, signum)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # somebody else's (setuid); nothing we may do
    finally:
        os.close(fd)
    return False


def _send_by_number(seen: Seen, signum: int) -> bool:
    if not is_there(seen):
        return True
    try:
        os.kill(seen.pid, signum)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def is_there(seen: Seen) -> bool:
    """Whether that very process is still there, and no zombie."""
    now = look(seen.pid)
    return now is not None and now.started == seen.started and now.state not in _GONE


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 1 << 17):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)
