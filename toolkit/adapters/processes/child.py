"""What every worker process is to its agent, however it was started.

Where another part of the program reaps all children (a SIGCHLD handler that waits for any), a worker's exit code is
gone. Then it counts as 0, and `outcome` says what is wrong with that.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

#: why an exit code that nobody knows is a failure
CODE_TAKEN = (
    "ended, and its exit code was taken by another part of this program; "
    "is there a SIGCHLD handler that waits for any child?"
)


class Process(Protocol):
    """One worker process."""

    @property
    def pid(self) -> int: ...

    def exit_code(self) -> int | None:
        """-N for death by signal N, None while it runs. Does not reap, never blocks."""
        ...

    def exit_code_fd(self) -> int | None:
        """A new descriptor that is readable once the exit code is known, where that is after the process is gone."""
        ...

    def outcome(self) -> tuple[Any, str]:
        """After an exit with code 0: the return value, and why the exit is a failure all the same, or ""."""
        ...

    def owns_group(self) -> bool:
        """Whether its process group can be signalled without hitting a stranger."""
        ...

    def reap(self) -> None:
        """Collect it if it has ended. Never blocks."""
        ...


def exit_code_of_child(pid: int) -> int | None:
    """The exit code of a child that was not reaped, or None. Raises ChildProcessError if it was."""
    info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if info is None:
        return None
    return info.si_status if info.si_code == os.CLD_EXITED else -info.si_status
