"""Several nodes: restart rounds of handlers over one store (`rounds.py`), and whole agents on loopback."""

from __future__ import annotations

import math
import os
import random
import signal
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

import psutil

from tests.ports import free_port

from .job import Job, Launcher, Line, NotInTime, running
from .measures import Figures, Measure, Scenario
from .rounds import OURS, TORCH, cluster

#: rounds of ours in one cluster; a round of torch's takes as long as a whole cluster of ours
_ROUNDS = 3
#: how long beats go on at the pace of the round before, and what is left over from it is removed
_SETTLE_S, _IDLE_S = 4.0, 10.0
#: before a round is ended it has gone on for more than a beat
_BETWEEN_S = 1.5
_CUT_OFF_S = 60.0
_SPREAD_S = 0.2
#: what a job needs to come up or to be restarted, on a busy machine
_JOB_S = 120.0


# -- handlers -----------------------------------------------------------------------------------------------


def rounds_of(nodes: int, *, slow: bool = False, on_request: bool = False) -> Scenario:
    """A restart round of so many nodes."""
    names = (f"round-{nodes}", f"round-{nodes}-operations", f"round-{nodes}-wire")
    goal, limit_s, limit_mb = _ROUND_GOALS.get(nodes, (None, None, None))

    def run(launcher: Launcher, environ: Mapping[str, str], _random: random.Random) -> Figures:
        ours = _kind(launcher) == OURS
        try:
            with cluster(_kind(launcher), nodes, environ) as handlers:
                handlers.form(_CUT_OFF_S)
                taken = []
                for _ in range(_ROUNDS if ours else 1):
                    time.sleep(_BETWEEN_S)
                    taken.append(handlers.restart(_CUT_OFF_S))
        except NotInTime:
            return dict.fromkeys(names, math.inf)
        figures = (
            statistics.median(restart.took_s for restart in taken),
            statistics.median(restart.operations for restart in taken) / nodes,
            statistics.median(restart.wire_bytes for restart in taken) / 1e6,
        )
        return dict(zip(names, figures, strict=True))

    run.__name__ = f"round of {nodes} nodes"
    title = f"restart round, {nodes} nodes: one ends it → all are in the next"
    measures = (
        Measure(names[0], title, "s", goal, limit_s, 3),
        Measure(names[1], "  store operations per node", "", None, 10.0),
        Measure(names[2], "  on the wire, all nodes", "MB", None, limit_mb, 2),
    )
    return Scenario(
        measures,
        run,
        runs_max=3,
        warm_up=False,
        cut_off_s=_CUT_OFF_S,
        slow=slow,
        on_request=on_request,
    )


#: nodes -> ratio, seconds, MB
_ROUND_GOALS: Mapping[int, tuple[float | None, float | None, float | None]] = {
    64: (0.15, 0.5, None),
    256: (None, 1.0, 1.0),
}


def _kind(launcher: Launcher) -> str:
    return OURS if launcher.rendezvous == "rally" else TORCH


def steady_state(launcher: Launcher, environ: Mapping[str, str], _random: random.Random) -> Figures:
    """Eight nodes whose round goes on."""
    with cluster(_kind(launcher), 8, environ) as nodes:
        nodes.form(_JOB_S)
        time.sleep(_SETTLE_S)
        return {"steady": nodes.operations_per_s(_IDLE_S) / 8}


# -- agents -------------------------------------------------------------------------------------------------


class Agents:
    """Agents of one job on loopback, with a worker each; the first hosts the store."""

    def __init__(
        self, launcher: Launcher, nnodes: str, worker: str, environ: Mapping[str, str], stack: ExitStack
    ) -> None:
        self._launcher, self._worker, self._stack = launcher, worker, stack
        self._port = free_port()
        self._options = (
            *("--nnodes", nnodes, "--nproc-per-node", "1", "--max-restarts", "3", "--rdzv-id", "bench"),
            *("--rdzv-backend", launcher.rendezvous, "--rdzv-endpoint", f"127.0.0.1:{self._port}"),
            *("--local-addr", "127.0.0.1"),
        )
        # The workers listen on MASTER_PORT themselves, where torchrun's agent has its store otherwise.
        self._environ = dict(environ) | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        self.jobs: list[Job] = []

    def start(self) -> Job:
        """One more."""
        hosts = ("--rdzv-conf", f"is_host={'false' if self.jobs else 'true'}")
        job = running(self._launcher, (*self._options, *hosts), self._worker, self._environ)
        self.jobs.append(self._stack.enter_context(job))
        return self.jobs[-1]

    def lines(self, word: str) -> list[Line]:
        """The next such line of each."""
        return [job.next_lines(word, 1, _JOB_S)[0] for job in self.jobs]

    def wait_for_connection(self, job: Job) -> None:
        """Until that agent has come to the store."""
        deadline_s, agent = time.monotonic() + _JOB_S, psutil.Process(job.pid)
        while not any(c.raddr and c.raddr.port == self._port for c in agent.net_connections("tcp")):
            if time.monotonic() > deadline_s:
                raise job.error("it did not come to the store in time")
            time.sleep(0.05)


