"""Our rendezvous when nodes come, go, finish and fail: who is let in, who is restarted for whom, who is told what."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from toolkit.core.events import AgentFinished, BarrierEntered, BarrierLeft, JobEnded, RoundEnded

from .conftest import Meet, Script
from .jobs import RALLY, Job, Nodes, Up, clean_environment

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

#: how soon the others must hear of something, on a busy machine, in seconds
SOON_S = 5.0

#: each rank does what it is told to
OBEY = (
    Up.SCRIPT
    + """
    import json

    wait_for("order " + os.environ["RANK"])
    if open("order " + os.environ["RANK"]).read() == "fail":
        # what torch's `record` does
        told = {"message": "ValueError: NaN", "extraInfo": {"py_callstack": "in the very first step", "timestamp": "1"}}
        with open(os.environ["TORCHELASTIC_ERROR_FILE"], "w") as file:
            json.dump({"message": told}, file)
        sys.exit(1)
    """
)


def order(nodes: Nodes, what: str, *ranks: int) -> None:
    """Have the workers of these ranks "finish" or "fail"."""
    for rank in ranks:
        whole = nodes.run_dir.parent / f"order {rank}"
        whole.with_suffix(".new").write_text(what)
        whole.with_suffix(".new").rename(whole)


def test_nodes_come_and_go(meet: Meet, script: Script) -> None:
    nodes = meet("2:4", "--max-restarts", "0", join_window=2, last_call_timeout=1)
    worker = script(OBEY)
    nodes.start_several(2, worker)
    first = nodes.world(2, nodes.jobs)

    nodes.start_several(2, worker)
    grown = nodes.world(4, nodes.jobs)
    assert [up[:2] for up in grown[:2]] == [up[:2] for up in first], "who was there keeps its rank"
    assert {up.group_rank for up in grown[2:]} == {2, 3}

    leaver, rest = nodes.jobs[1], [nodes.jobs[0], *nodes.jobs[2:]]
    leaver.signal(signal.SIGTERM)
    assert leaver.wait(SOON_S) == 128 + signal.SIGTERM, nodes.told()
    shrunk = nodes.world(3, rest)
    assert sorted(up.group_rank for up in shrunk) == [0, 1, 2]
    assert shrunk[0].group_rank == 0

    order(nodes, "finish", 0, 1, 2)
    nodes.assert_all_end_with(0, rest)
    nodes.assert_promises_held()
    reasons = [event.reason for event in nodes.of(nodes.jobs[0], RoundEnded)]
    assert "to join" in reasons[0]
    assert f"_{leaver.pid}_" in reasons[-1]
    assert "SIGTERM" in reasons[-1]
    assert {up.restarts for up in (*first, *grown, *shrunk)} == {0}, "coming and going spends nothing"


def test_who_comes_when_others_have_finished_changes_nothing(meet: Meet, script: Script) -> None:
    nodes = meet("2:4", last_call_timeout=1, join_window=0)
    worker = script(OBEY)
    members = nodes.start_several(2, worker)
    nodes.world(2, members)
    order(nodes, "finish", 0)
    nodes.wait_for_events(BarrierEntered)
    late = nodes.start(worker)
    nodes.assert_all_end_with(0, [late])
    assert [event.result for event in nodes.of(late, AgentFinished)] == ["STOPPED"]
    assert "Traceback" not in late.stderr
    assert not any(job.ended() for job in members), nodes.told()
    order(nodes, "finish", 1)
    nodes.assert_all_end_with(0)
    assert nodes.starts() == [1, 1, 0]
    nodes.assert_promises_held()


def test_a_failure_for_good_ends_all_with_one_report(meet: Meet, script: Script, tmp_path: Path) -> None:
    """Also those that wait at the exit barrier, and those that still work."""
    nodes = meet("4", "--max-restarts", "0")
    nodes.start_several(4, script(OBEY))
    by_rank = {up.rank: job for up, job in zip(nodes.ups(), nodes.jobs, strict=True)}
    order(nodes, "finish", 0, 1)
    nodes.wait_for_events(BarrierEntered, 2)
    order(nodes, "fail", 3)
    codes = [by_rank[rank].wait(SOON_S) for rank in range(4)]
    assert codes == [1] * 4, nodes.told()
    assert [event.outcome for event in nodes.events(BarrierLeft)] == ["failed"] * 2
    assert all(event.waited_s < SOON_S for event in nodes.events(BarrierLeft))

    reports = nodes.events(JobEnded)
    assert len(reports) == 4
    assert all(
        (it.outcome, it.why, it.failures) == ("failed", reports[0].why, reports[0].failures) for it in reports
    )
    [failure] = reports[0].failures
    assert (failure.global_rank, failure.exit_code) == (3, 1)
    who = f"rank 3 (local rank 0 on {failure.host}, pid {failure.pid})"
    first = f"failed first: {who} exited with code 1: ValueError: NaN"
    for job in nodes.jobs:
        assert job.stderr.count(first) == 1, job.told()
        shown = shown_alone(nodes, job, tmp_path)
        assert shown.startswith("✗ job failed"), shown
        assert first in shown
        for said in (job.stderr, shown):
            assert "no restarts are allowed (max_restarts is 0)" in said, said
            assert "in the very first step" in said, "the traceback is told everywhere"
    nodes.assert_promises_held()


def shown_alone(nodes: Nodes, job: Job, folder: Path) -> str:
    """What `rally show` says to somebody who has the recording of this agent alone."""
    alone = folder / f"alone {job.pid}"
    alone.mkdir()
    for path in [nodes.run_dir / "run.json", *nodes.run_dir.glob(f"events-*_{job.pid}.jsonl")]:
        shutil.copy(path, alone)
    shown = subprocess.run(
        [*RALLY, "show", str(alone)],
        env=clean_environment(folder),
        capture_output=True,
        text=True,
        check=True,
    )
    return shown.stdout
