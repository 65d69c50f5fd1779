"""Run directories on a real file system: what a killed, full or blocked writer leaves, and what hostile files do."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolkit.adapters.recording import directory
from toolkit.adapters.recording import reader as event_reader
from toolkit.adapters.recording import writer as event_writer
from toolkit.adapters.recording.catalog import agent_is_alive, find_run, latest_run, list_runs
from toolkit.adapters.recording.directory import (
    RunDirectory,
    fresh_run_directory,
    note_elsewhere,
    open_for_writing,
)
from toolkit.adapters.recording.layout import path_safe
from toolkit.adapters.recording.reader import EventFile, Limits, read_run
from toolkit.adapters.recording.writer import JsonLinesSink
from toolkit.core import events as ev
from toolkit.core.errors import ConfigurationError, RecordingError

STARTED_NS = 1_790_000_000 * 10**9
ROOT = Path(__file__).parents[2]


def an_event(
    seq: int, *, node: str = "a", run_id: str = "job", wall_ns: int | None = None, **fields: Any
) -> ev.Event:
    return ev.RendezvousFailed(
        run_id=run_id,
        node=node,
        seq=seq,
        mono_ns=seq,
        wall_ns=seq if wall_ns is None else wall_ns,
        **({"error": "e"} | fields),
    )


def a_run(state_dir: Path, run_id: str = "job", *, after_s: int = 0, events: int = 2) -> RunDirectory:
    directory = fresh_run_directory(state_dir, run_id, {}, started_wall_ns=STARTED_NS + after_s * 10**9)
    sink = directory.open_sink("a")
    for seq in range(1, events + 1):
        sink.emit(an_event(seq, run_id=run_id))
    sink.close()
    return directory


def seqs(path: Path) -> list[int]:
    return [event.seq for event in read_run(path).events()]


def wait_until(condition: Any, timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "did not come about in time"
        time.sleep(0.001)


# -- run directories ----------------------------------------------------------------------------------------


def test_a_fresh_run_directory_is_its_owners_alone_and_says_what_runs(tmp_path: Path) -> None:
    directory = a_run(tmp_path / "state" / "runs", "my job")
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(directory.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(directory.events_path("a").stat().st_mode) == 0o600
    run = json.loads((directory.path / "run.json").read_text())
    assert run == {"format": 1, "run_id": "my job", "started_wall_ns": STARTED_NS}
    assert directory.path.name.startswith("20260921-141320.000-my-job-")
    assert sorted(p.name for p in directory.path.iterdir()) == ["events-a.jsonl", "run.json"]


def test_run_directories_of_one_second_are_different_and_in_order(tmp_path: Path) -> None:
    names = [a_run(tmp_path).path.name for _ in range(3)]
    assert names == sorted(set(names))


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../../etc/passwd", "a/b", "a\0b", "\n", "x" * 5000, "ünï", "-rf", "\ud800", "a b"],
)
def test_any_name_makes_one_safe_component_of_a_path(name: str, tmp_path: Path) -> None:
    safe = path_safe(name)
    assert (tmp_path / safe).parent == tmp_path
    assert len(safe) < 120
    assert set(safe) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not safe.startswith((".", "-"))
    assert safe != path_safe(name + "x")


def test_a_plain_name_stays_as_it_is() -> None:
    assert path_safe("gpu-a.cluster_4711") == "gpu-a.cluster_4711"


def test_agents_of_one_job_share_a_run_directory(tmp_path: Path) -> None:
    for node in ("a", "b/c"):
        sink = open_for_writing(tmp_path / "out", "job", {}, started_wall_ns=1).open_sink(node)
        sink.emit(an_event(1, node=node))
        sink.close()
    assert [event.node for event in read_run(tmp_path / "out").events()] == ["a", "b/c"]


def test_agents_that_come_at_once_agree_on_one_run_file(tmp_path: Path) -> None:
    def come(number: int) -> None:
        open_for_writing(tmp_path / "out", "job", {"number": number}, started_wall_ns=1)

    threads = [threading.Thread(target=come, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["run.json"]


def test_a_run_directory_of_another_run_is_refused(tmp_path: Path) -> None:
    open_for_writing(tmp_path, "first", {}, started_wall_ns=1)
    with pytest.raises(
        ConfigurationError, match="run 'first', and this is run 'second'; give another --run-dir"
    ):
        open_for_writing(tmp_path, "second", {}, started_wall_ns=1)


def test_an_unusable_run_directory_is_refused_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/run")):
        with pytest.raises(
            ConfigurationError, match=f"{path}.*can't be written: .*; give another run directory"
        ):
            open_for_writing(path, "job", {}, started_wall_ns=1)


@pytest.mark.parametrize("there", [False, True])
def test_a_disk_that_is_full_leaves_no_new_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if there:
        (tmp_path / "out").mkdir()
    monkeypatch.setattr(directory, "_write_once", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        open_for_writing(tmp_path / "out", "job", {}, started_wall_ns=1)
    assert (tmp_path / "out").exists() == there


def test_a_run_file_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("[")
    with pytest.raises(ConfigurationError, match="not a JSON object"):
        open_for_writing(tmp_path, "job", {}, started_wall_ns=1)


def test_a_run_id_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="UTF-8"):
        open_for_writing(tmp_path / "out", "\udcff", {}, started_wall_ns=1)


def test_two_agents_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    directory = open_for_writing(tmp_path, "job", {}, started_wall_ns=1)
    sink = directory.open_sink("a")
    with pytest.raises(ConfigurationError, match="written by another agent"):
        directory.open_sink("a")
    sink.close()
    directory.open_sink("a").close()


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_an_events_file_that_is_no_plain_file_is_refused(tmp_path: Path, kind: str) -> None:
    directory = open_for_writing(tmp_path / "run", "job", {}, started_wall_ns=1)
    make_odd_file(directory.events_path("a"), kind)
    with pytest.raises(ConfigurationError):
        directory.open_sink("a")


def make_odd_file(path: Path, kind: str) -> None:
    if kind == "link":
        target = path.parent.parent / "elsewhere"
        target.touch()
        path.symlink_to(target)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()


# -- the sink -----------------------------------------------------------------------------------------------


def test_each_event_is_with_the_kernel_when_emit_returns(tmp_path: Path) -> None:
    directory = open_for_writing(tmp_path, "job", {}, started_wall_ns=1)
    sink = directory.open_sink("a")
    for seq in range(1, 50):
        sink.emit(an_event(seq))
        wait_until(lambda: seqs(tmp_path)[-1:] == [seq])  # noqa: B023
    sink.close()
    assert sink.dropped == 0


_BURST = """
import os, signal, sys
from pathlib import Path
from toolkit.adapters.recording.directory import open_for_writing
from toolkit.core.events import RendezvousFailed
sink = open_for_writing(Path(sys.argv[1]), "job", {}, started_wall_ns=1).open_sink("a")
for seq in range(1, 2001):
    sink.emit(RendezvousFailed(run_id="job", node="a", seq=seq, mono_ns=seq, error="x" * 200))
    os.write(1, b"%d\\n" % seq)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_agent_that_is_killed_loses_one_line_at_most(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", _BURST, str(tmp_path)], cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    said = int(child.stdout.split()[-1])
    assert said == 2000
    assert len(seqs(tmp_path)) >= said - 1


_FULL = """
import resource, sys
from pathlib import Path
from toolkit.adapters.recording.directory import open_for_writing
from toolkit.core.events import RendezvousFailed
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
sink = open_for_writing(Path(sys.argv[1]), "job", {}, started_wall_ns=1).open_sink("a")
def emit(first, last):
    for seq in range(first, last + 1):
        sink.emit(RendezvousFailed(run_id="job", node="a", seq=seq, mono_ns=seq, error="x" * 100))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
emit(1, 100)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
emit(101, 110)
sink.close()
print(sink.dropped)
"""


def test_a_full_disk_costs_events_and_says_how_many(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path)], cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    assert child.returncode == 0, child.stderr
    dropped = int(child.stdout)
    recording = read_run(tmp_path)
    events = list(recording.events())
    (told,) = [event for event in events if isinstance(event, ev.EventsDropped)]
    written = [event.seq for event in events if event is not told]
    assert (told.count, told.seq, told.node, told.run_id) == (dropped, 100, "a", "job")
    assert "File too large" in told.reason
    assert written == [*range(1, 101 - dropped), *range(101, 111)]
    # The line that the limit cut off spoilt no other.
    assert (recording.counters.torn, recording.counters.dropped) == (1, dropped)
    assert recording.timeline().nodes["a"].missing == dropped - 1


