"""Our rendezvous when workers and agents die or stand still: real signals, a real store, and the recording judged."""

import os
import signal
import time
from pathlib import Path

import pytest

from toolkit.core.events import (
    Evicted,
    JobEnded,
    LeaseLost,
    Parked,
    RendezvousCompleted,
    RoundEnded,
    StoreSilent,
    WorkersStarting,
)

from .conftest import Meet, Script
from .jobs import AFTERLIFE_S, Job, Nodes, Up, alive, until

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

#: shorter than the default ones, so that the tests are
SOON = {"beat": 0.5, "lease": 2, "join_window": 1, "last_call_timeout": 30}
STORE_TIMEOUT_S = 5.0
#: what a busy machine may add
SLACK_S = 3.0

TRAIN = Up.SCRIPT + 'wait_for("end")\n'


@pytest.fixture
def worker(script: Script) -> Path:
    """Runs until there is a file `end`."""
    return script(TRAIN)


def end(nodes: Nodes, *gone: Job) -> None:
    """Let the workers finish; all agents but those that are gone succeed, and no promise was broken."""
    (nodes.run_dir.parent / "end").touch()
    nodes.assert_all_end_with(0, [job for job in nodes.jobs if job not in gone])
    nodes.assert_promises_held(whole=not gone)


def seats(ups: list[Up]) -> list[tuple[int, int, int, int]]:
    """Group rank, rank, world size and restarts of each."""
    return [up[:4] for up in ups]


def the_port(ups: list[Up]) -> int:
    """The one that all of them were told."""
    assert len({up.port for up in ups}) == 1, ups
    return ups[0].port


def kill(job: Job) -> int:
    """SIGKILL to an agent; returns when, by the wall clock in nanoseconds."""
    job.signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    return time.time_ns()


def test_each_crash_of_a_worker_restarts_all_once(meet: Meet, worker: Path) -> None:
    nodes = meet("4", "--max-restarts", "3")
    nodes.start_several(4, worker)
    first = nodes.ups(1)
    assert sorted(seats(first)) == [(rank, rank, 4, 0) for rank in range(4)]
    os.kill(first[2].pid, signal.SIGKILL)
    second = nodes.ups(2)
    for at in (
        0,
        3,
    ):  # where the store is hosted, and another one at the same moment: that is one restart, too
        os.kill(second[at].pid, signal.SIGKILL)
    third = nodes.ups(3)
    for restarts, ups in ((1, second), (2, third)):
        assert seats(ups) == [(*seat[:3], restarts) for seat in seats(first)], "all keep their ranks"
    assert len({the_port(ups) for ups in (first, second, third)}) == 3, "each round has a store of its own"
    end(nodes)
    assert nodes.starts() == [3] * 4
    assert {event.restart_count for event in nodes.events(RendezvousCompleted)} == {0, 1, 2}


def test_the_others_go_on_without_an_agent_that_is_killed(meet: Meet, worker: Path) -> None:
    nodes = meet("3:4", **SOON)
    nodes.start_several(4, worker)
    first = nodes.ups()
    by_rank = [nodes.jobs[at] for at in sorted(range(4), key=lambda at: first[at].group_rank)]
    assert by_rank[0] is nodes.jobs[0], "the host of the store came first"
    killed_ns = kill(by_rank[1])
    rest = [by_rank[0], by_rank[2], by_rank[3]]
    second = nodes.ups(2, rest)
    assert seats(second) == [(0, 0, 3, 0), (2, 2, 3, 0), (1, 1, 3, 0)], "only who has to moves"
    assert the_port(second) != the_port(first)
    [lost] = nodes.events(LeaseLost)
    assert lost.lost.split("_")[1] == f"{by_rank[1].pid}"
    assert lost.wall_ns - killed_ns < (SOON["lease"] + SOON["beat"] + SLACK_S) * 1e9
    end(nodes, by_rank[1])
    assert nodes.starts() == [2 if job in rest else 1 for job in nodes.jobs]


