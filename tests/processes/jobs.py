"""One agent in a process of its own, with its workers and its recording. Nothing that a test started outlives it.

Every process carries a mark in its environment, by which its whole tree is found even when its parent is gone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from toolkit.adapters.experiment.processes import end_all
from toolkit.adapters.leftovers.process_tree import environment
from toolkit.adapters.recording.reader import read_run
from toolkit.core.errors import RecordingError
from toolkit.core.events import Event
from toolkit.core.history import Timeline
from toolkit.core.timeline import fold_all

REPOSITORY = Path(__file__).parents[2]
RALLY = (sys.executable, "-m", "toolkit.fronts.cli")
#: how long a thing may take that takes well below a second on a quiet machine
PATIENCE_S = 30.0
#: how long a process may outlive its agent
AFTERLIFE_S = 2.0
_MARK = "RALLY_TEST_JOB"
#: variables that would reach the workers, or the agent, from whoever runs the tests
_OURS = (
    "PET_",
    "TORCHELASTIC_",
    "TORCH_ELASTIC_",
    "OMP_NUM_THREADS",
    "MASTER_",
    "CUDA_VISIBLE_DEVICES",
    "RANK",
)

_T = TypeVar("_T")
_E = TypeVar("_E", bound=Event)


def until(what: str, look: Callable[[], _T], timeout_s: float = PATIENCE_S) -> _T:
    """What `look` returns as soon as it is true; an AssertionError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.005)
    return seen


