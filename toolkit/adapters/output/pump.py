"""What the workers print: to files, to the console, or both. Log lines may be lost; no job waits for them.

A stream that goes only to a file is the file itself: no agent in between. A teed one is a pipe, read by one
thread in large chunks. A slow console holds nobody up while there is a file: the file is the queue.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import stat
import termios
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.adapters.output.console import Console, Stream
from toolkit.adapters.output.last_words import ON_ITS_WAY_S, Drained, LastWords
from toolkit.adapters.output.lines import ConsoleLines, FilteredLines
from toolkit.core.errors import LaunchError
from toolkit.core.launch_plan import CONSOLE, LaunchPlan, WorkerPlan

CHUNK_BYTES = 64 * 1024
#: between two looks at streams that carry little, so that line-wise writers don't cost a wake-up each
PAUSE_S = 0.008
#: when the workers are gone, and a pipe stays open without a byte for this long, somebody else holds it
QUIET_S = 0.2
#: when the workers are gone, and the console takes nothing for this long, it is given up
STUCK_S = 1.0

_PIPE_BYTES = 256 * 1024
_RESIZE_S = 1.0


@dataclass(frozen=True, slots=True)
class WorkerStreams:
    """Descriptors for one worker; None inherits the agent's own. Valid until `OutputPump.started`."""

    stdout: int | None
    stderr: int | None


