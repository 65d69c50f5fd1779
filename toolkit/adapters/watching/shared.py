"""Memory that the workers of one incarnation share with their agent: their steps, and stacks that they write.

It has no name in any folder: a worker opens it by the agent's descriptor, /proc/PID/fd/N. So nothing is left behind,
however the agent ends, no disk is touched, and a step costs the worker two stores and wakes nobody.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Mapping, Sequence

from toolkit.core.hanging.worker_notes import SLOT, SLOT_BYTES, STACKS_VARIABLE, STEPS_VARIABLE

#: of what a worker writes of its stacks, so much is read
STACKS_MAX = 1 << 20


class SharedNotes:
    """The memory of one incarnation. Safe in any thread; after `close` it is empty.

    Args:
        local_world_size: how many workers.
    """

    def __init__(self, local_world_size: int) -> None:
        self._count = local_world_size
        self._lock = threading.Lock()
        self._steps_fd = _memory("rally-steps", local_world_size * SLOT_BYTES)
        self._stacks_fd = _memory("rally-stacks", 0)

    def variables(self) -> Sequence[Mapping[str, str]]:
        """Where each worker finds it, by local rank."""
        if self._steps_fd < 0 or self._stacks_fd < 0:
            return [{}] * self._count
        here = f"/proc/{os.getpid()}/fd"
        return [
            {
                STEPS_VARIABLE: f"{here}/{self._steps_fd}:{rank * SLOT_BYTES}",
                STACKS_VARIABLE: f"{here}/{self._stacks_fd}",
            }
            for rank in range(self._count)
        ]

    def notes(self) -> dict[int, tuple[int, int]]:
        """What each worker has told last: its step, and when by its monotonic clock."""
        with self._lock:
            data = b"" if self._steps_fd < 0 else os.pread(self._steps_fd, self._count * SLOT_BYTES, 0)
        found = {}
        for rank in range(len(data) // SLOT_BYTES):
            told_ns, step = struct.unpack_from(SLOT, data, rank * SLOT_BYTES)
            if told_ns > 0:
                found[rank] = (step, told_ns)
        return found

    def forget_stacks(self) -> None:
        """What comes now is written at the beginning."""
        with self._lock:
            if self._stacks_fd >= 0:
                os.ftruncate(self._stacks_fd, 0)

    def stacks(self) -> bytes:
        """What was written since."""
        with self._lock:
            return b"" if self._stacks_fd < 0 else os.pread(self._stacks_fd, STACKS_MAX, 0)

    def close(self) -> None:
        """Release it. May be called again."""
        with self._lock:
            fds, self._steps_fd, self._stacks_fd = (self._steps_fd, self._stacks_fd), -1, -1
            for fd in fds:
                if fd >= 0:
                    os.close(fd)

    def __del__(self) -> None:
        self.close()


def _memory(name: str, size: int) -> int:
    """A descriptor; -1 where there is no such thing."""
    if not hasattr(os, "memfd_create"):
        return -1
    try:
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
    except OSError:
        return -1  # out of descriptors or of memory: the workers do without
    return fd
