"""Sentences for people."""

from __future__ import annotations

import pytest

from toolkit.core.words import ending, plural, ranks


@pytest.mark.parametrize(
    ("given", "text"),
    [([3], "rank 3"), ([0, 1, 2, 3], "ranks 0-3"), ([7, 0, 2, 5, 6], "ranks 0, 2, 5-7"), ([1, 1], "rank 1")],
)
def test_ranks_in_short(given: list[int], text: str) -> None:
    assert ranks(given) == text


def test_endings() -> None:
    assert ending(3, "") == "exited with code 3"
    assert ending(None, "SIGKILL") == "was killed by SIGKILL"


def test_plurals() -> None:
    assert (plural(1, "node"), plural(0, "node"), plural(2, "node")) == ("1 node", "0 nodes", "2 nodes")