@contextmanager
def agents(
    count: int, launcher: Launcher, nnodes: str, worker: str, environ: Mapping[str, str]
) -> Iterator[Agents]:
    """So many agents that train; on leaving all is gone."""
    with ExitStack() as stack:
        job = Agents(launcher, nnodes, worker, environ, stack)
        for _ in range(count):
            job.start()
        yield job


def crash_of_four(launcher: Launcher, environ: Mapping[str, str], numbers: random.Random) -> Figures:
    """One of four workers, each on a node of its own, gets SIGKILL.

    The job is ended then: torchrun tells only the node of the failure that this is a restart, and the workers of the
    others would never end.
    """
    with agents(4, launcher, "4", "steady.py", environ) as job:
        ready = job.lines("ready")
        time.sleep(1.0 + numbers.uniform(0, _SPREAD_S))
        killed_ns = time.monotonic_ns()
        os.kill(numbers.choice(ready).pid, signal.SIGKILL)
        last_ns = max(line.at_ns for line in job.lines("ready"))
    return {"crash-4": (last_ns - killed_ns) / 1e9}


def node_lost(launcher: Launcher, environ: Mapping[str, str], numbers: random.Random) -> Figures:
    """Of three nodes and a spare one vanishes with all its processes; its peers' workers fail because of it."""
    with agents(3, launcher, "3", "peers.py", environ) as job:
        job.lines("training")
        job.wait_for_connection(job.start())
        time.sleep(2.0 + numbers.uniform(0, 1.0))
        return {"node-lost": _until_others_say("training", job)}


def node_lost_silently(launcher: Launcher, environ: Mapping[str, str], numbers: random.Random) -> Figures:
    """Of three nodes, of which two are enough, one vanishes; the workers of the others don't mind."""
    with agents(3, launcher, "2:3", "steady.py", environ) as job:
        job.lines("ready")
        time.sleep(1.0 + numbers.uniform(0, 1.0))
        return {"node-silent": _until_others_say("ready", job)}


def _until_others_say(word: str, job: Agents) -> float:
    """Seconds from the end of one node until the others' workers have said it again; infinite after the cut-off."""
    lost = psutil.Process(job.jobs.pop(1).pid)
    doomed = [lost, *lost.children(recursive=True)]
    began_ns = time.monotonic_ns()
    for process in doomed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    try:
        said = [
            other.next_lines(word, 1, _CUT_OFF_S - (time.monotonic_ns() - began_ns) / 1e9)
            for other in job.jobs
        ]
    except NotInTime:
        return math.inf
    return (max(line.at_ns for lines in said for line in lines) - began_ns) / 1e9


SCENARIOS = (
    rounds_of(2, on_request=True),
    rounds_of(16, on_request=True),
    rounds_of(64),
    rounds_of(256, slow=True),
    Scenario(
        (Measure("steady", "store operations per node and second, 8 nodes train", "", None, 2.0, 2),),
        steady_state,
        runs_max=1,
        warm_up=False,
    ),
    Scenario(
        (
            Measure(
                "crash-4",
                "SIGKILL of a worker, 4 nodes, 1 each → last new worker's first line",
                "s",
                0.3,
                0.8,
                3,
            ),
        ),
        crash_of_four,
        runs_max=3,
        warm_up=False,
    ),
    Scenario(
        (Measure("node-lost", "one of 3 nodes vanishes, a spare waits → training again", "s", None, 3.0, 2),),
        node_lost,
        runs_max=2,
        warm_up=False,
        cut_off_s=_CUT_OFF_S,
        slow=True,
    ),
    Scenario(
        (
            Measure(
                "node-silent", "the same, unnoticed by the workers → restarted without it", "s", None, 6.0, 2
            ),
        ),
        node_lost_silently,
        runs_max=2,
        warm_up=False,
        cut_off_s=_CUT_OFF_S,
        slow=True,
    ),
)
