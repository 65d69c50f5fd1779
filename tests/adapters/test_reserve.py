"""What an events file keeps for its last lines on a disk that is full."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.disks import fill
from toolkit.adapters.recording.reserve import AGAIN_S, AHEAD, RESERVE, RESERVE_OF_LAST, Reserve

LINE = b"x" * 499 + b"\n"
NO_SPACE = os.strerror(28)


class Written:
    """A file with a reserve, and a clock for it."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.now_s = 0.0
        self.reserve = Reserve(self.fd, lambda: self.now_s)

    def lines(self, kept: int) -> int:
        """Write lines until one is refused, a thousand at most; returns how many were written."""
        for number in range(1000):
            if problem := self.reserve.refuses(len(LINE), kept):
                assert problem == NO_SPACE
                return number
            assert os.write(self.fd, LINE) == len(LINE)
            self.reserve.written(len(LINE))
        return 1000

    def blocks(self) -> int:
        """Bytes that it has on the disk."""
        return os.fstat(self.fd).st_blocks * 512


@pytest.fixture
def written(small_disk: Path) -> Iterator[Written]:
    it = Written(small_disk / "events")
    yield it
    os.close(it.fd)


def test_a_full_disk_leaves_the_reserve_to_each_in_its_turn(written: Written, small_disk: Path) -> None:
    assert not written.reserve.refuses(len(LINE), RESERVE), "there is room"
    fill(small_disk)
    for_all = written.lines(RESERVE)
    assert for_all * len(LINE) <= AHEAD + len(LINE)
    for_events = written.lines(RESERVE_OF_LAST)
    assert for_events * len(LINE) >= RESERVE - RESERVE_OF_LAST - len(LINE)
    for_the_last = written.lines(0)
    assert RESERVE_OF_LAST - 2 * len(LINE) < for_the_last * len(LINE) <= RESERVE_OF_LAST + len(LINE)
    assert os.fstat(written.fd).st_size == (for_all + for_events + for_the_last) * len(LINE)


def test_space_that_is_free_again_is_taken_again(written: Written, small_disk: Path) -> None:
    assert not written.reserve.refuses(len(LINE), RESERVE)
    fill(small_disk)
    written.lines(RESERVE)
    (small_disk / "filler").unlink()
    assert written.reserve.refuses(len(LINE), RESERVE), "it does not ask each time"
    written.now_s += AGAIN_S
    assert written.lines(RESERVE) == 1000


def test_what_was_not_needed_is_given_back(written: Written) -> None:
    written.reserve.refuses(len(LINE), RESERVE)
    os.write(written.fd, LINE)
    written.reserve.written(len(LINE))
    assert written.blocks() >= RESERVE
    assert os.fstat(written.fd).st_size == len(LINE), "readers see nothing of it"
    written.reserve.give_back()
    assert written.blocks() <= 4096
    assert os.fstat(written.fd).st_size == len(LINE)


def test_what_is_no_file_takes_whatever_comes() -> None:
    read_end, write_end = os.pipe()
    try:
        reserve = Reserve(write_end)
        assert reserve.refuses(1 << 20, RESERVE) == ""
        reserve.give_back()
    finally:
        os.close(read_end)
        os.close(write_end)


def test_a_file_system_without_it_is_written_as_ever(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "events", os.O_RDONLY | os.O_CREAT)  # fallocate(2) says EBADF
    try:
        assert Reserve(fd).refuses(len(LINE), RESERVE) == ""
    finally:
        os.close(fd)