def test_a_spare_takes_the_rank_of_an_agent_that_is_killed(meet: Meet, worker: Path) -> None:
    nodes = meet("4", **SOON)
    nodes.start_several(5, worker)
    [parked] = nodes.wait_for_events(Parked)  # whether it came before the round formed or later
    [spare] = (job for job in nodes.jobs if parked.node.endswith(f"_{job.pid}"))
    members = [job for job in nodes.jobs if job is not spare]
    first = nodes.ups(1, members)
    kill(members[2])
    second = nodes.ups(2, [members[0], members[1], members[3]])
    replaced = nodes.ups(1, [spare])
    assert seats(second) == seats([first[0], first[1], first[3]]), "the others keep their ranks"
    assert seats(replaced) == seats([first[2]])
    assert the_port(second + replaced) != the_port(first)
    end(nodes, members[2])


def test_all_end_when_the_host_of_the_store_is_killed(meet: Meet, worker: Path, port: int) -> None:
    nodes = meet("3:4", **SOON, store_timeout=STORE_TIMEOUT_S)
    nodes.start_several(4, worker)
    workers = [up.pid for up in nodes.ups()]
    host, *others = nodes.jobs
    kill(host)
    killed_s = time.monotonic()
    for job in others:
        assert job.wait(STORE_TIMEOUT_S + SLACK_S) == 1, nodes.told()
        assert f"the store of the job at 127.0.0.1:{port} can't be reached any more" in job.stderr, job.told()
        assert "Traceback" not in job.stderr
    assert time.monotonic() - killed_s < STORE_TIMEOUT_S + SLACK_S
    until("the end of all workers", lambda: not any(map(alive, workers)), AFTERLIFE_S)
    assert nodes.starts() == [1] * 4
    nodes.assert_promises_held(whole=False)


@pytest.mark.parametrize(
    ("conf", "stopped_s"),
    [(SOON, 0), pytest.param({"last_call_timeout": 30}, 30, marks=pytest.mark.slow)],
    ids=["until the others have gone on", "30 s"],
)
def test_an_agent_that_was_stopped_comes_back_to_a_later_round(
    meet: Meet, worker: Path, conf: dict[str, float], stopped_s: float
) -> None:
    """It leaves the round that went on without it, starts nothing for it, and asks anew."""
    nodes = meet("3:4", **conf)
    nodes.start_several(4, worker)
    first = nodes.ups()
    sleeper, others = nodes.jobs[3], nodes.jobs[:3]
    stopped_at_s = time.monotonic()
    sleeper.signal(signal.SIGSTOP)
    second = nodes.ups(2, others)
    assert {up.world_size for up in second} == {3}
    until("the time to wake it", lambda: time.monotonic() > stopped_at_s + stopped_s, stopped_s + 1)
    assert nodes.starts() == [2, 2, 2, 1]
    sleeper.signal(signal.SIGCONT)
    until("the end of its old worker", lambda: not alive(first[3].pid), SLACK_S)
    third = [*nodes.ups(3, others), *nodes.ups(2, [sleeper])]
    assert sorted(seats(third)) == [(rank, rank, 4, 0) for rank in range(4)]
    assert seats(third[:3]) == [(*seat[:2], 4, 0) for seat in seats(second)], (
        "who was in the last round stays"
    )
    end(nodes)
    # Which it is depends on what it reads first: how its round ended, or that a later one has formed.
    ended = [event.ended for event in nodes.of(sleeper, RoundEnded)]
    assert ended + [event.left for event in nodes.of(sleeper, Evicted)] == [1]
    assert [event.round for event in nodes.of(sleeper, WorkersStarting)] == [1, 3]
    assert [event.action for event in nodes.of(nodes.jobs[0], RoundEnded)] == ["membership"] * 2
    assert [event.outcome for event in nodes.of(sleeper, JobEnded)] == ["succeeded"]
    assert nodes.of(sleeper, StoreSilent) == [], "it was silent, not the store"
