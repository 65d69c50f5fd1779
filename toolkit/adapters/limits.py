"""How many processes this machine and this user may have."""

from __future__ import annotations

import resource
from pathlib import Path

_PID_MAX = Path("/proc/sys/kernel/pid_max")


def processes_max(pid_max: Path = _PID_MAX) -> tuple[int, str] | None:
    """The smallest limit on the number of processes and its name; None if there is none.

    Args:
        pid_max: where Linux says how many process ids there are.
    """
    limits: list[tuple[int, str]] = []
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft != resource.RLIM_INFINITY:
        limits.append((soft, "ulimit -u"))
    try:
        limits.append((int(pid_max.read_text()), "kernel.pid_max"))
    except (OSError, ValueError):
        pass  # not Linux
    return min(limits, default=None)