class OutputPump:
    """Carries the output of the workers of one incarnation.

    Args:
        console: where teed lines go.
        capture_console: whether console streams go through the agent too, as one pseudo-terminal per worker,
            where the console is a terminal; a status line needs that.
        keep_words: whether a stderr that shows on the console goes through the agent where the console is no
            terminal, so that its end is known when its worker fails.
    """

    def __init__(self, console: Console, *, capture_console: bool = False, keep_words: bool = False) -> None:
        self._console = console
        self._capture_console = capture_console
        self._keep_words = keep_words
        self._stderrs: dict[int, _Source] = {}
        self._drained = Drained()
        self._lock = threading.Lock()
        self._sources: list[_Source] = []
        self._files: list[_LogFile] = []
        self._filters: dict[Stream, tuple[tuple[bytes, ...], _LogFile]] = {}
        self._child_ends: dict[int, list[int]] = {}
        self._problems: list[str] = []
        self._thread: threading.Thread | None = None
        self._wake_fd = -1
        self._closing_since = 0.0
        self._closing_at: float | None = None

    @property
    def lost_bytes(self) -> int:
        """Bytes that a full disk or an unwritable file has cost so far."""
        return sum(file.lost_bytes for file in self._files)

    @property
    def problems(self) -> tuple[str, ...]:
        """What went wrong with files so far, in words, at most one sentence for each file."""
        return tuple(self._problems) + tuple(file.problem for file in self._files if file.problem)

    def filters(self, plan: LaunchPlan) -> None:
        """Also append teed lines with one of the plan's words to its filtered files; before `open`."""
        wanted: tuple[tuple[Stream, tuple[str, ...], str], ...] = (
            ("out", plan.stdout_filters, plan.filtered_stdout),
            ("err", plan.stderr_filters, plan.filtered_stderr),
        )
        for stream, words, path in wanted:
            if words and path:
                self._filters[stream] = (tuple(word.encode() for word in words), self._log_file(path))

    def open(self, worker: WorkerPlan) -> WorkerStreams:
        """Make what the worker writes to.

        A file that can't be opened costs its log lines; `problems` says so.

        Raises:
            LaunchError: no pipe or pseudo-terminal can be made.
        """
        self._child_ends.setdefault(worker.local_rank, [])
        try:
            terminals: dict[bool, int] = {}
            return WorkerStreams(
                self._open(worker, "out", worker.stdout, worker.tee_stdout, terminals),
                self._open(worker, "err", worker.stderr, worker.tee_stderr, terminals),
            )
        except OSError as error:
            raise LaunchError(
                f"no pipe for the output of local rank {worker.local_rank}: {error.strerror}; "
                "raise the limit of open files (ulimit -n) or tee fewer streams"
            ) from error

    def last_words(self, local_rank: int) -> tuple[str, int]:
        """The end of what a worker that is gone has said on stderr, as far as that goes through the agent.

        Waits a moment for what is still on its way.

        Returns:
            The text, and when the last of it came, in nanoseconds since the epoch; empty and 0 if there is none.
        """
        source = self._stderrs.get(local_rank)
        if source is None:
            return "", 0
        with self._lock:
            waits = source in self._sources and self._wake_fd >= 0
            if waits:
                drained = self._drained.want(source.fd)
                os.eventfd_write(self._wake_fd, 1)
        if waits:
            drained.wait(ON_ITS_WAY_S)
        return source.words.text(), source.words.at_ns

    def started(self, local_rank: int) -> None:
        """The worker has its ends of the streams; close the agent's copies. May be called again."""
        for fd in self._child_ends.pop(local_rank, []):
            os.close(fd)

    def close(self, timeout_s: float = 5.0) -> None:
        """The workers are gone: carry what is left, then release everything. May be called again.

        Waits no longer than `timeout_s` and a second, and not for a pipe that a stray process holds open.
        """
        for local_rank in list(self._child_ends):
            self.started(local_rank)
        with self._lock:
            thread = self._thread
            if self._closing_at is None:
                self._closing_since = time.monotonic()
                self._closing_at = self._closing_since + timeout_s
            if thread is not None and self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)
        if thread is None:
            self._close_files()
        else:
            thread.join(timeout_s + 1.0)

    # --- opening -----------------------------------------------------------------------------------------

    def _open(
        self, worker: WorkerPlan, stream: Stream, path: str, tee: bool, terminals: dict[bool, int]
    ) -> int | None:
        if path == CONSOLE:
            if self._capture_console and self._console.is_tty(stream):
                return self._open_terminal(worker, stream, terminals)
            kept = self._keep_words and stream == "err" and not self._console.is_tty(stream)
            return self._open_passed_on(worker) if kept else None
        return self._open_pipe(worker, stream, path) if tee else self._open_file(worker, path)

    def _open_file(self, worker: WorkerPlan, path: str) -> int:
        try:
            fd = _append_to(path, os.O_WRONLY)
        except OSError as error:
            self._problems.append(_cannot_write(path, error))
            fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self._child_ends[worker.local_rank].append(fd)
        return fd

    def _open_passed_on(self, worker: WorkerPlan) -> int:
        """A stderr that goes to the console as it is, by way of the agent, which keeps its end."""
        read_fd, write_fd = self._pipe(worker)
        display = ConsoleLines(self._console, "err", b"", verbatim=True)
        source = _Source(read_fd, display, console=self._console)
        self._stderrs[worker.local_rank] = source
        self._add(source)
        return write_fd

    def _pipe(self, worker: WorkerPlan) -> tuple[int, int]:
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        self._child_ends[worker.local_rank].append(write_fd)
        # More room for bursts while the thread is busy; over the user's quota it stays at 64 KiB.
        with contextlib.suppress(OSError):
            fcntl.fcntl(read_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return read_fd, write_fd

    def _open_pipe(self, worker: WorkerPlan, stream: Stream, path: str) -> int:
        read_fd, write_fd = self._pipe(worker)
        prefix = worker.prefix.encode()
        source = _Source(
            read_fd,
            ConsoleLines(self._console, stream, prefix),
            console=self._console,
            file=self._log_file(path),
            filtered=self._filtered(stream, prefix),
        )
        if stream == "err":
            self._stderrs[worker.local_rank] = source
        self._add(source)
        return write_fd

    def _open_terminal(self, worker: WorkerPlan, stream: Stream, terminals: dict[bool, int]) -> int:
        # stdout and stderr share one, as they share the real one: their order is kept.
        key = self._console.same() or stream == "out"
        if key not in terminals:
            master_fd, slave_fd = os.openpty()
            self._child_ends[worker.local_rank].append(slave_fd)
            _as_raw_output(slave_fd)
            display = ConsoleLines(self._console, stream, b"", verbatim=True)
            real = self._console.fd(stream)
            _copy_size(real, master_fd)
            source = _Source(master_fd, display, console=self._console, real_terminal=real)
            if stream == "err" or self._console.same():
                self._stderrs[worker.local_rank] = source
            self._add(source)
            terminals[key] = slave_fd
        return terminals[key]

    def _filtered(self, stream: Stream, prefix: bytes) -> FilteredLines | None:
        if stream not in self._filters:
            return None
        words, file = self._filters[stream]
        return FilteredLines(words, file.append, prefix)

    def _log_file(self, path: str) -> _LogFile:
        file = _LogFile(path)
        self._files.append(file)
        return file

    def _add(self, source: _Source) -> None:
        with self._lock:
            self._sources.append(source)
            if self._thread is None:
                self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._thread = threading.Thread(target=self._run, name="rally-output", daemon=True)
                self._thread.start()
            else:
                os.eventfd_write(self._wake_fd, 1)

    # --- the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        progress_at = time.monotonic()
        while not self._is_over(progress_at):
            began = time.monotonic()
            try:
                taken = self._round(began)
            except Exception as error:  # noqa: BLE001 - the edge of the thread: workers must be drained, whatever happens
                if len(self._problems) < 100:
                    self._problems.append(f"output pump: {error!r}")
                taken = 0
            if taken:
                progress_at = time.monotonic()
            if taken < CHUNK_BYTES and self._closing_at is None and not self._drained.is_wanted:
                time.sleep(max(0.0, began + PAUSE_S - time.monotonic()))
        self._release()

    def _round(self, now: float) -> int:
        sources = self._live()
        blocked = self._console.push()
        readable = self._wait(sources, blocked, self._timeout_s(sources, now))
        now = time.monotonic()
        alone = len(sources) == 1
        taken = len(blocked) - len(self._console.push())
        for source in sources:
            if source.fd in readable:
                taken += source.take(now, alone=alone)
            taken += source.catch_up(now)
            source.display.tick(now)
        self._drained.note(readable)
        return taken

    def _live(self) -> list[_Source]:
        with self._lock:
            for source in [source for source in self._sources if source.finished]:
                source.close()
                self._sources.remove(source)
            return list(self._sources)

    def _wait(self, sources: Sequence[_Source], blocked: Sequence[int], timeout_s: float | None) -> set[int]:
        poll = select.poll()
        poll.register(self._wake_fd, select.POLLIN)
        for source in sources:
            if source.wants_more():
                poll.register(source.fd, select.POLLIN)
        for fd in blocked:
            poll.register(fd, select.POLLOUT)
        ready = {fd for fd, _ in poll.poll(None if timeout_s is None else timeout_s * 1000)}
        if self._wake_fd in ready:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)
        return ready

    def _timeout_s(self, sources: Sequence[_Source], now: float) -> float | None:
        if any(source.can_catch_up() for source in sources):
            return 0.0
        dues = [source.display.due for source in sources if source.display.due is not None]
        if self._closing_at is not None:
            dues.append(now + QUIET_S / 4)
        return max(0.0, min(dues) - now) if dues else None

    def _is_over(self, progress_at: float) -> bool:
        if self._closing_at is None:
            return False
        sources = self._live()
        behind = bool(self._console.push()) or any(source.is_behind for source in sources)
        if not sources and not behind:
            return True
        now = time.monotonic()
        quiet_since = max(progress_at, self._closing_since)
        return now >= self._closing_at or now - quiet_since >= (STUCK_S if behind else QUIET_S)

    def _release(self) -> None:
        with self._lock:
            for source in self._sources:
                source.close()
            self._sources.clear()
            os.close(self._wake_fd)
            self._wake_fd = -1
        self._close_files()

    def _close_files(self) -> None:
        for file in self._files:
            file.close()


