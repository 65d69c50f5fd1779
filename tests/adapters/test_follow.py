"""A run directory that grows while it is followed."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import pytest

from toolkit.adapters.recording.directory import RunDirectory, open_for_writing
from toolkit.adapters.recording.follow import FollowedRun
from toolkit.adapters.recording.reader import Limits
from toolkit.core import events as ev
from toolkit.core.errors import RecordingError
from toolkit.core.timeline import fold_all


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return open_for_writing(tmp_path / "run", "job", {}, started_wall_ns=1)


def change(node: str, seq: int) -> ev.AnyEvent:
    return ev.MembershipChanged(
        run_id="job", node=node, seq=seq, mono_ns=seq, wall_ns=seq * 10, nodes_waiting=seq
    )


def write(directory: RunDirectory, *events: ev.AnyEvent) -> None:
    for event in events:
        sink = directory.open_sink(event.node)
        sink.emit(event)
        sink.close()


def test_what_is_new_comes_once_and_in_order(directory: RunDirectory) -> None:
    run = FollowedRun(directory.path)
    assert run.read_new(100) == []
    write(directory, change("a_1", 1), change("b_1", 2), change("a_1", 3))
    assert [(e.node, e.seq) for e in run.read_new(100)] == [("a_1", 1), ("b_1", 2), ("a_1", 3)]
    assert run.read_new(100) == []
    write(directory, change("c_1", 4), change("a_1", 5))
    assert [(e.node, e.seq) for e in run.read_new(100)] == [("c_1", 4), ("a_1", 5)]
    assert run.counters.events == 5
    assert (run.run_id, run.name) == ("job", "run")


def test_a_long_recording_comes_in_portions_and_nothing_is_lost(directory: RunDirectory) -> None:
    write(directory, *(change(f"{'ab'[n % 2]}_1", n) for n in range(1, 200)))
    run = FollowedRun(directory.path)
    portions = [run.read_new(30) for _ in range(8)]
    assert [len(portion) for portion in portions] == [30] * 6 + [19, 0]
    assert [event.seq for portion in portions for event in portion] == list(range(1, 200))


def test_a_line_that_is_not_complete_waits_for_its_end(directory: RunDirectory) -> None:
    write(directory, change("a_1", 1))
    run = FollowedRun(directory.path)
    assert len(run.read_new(10)) == 1
    line = ev.encode(change("a_1", 2)) + b"\n"
    with directory.events_path("a_1").open("ab") as file:
        file.write(line[:20])
        file.flush()
        assert run.read_new(10) == []
        file.write(line[20:])
    assert [event.seq for event in run.read_new(10)] == [2]


def test_a_file_that_can_not_be_read_is_told_of(directory: RunDirectory) -> None:
    write(directory, *(change("a_1", n) for n in range(1, 50)))
    run = FollowedRun(directory.path, Limits(file_bytes=100))
    assert run.read_new(10) == []
    assert "at most 100 are read" in run.problem


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="not a recording"):
        FollowedRun(tmp_path)


def test_whether_it_is_live_is_asked_of_its_agents(directory: RunDirectory) -> None:
    run = FollowedRun(directory.path)

    def started(host: str, pid: int) -> ev.AgentStarted:
        return ev.AgentStarted(
            node=f"{host}_{pid}", seq=1, mono_ns=1, wall_ns=time.time_ns(), pid=pid, hostname=host, role="w",
            local_world_size=1, restarts_max=0, backend="solo", entrypoint="x",
        )  # fmt: skip

    here = platform.node()
    assert run.is_live(fold_all([started(here, os.getpid())])) is True
    assert run.is_live(fold_all([started(here, 2**22 + 7)])) is False
    assert run.is_live(fold_all([started("elsewhere", 7)])) is None
    assert run.is_live(fold_all([])) is False
