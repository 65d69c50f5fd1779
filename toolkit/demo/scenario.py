"""`rally demo`: train on digits, kill one worker in the middle, and watch the job come back.

Nothing is staged: the job is `rally run` in a process of its own, and the demo sees of it what anybody could:
its output, its run directory and the checkpoints.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import selectors
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TextIO

from toolkit.adapters.recording.directory import stamped_name
from toolkit.adapters.recording.reader import EventFile
from toolkit.core import events
from toolkit.core.errors import ConfigurationError
from toolkit.surroundings import home_directory
from toolkit.views.wording import wants_colour

VICTIM_RANK = 2
EPOCHS = 10
#: the kill comes when this epoch's checkpoint is on disk
KILL_AFTER_EPOCH = 3
ACCURACY_MIN_PERCENT = 95.0

_SCRIPT = Path(__file__).with_name("train_digits.py")
_STEP_DELAY_S = 0.02
_JOB_LIMIT_S = 300.0
_STOP_LIMIT_S = 10.0
#: how long the output of an ended job may still trickle in
_TRICKLE_LIMIT_S = 2.0
_LOOK_EVERY_S = 0.05
_FINAL_ACCURACY = re.compile(r"final test accuracy ([0-9.]+) %")


def demo_command(
    *,
    state_dir: Path,
    workers: int = 4,
    environ: Mapping[str, str],
    stdout: TextIO,
    stderr: TextIO,
    show: Callable[[Path], int],
) -> int:
    """Run the demo. Ctrl-C and SIGTERM stop the job and leave nothing running.

    Args:
        state_dir: where run directories go; the demo makes a fresh one.
        workers: number of workers, at least 1.
        environ: the environment of the job.
        stdout: takes the job's stdout and the summary.
        stderr: takes the job's stderr and the narration.
        show: prints the summary of a run directory, as `rally show` does; returns an exit code.

    Returns:
        The job's exit code; 1 if the job succeeded but the demo did not show what it promised.

    Raises:
        ConfigurationError: fewer than 1 worker, torch or scikit-learn is not installed, or no run can be recorded.
    """
    _check_possible(workers)
    run_dir = _fresh_run_dir(state_dir)
    story = _Story(
        workers=workers,
        checkpoints=run_dir / "checkpoints",
        logs=run_dir / "logs",
        stderr=stderr,
        colour=wants_colour(stderr.isatty(), environ),
    )
    command = _job_command(workers, run_dir, story.checkpoints)
    story.begin(run_dir, command)
    try:
        with _death_signals_raise(), _Job(command, environ, stdout, stderr) as job:
            in_time = _watch(job, _EventTail(run_dir), story)
    except KeyboardInterrupt:
        story.say("stopped; no worker is left")
        return 128 + signal.SIGINT
    code = story.end(job.exit_code) if in_time else 1
    return code or show(run_dir)


def _check_possible(workers: int) -> None:
    if workers < 1:
        raise ConfigurationError(f"--workers is {workers}; it must be at least 1")
    if missing := [name for name in ("torch", "numpy", "sklearn") if importlib.util.find_spec(name) is None]:
        raise ConfigurationError(
            f"the demo needs {', '.join(missing)}, not installed here; pip install 'rallypoint[demo]'"
        )


def _fresh_run_dir(state_dir: Path) -> Path:
    """A name that no run has; the job makes the directory.

    Raises:
        ConfigurationError: it can't be made there.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(state_dir, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ConfigurationError(
            f"{state_dir} can't be written: {error.strerror}; give another place: XDG_STATE_HOME=/DIR rally demo"
        ) from error
    return state_dir / stamped_name(f"demo-{os.getpid()}", time.time_ns())


def _job_command(workers: int, run_dir: Path, checkpoints: Path) -> list[str]:
    launch = [
        "--standalone",
        "--nproc-per-node",
        str(workers),
        "--max-restarts",
        "3",
        # stderr to files: what the survivors say of their broken connections would bury the story.
        "--redirects",
        "2",
        "--run-dir",
        str(run_dir),
    ]
    training = [
        "--epochs",
        str(EPOCHS),
        "--step-delay-s",
        str(_STEP_DELAY_S),
        "--checkpoint-dir",
        str(checkpoints),
    ]
    return [sys.executable, "-m", "toolkit.fronts.cli", "run", *launch, str(_SCRIPT), *training]


