"""SIGKILL to the agent at moments all over its life: two seconds after nothing is left, no daemon of a worker."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from toolkit.core import events as ev

from .conftest import Rally, Script
from .jobs import AFTERLIFE_S, Job, alive, children, marked, until
from .test_orphans import WAYS, supervisors

#: two incarnations: the first one fails on request, the second one succeeds on request; both leave things behind
TWICE = """
if os.environ["RANK"] == "0":
    leave("own_session")
    leave("deaf_daemon")
    leave("in_group")
if os.environ["RANK"] == "1":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
say("up", os.environ["TORCHELASTIC_RESTART_COUNT"])
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    if os.environ["RANK"] == "0":
        wait_for("crash")
        sys.exit(1)
    signal.pause()
wait_for("end")
"""


def event(kind: type[ev.Event], count: int = 1) -> Callable[[Job], bool]:
    return lambda job: len(job.events(kind)) >= count


def ups(count: int) -> Callable[[Job], bool]:
    return lambda job: sum(line.startswith("up") for line in job.lines) >= count


def is_there(job: Job) -> bool:
    return True


def recorded(job: Job) -> bool:
    return any(job.run_dir.glob("events-*"))


def with_a_child(job: Job) -> bool:
    return bool(children(job.pid))


def with_supervisor(job: Job) -> bool:
    return bool(supervisors(job))


def healthy(job: Job) -> bool:
    return [e.after for e in job.events(ev.GroupStateChanged)][-1:] == ["HEALTHY"]


#: name -> what was done before (a file that is touched once all are up, or a signal), and when the agent is killed
MOMENTS: dict[str, tuple[tuple[str, ...], Callable[[Job], bool]]] = {
    "it is there": ((), is_there),
    "its run directory is there": ((), lambda job: job.run_dir.exists()),
    "its recording is there": ((), recorded),
    "it has started": ((), event(ev.AgentStarted)),
    "it begins to start workers": ((), event(ev.WorkersStarting)),
    "it has a child": ((), with_a_child),
    "it has a supervisor": ((), with_supervisor),
    "a worker has started": ((), event(ev.WorkerStarted)),
    "all workers have started": ((), event(ev.WorkersStarted)),
    "a worker is up": ((), ups(1)),
    "all workers are up": ((), ups(2)),
    "the group is healthy": ((), healthy),
    "a worker has ended": (("crash",), event(ev.WorkerExited)),
    "a failure is known": (("crash",), event(ev.FailureRecorded)),
    "a restart is decided": (("crash",), event(ev.DecisionMade)),
    "workers are stopped": (("crash",), event(ev.WorkersStopping)),
    "workers are gone": (("crash",), event(ev.WorkersStopped)),
    "workers start again": (("crash",), event(ev.WorkersStarting, 2)),
    "workers are up again": (("crash",), ups(4)),
    "a signal has come": (("SIGTERM",), event(ev.SignalReceived)),
    "workers are told to end": (("SIGTERM",), event(ev.WorkersStopping)),
    "workers have succeeded": (("crash", "end"), event(ev.WorkerExited, 3)),
    "workers have been cleared away": (("crash", "end"), event(ev.WorkersStopped, 2)),
    "it has finished": (("crash", "end"), event(ev.AgentFinished)),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_two_seconds_after_nothing_is_left(rally: Rally, script: Script, mark: str, moment: str) -> None:
    before, is_now = MOMENTS[moment]
    words = ("--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "--shutdown-timeout", "1")
    job = rally(*words, script(WAYS + TWICE))
    for count, step in enumerate(before, 1):
        until("all workers", lambda count=count: ups(2 * count)(job))  # type: ignore[misc]
        if step == "SIGTERM":
            job.signal(signal.SIGTERM)
        else:
            (job.run_dir.parent / step).touch()
    until(moment, lambda: is_now(job) or job.ended())
    job.signal(signal.SIGKILL)
    job.wait()
    until(f"the end of all, {marked(mark)}", lambda: not marked(mark), AFTERLIFE_S)
    told = [int(line.split()[2]) for line in job.lines if line.startswith("left")]
    assert not any(alive(pid) for pid in told)