def test_a_disk_that_stays_full_raises_nothing() -> None:
    sink = JsonLinesSink(os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC))
    for seq in range(1, 20):
        sink.emit(an_event(seq))
    sink.close()
    assert sink.dropped == 19


def test_a_blocked_file_holds_up_one_emit_only_and_that_shortly() -> None:
    read_end, write_end = os.pipe()
    sink = JsonLinesSink(write_end, patience_s=0.05, queue_max=100)
    began_s = time.monotonic()
    for seq in range(1, 3001):
        sink.emit(an_event(seq, error="x" * 1000))
    assert time.monotonic() - began_s < 2.0
    lost = sink.dropped
    assert 2000 < lost < 3000

    lines = read_lines(read_end, until=b'"events_dropped"')
    sink.emit(an_event(3001))
    sink.close(timeout_s=10)
    lines += read_lines(read_end, until=None)
    os.close(read_end)
    events = [ev.decode(line) for line in lines]
    (told,) = [event for event in events if isinstance(event, ev.EventsDropped)]
    assert (told.count, told.seq, told.reason) == (lost, 3000, "the file is too slow")
    assert [e.seq for e in events if e] == [*range(1, 3001 - lost), 3000, 3001]


def read_lines(fd: int, until: bytes | None) -> list[bytes]:
    """Complete lines up to one with `until` in it, or up to the end of the pipe."""
    data = b""
    while until is None or until not in data or not data.endswith(b"\n"):
        chunk = os.read(fd, 65536)
        if not chunk:
            break
        data += chunk
    return data.splitlines()