class _Source:
    """One pipe or pseudo-terminal that workers write to."""

    def __init__(
        self,
        fd: int,
        display: ConsoleLines,
        *,
        console: Console,
        file: _LogFile | None = None,
        filtered: FilteredLines | None = None,
        real_terminal: int | None = None,
    ) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.display = display
        self.words = LastWords()
        self._console = console
        self._file = file
        self._filtered = filtered
        self._real_terminal = real_terminal
        self._resized_at = -_RESIZE_S
        self._ended = False
        #: position in the file from which on the console has not got it; None if it has all
        self._behind: int | None = None

    @property
    def is_behind(self) -> bool:
        """Whether the file holds something that the console has not got yet."""
        return self._behind is not None

    @property
    def finished(self) -> bool:
        """Whether all has been carried."""
        return self._ended and self._behind is None

    def wants_more(self) -> bool:
        """Whether there is room: on the console, or in a file that the console can be fed from later."""
        return not self._ended and (
            self._console.ready(self.display.stream) or (self._file is not None and self._file.readable)
        )

    def can_catch_up(self) -> bool:
        """Whether the console takes more of what the file holds."""
        return self.is_behind and self._console.ready(self.display.stream)

    def take(self, now: float, *, alone: bool) -> int:
        """Read what is there, up to a chunk, and carry it; returns the number of bytes."""
        data = self._read()
        if not data:
            return 0
        self.words.add(data)
        self._follow_size(now)
        start = self._file.append(data) if self._file else None
        if self._filtered:
            self._filtered.feed(data)
        if self._behind is None:
            if self._console.ready(self.display.stream) or start is None:
                self.display.show(data, now, alone=alone)
            else:
                self._behind = start
        return len(data)

    def catch_up(self, now: float) -> int:
        """Show a chunk of what the console missed while it was slow."""
        if not self.can_catch_up():
            return 0
        assert self._file is not None and self._behind is not None
        data = self._file.read(self._behind)
        if data:
            self._behind += len(data)
            self.display.show(data, now)
        else:
            self._behind = None
        return len(data)

    def close(self) -> None:
        """Show what is held; say where to find what can't be shown."""
        if self._filtered:
            self._filtered.finish()
        if self._file is not None and self._behind is not None:
            self._console.write(
                self.display.stream, f"(output not shown here is in {self._file.path})\n".encode()
            )
        self.display.finish()
        os.close(self.fd)

    def _read(self) -> bytes:
        parts: list[bytes] = []
        room = CHUNK_BYTES
        while room > 0:
            try:
                part = os.read(self.fd, room)
            except BlockingIOError:
                break
            except OSError:
                part = b""  # EIO: a pseudo-terminal that nobody has open any more
            if not part:
                self._ended = True
                break
            parts.append(part)
            room -= len(part)
            # A pipe gives all it has; a pseudo-terminal gives 4 KiB at a time.
            if self._real_terminal is None:
                break
        return b"".join(parts) if len(parts) != 1 else parts[0]

    def _follow_size(self, now: float) -> None:
        if self._real_terminal is not None and now - self._resized_at >= _RESIZE_S:
            self._resized_at = now
            _copy_size(self._real_terminal, self.fd)


