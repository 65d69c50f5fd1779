"""What live views, launches and simulations that are held cost, against fixed goals; samples as in `sim`.

`python -m tests.bench.notebook NAME` takes one sample and prints it.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from .job import REPOSITORY
from .sim import SimMeasure, take

if TYPE_CHECKING:
    from tests.notebook.kernels import Kernel

_TIMES = 11
#: of a live view: nodes of eight ranks, for how long it is watched, and which share of the nodes tells a reading in
#: each tenth of a second. That is one reading of each node a second, as `--readings-interval` has it by default.
_NODES, _WATCH_S, _SHARE = 125, 12.0, 10


# -- live views ---------------------------------------------------------------------------------------------


def live() -> Mapping[str, float]:
    """A real kernel that shows 1,000 ranks: its CPU, and what its widget says, counted in the bytes of the sockets."""
    from tests.notebook.kernels import kernel

    with tempfile.TemporaryDirectory(prefix="rally-bench-") as folder, kernel() as one:
        process = psutil.Process(one.manager.provisioner.pid)
        with _growing(Path(folder, "run")) as writer:
            _show(one, Path(folder, "run"))
            loud, said = _while(one, process, _WATCH_S)
            assert writer.stdin is not None, "it is a pipe"
            writer.stdin.close()  # and no reading comes any more, though all live
            _while(one, process, 2.0)
            silent, unsaid = _while(one, process, _WATCH_S)
            assert one.value("job.state, job.mode") == "('running', 'LIVE')", one.value("repr(job)")
    assert not unsaid, "nothing is said of nothing"
    changed = sum(ranks for _, ranks in said)
    assert changed > 1_000 * (_WATCH_S - 2), f"only {changed} ranks were seen to change"
    return {
        "notebook-live": loud,
        "notebook-silent": silent,
        "notebook-messages": len(said) / _WATCH_S,
        "notebook-bytes": sum(size for size, _ in said) / changed / 10,
    }


def changes() -> float:
    """CPU milliseconds to find what to tell a view of 10,000 ranks, of which 1,000 have new readings."""
    from toolkit.fronts.notebook.deltas import Deltas

    from .top import Cluster, _session

    cluster = Cluster(10 * _NODES)
    session, deltas, took_s = _session(cluster), Deltas("large", acts=True), []
    deltas.all(session.film.latest, cluster.now_ns, "LIVE")
    for tick in range(40):
        cluster.now_ns += 10**8
        cluster.tell(range(tick % _SHARE, cluster.nodes, _SHARE))
        session.tick(0.1)
        began_s = time.process_time()
        message = deltas.changes(session.film.latest, cluster.now_ns, "LIVE")
        took_s.append(time.process_time() - began_s)
        assert message is not None and _ranks_in(message) > 900, "nearly all of them"
    return 1e3 * statistics.median(took_s)


def _show(one: Kernel, path: Path) -> None:
    assert one.run(f"from toolkit import attach\njob = attach({str(path)!r})\njob")["status"] == "ok"
    assert one.value("len(job.ranks()), job.mode") == f"({8 * _NODES}, 'LIVE')"


def _while(one: Kernel, process: psutil.Process, seconds: float) -> tuple[float, list[tuple[int, int]]]:
    """Percent of a core meanwhile; and of each message of a widget the bytes, and the ranks of which it tells."""
    said, began_s, before_s = [], time.monotonic(), sum(process.cpu_times()[:2])
    socket = one.client.iopub_channel.socket
    while (left_s := began_s + seconds - time.monotonic()) > 0:
        if socket.poll(left_s * 1e3):
            frames = socket.recv_multipart()
            message = one.client.session.deserialize(one.client.session.feed_identities(frames)[1])
            if message["msg_type"] == "comm_msg":
                content = message["content"]["data"].get("content", {})
                said.append((sum(map(len, frames)), _ranks_in(content)))
    used_s = sum(process.cpu_times()[:2]) - before_s
    return used_s / (time.monotonic() - began_s) * 100, said


def _ranks_in(message: Mapping[str, Any]) -> int:
    return sum(len(values) // (len(columns) + 1) for columns, values in message.get("rows", ()))


@contextmanager
def _growing(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that records a run of 1,000 ranks; readings come until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.notebook", "--record", str(path)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None, "it is a pipe"
        assert process.stdout.readline() == "recorded\n", "it has begun"
        yield process
    finally:
        process.kill()
        process.wait()


def record(path: Path) -> None:
    """Write what agents write that start 1,000 workers, and then read what these use; each second a node restarts."""
    import select

    from msgspec.structs import replace

    from toolkit.adapters.recording.layout import events_file_name
    from toolkit.adapters.recording.writer import encoded_line
    from toolkit.core.events import AgentStarted, AnyEvent, WorkerExited, WorkersStarting, WorkerStarted

    from .top import Cluster

    class Recorded(Cluster):
        """Its agents are this process, and it is now."""

        def _head(self, node: int) -> dict[str, Any]:
            return super()._head(node) | {"wall_ns": time.time_ns()}

        def _started(self, node: int) -> Iterator[AnyEvent]:
            for event in super()._started(node):
                if isinstance(event, AgentStarted):
                    event = replace(event, hostname=platform.node(), pid=os.getpid())
                yield event

        def restart(self, node: int, incarnation: int) -> None:
            for event in super()._started(node):
                match event:
                    case WorkerStarted():
                        how = {"exit_code": 0, "signal": "SIGTERM", "stopped_by_agent": True}
                        of = {
                            "local_rank": event.local_rank,
                            "global_rank": event.global_rank,
                            "pid": event.pid,
                            "incarnation": incarnation - 1,
                        }
                        self._waiting.append(WorkerExited(**self._head(node), **of, **how))
                        self._waiting.append(replace(event, incarnation=incarnation, **self._head(node)))
                    case WorkersStarting():
                        self._waiting.append(replace(event, incarnation=incarnation))
                    case _:
                        pass

    path.mkdir()
    (path / "run.json").write_text(json.dumps({"format": 1, "run_id": "large", "host": platform.node()}))
    cluster, began_s, tick = Recorded(_NODES), time.monotonic(), 0
    with ExitStack() as files:
        of_node: dict[str, Any] = {}
        while True:
            for event in cluster.read_new(cluster.waiting):
                if event.node not in of_node:
                    file = files.enter_context((path / events_file_name(event.node)).open("ab", buffering=0))
                    of_node[event.node] = file
                of_node[event.node].write(encoded_line(event) + b"\n")
            if tick == 0:
                print("recorded", flush=True)
            tick += 1
            if select.select([sys.stdin], [], [], max(began_s + tick / 10 - time.monotonic(), 0))[0]:
                break
            cluster.now_ns += 10**8
            cluster.tell(range(tick % _SHARE, cluster.nodes, _SHARE))
            if tick % 10 == 0:
                cluster.restart(tick // 10 % cluster.nodes, 1 + tick // 10 // cluster.nodes)
    time.sleep(600)  # the agents live on


# -- a picture, a launch, all notebooks ---------------------------------------------------------------------


def picture() -> Mapping[str, float]:
    """The timeline of 26 nodes that were started nine times, and of a thousand intervals so."""
    from simulator import Fail, Scenario, Workload
    from simulator.simulation import ScenarioRun
    from simulator.subjects import subject_named
    from toolkit.core.timeline import fold_all
    from toolkit.views.lanes import node_stretches
    from toolkit.views.svg import timeline_svg

    workload = Workload(
        steps=20, step_s=10.0, checkpoint_every=1, failures=(Fail(3, at_s=30.0, incarnations=9),)
    )
    scenario = Scenario("thousand-intervals", nodes=26, max_restarts=9, workload=workload)
    events = ScenarioRun(scenario, subject_named("rally"), seed=1).run().events
    timeline, ended_ns = fold_all(events), max(event.wall_ns for event in events)
    count = sum(len(node_stretches(node, timeline)) for node in timeline.nodes.values())
    assert 1_000 <= count <= 1_050, f"{count} intervals"
    took_s = _each(lambda: timeline_svg(timeline, ended_ns), _TIMES)
    size = len(timeline_svg(timeline, ended_ns).encode())
    return {"notebook-svg": 1e3 * statistics.median(took_s), "notebook-svg-size": size / 1e3}


def launches() -> Mapping[str, float]:
    """Imports the toolkit, and launches a function five times; each job ends before the next one starts."""
    with tempfile.TemporaryDirectory(prefix="rally-bench-") as folder:
        os.environ["XDG_STATE_HOME"] = folder
        began_s = time.perf_counter()
        from toolkit import launch

        import_s = time.perf_counter() - began_s
        took_s = []
        for _ in range(5):
            began_s = time.perf_counter()
            job = launch(_nothing, nproc=2)
            took_s.append(time.perf_counter() - began_s)
            job.wait(60.0, check=True)
    return {
        "notebook-import": import_s,
        "notebook-launch": 1e3 * statistics.median(took_s),
        "notebook-launch-first": 1e3 * took_s[0],
    }


def _nothing() -> None:
    pass


def all_notebooks() -> float:
    """Seconds that all notebooks of the repository take, one after the other."""
    from notebooks.render import execute, read, sources

    with tempfile.TemporaryDirectory(prefix="rally-bench-") as folder:
        os.environ["XDG_STATE_HOME"] = folder
        return sum(_each(lambda: [execute(read(source)) for source in sources()], 1))


# -- simulations that are held ------------------------------------------------------------------------------


def small() -> Mapping[str, float]:
    """8 nodes: from the call to a run that can be stepped, and what a step takes."""
    from simulator import Scenario, Workload
    from simulator.interactive.hosted import HostedRun

    began_s = time.perf_counter()
    with HostedRun(Scenario("eight", nodes=8, workload=Workload(steps=60))) as run:
        start_s = time.perf_counter() - began_s
        return {"notebook-start": start_s, "notebook-step": 1e3 * statistics.median(_each(run.step, 40))}


def thousand() -> Mapping[str, float]:
    """1,000 nodes that train since half a minute: a branch as a cell has it, with all that it knows; and ways back."""
    from simulator import Scenario, Workload, faults
    from toolkit import Simulation

    sim = Simulation(Scenario("thousand", nodes=1000, workload=Workload(steps=60, step_s=10.0)))
    with sim._held as run:
        sim.run(until=60.0)
        branches: list[Simulation] = []
        branches_s = _each(lambda: branches.append(sim.branch()), _TIMES)
        for branch in branches:
            assert len(branch.ranks()) == 1000
            branch.close()
        back_s = []
        for _ in range(3):
            run.inject(faults.CrashNode("node7"))
            run.run(until=70.0)
            back_s += _each(lambda: run.rewind(60.0), 1)
        far_back_s = _each(lambda: run.rewind(30.0), 1)
    return {
        "notebook-branch": 1e3 * statistics.median(branches_s),
        "notebook-undo": 1e3 * statistics.median(back_s),
        "notebook-rewind": far_back_s[0],
    }


def _each(do: Callable[[], object], times: int) -> list[float]:
    took_s = []
    for _ in range(times):
        began_s = time.perf_counter()
        do()
        took_s.append(time.perf_counter() - began_s)
    return took_s


MEASURES = (
    SimMeasure(
        "notebook-live", "1,000 ranks live in a kernel, read each second (CPU)", "%", 10.0, live, runs_max=1
    ),
    SimMeasure("notebook-silent", "  that say nothing (CPU)", "%", 2.0, live, runs_max=1),
    SimMeasure("notebook-messages", "  messages a second of their view", "", 10.0, live, runs_max=1),
    SimMeasure(
        "notebook-bytes", "  100 changed ranks, in all the bytes of messages", "kB", 3.0, live, runs_max=1
    ),
    SimMeasure(
        "notebook-changes", "10,000 ranks, 1,000 changed: what to tell a view (CPU)", "ms", 50.0, changes
    ),
    SimMeasure("notebook-svg", "the timeline of 1,000 intervals as SVG", "ms", 10.0, picture),
    SimMeasure("notebook-svg-size", "  its size", "kB", 100.0, picture),
    SimMeasure("notebook-import", "import toolkit, launch", "s", 0.5, launches),
    SimMeasure(
        "notebook-launch", "launch(function) returns, median of five in a process", "ms", 100.0, launches
    ),
    SimMeasure("notebook-launch-first", "  the first of them", "ms", 100.0, launches),
    SimMeasure("notebook-all", "all notebooks, executed", "s", 300.0, all_notebooks, runs_max=1),
    SimMeasure("notebook-start", "a simulation in a process of its own, 8 nodes: start", "s", 1.0, small),
    SimMeasure("notebook-step", "  on to the next event", "ms", 5.0, small),
    SimMeasure("notebook-branch", "1,000 nodes: a branch", "ms", 10.0, thousand, runs_max=1),
    SimMeasure("notebook-undo", "  back to before the last fault", "ms", 100.0, thousand, runs_max=1),
    SimMeasure("notebook-rewind", "  back by half a minute", "s", 2.0, thousand, runs_max=1),
)
#: asks for all of them in `--only`
ALL = "notebook"

if __name__ == "__main__":
    if sys.argv[1] == "--record":
        record(Path(sys.argv[2]))
    else:
        take(MEASURES, sys.argv[1])