def _typed(word: str) -> str:
    """A word as one would type it in a shell: paths from here or from home, where that is shorter."""
    path = Path(word)
    for base, prefix in ((Path.cwd(), ""), (home_directory(), "~/")):
        if path.is_absolute() and base != base.parent and path.is_relative_to(base):
            return prefix + shlex.quote(str(path.relative_to(base)))
    return shlex.quote(word)


def _command_line(words: Sequence[str]) -> str:
    """A command over several lines, as one would type it."""
    text = " ".join(_typed(word) for word in words)
    together = re.sub(r"(--[\w-]+) (?!--)", "\\1\0", text)  # an option and its value stay on one line
    lines = textwrap.wrap(together, width=92, break_long_words=False, break_on_hyphens=False)
    return "$ " + " \\\n           ".join(lines).replace("\0", " ")


def _watch(job: _Job, tail: _EventTail, story: _Story) -> bool:
    """Follow the job to its end; False if it took too long and was stopped."""
    deadline_s = time.monotonic() + _JOB_LIMIT_S
    while job.pump(_LOOK_EVERY_S, story.hear):
        for event in tail.read_new():
            story.see(event)
        story.kill_if_due()
        if time.monotonic() > deadline_s:
            story.say(f"the job has not ended within {_JOB_LIMIT_S:.0f} s; it is stopped")
            return False
    for event in tail.read_new():
        story.see(event)
    return True


@dataclass(frozen=True, slots=True)
class _Kill:
    """The deed: which process, and when on the monotonic clock that the agent's events are stamped with."""

    pid: int
    incarnation: int
    at_ns: int


@dataclass(slots=True)
class _Story:
    """What has happened so far, told in plain words as it happens."""

    workers: int
    checkpoints: Path
    logs: Path
    stderr: TextIO
    colour: bool = False
    incarnation: int = 0
    pids: dict[int, int] = field(default_factory=dict)
    kill: _Kill | None = None
    resumed: bool = False
    accuracy_percent: float | None = None

    @property
    def victim(self) -> int:
        return min(VICTIM_RANK, self.workers - 1)

    def say(self, text: str) -> None:
        label = "\x1b[1;36m[demo]\x1b[0m" if self.colour else "[demo]"
        print(f"{label} {text}", file=self.stderr, flush=True)

    def begin(self, run_dir: Path, command: Sequence[str]) -> None:
        self.say(f"{self.workers} workers train a small network on handwritten digits for {EPOCHS} epochs.")
        self.say(
            f"Each epoch leaves a checkpoint. After epoch {KILL_AFTER_EPOCH}, rank {self.victim} is killed."
        )
        self.say(_command_line(["rally", *command[3:]]))
        self.say(f"from another terminal, at any time: rally show {run_dir.name}")

    def see(self, event: events.Event) -> None:
        match event:
            case events.WorkerStarted():
                self.incarnation = event.incarnation
                self.pids[event.global_rank] = event.pid
            case events.WorkerExited() if self.kill and event.pid == self.kill.pid:
                self.say(f"the agent noticed after {self._since_kill_s(event) * 1000:.1f} ms")
            case events.WorkersStarted() if self.kill and event.incarnation > self.kill.incarnation:
                self.say(
                    f"{self.workers} workers again after {self._since_kill_s(event):.2f} s; they import torch"
                )
            case _:
                pass

    def hear(self, line: str) -> None:
        if found := _FINAL_ACCURACY.search(line):
            self.accuracy_percent = float(found[1])
        if self.kill and not self.resumed and line.startswith("resumed from"):
            self.resumed = True
            seconds = (time.monotonic_ns() - self.kill.at_ns) / 1e9
            self.say(f"{line.strip()}: training goes on {seconds:.1f} s after the kill")

    def kill_if_due(self) -> None:
        due = self.kill is None and (self.checkpoints / f"epoch-{KILL_AFTER_EPOCH:04d}.pt").exists()
        if not due or self.victim not in self.pids:
            return
        pid = self.pids[self.victim]
        self.kill = _Kill(pid, self.incarnation, time.monotonic_ns())
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            self.say(f"rank {self.victim} (pid {pid}) is gone already")
        else:
            self.say(f"epoch {KILL_AFTER_EPOCH} is saved; rank {self.victim} (pid {pid}) killed with SIGKILL")

    def end(self, exit_code: int) -> int:
        """Say whether the demo kept its promise; returns its exit code."""
        if exit_code != 0:
            self.say(f"the job failed with exit code {exit_code}; its stderr is in {self.logs}")
            return exit_code
        if self.kill is None or not self.resumed:
            self.say("the job ended, but no worker was killed and replaced on the way")
            return 1
        if self.accuracy_percent is None or self.accuracy_percent < ACCURACY_MIN_PERCENT:
            self.say(
                f"accuracy is {self.accuracy_percent} %, and should be at least {ACCURACY_MIN_PERCENT} %"
            )
            return 1
        self.say(f"done: {self.accuracy_percent} % in spite of the kill. The run in short:")
        return 0

    def _since_kill_s(self, event: events.Event) -> float:
        assert self.kill is not None, "only asked once somebody was killed"
        return (event.mono_ns - self.kill.at_ns) / 1e9