class _LogFile:
    """A file that is appended to as long as it can be; what it doesn't take is counted."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lost_bytes = 0
        self.problem = ""
        #: whether what was appended last can be read again
        self.readable = False
        self._fd = -1
        try:
            self._fd = _append_to(path, os.O_RDWR)
            self.readable = self._regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
        except OSError as error:
            self.problem = _cannot_write(path, error)

    def append(self, data: bytes) -> int | None:
        """Append; returns where `data` begins in the file, or None if it is not, or not all, there."""
        if self._fd < 0:
            self.lost_bytes += len(data)
            return None
        left = data
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            self.lost_bytes += len(left)
            self.problem = _cannot_write(self.path, error)
        self.readable = self._regular and not left
        return os.lseek(self._fd, 0, os.SEEK_CUR) - len(data) if self.readable else None

    def read(self, position: int) -> bytes:
        """Up to a chunk from `position` on; empty at the end."""
        try:
            return os.pread(self._fd, CHUNK_BYTES, position)
        except OSError:
            return b""

    def close(self) -> None:
        """Release it. What is appended later is lost."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _append_to(path: str, mode: int) -> int:
    with contextlib.suppress(FileExistsError):  # a file where the directory should be: open() says it better
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, mode | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o666)


def _cannot_write(path: str, error: OSError) -> str:
    return f"cannot write {path}: {error.strerror}; what it doesn't take is lost, the workers go on"


def _as_raw_output(slave_fd: int) -> None:
    attributes = termios.tcgetattr(slave_fd)
    attributes[1] &= ~termios.OPOST  # the real terminal turns "\n" into "\r\n"
    termios.tcsetattr(slave_fd, termios.TCSANOW, attributes)


def _copy_size(from_fd: int, to_fd: int) -> None:
    with contextlib.suppress(OSError, termios.error):
        size = termios.tcgetwinsize(from_fd)
        if size != termios.tcgetwinsize(to_fd):
            termios.tcsetwinsize(to_fd, size)
