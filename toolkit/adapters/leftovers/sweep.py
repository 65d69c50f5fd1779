"""The end of what an agent's workers have started: the supervisor becomes this when its agent is gone.

A script of its own: `python -I -S -E sweep.py AGENT_PID SINCE TOKEN CGROUP_PARENT`, then `tidy`, or `sweep` and the
sessions of the workers. SINCE is when the first worker can have been started, in clock ticks since boot; without a
CGROUP_PARENT no cgroup was made.
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

#: how long it goes on looking for what is left, in seconds; who still runs then can't be killed
SWEEP_S = 30.0
#: looks that must find nothing, one after the other: a look is not of one moment
EMPTY_LOOKS = 2
#: between two looks while something dies, at the most, in seconds
LOOK_AGAIN_S = 0.1
#: how often it tries to remove the cgroup: threads of who was killed are in until they are gone
REMOVALS_MAX = 60
_SIGKILL = 9


class Run:
    """The processes of one agent's workers.

    Args:
        agent_pid: of the agent, which may be there still if it only let go of its supervisor.
        since: when its first worker can have been started.
        token: of the agent.
        cgroup: that of the workers, or None.
        sessions: of the workers.
    """

    def __init__(self, agent_pid: int, since: int, token: str, cgroup: object, sessions: set[int]) -> None:
        self._strangers = {agent_pid, os.getpid()}
        self._since = since
        self._token = token.encode()
        self._cgroup = cgroup
        self._sessions = sessions

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
        roots = set() if self._cgroup is None else set(self._cgroup.pids())  # type: ignore[attr-defined]
        found: list[object] = tree.family(
            tree.snapshot(), self._token, self._sessions, roots, self._since, self._strangers
        )
        return found


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
    """Do what was asked for."""
    agent_pid, since, token, cgroup_parent, what, *sessions = sys.argv[1:]
    cgroup = cgroups.Cgroup(cgroup_parent, token) if cgroup_parent else None
    if what == "sweep":
        Run(int(agent_pid), int(since), token, cgroup, set(map(int, sessions))).sweep()
    tries = 0
    while cgroup is not None and not cgroup.remove() and tries < REMOVALS_MAX:
        tries += 1
        time.sleep(LOOK_AGAIN_S / 2)


if __name__ == "__main__":
    main()
