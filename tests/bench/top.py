"""Speed and memory of `rally top`, and of what machines ask, against fixed goals; samples as in `sim`.

`python -m tests.bench.top NAME` takes one sample and prints it.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import json
import os
import pty
import random
import re
import resource
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from .job import RALLY, REPOSITORY, running
from .sim import SimMeasure, take

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from toolkit.core.events import AnyEvent
    from toolkit.core.timeline import Timeline
    from toolkit.fronts.tui.app import TopApp
    from toolkit.views.session import Session

_START_NS = 1_790_000_000 * 10**9
_PER_NODE = 8
#: a terminal of this size, and how long something is watched
_COLUMNS, _LINES, _WATCH_S = 160, 50, 8.0
_CLI = (sys.executable, "-m", "toolkit.fronts.cli")


class Cluster:
    """Implements Source: nodes of eight workers that tell readings as they are told to.

    Args:
        nodes: how many.
    """

    problem = ""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self.now_ns = _START_NS
        self._seqs = [0] * nodes
        self._random = random.Random(1)
        self._waiting = [event for node in range(nodes) for event in self._started(node)]

    def read_new(self, events_max: int) -> list[AnyEvent]:
        new, self._waiting = self._waiting[:events_max], self._waiting[events_max:]
        return new

    def is_live(self, timeline: Timeline) -> bool:
        return True

    @property
    def waiting(self) -> int:
        """Events that were not read yet."""
        return len(self._waiting)

    def tell(self, nodes: Iterator[int] | range) -> None:
        """Some nodes tell what their workers use."""
        from toolkit.core.events import ReadingsTaken, WorkerReading

        # As the sampler tells them: tenths of a percent, and whole pages.
        number = self._random.random
        for node in nodes:
            workers = [
                WorkerReading(
                    local_rank=rank,
                    cpu_percent=int(1000 * number()) / 10,
                    rss_bytes=int(number() * 2**21) << 12,
                    step=100_000 + self._seqs[node],
                )
                for rank in range(_PER_NODE)
            ]
            self._waiting.append(ReadingsTaken(**self._head(node), incarnation=0, workers=workers))

    def _head(self, node: int) -> dict[str, Any]:
        self._seqs[node] += 1
        return {
            "run_id": "large",
            "node": f"gpu-{node:04d}_77",
            "seq": self._seqs[node],
            "mono_ns": self.now_ns - _START_NS,
            "wall_ns": self.now_ns,
            "round": 1,
            "epoch": 1,
        }

    def _started(self, node: int) -> Iterator[AnyEvent]:
        from toolkit.core import events

        first, world = node * _PER_NODE, self.nodes * _PER_NODE
        yield events.AgentStarted(
            **self._head(node),
            pid=77,
            hostname=f"gpu-{node:04d}",
            role="trainer",
            local_world_size=_PER_NODE,
            restarts_max=3,
            backend="rally",
            entrypoint="train.py",
        )
        yield events.RendezvousCompleted(
            **self._head(node),
            group_rank=node,
            group_world_size=self.nodes,
            world_size=world,
            role_world_size=world,
            master_addr="gpu-0",
            master_port=1,
            global_ranks=list(range(first, first + _PER_NODE)),
        )
        yield events.WorkersStarting(**self._head(node), incarnation=0, count=_PER_NODE)
        for rank in range(_PER_NODE):
            yield events.WorkerStarted(
                **self._head(node),
                incarnation=0,
                local_rank=rank,
                global_rank=first + rank,
                role_rank=first + rank,
                world_size=world,
                worker_id=str(1000 + rank),
                pid=1000 + rank,
            )
        yield events.WorkersStarted(**self._head(node), incarnation=0)


def _session(cluster: Cluster) -> Session:
    """Of all that the cluster has said so far."""
    from toolkit.views.session import Session

    session = Session(cluster, "", lambda: cluster.now_ns)
    while cluster.waiting:
        session.tick(0.0)
    return session


def _app(session: Session, folder: Path | None = None) -> TopApp:
    from toolkit.fronts.tui.app import TopApp
    from toolkit.fronts.tui.command import collect_rarely

    collect_rarely()  # as `rally top` does
    return TopApp(session, title="large", folder=folder, controller=None, by="bench", now_s=time.monotonic)


def _drive(app: TopApp, steps: Callable[[Pilot[Any]], Awaitable[None]]) -> None:
    """Run it without a terminal; its own clock ticks."""

    async def go() -> None:
        async with app.run_test(size=(_COLUMNS, _LINES)) as pilot:
            await pilot.pause()
            await steps(pilot)

    asyncio.run(go())


# -- samples ------------------------------------------------------------------------------------------------


def streaming(view: str) -> Callable[[], float]:
    """Percent of a core that the screen takes while 1,250 of 10,000 ranks' nodes tell something ten times a second."""

    def stream() -> float:
        cluster = Cluster(1250)
        app = _app(_session(cluster))
        app.begin_at(view, "")
        used: list[float] = []

        async def steps(_pilot: Pilot[Any]) -> None:
            await asyncio.sleep(1.0)
            gc.collect()
            began_s, before_s, telling_s, tick = time.monotonic(), time.process_time(), 0.0, 0
            while (passed_s := time.monotonic() - began_s) < _WATCH_S:
                # What the cluster itself costs is not the screen's.
                telling_from_s = time.process_time()
                cluster.now_ns = _START_NS + int(1e9 * (1 + passed_s))
                cluster.tell(range(tick % 10, cluster.nodes, 10))
                telling_s += time.process_time() - telling_from_s
                tick += 1
                await asyncio.sleep(max(began_s + tick * 0.1 - time.monotonic(), 0))
            passed_s = time.monotonic() - began_s
            assert tick > _WATCH_S * 10 * 0.9, f"only {tick} ticks in {passed_s:.1f} s"
            used.append((time.process_time() - before_s - telling_s) / passed_s * 100)

        _drive(app, steps)
        return used[0]

    return stream


