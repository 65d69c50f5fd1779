"""Nothing outlives the agent, whatever killed it."""

import signal

import pytest

from toolkit.core.events import AgentFinished, WorkerStarted

from .conftest import Python, Rally, Script
from .jobs import AFTERLIFE_S, Job, alive, until

#: lets all signals pass that can be let pass
DEAF = """
def work():
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(sig, signal.SIG_IGN)
    say("up", os.getpid())
    while True:
        signal.pause()
"""


def assert_no_worker_survives(job: Job) -> None:
    pids = [int(line.split()[1]) for line in job.wait_for_lines("up", 2)]
    assert all(alive(pid) for pid in pids)
    # The recording is ahead of what it tells: the crash loses at most its last line.
    assert sorted(event.pid for event in job.wait_for_events(WorkerStarted, 2)) == sorted(pids)
    job.signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    until("the end of the workers", lambda: not any(alive(pid) for pid in pids), AFTERLIFE_S)
    timeline = job.timeline()
    assert (timeline.state, timeline.result) == ("running", "")
    assert job.events(AgentFinished) == []


def test_scripts_die_with_the_agent(rally: Rally, script: Script) -> None:
    assert_no_worker_survives(rally("--standalone", "--nproc-per-node", "2", script(DEAF + "\nwork()\n")))


@pytest.mark.parametrize("start_method", ["spawn", "fork", "forkserver"])
def test_functions_die_with_the_agent(python: Python, script: Script, start_method: str) -> None:
    text = DEAF + f"\nif __name__ == '__main__':\n    supervise(work, start_method={start_method!r})\n"
    assert_no_worker_survives(python(script(text, agent=True)))
