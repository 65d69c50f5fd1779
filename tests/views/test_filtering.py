"""The filter language."""

from __future__ import annotations

import pytest

from toolkit.core.errors import ConfigurationError
from toolkit.views.filtering import Fields, parsed, typed

FIELDS = ("node", "rank", "state", "util", "memory", "log")
ROW: Fields = {"node": "gpu-12_77", "rank": 5, "state": "failed", "util": 3.5, "memory": 2.5e9, "log": None}


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", "state=failed", "STATE=Failed", "node~gpu-1", "util<5", "util>=3.5", "memory>2G", "memory<2.5Gi",
        "rank=5", "!state=running", "state!=running", "fld", "gpu", "!spare", "state=failed util<5", "log=",
        "'gpu-12'", "!memory<1k", "rank<=5.0",
    ],
)  # fmt: skip
def test_what_holds(text: str) -> None:
    assert parsed(text, FIELDS)(ROW)


@pytest.mark.parametrize(
    "text",
    [
        "state=running", "state=fail", "node~gpu-2", "util>5", "!state=failed", "state!=failed", "!gpu", "xyz",
        "log<5", "log~x", "state<5", "state=failed util>5", "571", "memory>2.5G",
    ],
)  # fmt: skip
def test_what_does_not(text: str) -> None:
    assert not parsed(text, FIELDS)(ROW)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stat=failed", "did you mean state?"),
        ("colour=red", "there are node, rank, state, util, memory, log"),
        ("util<much", "'much' is not a number; such as util<5"),
        ("node='gpu", "a quote is not closed"),
        ("util<", "is not a number"),
    ],
)
def test_what_is_no_filter_is_refused_with_the_remedy(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says.replace("?", r"\?")):
        parsed(text, FIELDS)


def test_a_filter_is_true_if_it_leaves_something_out() -> None:
    assert not parsed("  ", FIELDS)
    assert parsed("state=failed ", FIELDS)
    assert parsed("state=failed ", FIELDS).text == "state=failed"


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", ""), ("s", ""), ("stat", ""), ("state", ""), ("state=", "state="), ("gpu", "gpu"),
        ("rank<3 st", "rank<3 "), ("rank<3 !no", "rank<3 "), ("rank<3 ", "rank<3 "), ("xyz ", "xyz "),
    ],
)  # fmt: skip
def test_a_name_that_is_being_typed_leaves_nothing_out(text: str, holds: str) -> None:
    assert typed(text, FIELDS) == holds