class Lively(Cluster):
    """One of which a tenth tells something at each look, ten times a second."""

    def read_new(self, events_max: int) -> list[AnyEvent]:
        if not self.waiting:
            self.now_ns += 10**8
            tick = (self.now_ns - _START_NS) // 10**8
            self.tell(range(tick % 10, self.nodes, 10))
        return super().read_new(events_max)


def lively_screen() -> None:
    """On this terminal: 1,000 ranks."""
    from toolkit.views.session import Session

    cluster = Lively(125)
    app = _app(Session(cluster, "", lambda: cluster.now_ns))
    app.begin_at("ranks", "")
    app.run()


#: keys, and what stands on the screen once they have been heeded, and not before
_HEEDED = (("2", b"AGENT"), ("5", b"WHAT"), ("3", b"LOCAL"), ("1", b"group   "), ("3", b"LOCAL"))
#: the selected row of a table begins so
_SELECTED = rb"48;2;59;66;82m\s*(?:\x1b\[[0-9;]*m\s*)*%d\b"


def keys() -> float:
    """Milliseconds from a key to its effect on a pseudo-terminal, 95th percentile; 1,000 ranks, 100 change at 10 Hz."""
    numbers, took_ms = random.Random(1), []
    with _on_terminal([sys.executable, "-m", "tests.bench.top", "--screen"]) as screen:
        screen.wait_for(_SELECTED % 0)
        for selected in range(1, 101):
            screen.skip_for(numbers.uniform(0.01, 0.15))
            took_ms.append(screen.took_s("j", _SELECTED % selected) * 1e3)
        for number in range(100):
            key, heeded = _HEEDED[number % len(_HEEDED)]
            screen.skip_for(numbers.uniform(0.01, 0.15))
            took_ms.append(screen.took_s(key, heeded) * 1e3)
    return statistics.quantiles(took_ms, n=20)[-1]


