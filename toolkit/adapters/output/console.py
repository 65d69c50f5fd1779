"""The agent's stdout and stderr: lines from many writers, a status line below them. Writing never blocks.

What the terminal or pipe doesn't take at once is owed, and written before anything else; a writer that can
wait asks `ready` first. What a closed console doesn't take is dropped and counted.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import stat
import threading
import time
from types import TracebackType
from typing import Literal

Stream = Literal["out", "err"]

#: what is owed at most, for writers that don't ask `ready`
OWED_MAX_BYTES = 16 * 1024 * 1024

_ERASE = b"\r\x1b[2K"
_STYLES_AT_END = re.compile(rb"(?:\x1b\[[0-9;]*m)+\Z")


class Console:
    """Owner of the agent's stdout and stderr. Safe in any thread.

    A line that is not finished belongs to the `owner` who wrote it: another writer's output starts on a new
    line. The status line is erased before output and drawn again after it, in the same write, and only while
    the cursor is at the start of a line.

    The descriptors themselves stay open and in the mode they are in: a terminal or a pipe is opened a second
    time for writing without blocking, because that mode would otherwise show in every process that shares
    them. Where it can't be opened again (a socket, another mount namespace), writes block.

    Args:
        out_fd: the agent's stdout.
        err_fd: the agent's stderr.
    """

    def __init__(self, out_fd: int = 1, err_fd: int = 2) -> None:
        self._lock = threading.RLock()
        out = _Channel(out_fd)
        err = out if _same_file(out_fd, err_fd) else _Channel(err_fd)
        self._channels: dict[Stream, _Channel] = {"out": out, "err": err}
        self._status = b""
        stream = self.status_stream()
        self._status_channel = None if stream is None else self._channels[stream]

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def write(
        self, stream: Stream, data: bytes, *, owner: object | None = None, resume: bytes | None = None
    ) -> None:
        """Write `data`, on a new line if another writer's unfinished line is on the screen.

        Args:
            stream: which of the two.
            data: any bytes; more than 16 MiB that can't be written are dropped.
            owner: who may go on with the line, if `data` doesn't finish it.
            resume: what to write instead if the unfinished line is `owner`'s own.
        """
        with self._lock:
            channel = self._channels[stream]
            if channel.at_line_start:
                text = data
            elif owner is not None and channel.owner is owner:
                text = data if resume is None else resume
            else:
                text = b"\n" + data
            if text:
                self._put(channel, text)
                channel.owner, channel.released = owner, False

    def owns(self, stream: Stream, owner: object) -> bool:
        """Whether the unfinished line on `stream` is `owner`'s."""
        with self._lock:
            channel = self._channels[stream]
            return not channel.at_line_start and channel.owner is owner

    def release(self, stream: Stream, owner: object) -> None:
        """`owner` writes no more; what comes below its unfinished line needs to wait no longer."""
        with self._lock:
            channel = self._channels[stream]
            if channel.owner is owner:
                channel.released = True

    def ready(self, stream: Stream) -> bool:
        """Write what is owed; whether nothing is owed any more."""
        with self._lock:
            return self._channels[stream].push()

    def push(self) -> list[int]:
        """Write what is owed on both; returns the descriptors that take no more now, for a poll."""
        with self._lock:
            return [channel.fd for channel in self._distinct() if not channel.push()]

    def flush(self, timeout_s: float) -> bool:
        """Write what is owed, waiting at most `timeout_s` for a slow console; whether all is written."""
        deadline = time.monotonic() + timeout_s
        while blocked := self.push():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            select.select([], blocked, [], left_s)
        return True

    def is_tty(self, stream: Stream) -> bool:
        """Whether that stream is a terminal."""
        return self._channels[stream].is_tty

    def same(self) -> bool:
        """Whether both streams are one terminal, pipe or file."""
        return self._channels["out"] is self._channels["err"]

    def fd(self, stream: Stream) -> int:
        """The descriptor given for that stream."""
        return self._channels[stream].given_fd

    def size(self, stream: Stream) -> os.terminal_size:
        """Columns and lines of the terminal; 80 by 24 where it doesn't say."""
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(self._channels[stream].given_fd)
            if size.columns > 0:
                return size
        return os.terminal_size((80, 24))

    def status_stream(self) -> Stream | None:
        """Where a status line can live, or None.

        It needs a terminal, and the other stream must not be a pipe: what reads the pipe may write to the
        same terminal (`| tee log`), and nobody could keep the two apart.
        """
        out, err = self._channels["out"], self._channels["err"]
        if err.is_tty and (out is err or out.is_quiet):
            return "err"
        return "out" if out.is_tty and err.is_quiet else None

    def set_status(self, line: bytes) -> None:
        """Show `line` below the output from now on; empty removes it.

        Args:
            line: what draws it, without newline, narrower than the terminal.
        """
        with self._lock:
            self._status = line
            channel = self._status_channel
            if channel is None or not channel.push():
                return
            if line and channel.released and not channel.at_line_start:
                self._put(channel, b"\n")
            elif channel.at_line_start:
                self._put(channel, b"")

    @property
    def lost_bytes(self) -> int:
        """Bytes that a closed or stuck console didn't take."""
        with self._lock:
            return sum(channel.lost_bytes for channel in self._distinct())

    def close(self) -> None:
        """Remove the status line and give up what is still owed. Leaves the agent's own descriptors open."""
        with self._lock:
            self.set_status(b"")
            for channel in self._distinct():
                channel.push()
                channel.close()

    def _put(self, channel: _Channel, text: bytes) -> None:
        status = self._status if channel is self._status_channel else b""
        erase = _ERASE if channel.status_drawn else b""
        channel.at_line_start = _at_line_start_after(text, channel.at_line_start)
        channel.status_drawn = bool(status) and channel.at_line_start
        channel.write(erase + text + status if channel.status_drawn else erase + text)

    def _distinct(self) -> list[_Channel]:
        out, err = self._channels["out"], self._channels["err"]
        return [out] if out is err else [out, err]


