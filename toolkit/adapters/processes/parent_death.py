"""A worker dies with its agent: by the kernel's parent-death signal, or by a thread where the agent is no parent."""

from __future__ import annotations

import os
import select
import signal
import threading

from toolkit.adapters.processes import prctl


def die_with(parent_pid: int) -> None:
    """Have the kernel SIGKILL this process when its parent dies. To be called in the child.

    The signal is tied to the thread that forked; the agent starts workers from the thread that waits for them.
    Cleared by exec of a setuid program. Does nothing where the kernel has no such thing.
    """
    if prctl.call is None:
        return
    prctl.call(prctl.SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
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
