"""What a process has arranged for a signal, as the kernel shows: who would die of it, and who must get it alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from toolkit.adapters.leftovers import process_tree
from toolkit.adapters.stop_signals import ENDS_BY_ITSELF

#: what nobody dies of, with or without a handler
_HARMLESS = (signal.SIGCONT, signal.SIGURG, signal.SIGWINCH)
#: signals that a process handles, ignores, or has blocked, perhaps to wait for them
_ARRANGED = ("SigCgt:", "SigIgn:", "SigBlk:")


def hand_on(pid: int, signum: int) -> bool:
    """Send a signal to a process that was not reaped, if it has a handler for it. Returns whether it was sent."""
    if signum not in _HARMLESS and not _is_ready_for(pid, signum):
        return False
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True


def _is_ready_for(pid: int, signum: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return not Path("/proc/self/status").exists()  # without such a /proc nobody knows
    except (OSError, UnicodeDecodeError):
        return False
    masks = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith(_ARRANGED))
    return any(_has(mask, signum) for mask in masks)


def ends_by_itself(pid: int, signum: int) -> bool:
    """Whether a process that was not reaped asks for stops (`toolkit.stop_requested`), by this signal."""
    handled = process_tree.caught(pid)
    return _has(handled, ENDS_BY_ITSELF) and _has(handled, signum)


def _has(mask: int, signum: int) -> bool:
    """Whether a mask of `/proc/PID/status` has this signal: bit N-1 is signal N."""
    return bool(mask >> (signum - 1) & 1)
