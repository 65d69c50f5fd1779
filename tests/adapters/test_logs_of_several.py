"""What workers said last, and their logs as one."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from toolkit.adapters.recording import merged_logs
from toolkit.adapters.recording.log_file import last_line
from toolkit.adapters.recording.log_places import LastLines, log_path
from toolkit.adapters.recording.merged_logs import MergedLogs, time_in, without_time

DAY = datetime(2026, 3, 1)


@pytest.mark.parametrize(
    ("line", "time"),
    [
        ("2026-03-01 10:00:01,250 INFO step 3", "10:00:01.250"),
        ("[2026-03-01T10:00:01.5] x", "10:00:01.5"),
        ("I0301 10:00:01.000250 12 a.cpp:3] x", "10:00:01.000250"),
        ("10:00:01 x", "10:00:01.0"),
        ("[rank 3] 10:00:01.75: x", "10:00:01.75"),
    ],
)
def test_times_as_they_are_written(line: str, time: str) -> None:
    clock, _, part = time.partition(".")
    expected = datetime.fromisoformat(f"2026-03-01T{clock}").timestamp() + float(f"0.{part}")
    assert time_in(line, DAY) == pytest.approx(expected)


@pytest.mark.parametrize(
    "line", ["", "step 3 of 10", "2026-13-41 10:00:00 x", "99:99:99 x", "aa:bb:cc:10:00:01:dd", "x" * 500]
)
def test_what_is_no_time(line: str) -> None:
    assert time_in(line, DAY) is None


def test_lines_stand_in_the_order_of_their_times(tmp_path: Path) -> None:
    one, two = tmp_path / "0.log", tmp_path / "1.log"
    one.write_text("10:00:01 a\n  more of a\n10:00:05 c\n")
    two.write_text("10:00:03 b\n10:00:07 d\n")
    logs = MergedLogs([("0", one), ("1", two)])
    logs.read_new()
    assert [text for _, text in logs.lines] == [
        "10:00:01 a", "  more of a", "10:00:03 b", "10:00:05 c", "10:00:07 d",
    ]  # fmt: skip
    assert [name for name, _ in logs.lines] == ["0", "0", "1", "0", "1"]
    with one.open("a") as file:
        file.write("10:00:09 e\n")
    logs.read_new()
    assert logs.count == 6 and logs.lines[-1] == ("0", "10:00:09 e")


def test_many_logs_together_take_no_more_than_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.adapters.recording.log_file.TAIL_BYTES", 4_000)
    paths = [tmp_path / f"{number}.log" for number in range(4)]
    for path in paths:
        path.write_text("".join(f"line {number}\n" for number in range(1_000)))
    logs = MergedLogs([(path.stem, path) for path in paths])
    logs.read_new()
    assert 3_000 < sum(len(line) + 1 for _, line in logs.lines) <= 4_000
    assert {name for name, _ in logs.lines} == {"0", "1", "2", "3"}


def test_too_many_logs_are_said_to_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merged_logs, "LOGS_MAX", 2)
    assert MergedLogs([(str(n), tmp_path / f"{n}.log") for n in range(5)]).left_out == 3


def test_a_log_that_is_missing_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "0.log").write_text("a\n")
    logs = MergedLogs([("0", tmp_path / "0.log"), ("1", tmp_path / "1.log")])
    logs.read_new()
    assert list(logs.lines) == [("0", "a")]


def test_the_last_line_is_the_last_that_says_something(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    assert last_line(path) == ""
    path.write_bytes(b"one\n\x1b[31mtwo\x1b[0m\n\n  \n")
    assert last_line(path) == "two"
    path.write_bytes(b"one\n 10%|#\r 90%|#########")
    assert last_line(path) == "90%|#########"
    path.write_bytes(b"x" * 10_000)
    assert set(last_line(path)) == {"x"}
    assert last_line(tmp_path) == ""


def test_what_was_written_last_counts_and_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = tmp_path / "stdout.log", tmp_path / "stderr.log"
    lines = LastLines(None)
    assert lines.of(("", str(out))) == ""
    out.write_text("out\n")
    assert lines.of((str(err), str(out))) == "out"
    err.write_text("")
    assert lines.of((str(err), str(out))) == "out", "an empty log says nothing"
    monkeypatch.setattr("toolkit.adapters.recording.log_places.last_line", lambda path: 1 / 0)
    assert lines.of((str(err), str(out))) == "out"


def test_logs_of_a_recording_that_was_moved_lie_below_it(tmp_path: Path) -> None:
    assert log_path("", tmp_path) is None
    assert log_path("/nowhere/run/logs/0/1/stderr.log", tmp_path) == tmp_path / "logs/0/1/stderr.log"
    assert log_path("/nowhere/x.log", tmp_path) == Path("/nowhere/x.log")
    assert log_path("/nowhere/x.log", None) == Path("/nowhere/x.log")


@pytest.mark.parametrize(
    "line",
    [
        "2026-03-01 10:00:01,250 INFO step 3",
        "[2026-03-01T10:00:01.5Z] INFO step 3",
        "I0301 10:00:01.000250 INFO step 3",
        "10:00:01 INFO step 3",
        "INFO step 3",
    ],
)
def test_a_line_in_little_room_goes_without_its_time(line: str) -> None:
    assert without_time(line) == "INFO step 3"
    assert without_time("10:00:01") == "10:00:01", "it is all that there is"
