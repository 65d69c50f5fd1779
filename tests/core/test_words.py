"""Sentences for people."""

from __future__ import annotations

import pytest

from toolkit.core.words import (
    SHORT_MAX,
    did_you_mean,
    ending,
    endings,
    host_of,
    in_short,
    plural,
    ranks,
    some,
    without_tokens,
)


@pytest.mark.parametrize(
    ("given", "text"),
    [([3], "rank 3"), ([0, 1, 2, 3], "ranks 0-3"), ([7, 0, 2, 5, 6], "ranks 0, 2, 5-7"), ([1, 1], "rank 1")],
)
def test_ranks_in_short(given: list[int], text: str) -> None:
    assert ranks(given) == text


def test_endings() -> None:
    assert ending(3, "") == "exited with code 3"
    assert ending(None, "SIGKILL") == "was killed by SIGKILL"
    assert ending(None, "SIGSEGV") == "was killed by SIGSEGV (segmentation fault)"
    assert endings([2], None, "SIGKILL") == "rank 2 was killed by SIGKILL"
    assert endings([0, 1, 4], None, "SIGKILL") == "ranks 0-1, 4 were killed by SIGKILL"
    assert endings([0, 1], 3, "") == "ranks 0-1 exited with code 3"


def test_agents_have_the_names_of_their_recordings() -> None:
    assert without_tokens("node gpu-a_12_0f3a9c is lost") == "node gpu-a_12 is lost"
    assert without_tokens("gpu-a_12") == "gpu-a_12"
    assert host_of("gpu_a_12_0f3a9c") == host_of("gpu_a_12") == "gpu_a"


def test_of_many_names_a_few_are_said() -> None:
    assert [some(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c", "d"])] == [
        "",
        "a",
        "a and b",
        "a, b, c and d",
    ]
    assert some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_plurals() -> None:
    assert (plural(1, "node"), plural(0, "node"), plural(2, "node")) == ("1 node", "0 nodes", "2 nodes")


def test_what_somebody_says_in_one_line() -> None:
    assert in_short(" ValueError: bad shape\nand more\n") == "ValueError: bad shape"
    assert in_short("") == ""
    long = (
        "CUDA out of memory. Tried to allocate 2.00 GiB. " + "GPU 0 has a total capacity of 139.80 GiB. " * 20
    )
    assert in_short(long).endswith(" GiB.") and len(in_short(long)) <= SHORT_MAX
    words = in_short("word " * 100)
    assert words.endswith("word …") and len(words) <= SHORT_MAX + 2
    assert in_short("x" * 1000) == "x" * SHORT_MAX + " …"


def test_the_nearest_words_are_offered_and_else_all_that_there_are() -> None:
    known = ("lease", "leash", "beat")
    assert did_you_mean("leas", known, "there are three") == "did you mean leash or lease?"
    assert did_you_mean("leas", known, "there are three", count=1) == "did you mean leash?"
    assert did_you_mean("xyz", known, "there are three") == "there are three"
