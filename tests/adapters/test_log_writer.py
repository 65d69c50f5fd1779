"""Logs that are kept within a size, that lose lines to a full disk, and whoever reads them meanwhile."""

from __future__ import annotations

import itertools
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.adapters.output import log_writer
from toolkit.adapters.output.log_writer import LogWriter
from toolkit.adapters.recording.log_file import LogFile
from toolkit.adapters.recording.log_pieces import LogPieces, pieces

LIMIT = 4000


def line(number: int) -> bytes:
    return b"line %06d\n" % number


def disk_use(path: Path) -> int:
    return sum(piece.stat().st_size for piece in pieces(path))


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """No file takes more than so many bytes: what a full disk is to a writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_beginning_and_the_end_are_kept_within_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "0" / "stdout.log"
    writer = LogWriter(str(path), LIMIT)
    for number in range(3000):
        writer.append(line(number))
        assert disk_use(path) <= LIMIT
    writer.close()
    kept = [text for piece in pieces(path) for text in piece.read_bytes().splitlines(keepends=True)]
    first = kept.index(next(b for a, b in itertools.pairwise(kept) if int(b[5:]) != int(a[5:]) + 1))
    assert kept[:first] == [line(number) for number in range(first)], "from the first line on"
    assert kept[first:] == [line(number) for number in range(3000 - len(kept) + first, 3000)], "to the last"
    assert first * len(line(0)) > LIMIT / 4 - 20
    assert len(kept) * len(line(0)) > LIMIT / 2
    assert writer.lost is None, "what is deleted because that was asked for is not lost"


@given(st.lists(st.binary(max_size=3 * LIMIT), max_size=12))
def test_pieces_together_are_what_was_written_until_one_is_deleted(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("log") / "stdout.log"
    writer = LogWriter(str(path), LIMIT)
    whole = b""
    for chunk in chunks:
        writer.append(chunk)
        whole += chunk
        assert disk_use(path) <= LIMIT
    writer.close()
    every = pieces(path)
    together = b"".join(piece.read_bytes() for piece in every)
    if len(every) < log_writer.PIECES:
        assert together == whole
    begin = every[0].read_bytes()
    assert whole.startswith(begin)
    assert whole.endswith(together[len(begin) :])


def test_who_is_behind_reads_all_that_is_kept(tmp_path: Path) -> None:
    writer = LogWriter(str(tmp_path / "o"), LIMIT)
    begins = [writer.append(line(number)) for number in range(2000)]
    assert begins == [number * len(line(0)) for number in range(2000)]
    position, got = 0, []
    while True:
        position, data = writer.read(position)
        if not data:
            break
        got.append((position, data))
        position += len(data)
    writer.close()
    for begin, data in got:
        assert data == b"".join(map(line, range(2000)))[begin : begin + len(data)]
    assert got[0][0] == 0
    assert position == 2000 * len(line(0))


def test_a_log_that_is_there_is_appended_to_and_its_pieces_stay(tmp_path: Path) -> None:
    path = tmp_path / "o"
    for part in range(2):
        writer = LogWriter(str(path), LIMIT)
        for number in range(100 * part, 100 * part + 100):
            writer.append(line(number))
        writer.close()
    assert b"".join(piece.read_bytes() for piece in pieces(path)) == b"".join(map(line, range(200)))


def test_a_gap_is_told_in_the_file_and_what_follows_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "RETRY_S", 0.0)
    path = tmp_path / "o"
    writer = LogWriter(str(path))
    with full_at(25):
        for number in range(10):
            writer.append(line(number))
        writer.append(b"half of a ")
    assert (writer.lost_bytes, writer.lost_lines) == (10 * 12 + 10 - 25, 8)
    writer.append(b"line\nwhole\n")
    writer.append(b"next\n")
    writer.close()
    assert path.read_bytes() == (
        line(0) + line(1) + b"l\n(rally: 9 lines (110 bytes) are missing here: File too large)\nwhole\nnext\n"
    )
    assert writer.lost is not None
    assert "9 lines (110 bytes) lost so far, the workers go on" in writer.lost.problem


def test_a_file_that_could_not_be_made_is_made_when_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "RETRY_S", 0.0)
    (tmp_path / "in the way").touch()
    path = tmp_path / "in the way" / "o"
    writer = LogWriter(str(path))
    assert writer.append(b"one\n") is None
    (tmp_path / "in the way").unlink()
    writer.append(b"two\n")
    writer.close()
    assert path.read_bytes() == b"(rally: 1 line (4 bytes) are missing here: Not a directory)\ntwo\n"


def test_a_reader_follows_from_piece_to_piece(tmp_path: Path) -> None:
    path = tmp_path / "o"
    writer = LogWriter(str(path), LIMIT)
    reader = LogPieces(path)
    got = b""
    for number in range(3000):
        writer.append(line(number))
        if number % 50 == 0:
            while data := reader.read(100):
                got += data
    while data := reader.read(100):
        got += data
    writer.close()
    assert got == b"".join(map(line, range(3000)))
    assert not reader.skipped


def test_a_reader_that_is_too_slow_skips_what_was_deleted(tmp_path: Path) -> None:
    path = tmp_path / "o"
    writer = LogWriter(str(path), LIMIT)
    reader = LogPieces(path)
    for number in range(100):
        writer.append(line(number))
    while reader.read(4096):
        pass
    for number in range(100, 3000):
        writer.append(line(number))
    got = b""
    while data := reader.read(4096):
        got += data
    writer.close()
    assert reader.skipped
    assert got.endswith(line(2999))
    assert not got.startswith(line(0))


def test_the_end_of_a_log_reaches_into_older_pieces(tmp_path: Path) -> None:
    path = tmp_path / "o"
    writer = LogWriter(str(path), LIMIT)
    for number in range(200):
        writer.append(line(number))
    reader = LogPieces(path)
    assert reader.go_to_end(1200)
    assert b"".join(iter(lambda: reader.read(500), b"")) == b"".join(map(line, range(100, 200)))
    assert not LogPieces(path).go_to_end(10**9)
    shown = LogFile(path)
    while shown.read_new():
        pass
    writer.append(line(200))
    shown.read_new()
    writer.close()
    assert shown.lines[-1] == "line 000200"
    assert len(shown.lines) == 201
    assert not shown.cut
    assert not shown.problem


def test_what_can_not_be_read_is_said(tmp_path: Path) -> None:
    shown = LogFile(tmp_path / "none")
    assert shown.read_new() == 0
    assert "none can't be read" in shown.problem
    os.mkfifo(tmp_path / "fifo")
    shown = LogFile(tmp_path / "fifo")
    assert shown.read_new() == 0
    assert "not a regular file" in shown.problem
