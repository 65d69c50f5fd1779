"""In which order processes have died: the kernel's own, however late somebody looks."""

from __future__ import annotations

import os
import select


class Deaths:
    """Pidfds in an epoll. An epoll tells descriptors in the order in which they became ready.

    Deaths between two looks would otherwise come in the order of ranks. The descriptor of the epoll can be watched like
    any other: it is readable while there is a death that was not told.
    """

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._of: dict[int, int] = {}

    def watch(self, local_rank: int, pid: int) -> bool:
        """Watch a process.

        Returns:
            Whether its death will be told; false where the kernel has no pidfds or no descriptor is free.

        Raises:
            ProcessLookupError: it is gone, and was reaped.
        """
        if not hasattr(os, "pidfd_open"):
            return False
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise
        except OSError:
            return False
        try:
            self._epoll = self._epoll or select.epoll()
            self._epoll.register(pidfd, select.EPOLLIN)
        except OSError:
            os.close(pidfd)
            return False
        self._of[pidfd] = local_rank
        return True

    def fileno(self) -> int:
        """Readable when somebody has died. There must be somebody who is watched."""
        assert self._epoll is not None, "nobody is watched"
        return self._epoll.fileno()

    def take(self) -> list[int]:
        """Local ranks of those that have died since, in that order. Never blocks."""
        if self._epoll is None or not self._of:
            return []
        found = []
        for pidfd, _ in self._epoll.poll(0, len(self._of)):
            self._epoll.unregister(pidfd)
            os.close(pidfd)
            found.append(self._of.pop(pidfd))
        return found

    def close(self) -> None:
        """Forget all that are left."""
        for pidfd in self._of:
            os.close(pidfd)
        self._of.clear()
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