class _Channel:
    """One terminal, pipe or file, and what is owed to it."""

    def __init__(self, fd: int) -> None:
        self.given_fd = fd
        self.is_tty = _is_tty(fd)
        self.is_quiet = _is_quiet(fd)
        self.fd, self._reopened = _without_blocking(fd)
        self.at_line_start = True
        self.owner: object | None = None
        self.released = False
        self.status_drawn = False
        self.lost_bytes = 0
        self._owed = b""
        self._gone = False

    def write(self, data: bytes) -> None:
        if not self._gone and len(self._owed) + len(data) <= OWED_MAX_BYTES:
            self._owed = self._owed + data if self._owed else data
            self.push()
        else:
            self.lost_bytes += len(data)

    def push(self) -> bool:
        while self._owed:
            try:
                written = os.write(self.fd, self._owed)
            except BlockingIOError:
                return False
            except OSError:
                # EPIPE, EIO after a hang-up, ENOSPC: the job goes on without its console.
                self.lost_bytes += len(self._owed)
                self._owed, self._gone = b"", not self.is_quiet
                return True
            self._owed = self._owed[written:]
        return True

    def close(self) -> None:
        self.lost_bytes += len(self._owed)
        self._owed, self._gone = b"", True
        if self._reopened:
            os.close(self.fd)
            self.fd, self._reopened = self.given_fd, False


def _at_line_start_after(text: bytes, before: bool) -> bool:
    if not text:
        return before
    if text.endswith(b"\n"):
        return True
    # Styles don't move the cursor: "\n" and then a reset is still the start of a line.
    tail = text[-128:]
    shown = _STYLES_AT_END.sub(b"", tail)
    return before if not shown and len(tail) == len(text) else shown.endswith(b"\n")


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False


def _mode(fd: int) -> int:
    try:
        return os.fstat(fd).st_mode
    except OSError:
        return 0


def _is_tty(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


def _is_quiet(fd: int) -> bool:
    """Whether nothing that is written there can turn up on a terminal: a file, or /dev/null."""
    mode = _mode(fd)
    return stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not _is_tty(fd))


def _without_blocking(fd: int) -> tuple[int, bool]:
    if not (_is_tty(fd) or stat.S_ISFIFO(_mode(fd))):
        return fd, False
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{fd}", flags), True
    except OSError:
        return fd, False
