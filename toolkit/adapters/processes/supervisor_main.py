"""The supervisor: when its agent is gone, however that went, it ends what the agent's workers have started.

A script of its own, run as `python -I -S -E supervisor_main.py AGENT_PID SINCE TOKEN CGROUP_PARENT`: nobody's child,
in a session of its own, with all signals blocked that can be, so that no Ctrl-C, hang-up or `kill` of a whole tree
takes it along. It waits on the socket that is its descriptor 1 and on a pidfd of the agent, and wakes for nothing else.

The agent says `+1 2\\n` (these pids lead sessions of workers), `-1 2\\n` (these don't any more), `.\\n` (it ends, and
has left nothing). The supervisor says nothing.
"""
# pathlib would take as long to import as this takes to start.
# ruff: noqa: PTH120

from __future__ import annotations

import os
import select
import sys
import time

# The toolkit's own packages import typing, which takes as long as everything here together. So its modules come by
# their bare names, from the folder of this file.
sys.path.append(os.path.dirname(__file__))
tree = __import__("process_tree")
cgroups = __import__("cgroup")

_SOCKET = 1
#: how long it goes on looking for what is left, in seconds; who still runs then can't be killed
SWEEP_S = 30.0
#: looks that must find nothing, one after the other: a look is not of one moment
EMPTY_LOOKS = 2
#: between two looks while something dies, at the most, in seconds
LOOK_AGAIN_S = 0.1
_SIGKILL = 9


class Watch:
    """What it knows.

    Args:
        agent_pid: whom it watches.
        since: when the first worker can have been started, in clock ticks since boot.
        token: of the agent.
        cgroup_parent: in which it may make a cgroup for the workers; empty if nowhere.
    """

    def __init__(self, agent_pid: int, since: int, token: str, cgroup_parent: str) -> None:
        self._agent_pid = agent_pid
        self._since = since
        self._token = token
        self._sessions: set[int] = set()
        self._cgroup = cgroups.Cgroup(cgroup_parent, token) if cgroup_parent else None
        self._unread = b""

    def until_gone(self) -> bool:
        """Wait for the agent's end. Returns whether something may be left."""
        poll = select.poll()
        poll.register(_SOCKET, select.POLLIN)
        pidfd = self._pidfd()
        if pidfd is not None:
            poll.register(pidfd, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if _SOCKET in ready:
                said = _received()
                if not said:
                    return True
                if self._heed(said):
                    return False
            elif pidfd in ready:
                return True

    def _pidfd(self) -> int | None:
        try:
            return os.pidfd_open(self._agent_pid)
        except (OSError, AttributeError):
            return None  # it is gone already, or the kernel has no such thing; then the socket tells

    def _heed(self, said: bytes) -> bool:
        """Do what the agent says. Returns whether it ends."""
        *lines, self._unread = (self._unread + said).split(b"\n")
        for line in lines:
            if line == b".":
                return True
            pids = set(map(int, line[1:].split()))
            if line.startswith(b"+"):
                self._sessions |= pids
                self._gather(pids)
            else:
                self._sessions -= pids
        return False

    def _gather(self, pids: set[int]) -> None:
        """Move workers, and what they have started until now, into their cgroup."""
        if self._cgroup is None or not self._cgroup.make():
            return
        for each in tree.snapshot().values():
            if each.session in pids:
                self._cgroup.take(each.pid)

    def sweep(self) -> None:
        """SIGKILL to whatever is left, until nothing is."""
        deadline = time.monotonic() + SWEEP_S
        empty = 0
        while empty < EMPTY_LOOKS and time.monotonic() < deadline:
            left = self._left()
            empty = 0 if left else empty + 1
            for each in left:
                tree.send(each, _SIGKILL)
            _wait_for_one(left)

    def _left(self) -> list[object]:
        roots = set() if self._cgroup is None else set(self._cgroup.pids())
        strangers = {self._agent_pid, os.getpid()}
        found: list[object] = tree.family(
            tree.snapshot(), self._token.encode(), self._sessions, roots, self._since, strangers
        )
        return found

    def close(self) -> None:
        """Leave nothing of its own."""
        if self._cgroup is not None:
            self._cgroup.remove()


def _received() -> bytes:
    try:
        return os.read(_SOCKET, 1 << 16)
    except OSError:
        return b""  # it can't be heard, which is its end


def _wait_for_one(left: list[object]) -> None:
    """Until one of them is gone, or a moment has passed."""
    poll = select.poll()
    opened = []
    for each in left:
        try:
            opened.append(os.pidfd_open(each.pid))  # type: ignore[attr-defined]
        except ProcessLookupError:
            break
        except (OSError, AttributeError):
            continue
        poll.register(opened[-1], select.POLLIN)
    else:
        if left:
            poll.poll(LOOK_AGAIN_S * 1000)
    for fd in opened:
        os.close(fd)


def main() -> None:
    """Watch to the end."""
    os.closerange(3, 1 << 20)
    os.chdir("/")
    agent_pid, since, token, cgroup_parent = sys.argv[1:]
    watch = Watch(int(agent_pid), int(since), token, cgroup_parent)
    if watch.until_gone():
        watch.sweep()
    watch.close()


if __name__ == "__main__":
    main()
