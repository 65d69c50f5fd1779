"""What the workers print: to files, to the console, or both. Log lines may be lost; no job waits for them.

Each stream is a pipe, read by one thread in large chunks; 1 GB costs about a second of CPU. A stream that goes only
to a file is no exception: on a full disk the writer of a file gets an error, which ends a Python program in its next
print(), and nobody could keep the file within a size. A slow console holds nobody up while there is a file: the file
is the queue.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import termios
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from toolkit.adapters.output.console import Console, Stream
from toolkit.adapters.output.last_words import ON_ITS_WAY_S, Drained, LastWords
from toolkit.adapters.output.lines import ConsoleLines, FilteredLines
from toolkit.adapters.output.log_writer import CHUNK_BYTES, LogWriter, append_to
from toolkit.adapters.output.source import Source, copy_size
from toolkit.core.errors import LaunchError
from toolkit.core.launch_plan import CONSOLE, LaunchPlan, WorkerPlan
from toolkit.core.lost_output import LostOutput

#: between two looks at streams that carry little, so that line-wise writers don't cost a wake-up each
PAUSE_S = 0.008
#: when the workers are gone, and a pipe stays open without a byte for this long, somebody else holds it
QUIET_S = 0.2
#: when the workers are gone, and the console takes nothing for this long, it is given up
STUCK_S = 1.0
#: the same where nobody waits for the console but the end of the run, and how long it may take in all
LAGGING_STUCK_S, LAGGING_S = 5.0, 60.0
#: between two times that loss is told of while workers run
LOSS_TOLD_S = 60.0

_PIPE_BYTES = 256 * 1024


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
        log_max_bytes: what one stream of one worker may fill on the disk; None for no limit.
        console_may_lag: `close` waits for the files only. A slow console gets the rest while other things go on;
            `finish` waits for that.
        keep_words: whether a stderr that shows on the console goes through the agent where the console is no
            terminal, so that its end is known when its worker fails.
    """

    def __init__(
        self,
        console: Console,
        *,
        capture_console: bool = False,
        log_max_bytes: int | None = None,
        console_may_lag: bool = False,
        keep_words: bool = False,
    ) -> None:
        self._console = console
        self._capture_console = capture_console
        self._log_max_bytes = log_max_bytes
        self._console_may_lag = console_may_lag
        self._keep_words = keep_words
        #: what carries each worker's stderr, and who waits for the end of one
        self._stderrs: dict[int, Source] = {}
        self._waiting = Drained()
        self._drained = threading.Event()
        #: called by the thread when there is something new in `losses`; once a minute at most
        self.on_loss: Callable[[], None] | None = None
        self._alarm_at = 0.0
        self._alarmed_bytes = 0
        self._lock = threading.Lock()
        self._sources: list[Source] = []
        self._files: dict[str, LogWriter] = {}
        self._told: dict[str, LostOutput] = {}
        self._filters: dict[Stream, tuple[tuple[bytes, ...], LogWriter]] = {}
        self._child_ends: dict[int, list[int]] = {}
        self._problems: list[str] = []
        self._thread: threading.Thread | None = None
        self._wake_fd = -1
        self._closing_since = 0.0
        self._closing_at: float | None = None

    @property
    def lost_bytes(self) -> int:
        """Bytes that a full disk or an unwritable file has cost so far."""
        return sum(file.lost_bytes for file in list(self._files.values()))

    @property
    def problems(self) -> tuple[str, ...]:
        """What went wrong with files so far, in words, at most one sentence for each file."""
        return tuple(self._problems) + tuple(lost.problem for lost in self._lost())

    def losses(self) -> list[LostOutput]:
        """What was lost that this has not returned yet; with the counts of the whole incarnation."""
        found = [LostOutput(problem) for problem in self._problems] + self._lost()
        new = [lost for lost in found if self._told.get(lost.path or lost.problem) != lost]
        self._told.update({lost.path or lost.problem: lost for lost in new})
        return new

    def _lost(self) -> list[LostOutput]:
        return [lost for file in list(self._files.values()) if (lost := file.lost) is not None]

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
        if source is None or source.words is None:
            return "", 0
        with self._lock:
            waits = source in self._sources and self._wake_fd >= 0
            if waits:
                drained = self._waiting.want(source.fd)
                os.eventfd_write(self._wake_fd, 1)
        if waits:
            drained.wait(ON_ITS_WAY_S)
        return source.words.text(), source.words.at_ns

    def carries_stderr(self, local_rank: int) -> bool:
        """Whether what a worker says on stderr goes through the agent, so that `last_words` has all of its end."""
        source = self._stderrs.get(local_rank)
        return source is not None and source.words is not None

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
        elif self._console_may_lag:
            self._drained.wait(timeout_s + 1.0)
        else:
            thread.join(timeout_s + 1.0)

    def finish(self, timeout_s: float) -> bool:
        """After `close`: wait until the console has got everything, or is given up. Returns whether that is so."""
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # --- opening -----------------------------------------------------------------------------------------

    def _open(
        self, worker: WorkerPlan, stream: Stream, path: str, tee: bool, terminals: dict[bool, int]
    ) -> int | None:
        if path == CONSOLE:
            if self._capture_console and self._console.is_tty(stream):
                return self._open_terminal(worker, stream, terminals)
            kept = self._keep_words and stream == "err" and not self._console.is_tty(stream)
            return self._open_passed_on(worker) if kept else None
        if not tee and path == os.devnull:
            return self._open_file(worker, path)
        try:
            return self._open_pipe(worker, stream, path, tee=tee)
        except OSError:
            if tee:
                raise
            return self._open_file(worker, path)  # too many descriptors for pipes: one that is closed again

    def _open_file(self, worker: WorkerPlan, path: str) -> int:
        try:
            fd = append_to(path, os.O_WRONLY)
        except OSError as error:
            self._problems.append(
                f"cannot write {path}: {error.strerror}; what it doesn't take is lost, the workers go on"
            )
            fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self._child_ends[worker.local_rank].append(fd)
        return fd

    def _open_passed_on(self, worker: WorkerPlan) -> int:
        """A stderr that goes to the console as it is, by way of the agent, which keeps its end."""
        read_fd, write_fd = self._pipe(worker)
        display = ConsoleLines(self._console, "err", b"", verbatim=True)
        self._add(Source(read_fd, display, console=self._console), stderr_of=worker)
        return write_fd

    def _pipe(self, worker: WorkerPlan) -> tuple[int, int]:
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        self._child_ends[worker.local_rank].append(write_fd)
        # More room for bursts while the thread is busy; over the user's quota it stays at 64 KiB.
        with contextlib.suppress(OSError):
            fcntl.fcntl(read_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return read_fd, write_fd

    def _open_pipe(self, worker: WorkerPlan, stream: Stream, path: str, *, tee: bool) -> int:
        read_fd, write_fd = self._pipe(worker)
        prefix = worker.prefix.encode()
        source = Source(
            read_fd,
            ConsoleLines(self._console, stream, prefix) if tee else None,
            console=self._console,
            file=self._log_file(path),
            filtered=self._filtered(stream, prefix) if tee else None,
        )
        self._add(source, stderr_of=worker if stream == "err" else None)
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
            copy_size(real, master_fd)
            source = Source(master_fd, display, console=self._console, real_terminal=real)
            self._add(source, stderr_of=worker if stream == "err" or self._console.same() else None)
            terminals[key] = slave_fd
        return terminals[key]

    def _filtered(self, stream: Stream, prefix: bytes) -> FilteredLines | None:
        if stream not in self._filters:
            return None
        words, file = self._filters[stream]
        return FilteredLines(words, file.append, prefix)

    def _log_file(self, path: str) -> LogWriter:
        # Plug-ins may send several streams to one file.
        if path not in self._files:
            self._files[path] = LogWriter(path, self._log_max_bytes)
        return self._files[path]

    def _add(self, source: Source, *, stderr_of: WorkerPlan | None = None) -> None:
        if stderr_of is not None:
            source.words = LastWords()
            self._stderrs[stderr_of.local_rank] = source
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
            if taken < CHUNK_BYTES and self._closing_at is None and not self._waiting.is_wanted:
                time.sleep(max(0.0, began + PAUSE_S - time.monotonic()))
        self._release()

    def _round(self, now: float) -> int:
        sources = self._live()
        blocked = self._console.push()
        wanted = self._waiting.wanted()
        readable = self._wait(sources, blocked, self._timeout_s(sources, now))
        now = time.monotonic()
        alone = len(sources) == 1
        taken = len(blocked) - len(self._console.push())
        for source in sources:
            if source.fd in readable:
                taken += source.take(now, alone=alone)
            elif source.display is not None and source.may_be_idle():
                # Only of a stream that is idle an unfinished line is one: else its end is in the pipe.
                source.display.tick(now)
            taken += source.catch_up(now)
        self._waiting.note(wanted, readable)
        self._alarm(now)
        return taken

    def _alarm(self, now: float) -> None:
        """Have it told that output is lost: at once, then once a minute as long as it gets more."""
        if self.on_loss is None or now < self._alarm_at or self._closing_at is not None:
            return
        lost = self.lost_bytes
        if lost > self._alarmed_bytes:
            self._alarmed_bytes, self._alarm_at = lost, now + LOSS_TOLD_S
            self.on_loss()

    def _live(self) -> list[Source]:
        with self._lock:
            for source in [source for source in self._sources if source.finished]:
                source.close()
                self._sources.remove(source)
            return list(self._sources)

    def _wait(self, sources: Sequence[Source], blocked: Sequence[int], timeout_s: float | None) -> set[int]:
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

    def _timeout_s(self, sources: Sequence[Source], now: float) -> float | None:
        # Who waits for the end of a stream that was read just now is told by the next look, and no other may come.
        if self._waiting.is_wanted or any(source.can_catch_up() for source in sources):
            return 0.0
        displays = [source.display for source in sources if source.display and source.may_be_idle()]
        dues = [display.due for display in displays if display.due is not None]
        if self._closing_at is not None:
            dues.append(now + QUIET_S / 4)
        return max(0.0, min(dues) - now) if dues else None

    def _is_over(self, progress_at: float) -> bool:
        if self._closing_at is None:
            return False
        sources = self._live()
        now = time.monotonic()
        still_s = now - max(progress_at, self._closing_since)
        # What is read now, if all pipes have not ended, comes from strays that hold them.
        read = all(source.ended for source in sources) or now >= self._closing_at or still_s >= QUIET_S
        if read:
            self._drained.set()
        if not self._console.push() and not any(source.is_behind for source in sources):
            return read
        if self._console_may_lag:
            return still_s >= LAGGING_STUCK_S or now - self._closing_since >= LAGGING_S
        return still_s >= STUCK_S or now >= self._closing_at

    def _release(self) -> None:
        with self._lock:
            for source in self._sources:
                source.close()
            self._sources.clear()
            os.close(self._wake_fd)
            self._wake_fd = -1
        self._close_files()
        self._drained.set()

    def _close_files(self) -> None:
        for file in list(self._files.values()):
            file.close()


def _as_raw_output(slave_fd: int) -> None:
    attributes = termios.tcgetattr(slave_fd)
    attributes[1] &= ~termios.OPOST  # the real terminal turns "\n" into "\r\n"
    termios.tcsetattr(slave_fd, termios.TCSANOW, attributes)
