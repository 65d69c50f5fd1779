"""Space that an events file has beyond its end, so that a run whose disk fills up can still say how it ended.

The blocks are the file's own (fallocate(2) without a change of its size): who else writes to the disk can't take them,
and whoever reads the file sees nothing of them. File systems that can't do it (NFS, most of FUSE) have no reserve.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import time
from collections.abc import Callable

from toolkit.adapters.libc import linux_function
from toolkit.core.events import AgentFinished, Event, ReadingsTaken

#: bytes beyond the end: some 150 events, a few restarts
RESERVE = 1 << 16
#: of these the last, which are for the line that says how the agent ended, and for the one that counts what is missing
RESERVE_OF_LAST = 1 << 13
#: bytes that are asked for in advance, so that not each line asks
AHEAD = 1 << 16
#: a disk that was full is asked again after so many seconds
AGAIN_S = 1.0

_KEEP_SIZE = 1
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Reserve:
    """The space beyond the end of the file `fd`, which nobody else appends to. Used by one thread.

    Args:
        fd: open for writing. What is no regular file has no reserve, and takes whatever comes.
        clock: seconds, which never go back.
    """

    def __init__(self, fd: int, clock: Callable[[], float] = time.monotonic) -> None:
        status = os.fstat(fd)
        self._fd, self._clock = fd, clock
        self._can = _fallocate is not None and stat.S_ISREG(status.st_mode)
        self._end = self._until = status.st_size
        self._reason = ""
        self._again_s = 0.0

    def refuses(self, size: int, kept: int) -> str:
        """Why a line would take space that is for others, or an empty string.

        Args:
            size: bytes of the line.
            kept: so many are to be left beyond it, on a full disk.
        """
        if not self._can or self._end + size + RESERVE <= self._until:
            return ""
        if self._clock() >= self._again_s:
            self._extend(size)
        left = self._until - self._end - size
        return "" if not self._reason or left >= kept else self._reason

    def written(self, size: int) -> None:
        """So many bytes were appended."""
        self._end += size

    def give_back(self) -> None:
        """What was not needed is free again."""
        if self._can and self._until > self._end:
            try:
                os.ftruncate(self._fd, self._end)
            except OSError:
                return  # it is the disk's own business then

    def _extend(self, size: int) -> None:
        wanted = size + RESERVE + AHEAD
        assert _fallocate is not None
        if _fallocate(self._fd, _KEEP_SIZE, self._end, wanted) == 0:
            self._until, self._reason = self._end + wanted, ""
            return
        code = ctypes.get_errno()
        if code in _FULL:
            self._reason, self._again_s = os.strerror(code), self._clock() + AGAIN_S
        elif code != errno.EINTR:
            self._can = False


def kept_from(event: Event) -> int:
    """Bytes of the reserve that such an event leaves to others."""
    if isinstance(event, AgentFinished):
        return 0
    # Readings come every second, for ever; one more or less tells nobody anything.
    return RESERVE if isinstance(event, ReadingsTaken) else RESERVE_OF_LAST


_fallocate = linux_function("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
