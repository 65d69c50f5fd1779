"""A worker's log, followed from its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.adapters.recording import log_file
from toolkit.adapters.recording.log_file import LogFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stderr.log"


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_lines_come_once_they_are_whole(path: Path) -> None:
    log = LogFile(path)
    append(path, b"one\ntwo\nthr")
    assert log.read_new() == 2
    append(path, b"ee\n")
    assert log.read_new() == 1
    assert list(log.lines) == ["one", "two", "three"]
    assert log.read_new() == 0


def test_a_long_log_is_read_from_its_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "TAIL_BYTES", 100)
    append(path, b"".join(b"line %d\n" % n for n in range(1000)))
    log = LogFile(path)
    log.read_new()
    assert log.cut
    assert log.lines[-1] == "line 999"
    assert all(line.startswith("line ") for line in log.lines), "no half of a line"
    assert len(log.lines) < 20


def test_lines_are_bounded(path: Path) -> None:
    append(path, b"x" * 10_000 + b"\n" + b"y" * 10_000)
    log = LogFile(path)
    log.read_new()
    assert [len(line) for line in log.lines] == [log_file.LINE_MAX] * 2


def test_a_progress_bar_is_what_it_shows_last(path: Path) -> None:
    append(path, b"10%\r20%\r100%\ndone\r\n")
    log = LogFile(path)
    log.read_new()
    assert list(log.lines) == ["100%", "done"]


def test_what_is_no_text_is_shown_all_the_same(path: Path) -> None:
    append(path, b"\xff\xfe\x00ok\n")
    log = LogFile(path)
    assert log.read_new() == 1


def test_a_log_that_was_cut_off_is_read_anew(path: Path) -> None:
    append(path, b"one\ntwo\n")
    log = LogFile(path)
    log.read_new()
    path.write_bytes(b"new\n")
    assert log.read_new() == 1
    assert log.lines[-1] == "new"


def test_what_can_not_be_read_is_said(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "missing.log")
    assert log.read_new() == 0
    assert "missing.log" in log.problem
    link = tmp_path / "link.log"
    link.symlink_to("/etc/passwd")
    linked = LogFile(link)
    assert linked.read_new() == 0
    assert "links are not followed" in linked.problem


def test_a_line_is_what_a_terminal_shows_of_it(path: Path) -> None:
    append(path, b"\x1b[1;31mERROR\x1b[0m disk full\n")
    append(path, b" 10%|#\r 50%|#####\r100%|##########\x1b[K\r\n")
    append(path, b"\x1b]8;;file:///a\x1b\\train.py\x1b]8;;\x1b\\:3 \x1b(Bdone\n")
    log = LogFile(path)
    log.read_new()
    assert list(log.lines) == ["ERROR disk full", "100%|##########", "train.py:3 done"]