class _EventTail:
    """The events of a run as they are written."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._files: dict[Path, EventFile] = {}

    def read_new(self) -> Iterator[events.AnyEvent]:
        """What came since the last call."""
        for path in sorted(self._run_dir.glob("events-*.jsonl")):
            yield from self._files.setdefault(path, EventFile(path)).read_new()


class _Job:
    """The job's process, and its output on the way to ours. Leaving the context stops it if it still runs.

    Both streams come through pipes, so that a live status line and our narration can't write over each other.

    Args:
        command: what to start.
        environ: its environment.
        stdout: takes its stdout, line by line.
        stderr: takes its stderr, line by line.
    """

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], stdout: TextIO, stderr: TextIO
    ) -> None:
        self._process = subprocess.Popen(
            command,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdout is not None and self._process.stderr is not None, "both are pipes"
        self._stdout = self._process.stdout
        self._partial: dict[IO[bytes], bytes] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ, stdout)
        self._selector.register(self._process.stderr, selectors.EVENT_READ, stderr)

    def __enter__(self) -> _Job:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._stop()
        finally:
            self._release()

    @property
    def exit_code(self) -> int:
        """As a shell gives it: 128 + N for death by signal N."""
        code = self._process.returncode
        assert code is not None, "asked after the end only"
        return code if code >= 0 else 128 - code

    def pump(self, timeout_s: float, hear: Callable[[str], None] = lambda _line: None) -> bool:
        """Pass on what the job has written, waiting up to `timeout_s` for something; False when it has ended.

        Args:
            timeout_s: upper bound of the wait.
            hear: called with each line of stdout.
        """
        if not self._selector.get_map():
            return self._still_runs_after(timeout_s)
        ended_before = self._process.poll() is not None
        ready = self._selector.select(_TRICKLE_LIMIT_S if ended_before else timeout_s)
        for key, _ in ready:
            stream: IO[bytes] = key.fileobj  # type: ignore[assignment]
            self._pass_on(stream, key.data, hear)
        return bool(ready) or not ended_before

    def _still_runs_after(self, timeout_s: float) -> bool:
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return True
        return False

    def _pass_on(self, stream: IO[bytes], sink: TextIO, hear: Callable[[str], None]) -> None:
        data = os.read(stream.fileno(), 65536)
        *lines, rest = (self._partial.get(stream, b"") + data).split(b"\n")
        if not data:
            self._selector.unregister(stream)
            lines, rest = ([rest] if rest else []), b""
        self._partial[stream] = rest
        for line in lines:
            text = line.decode(errors="replace")
            sink.write(text + "\n")
            if stream is self._stdout:
                hear(text)
        sink.flush()

    def _stop(self) -> None:
        """SIGTERM, and time for the agent to end its workers; where Ctrl-C reached it too, it hurries it."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        deadline_s = time.monotonic() + _STOP_LIMIT_S
        while time.monotonic() < deadline_s and self.pump(_LOOK_EVERY_S):
            pass

    def _release(self) -> None:
        if self._process.poll() is None:
            # The workers end with their agent, whatever ends it.
            self._process.kill()
        self._process.wait()
        self._selector.close()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None, "both are pipes"
            stream.close()


@contextmanager
def _death_signals_raise() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that the job is stopped on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(signum: int, _frame: object) -> None:
        raise SystemExit(128 + signum)

    heeded = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is not signal.SIG_IGN]
    before = {s: signal.signal(s, leave) for s in heeded}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