class Screen:
    """A program on a pseudo-terminal."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def press(self, key: str) -> None:
        os.write(self._fd, key.encode())

    def wait_for(self, pattern: bytes) -> None:
        """Read until something comes out."""
        seen = b""
        while not re.search(pattern, seen):
            ready, _, _ = select.select([self._fd], [], [], 20.0)
            assert ready, f"{pattern!r} never came; the last was {seen[-500:]!r}"
            seen += os.read(self._fd, 65536)

    def skip_for(self, seconds: float) -> None:
        """Drop what comes meanwhile."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            if select.select([self._fd], [], [], left_s)[0]:
                os.read(self._fd, 65536)

    def took_s(self, key: str, pattern: bytes) -> float:
        """From a key until something comes out."""
        began_s = time.monotonic()
        self.press(key)
        self.wait_for(pattern)
        return time.monotonic() - began_s


@contextmanager
def _on_terminal(command: list[str]) -> Iterator[Screen]:
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, _COLUMNS, 0, 0))
    process = subprocess.Popen(
        command,
        stdin=other,
        stdout=other,
        stderr=other,
        cwd=REPOSITORY,
        env=os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"},
        start_new_session=True,
    )
    os.close(other)
    try:
        yield Screen(main)
    finally:
        process.kill()
        process.wait()
        os.close(main)


_WRITER = """
import sys, time
began_s, lines = time.monotonic(), 0
with open(sys.argv[1], "a") as log:
    while time.monotonic() < began_s + float(sys.argv[2]):
        for _ in range(400):
            lines += 1
            log.write(f"step {lines} loss 0.12345 tokens/s 123456 lr 3e-4 grad 0.98 mem 61.2 of 80.0 GB\\n")
        log.flush()
        time.sleep(max(began_s + lines / 20_000 - time.monotonic(), 0))
print(lines)
"""


def log_lines() -> float:
    """Percent of a core that the log view takes while 20,000 lines a second are written."""
    from msgspec.structs import replace

    from toolkit.core.events import WorkerStarted

    used: list[float] = []
    with tempfile.TemporaryDirectory(prefix="rally-bench-") as folder:
        log = Path(folder, "0.err")
        log.touch()
        cluster = Cluster(1)
        cluster._waiting = [
            replace(event, stderr=str(log)) if isinstance(event, WorkerStarted) else event
            for event in cluster._waiting
        ]
        app = _app(_session(cluster), Path(folder))
        app.begin_at("logs", "")

        async def steps(_pilot: Pilot[Any]) -> None:
            seconds = _WATCH_S + 3
            writer = subprocess.Popen(
                [sys.executable, "-c", _WRITER, str(log), str(seconds)], stdout=subprocess.PIPE, text=True
            )
            await asyncio.sleep(2.0)
            began_s, before_s = time.monotonic(), time.process_time()
            await asyncio.sleep(_WATCH_S)
            used.append((time.process_time() - before_s) / (time.monotonic() - began_s) * 100)
            lines = int(writer.communicate()[0])
            assert lines > 19_000 * seconds, f"only {lines} were written in {seconds:.0f} s"
            await asyncio.sleep(3.0)
            shown = app._panes["logs"]._file.count  # type: ignore[attr-defined]
            assert shown == lines, f"{shown} of {lines} lines were seen"

        _drive(app, steps)
    return used[0]


def memory() -> float:
    """MB of the screen at 10,000 ranks, after a million events."""
    cluster = Cluster(1250)
    session = _session(cluster)
    while len(session.film) < 1_000_000:
        cluster.now_ns += 10**9
        cluster.tell(range(cluster.nodes))
        while cluster.waiting:
            session.tick(1.0)
    app = _app(session)
    app.begin_at("ranks", "")

    async def steps(pilot: Pilot[Any]) -> None:
        for key in (
            "1",
            "2",
            "3",
            "4",
            "5",
            "3",
            "home",
            "right_curly_bracket",
            "right_curly_bracket",
            "end",
        ):
            await pilot.press(key)
            await pilot.pause()

    _drive(app, steps)
    # The highest that it ever was, this benchmark's cluster included.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


@contextmanager
def _recording() -> Iterator[Path]:
    """A recording of a run with a restart."""
    with tempfile.TemporaryDirectory(prefix="rally-bench-") as folder:
        path = Path(folder, "run")
        words = ("sim", "worker-crash", "--run-dir", str(path))
        subprocess.run([*_CLI, *words], cwd=REPOSITORY, check=False, capture_output=True)
        assert (path / "run.json").exists(), "recorded"
        yield path


