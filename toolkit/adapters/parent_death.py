"""A worker dies with its agent: the kernel's parent-death signal."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
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
