"""A worker dies with its agent: by the kernel's parent-death signal, or by a thread where the agent is no parent."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def _prctl() -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_int
    function.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    return function


# Looked up here, before any fork: the child of a fork must not load libraries.
_PRCTL = _prctl()


def die_with(parent_pid: int) -> None:
    """Have the kernel SIGKILL this process when its parent dies. To be called in the child.

    The signal is tied to the thread that forked; the agent starts workers from the thread that waits for them.
    Cleared by exec of a setuid program. Does nothing where the kernel has no such thing.
    """
    if _PRCTL is None:
        return
    _PRCTL(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the kernel was told
        os._exit(1)


def die_after(pid: int) -> None:
    """Have a thread SIGKILL this process's group when a process that is not its parent is gone.

    To be called in a session of its own. Does nothing where the kernel has no pidfds.
    """
    if not hasattr(os, "pidfd_open"):
        return
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        os._exit(1)
    except OSError:
        return
    threading.Thread(target=_kill_group_after, args=(pidfd,), name="rally-agent-watch", daemon=True).start()


def _kill_group_after(pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll()
    os.killpg(0, signal.SIGKILL)