class Job:
    """A process under test, its output, and the recording that it makes.

    Args:
        argv: its command line.
        folder: where it runs; its output and, unless told otherwise, its recording go there.
        mark: what its tree carries.
        name: of the output files and the recording.
        env: on top of a clean environment.
        run_dir: the recording.
        before_exec: called in the new process.
    """

    def __init__(
        self,
        argv: Sequence[str],
        folder: Path,
        mark: str,
        name: str,
        env: Mapping[str, str],
        run_dir: Path,
        before_exec: Callable[[], None] | None = None,
    ) -> None:
        self.run_dir = run_dir
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                argv,
                cwd=folder,
                env={**clean_environment(folder), _MARK: mark, **env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=before_exec,  # noqa: PLW1509 - a test has one thread
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdout(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self._err.read_text(errors="replace")

    @property
    def lines(self) -> list[str]:
        """Whole lines of stdout so far."""
        return self.stdout.split("\n")[:-1]

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """The exit code as a shell sees it; -N for death by signal N."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {timeout_s:g} s; {self.told()}") from None

    def ended(self) -> bool:
        return self._process.poll() is not None

    def told(self) -> str:
        """All that it said, for a failing test."""
        return f"stdout:\n{self.stdout}\nstderr:\n{self.stderr}"

    def signal(self, signum: int) -> None:
        self._process.send_signal(signum)

    def wait_for_lines(self, word: str, count: int = 1, timeout_s: float = PATIENCE_S) -> list[str]:
        """Wait until `count` lines of stdout begin with `word`; returns those there are."""

        def look() -> list[str]:
            over = self.ended()  # asked first: what it said before its end must count
            found = [line for line in self.lines if line.startswith(word)]
            assert len(found) >= count or not over, f"ended without {count} lines {word!r}; {self.told()}"
            return found if len(found) >= count else []

        return until(f"{count} lines {word!r}", look, timeout_s)

    # -- the recording --------------------------------------------------------------------------------------

    def events(self, kind: type[_E]) -> list[_E]:
        """The events of one kind so far; of all nodes, if they share a run directory."""
        with suppress(RecordingError):
            return [event for event in read_run(self.run_dir).events() if isinstance(event, kind)]
        return []

    def wait_for_events(self, kind: type[_E], count: int = 1, timeout_s: float = PATIENCE_S) -> list[_E]:
        """Wait until there are `count` events of a kind."""

        def look() -> list[_E]:
            found = self.events(kind)
            return found if len(found) >= count else []

        return until(f"{count} events {kind.__name__}; {self.told()}", look, timeout_s)

    def timeline(self) -> Timeline:
        """The recording, which must be whole, folded."""
        recording = read_run(self.run_dir)
        timeline = fold_all(recording.events())
        assert recording.counters.left_out == 0, recording.counters
        assert timeline.ignored == 0
        return timeline

    def kill(self) -> None:
        """End the first process at once; the tree is the fixture's business."""
        self._process.kill()
        self._process.wait()


#: how long several agents may take for what one round takes: each of them imports torch
LONG_S = 60.0


class Up(NamedTuple):
    """What a worker that has started finds in its environment, and its pid."""

    group_rank: int
    rank: int
    world_size: int
    restarts: int
    port: int
    pid: int

    #: how a worker says it; goes before the rest of its script
    SCRIPT = """
    names = ("GROUP_RANK", "RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT", "MASTER_PORT")
    say("up", *(os.environ[name] for name in names), os.getpid())
    """


class Nodes:
    """Agents of one job that meet by our own rendezvous, all recording into one run directory.

    Args:
        rally: starts an agent.
        run_dir: the recording.
        words: the options that all of them have.
        conf: of `--rdzv-conf`.
    """

    def __init__(
        self, rally: Callable[..., Job], run_dir: Path, words: Sequence[str], conf: Mapping[str, float]
    ) -> None:
        self._rally = rally
        self._words = tuple(words)
        self._conf = dict(conf)
        self.run_dir = run_dir
        self.jobs: list[Job] = []

    def start(self, *words: str | Path, **conf: float) -> Job:
        """One more agent; the first one hosts the store, unless `is_host` says otherwise."""
        all_conf = {**self._conf, "is_host": not self.jobs, **conf}
        said = ",".join(f"{key}={value:g}" for key, value in all_conf.items())
        self.jobs.append(self._rally(*self._words, "--rdzv-conf", said, *words, run_dir=self.run_dir))
        return self.jobs[-1]

    def start_several(self, count: int, *words: str | Path) -> list[Job]:
        """As many more of one kind."""
        return [self.start(*words) for _ in range(count)]

    def ups(self, nth: int = 1, of: Sequence[Job] | None = None) -> list[Up]:
        """Wait for the `nth` start of the worker of each of these agents, by default of all."""
        jobs = self.jobs if of is None else of

        def look() -> bool:
            assert not any(job.ended() for job in jobs), self.told()
            return all(_started(job) >= nth for job in jobs)

        self.until(f"start {nth} of all workers", look)
        return [_ups(job)[nth - 1] for job in jobs]

    def world(self, size: int, of: Sequence[Job]) -> list[Up]:
        """Wait until the latest workers of these agents have met in one world of this size."""

        def look() -> list[Up]:
            assert not any(job.ended() for job in of), self.told()
            latest = [_ups(job)[-1] for job in of if _started(job)]
            met = len(latest) == len(of) and len({up.port for up in latest}) == 1
            return latest if met and latest[0].world_size == size else []

        return self.until(f"a world of {size}", look)

    def starts(self) -> list[int]:
        """How often the workers of each agent have started."""
        return [_started(job) for job in self.jobs]

    def events(self, kind: type[_E]) -> list[_E]:
        """The events of one kind so far, of all nodes."""
        return self.jobs[0].events(kind)

    def wait_for_events(self, kind: type[_E], count: int = 1) -> list[_E]:
        """Wait until all nodes together have said `count` events of a kind."""
        return self.until(
            f"{count} events {kind.__name__}",
            lambda: found if len(found := self.events(kind)) >= count else [],
        )

    def until(self, what: str, look: Callable[[], _T]) -> _T:
        """Wait for something, and tell what all have said if it does not come."""
        try:
            return until(what, look, LONG_S)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.told()}") from None

    def of(self, job: Job, kind: type[_E]) -> list[_E]:
        """The events of one kind of one agent."""
        return [event for event in self.events(kind) if event.node.endswith(f"_{job.pid}")]

    def assert_all_end_with(self, code: int = 0, of: Sequence[Job] | None = None) -> None:
        """Wait for the end of these agents, by default of all."""
        for job in self.jobs if of is None else of:
            assert job.wait(LONG_S) == code, self.told()

    def assert_promises_held(self, *, whole: bool = True) -> None:
        """Hold the recording against the promises.

        Args:
            whole: whether all agents could say how they ended; else what can't be said does not count.
        """
        checked = subprocess.run(
            [*RALLY, "check", str(self.run_dir), "--json"],
            env=clean_environment(self.run_dir),
            capture_output=True,
            check=False,
        )
        assert checked.returncode in ((0,) if whole else (0, 3)), (
            f"{checked.stdout.decode()}{checked.stderr.decode()}{self.told()}"
        )
        assert json.loads(checked.stdout)["broken"] == []

    def told(self) -> str:
        """All that all of them said."""
        return "\n".join(f"node {at}, pid {job.pid}: {job.told()}" for at, job in enumerate(self.jobs))


def _ups(job: Job) -> list[Up]:
    return [Up(*map(int, line.split()[1:])) for line in job.lines if line.startswith("up ")]


def _started(job: Job) -> int:
    return len(_ups(job))


def clean_environment(folder: Path) -> dict[str, str]:
    """The environment of a user who has set nothing."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
    return {**inherited, "XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(REPOSITORY)}


def marked(mark: str) -> dict[int, str]:
    """Processes that run with `mark` in their environment: pid -> command line. Zombies have no environment."""
    needle = f"{_MARK}={mark}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                if needle in environment(int(entry.name)).split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def children(pid: int) -> list[int]:
    """Children of a process, zombies too."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended since
            found += map(int, (task / "children").read_text().split())
    return found


def sweep(mark: str) -> None:
    """SIGKILL to whatever carries `mark`, until nothing does. Supervisors may tidy up first: they end by themselves."""
    left = end_all(lambda: marked(mark), PATIENCE_S)
    assert not left, f"the end of the test's processes {left}: not within {PATIENCE_S:g} s"


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def counted(words: Iterable[str]) -> dict[str, int]:
    """How often each comes."""
    return dict(Counter(words))
