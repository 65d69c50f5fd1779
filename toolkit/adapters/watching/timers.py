"""torch's file timers: a pipe to which workers write when they must be done with something, and what has expired.

The interface is that of `torch/distributed/elastic/timer/file_based_local_timer.py` (2.13): lines of JSON with
version, pid, scope_id, expiration_time (seconds since the epoch; below 0 releases the timer) and signal. Lines that are
none, and timers of processes that are no worker's, are counted and otherwise ignored: nobody has a stranger killed by
us.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from toolkit.core.errors import ConfigurationError
from toolkit.core.hanging.hang_settings import TIMER_FILE

#: timers that are kept, and bytes of a line
TIMERS_MAX, LINE_MAX = 100_000, 1 << 16
_CHUNK = 1 << 16


class _Request(msgspec.Struct):
    version: int
    pid: int
    scope_id: str
    expiration_time: float
    signal: int


_decode = msgspec.json.Decoder(_Request).decode


@dataclass(frozen=True, slots=True)
class Expired:
    """Timers of one process that have expired.

    Args:
        scope: of the first of them that asks for a signal, or of the first one.
        signum: what that asks for; 0 for none.
        ago_s: how long ago it expired.
    """

    pid: int
    scope: str
    signum: int
    ago_s: float


@dataclass(frozen=True, slots=True)
class _Timer:
    due_ns: int
    signum: int


class TimerPipe:
    """The pipe of one incarnation and its timers. Used by one thread, save for `remove`.

    Args:
        path: where the pipe is to be; empty for one without a name, which leaves nothing behind.

    Raises:
        ConfigurationError: it can't be there.
    """

    def __init__(self, path: str = "") -> None:
        self._named = path
        self._others_end = -1
        if path:
            self.fd = _named_pipe(path)
            self.path = path
        else:
            # Workers open the agent's end anew.
            self.fd, self._others_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self.path = f"/proc/{os.getpid()}/fd/{self._others_end}"
        self._rest = b""
        self._timers: dict[tuple[int, str], _Timer] = {}
        #: lines that are no timers, so far
        self.malformed = 0

    def read(self) -> None:
        """Take in what has come. Never waits."""
        while self.fd >= 0:
            try:
                data = os.read(self.fd, _CHUNK)
            except BlockingIOError:
                return
            if not data:
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            if len(self._rest) > LINE_MAX:
                self._rest, self.malformed = b"", self.malformed + 1
            for line in lines:
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            request = _decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.malformed += 1
            return
        key = (request.pid, request.scope_id)
        if request.version != 1 or request.pid <= 0 or request.signal > 64:
            self.malformed += 1
        elif request.expiration_time < 0:
            self._timers.pop(key, None)
        elif math.isfinite(request.expiration_time) and len(self._timers) < TIMERS_MAX:
            # By our own clock from here: the wall clock may jump meanwhile.
            left_s = min(request.expiration_time - time.time(), 1e9)
            self._timers[key] = _Timer(time.monotonic_ns() + int(left_s * 1e9), request.signal)

    def next_s(self) -> float | None:
        """Seconds until the next one expires; None without any."""
        due_ns = min((timer.due_ns for timer in self._timers.values()), default=None)
        return None if due_ns is None else max(0.0, (due_ns - time.monotonic_ns()) / 1e9)

    def expired(self, families: Mapping[int, Sequence[int]]) -> dict[int, Expired]:
        """What has expired, by local rank. The timers of these processes are over with that.

        Args:
            families: the processes of each worker, by local rank.
        """
        now_ns = time.monotonic_ns()
        found: dict[int, Expired] = {}
        owners = {pid: rank for rank, family in families.items() for pid in family}
        for pid in {pid for (pid, _), timer in self._timers.items() if timer.due_ns <= now_ns}:
            mine = sorted(
                (timer.due_ns, timer.signum <= 0, scope, timer.signum)
                for (owner, scope), timer in self._timers.items()
                if owner == pid and timer.due_ns <= now_ns
            )
            self._timers = {key: timer for key, timer in self._timers.items() if key[0] != pid}
            if pid not in owners:
                # Whoever ended without a word has left its timers.
                self.malformed += Path(f"/proc/{pid}").exists()
                continue
            due_ns, _, scope, signum = next((timer for timer in mine if not timer[1]), mine[0])
            found[owners[pid]] = Expired(pid, scope, max(signum, 0), (now_ns - due_ns) / 1e9)
        return found

    def remove(self) -> None:
        """Its name is free for another one. Safe in any thread."""
        named, self._named = self._named, ""
        if named:
            Path(named).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove and release it. May be called again."""
        self.remove()
        fds, self.fd, self._others_end = (self.fd, self._others_end), -1, -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            self.close()


def check_place(path: str) -> None:
    """That a pipe can be made there.

    Raises:
        ConfigurationError: it can't.
    """
    os.close(_named_pipe(path))
    Path(path).unlink(missing_ok=True)


def _named_pipe(path: str) -> int:
    try:
        try:
            os.mkfifo(path, 0o600)
        except FileExistsError:
            if not stat.S_ISFIFO(Path(path).lstat().st_mode):
                raise
            # Of an agent of before, as torch's takes it to be.
            Path(path).unlink()
            os.mkfifo(path, 0o600)
        # Both ends, so that there always is a reader, and never an end of the file.
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(
            f"{TIMER_FILE} is {path!r}, and no pipe can be made there: {error.strerror}; give a path that is free"
        ) from error