def test_close_does_not_wait_for_ever_for_a_blocked_file() -> None:
    read_end, write_end = os.pipe()
    sink = JsonLinesSink(write_end, patience_s=0.01)
    for seq in range(1, 300):
        sink.emit(an_event(seq, error="x" * 1000))
    began_s = time.monotonic()
    sink.close(timeout_s=0.1)
    assert time.monotonic() - began_s < 5.0
    sink.emit(an_event(300))
    assert sink.dropped == 1
    os.close(read_end)  # ends the thread: its write fails now
    wait_until(lambda: not sink._thread.is_alive())


def test_threads_may_emit_at_once(tmp_path: Path) -> None:
    directory = open_for_writing(tmp_path, "job", {}, started_wall_ns=1)
    sink = directory.open_sink("a")
    numbers, lock = iter(range(1, 401)), threading.Lock()

    def emit() -> None:
        for _ in range(50):
            with lock:
                event = an_event(next(numbers))
            sink.emit(event)

    threads = [threading.Thread(target=emit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.close()
    assert seqs(tmp_path) == list(range(1, 401))


def test_an_event_that_is_no_text_is_written_readably(tmp_path: Path) -> None:
    directory = open_for_writing(tmp_path, "job", {}, started_wall_ns=1)
    sink = directory.open_sink("a")
    sink.emit(an_event(1, error="caf\udce9"))
    sink.close()
    assert [event.error for event in read_run(tmp_path).events()] == ["caf\\udce9"]


def test_an_event_too_long_for_readers_is_dropped_and_told(tmp_path: Path) -> None:
    directory = open_for_writing(tmp_path, "job", {}, started_wall_ns=1)
    sink = directory.open_sink("a")
    sink.emit(an_event(1, error="x" * event_writer.LINE_MAX))
    sink.emit(an_event(2))
    sink.close()
    told, event = read_run(tmp_path).events()
    assert isinstance(told, ev.EventsDropped)
    assert (told.count, told.seq, event.seq) == (1, 1, 2)


def test_a_line_torn_by_the_agent_of_before_spoils_no_other(tmp_path: Path) -> None:
    directory = open_for_writing(tmp_path, "job", {}, started_wall_ns=1)
    directory.events_path("a").write_bytes(ev.encode(an_event(1)) + b"\n" + ev.encode(an_event(2))[:20])
    sink = directory.open_sink("a")
    sink.emit(an_event(3))
    sink.close()
    recording = read_run(tmp_path)
    assert [event.seq for event in recording.events()] == [1, 3]
    assert recording.counters.torn == 1


def test_events_after_the_end_are_dropped_quietly(tmp_path: Path) -> None:
    sink = open_for_writing(tmp_path, "job", {}, started_wall_ns=1).open_sink("a")
    sink.close()
    sink.close()
    sink.emit(an_event(1))
    assert sink.dropped == 1


# -- reading ------------------------------------------------------------------------------------------------


def write_events(path: Path, *events: ev.Event) -> None:
    path.write_bytes(b"".join(ev.encode(event) + b"\n" for event in events))


def test_nodes_are_interleaved_by_their_wall_clocks_and_keep_their_own_order(tmp_path: Path) -> None:
    # The clock of a is set back after its second event.
    write_events(
        tmp_path / "events-a.jsonl", *(an_event(n, wall_ns=w) for n, w in ((1, 10), (2, 30), (3, 5), (4, 40)))
    )
    write_events(
        tmp_path / "events-b.jsonl",
        *(an_event(n, node="b", wall_ns=w) for n, w in ((1, 20), (2, 35), (3, 50))),
    )
    order = [(event.node, event.seq) for event in read_run(tmp_path).events()]
    assert order == [("a", 1), ("b", 1), ("a", 2), ("a", 3), ("b", 2), ("a", 4), ("b", 3)]


def test_neighbours_that_changed_places_are_put_in_order(tmp_path: Path) -> None:
    write_events(tmp_path / "events-a.jsonl", *(an_event(n) for n in (1, 3, 2, 5, 4, 6)))
    assert seqs(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_the_numbers_of_another_life_of_the_agent_stay_behind_the_first(tmp_path: Path) -> None:
    start = ev.AgentStarted(
        run_id="job",
        node="a",
        seq=1,
        pid=1,
        hostname="h",
        role="r",
        local_world_size=1,
        restarts_max=0,
        backend="b",
        entrypoint="e",
    )
    life = [start, an_event(2), an_event(3)]
    write_events(tmp_path / "events-a.jsonl", *life, *life)
    assert seqs(tmp_path) == [1, 2, 3, 1, 2, 3]


def test_a_recording_can_be_read_twice(tmp_path: Path) -> None:
    write_events(tmp_path / "events-a.jsonl", an_event(1))
    recording = read_run(tmp_path)
    assert list(recording.events()) == list(recording.events())
    assert recording.counters.events == 1


def test_what_is_not_taken_is_counted(tmp_path: Path) -> None:
    good = ev.encode(an_event(1))
    lines = [
        good,
        b"",
        b"\xff\xfe{}",
        good[:-5],
        b'{"type":"from_the_future"}',
        b'{"type":"workers_started"}',
        b'{"type":"workers_started","incarnation":"one"}',
        b"[" * 100_000,
        b'{"type":"workers_started","incarnation":1,"x":' + b"[" * 100_000,
        ev.encode(an_event(2, node="b")),
        ev.encode(an_event(2, run_id="other")),
        b'{"a":"' + b"x" * (event_writer.LINE_MAX + 10) + b'"}',
        b'{"a":"' + b"x" * (3 * event_writer.LINE_MAX) + b'"}',
        ev.encode(an_event(2)),
        good[:10],
    ]
    (tmp_path / "events-a.jsonl").write_bytes(b"\n".join(lines))
    recording = read_run(tmp_path)
    assert [event.seq for event in recording.events()] == [1, 2]
    counted = recording.counters
    assert (counted.events, counted.oversized, counted.foreign, counted.unknown) == (2, 2, 2, 1)
    assert (counted.invalid, counted.torn) == (3, 4)
    assert counted.left_out == 12


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chunks=st.lists(
        st.binary(max_size=80)
        | st.sampled_from(
            [b"\n", b"{", b'{"type":"workers_started","incarnation":', ev.encode(an_event(1)) + b"\n"]
        ),
        max_size=20,
    )
)
def test_any_bytes_are_read_without_an_error(tmp_path: Path, chunks: list[bytes]) -> None:
    (tmp_path / "events-a.jsonl").write_bytes(b"".join(chunks))
    recording = read_run(tmp_path)
    timeline = recording.timeline()
    assert (
        sum(node.events_seen + node.repeated for node in timeline.nodes.values()) == recording.counters.events
    )


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
@pytest.mark.parametrize("name", ["events-a.jsonl", "run.json"])
def test_odd_files_are_refused_and_block_nobody(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / "run").mkdir()
    make_odd_file(tmp_path / "run" / name, kind)
    with pytest.raises(RecordingError, match=name):
        list(read_run(tmp_path / "run").events())


def test_what_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_events(tmp_path / "events-a.jsonl", an_event(1), an_event(2))
    write_events(tmp_path / "events-b.jsonl", an_event(1, node="b"))
    with pytest.raises(RecordingError, match="at most 50 are read"):
        list(read_run(tmp_path, Limits(file_bytes=50)).events())
    with pytest.raises(RecordingError, match="2 events files; at most 1 are read"):
        read_run(tmp_path, Limits(nodes=1))
    (tmp_path / "run.json").write_bytes(b" " * 2_000_000)
    with pytest.raises(RecordingError, match="more than"):
        read_run(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"a":' + b"[" * 100_000])
def test_a_run_file_that_is_no_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RecordingError, match="not a JSON object"):
        read_run(tmp_path)


@pytest.mark.parametrize("content", [b"{}", b'{"run_id": 5, "started_wall_ns": "x"}'])
def test_a_run_file_that_says_odd_things_is_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    write_events(tmp_path / "events-a.jsonl", an_event(1))
    recording = read_run(tmp_path)
    assert (recording.run_id, len(list(recording.events()))) == ("", 1)


def test_a_directory_without_a_recording_is_none(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="is not a recording"):
        read_run(tmp_path)
    with pytest.raises(RecordingError, match="No such file"):
        read_run(tmp_path / "absent")


def test_a_file_is_followed_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "events-a.jsonl"
    write_events(path, an_event(1))
    file = EventFile(path)
    assert [event.seq for event in file.read_new()] == [1]
    assert list(file.read_new()) == []
    line = ev.encode(an_event(2)) + b"\n"
    with path.open("ab") as out:
        out.write(line[:25])
        out.flush()
        assert list(file.read_new()) == []
        assert file.counters.torn == 1
        out.write(line[25:] + ev.encode(an_event(3)) + b"\n")
        out.flush()
    assert [event.seq for event in file.read_new()] == [2, 3]
    assert (file.counters.torn, file.counters.events) == (0, 3)


def test_what_a_follower_did_not_take_comes_next_time(tmp_path: Path) -> None:
    write_events(tmp_path / "events-a.jsonl", *(an_event(n) for n in range(1, 6)))
    file = EventFile(tmp_path / "events-a.jsonl")
    assert next(file.read_new()).seq == 1
    assert [event.seq for event in file.read_new()] == [2, 3, 4, 5]


def test_a_large_file_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "events-a.jsonl"
    line = ev.encode(an_event(1, error="x" * 1000)) + b"\n"
    path.write_bytes(line * 2000)
    file = EventFile(path)
    for _ in file.read_new():
        assert len(file._buffer) <= event_reader._CHUNK_MAX + len(line)


# -- listing and finding ------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first(tmp_path: Path) -> None:
    for number in range(4):
        a_run(tmp_path, f"job{number}", after_s=number)
    (tmp_path / "not a run").mkdir()
    (tmp_path / "a file").touch()
    assert [entry.run_id for entry in list_runs(tmp_path)] == ["job3", "job2", "job1", "job0"]
    assert [entry.run_id for entry in list_runs(tmp_path, limit=2)] == ["job3", "job2"]
    assert latest_run(tmp_path).name.endswith("job3")


def test_a_run_that_can_not_be_read_is_listed_all_the_same(tmp_path: Path) -> None:
    (a_run(tmp_path).path / "run.json").write_text("[")
    (entry,) = list_runs(tmp_path)
    assert "not a JSON object" in entry.problem


def test_of_a_long_recording_only_the_ends_are_read(tmp_path: Path) -> None:
    directory = a_run(tmp_path, events=0)
    filler = [an_event(n, error="x" * 2000) for n in range(1, 2001)]
    done = ev.AgentFinished(run_id="job", node="a", seq=2001, result="SUCCEEDED", reason="r", duration_s=5.0)
    write_events(directory.events_path("a"), *filler, done)
    (entry,) = list_runs(tmp_path)
    assert not entry.whole
    assert entry.timeline.state == "succeeded"
    assert 0 < entry.timeline.nodes["a"].events_seen < 500


def test_an_hour_of_readings_hides_neither_start_nor_end(tmp_path: Path) -> None:
    directory = a_run(tmp_path, events=0)
    header: dict[str, Any] = {"run_id": "job", "node": "a", "restart_count": 1, "round": 2}
    start = ev.AgentStarted(
        **header, seq=1, pid=1, hostname="h", role="r", local_world_size=8, restarts_max=3, backend="solo",
        entrypoint="train.py",
    )  # fmt: skip
    workers = [ev.WorkerReading(local_rank=rank, cpu_percent=99.5, rss_bytes=1 << 33) for rank in range(8)]
    hour = [
        ev.ReadingsTaken(
            **header, seq=n, mono_ns=n * 10**9, wall_ns=n * 10**9, incarnation=1, workers=workers
        )
        for n in range(2, 3602)
    ]
    write_events(directory.events_path("a"), start, *hour)
    (running,) = list_runs(tmp_path)
    node = running.timeline.nodes["a"]
    assert (running.whole, running.timeline.state, node.entrypoint) == (False, "running", "train.py")
    assert running.timeline.restarts_used == 1
    assert node.readings is not None and node.readings.latest == hour[-1]
    done = ev.AgentFinished(**header, seq=3602, result="SUCCEEDED", reason="r", duration_s=3600.0)
    write_events(directory.events_path("a"), start, *hour, done)
    (ended,) = list_runs(tmp_path)
    assert (ended.whole, ended.timeline.state, ended.timeline.duration_s) == (False, "succeeded", 3600.0)


def test_nothing_is_listed_where_nothing_is(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "absent") == []
    with pytest.raises(ConfigurationError, match="no run is recorded under"):
        latest_run(tmp_path / "absent")


def test_a_run_is_found_by_whatever_names_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first, again = a_run(state, "train/llm"), a_run(state, "train/llm", after_s=5)
    other = a_run(state, "other", after_s=9)
    elsewhere = open_for_writing(tmp_path / "elsewhere", "e", {}, started_wall_ns=1)
    assert find_run(state, "train/llm") == again.path
    assert find_run(state, "train") == again.path
    assert find_run(state, first.path.name) == first.path
    assert find_run(state, other.path.name[:20]) == other.path
    assert find_run(state, str(elsewhere.path)) == elsewhere.path
    with pytest.raises(ConfigurationError, match="could be any of 3 runs"):
        find_run(state, "2026")


def test_a_run_that_is_not_there_is_answered_with_those_that_are_near(tmp_path: Path) -> None:
    a_run(tmp_path, "resnet50")
    with pytest.raises(ConfigurationError, match=r"no run 'resnet51' .* did you mean resnet50\?"):
        find_run(tmp_path, "resnet51")
    with pytest.raises(ConfigurationError, match="`rally runs` lists"):
        find_run(tmp_path, "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="is not a recording"):
        find_run(tmp_path, str(tmp_path / "empty"))


# -- this machine -------------------------------------------------------------------------------------------


def test_whether_an_agent_runs_is_known_on_its_own_machine() -> None:
    here = os.uname().nodename
    assert agent_is_alive(here, os.getpid(), time.time_ns()) is True
    assert agent_is_alive("some-other-machine", os.getpid(), time.time_ns()) is None
    # A process that is younger than the recording has the pid by accident.
    assert agent_is_alive(here, os.getpid(), time.time_ns() - 10**15) is False


def test_a_process_that_has_ended_is_no_agent_even_before_it_is_reaped() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert agent_is_alive(os.uname().nodename, child.pid, time.time_ns()) is False
    child.wait()
    assert agent_is_alive(os.uname().nodename, child.pid, time.time_ns()) is False


# -- runs recorded elsewhere --------------------------------------------------------------------------------


def test_a_run_recorded_elsewhere_is_listed_and_found(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    directory = open_for_writing(tmp_path / "else where", "job 7", {}, started_wall_ns=5)
    note_elsewhere(state_dir, directory, started_wall_ns=5)
    note_elsewhere(state_dir, directory, started_wall_ns=6_000_000_000)
    assert [entry.path for entry in list_runs(state_dir)] == [directory.path], (
        "once, however often it was noted"
    )
    assert find_run(state_dir, "job 7") == directory.path


def test_a_note_about_a_run_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "20260101-000000-x.at").write_bytes(b"/nowhere")
    (tmp_path / "20260101-000001-y.at").write_bytes(b"relative")
    (tmp_path / "20260101-000002-z.at").write_bytes(b"/with/a\0nul")
    (tmp_path / "20260101-000003-w.at").symlink_to("/etc/hostname")
    assert list_runs(tmp_path) == []


def test_a_run_in_the_state_directory_needs_no_note(tmp_path: Path) -> None:
    directory = open_for_writing(tmp_path / "mine", "job", {}, started_wall_ns=5)
    note_elsewhere(tmp_path, directory, started_wall_ns=5)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_state_directory_that_cannot_be_written_costs_only_the_note(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    directory = open_for_writing(tmp_path / "run", "job", {}, started_wall_ns=5)
    note_elsewhere(tmp_path / "file" / "below", directory, started_wall_ns=5)
