"""One launcher under measurement, with its workers: their lines and when they came; nothing outlives it.

Every process carries a mark in its environment, by which the clean-up finds it even when its launcher is
gone.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
WORKERS = Path(__file__).with_name("workers")
_MARK = "RALLY_BENCH_JOB"
_END_LIMIT_S = 15.0


class BenchError(Exception):
    """A job did not do what it is measured doing."""


class NotInTime(BenchError):
    """What was waited for did not come in time."""


@dataclass(frozen=True, slots=True)
class Launcher:
    """What starts the workers.

    Args:
        name: for people.
        command: its argv before any option.
        has_run_dir: whether it takes `--run-dir`.
        rendezvous: its own rendezvous of several nodes, for `--rdzv-backend`.
    """

    name: str
    command: tuple[str, ...]
    has_run_dir: bool = False
    rendezvous: str = ""


TORCHRUN = Launcher("torchrun", (sys.executable, "-m", "torch.distributed.run"), rendezvous="c10d")
RALLY = Launcher(
    "rally", (sys.executable, "-m", "toolkit.fronts.cli", "run"), has_run_dir=True, rendezvous="rally"
)


@dataclass(frozen=True, slots=True)
class Line:
    """A worker's line, its words, and when it came, on the monotonic clock."""

    words: tuple[str, ...]
    at_ns: int

    @property
    def pid(self) -> int:
        """The worker that says it; its third word."""
        return int(self.words[2])


class Job:
    """A launcher that runs, as `running` makes it."""

    def __init__(self, process: subprocess.Popen[bytes], launched_ns: int, stderr: Path) -> None:
        assert process.stdout is not None, "a pipe"
        self.launched_ns = launched_ns
        self.process = process
        self._pipe = process.stdout
        self._stderr = stderr
        self._partial = b""
        self._lines: list[Line] = []

    @property
    def pid(self) -> int:
        return self.process.pid

    def next_lines(self, word: str, count: int, timeout_s: float = 60.0) -> list[Line]:
        """The next `count` lines that begin with `word`; others stay for later calls.

        Raises:
            NotInTime: they did not come within `timeout_s`.
            BenchError: the job ended before.
        """
        deadline_s = time.monotonic() + timeout_s
        while len(found := [line for line in self._lines if line.words[0] == word]) < count:
            self._read(deadline_s, f"{count} lines {word!r}")
        taken = found[:count]
        self._lines = [line for line in self._lines if line not in taken]
        return taken

    def pass_lines(self, count: int, timeout_s: float = 120.0) -> None:
        """Read `count` lines more, without looking at them.

        Raises:
            NotInTime: they did not come within `timeout_s`.
            BenchError: the job ended before.
        """
        deadline_s = time.monotonic() + timeout_s
        count -= len(self._lines)
        self._lines, self._partial = [], b""
        while count > 0:
            if not select.select([self._pipe], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
                raise NotInTime(str(self.error(f"{count} lines are missing")))
            data = os.read(self._pipe.fileno(), 1 << 20)
            if not data:
                raise self.error(f"it ended with {count} lines missing")
            count -= data.count(b"\n")

    def wait(self, timeout_s: float = 60.0) -> int:
        """The launcher's exit code, once it has ended."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise self.error(f"it did not end within {timeout_s:.0f} s") from None

    def _read(self, deadline_s: float, awaited: str) -> None:
        ready, _, _ = select.select([self._pipe], [], [], max(0.0, deadline_s - time.monotonic()))
        if not ready:
            raise NotInTime(str(self.error(f"{awaited} did not come in time")))
        data = os.read(self._pipe.fileno(), 65536)
        now_ns = time.monotonic_ns()
        if not data:
            raise self.error(f"it ended before {awaited} came")
        *whole, self._partial = (self._partial + data).split(b"\n")
        self._lines += [Line(tuple(text.decode().split()), now_ns) for text in whole if text.strip()]

    def error(self, what: str) -> BenchError:
        """An error about this job, with the end of its stderr."""
        tail = self._stderr.read_text(errors="replace")[-2000:]
        return BenchError(f"{' '.join(map(str, self.process.args))}: {what}; its stderr ends with:\n{tail}")


@contextmanager
def running(
    launcher: Launcher, options: Sequence[str], worker: str, environ: Mapping[str, str]
) -> Iterator[Job]:
    """Start a job; on leaving, all its processes are gone and its files removed.

    Args:
        launcher: what starts it.
        options: the launcher's options, the same for all launchers.
        worker: name of a script in `workers/`.
        environ: the environment to start from.
    """
    mark = uuid.uuid4().hex
    with (
        tempfile.TemporaryDirectory(prefix="rally-bench-", dir=environ.get("TMPDIR")) as folder,
        Path(folder, "stderr").open("wb") as stderr,
    ):
        own = ["--run-dir", f"{folder}/run"] if launcher.has_run_dir else []
        command = [*launcher.command, *own, *options, str(WORKERS / worker)]
        env = _clean(environ) | {_MARK: mark, "TMPDIR": folder, "XDG_STATE_HOME": folder}
        launched_ns = time.monotonic_ns()
        process = subprocess.Popen(
            command, env=env, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
        )
        try:
            yield Job(process, launched_ns, Path(folder, "stderr"))
        finally:
            _end(process, mark)


def _clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Without what would change a launcher's behaviour; with one thread, which torchrun warns of."""
    kept = {k: v for k, v in environ.items() if not k.startswith(("PET_", "TORCHELASTIC_"))}
    return kept | {"OMP_NUM_THREADS": "1"}


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    assert process.stdout is not None, "a pipe"
    try:
        if process.poll() is None:
            process.terminate()
            process.wait(_END_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
    finally:
        for pid in marked(mark):
            _kill(pid)
        process.wait(_END_LIMIT_S)
        process.stdout.close()


def marked(mark: str) -> list[int]:
    """Processes that carry this mark in their environment, whoever their parent is now."""
    needle = f"{_MARK}={mark}".encode()
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _carries(entry, needle)
    ]


def _carries(process: Path, needle: bytes) -> bool:
    try:
        return needle in (process / "environ").read_bytes()
    except OSError:
        return False  # gone meanwhile, or somebody else's


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