def first_paint() -> float:
    """Seconds from exec until the name of the run comes out of the terminal, on a real pseudo-terminal."""
    took_s = []
    with _recording() as path:
        name = json.loads((path / "run.json").read_text())["run_id"].encode()
        for _ in range(4):
            began_s = time.monotonic()
            with _on_terminal([*_CLI, "top", str(path)]) as screen:
                screen.wait_for(name)
                took_s.append(time.monotonic() - began_s)
    return statistics.median(took_s[1:])


def show() -> float:
    """Seconds that `rally show --json` takes; it must import neither textual nor torch."""
    with _recording() as path:
        command = [*_CLI, "show", "--json", str(path)]
        listed = subprocess.run(
            [sys.executable, "-X", "importtime", *command[1:]],
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
            text=True,
        )
        imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in listed.stderr.splitlines()}
        assert "toolkit" in imported, "listed"
        assert not imported & {"textual", "torch"}, f"it imports {imported & {'textual', 'torch'}}"
        took_s = []
        for _ in range(8):
            began_s = time.monotonic()
            subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
            took_s.append(time.monotonic() - began_s)
    return statistics.median(took_s[1:])


def watched() -> float:
    """Percent of a core that an agent of sixteen workers with four children each takes while somebody watches it."""
    from toolkit.adapters.control.client import ControlClient, nodes_in

    options = ("--standalone", "--nproc-per-node", "16")
    with running(RALLY, options, "family.py", os.environ) as job:
        job.next_lines("ready", 16)
        agent = psutil.Process(job.pid)
        folder = Path(next(word for before, word in pairwise(agent.cmdline()) if before == "--run-dir"))
        deadline_s = time.monotonic() + 20
        while not (nodes := list(nodes_in(folder))):
            assert time.monotonic() < deadline_s, "it listens"
            time.sleep(0.05)
        seen: list[AnyEvent] = []

        def watch() -> None:
            with suppress(Exception):  # it ends with the job
                for event in ControlClient(folder, nodes[0]).events():
                    seen.append(event)

        threading.Thread(target=watch, daemon=True).start()
        time.sleep(1.0)
        before, began_s, count = sum(agent.cpu_times()[:2]), time.monotonic(), len(seen)
        time.sleep(10.0)
        used_s, passed_s = sum(agent.cpu_times()[:2]) - before, time.monotonic() - began_s
        assert len(seen) >= count + 5, f"only {len(seen) - count} events came to the watcher"
        return used_s / passed_s * 100


MEASURES = (
    SimMeasure(
        "top-paint",
        "rally top: exec → the run's name on a pseudo-terminal",
        "s",
        0.4,
        first_paint,
        runs_max=1,
    ),
    SimMeasure(
        "top-show", "rally show --json, without textual and torch: exec → end", "s", 0.15, show, runs_max=1
    ),
    *(
        SimMeasure(
            f"top-stream-{view}",
            f"10,000 ranks, 1,000 change at 10 Hz, {view} (CPU)",
            "%",
            25.0,
            streaming(view),
            runs_max=1,
        )
        for view in ("overview", "nodes", "ranks", "timeline")
    ),
    SimMeasure("top-keys", "key → paint at 1,000 ranks, 95th percentile", "ms", 50.0, keys),
    SimMeasure(
        "top-log", "20,000 log lines a second in the log view (CPU)", "%", 100.0, log_lines, runs_max=1
    ),
    SimMeasure(
        "top-memory", "peak RSS, 10,000 ranks, a million events", "MB", 200.0, memory, runs_max=1, slow=True
    ),
    SimMeasure(
        "agent-watched", "CPU of an agent of 16 workers with a watcher", "%", 1.0, watched, runs_max=2
    ),
)
#: asks for all of them in `--only`
ALL = "top"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if sys.argv[1] == "--screen":
        lively_screen()
    else:
        take(MEASURES, sys.argv[1])
