"""What a store holds: examples, and a comparison with torch's HashStore over random operations."""

from __future__ import annotations

import importlib.util

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from toolkit.core.errors import ConfigurationError, StoreError
from toolkit.core.keyvalue import KeyValues, encoded


@pytest.fixture
def values() -> KeyValues:
    return KeyValues()


def test_text_is_stored_as_utf8_and_bytes_as_they_are(values: KeyValues) -> None:
    values.set("text", "é")
    values.set("bytes", b"\x00\xff")
    assert values.multi_get(["text", "bytes", "neither"]) == [b"\xc3\xa9", b"\x00\xff", None]


def test_an_empty_value_is_a_value(values: KeyValues) -> None:
    values.set("k", "")
    assert values.get("k") == b""
    assert values.check(["k"])


@pytest.mark.parametrize("bad", [3, None, ["x"]])
def test_other_values_are_refused_by_type(values: KeyValues, bad: object) -> None:
    with pytest.raises(TypeError, match=r"str or bytes, not \w+"):
        values.set("k", bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="key of a store is a str, not int"):
        values.set(3, "x")  # type: ignore[arg-type]
    assert values.num_keys() == 0


def test_a_counter_starts_at_0_and_is_stored_as_text(values: KeyValues) -> None:
    assert [values.add("n", 3), values.add("n", -5)] == [3, -2]
    assert values.get("n") == b"-2"


def test_adding_0_makes_the_counter(values: KeyValues) -> None:
    assert values.add("n", 0) == 0
    assert values.get("n") == b"0"


@pytest.mark.parametrize(
    ("held", "total"), [("7", 8), (" 7", 8), ("+7", 8), ("7x", 8), ("-7", -6), ("", 1), ("0x10", 1)]
)
def test_add_reads_what_set_wrote_as_c_reads_numbers(values: KeyValues, held: str, total: int) -> None:
    values.set("n", held)
    assert values.add("n", 1) == total


@pytest.mark.parametrize("held", ["abc", "x7", "- 7", " ", str(2**63), b"\xff" * 100])
def test_add_to_what_is_no_number_is_an_error_and_changes_nothing(
    values: KeyValues, held: str | bytes
) -> None:
    values.set("n", held)
    with pytest.raises(StoreError, match=r"'n' holds .* not a number"):
        values.add("n", -1)
    assert values.get("n") == encoded(held)


def test_a_counter_does_not_wrap(values: KeyValues) -> None:
    assert values.add("n", 2**63 - 1) == 2**63 - 1
    with pytest.raises(StoreError, match="64 bits"):
        values.add("n", 1)
    assert values.get("n") == b"%d" % (2**63 - 1)


@pytest.mark.parametrize(
    ("held", "expected", "returned", "after"),
    [
        ("old", "old", b"new", b"new"),
        ("old", "bad", b"old", b"old"),
        ("old", "", b"old", b"old"),
        ("", "", b"new", b"new"),
        ("", "bad", b"", b""),
        (None, "", b"new", b"new"),
        (None, "old", b"old", None),
    ],
)
def test_compare_set(
    values: KeyValues, held: str | None, expected: str, returned: bytes, after: bytes | None
) -> None:
    if held is not None:
        values.set("k", held)
    assert values.compare_set("k", expected, "new") == returned
    assert values.get("k") == after


def test_compare_set_of_a_missing_key_to_nothing_makes_it(values: KeyValues) -> None:
    assert values.compare_set("k", "", "") == b""
    assert values.check(["k"])


def test_append_makes_a_missing_key(values: KeyValues) -> None:
    values.append("k", "x")
    values.append("k", b"y")
    values.append("empty", "")
    assert values.multi_get(["k", "empty"]) == [b"xy", b""]


def test_multi_set_with_too_few_values_sets_nothing(values: KeyValues) -> None:
    with pytest.raises(ConfigurationError, match="2 keys and 1 values"):
        values.multi_set(["a", "b"], ["1"])
    assert values.num_keys() == 0


def test_missing_keeps_the_order_asked_for(values: KeyValues) -> None:
    values.set("b", "1")
    assert values.missing(["c", "b", "a"]) == ["c", "a"]
    assert values.check([])
    assert not values.check(["b", "a"])


def test_a_key_is_deleted_once(values: KeyValues) -> None:
    values.set("k", "")
    assert values.delete_key("k")
    assert not values.delete_key("k")
    assert not values.check(["k"])


def test_num_keys_counts_each_key_once(values: KeyValues) -> None:
    values.set("a", "1")
    values.add("a", 1)
    values.append("b", "")
    assert values.num_keys() == 2
    values.delete_key("a")
    assert values.num_keys() == 1


KEYS = st.sampled_from(["a", "b", "a/b", "", "é"])
TEXTS = st.text(st.characters(codec="utf-8"), max_size=4)
NUMBER_LIKE = st.from_regex(r"\A[ \n]{0,2}[+-]?[0-9]{1,20}[x ]?\Z")
VALUES = TEXTS | st.binary(max_size=4) | NUMBER_LIKE
AMOUNTS = st.integers(-(2**61), 2**61)


class SameAsHashStore(RuleBasedStateMachine):
    """Does the same to both and compares all that can be seen."""

    def __init__(self) -> None:
        super().__init__()
        from torch.distributed import HashStore

        self.ours = KeyValues()
        self.torchs = HashStore()

    @rule(key=KEYS, value=VALUES)
    def set(self, key: str, value: str | bytes) -> None:
        self.ours.set(key, value)
        self.torchs.set(key, value)

    @rule(key=KEYS, amount=AMOUNTS)
    def add(self, key: str, amount: int) -> None:
        try:
            total = self.ours.add(key, amount)
        except StoreError as error:
            if "gives" in str(error):
                return  # torch would wrap; ours is left as it was, and torch's is not asked
            # ValueError for no number, IndexError for one that is too large
            with pytest.raises((ValueError, IndexError), match="stoll"):
                self.torchs.add(key, amount)
        else:
            assert self.torchs.add(key, amount) == total

    @rule(key=KEYS, expected=VALUES | st.just(""), desired=VALUES)
    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> None:
        theirs = self.torchs.compare_set(key, encoded(expected), encoded(desired))
        assert self.ours.compare_set(key, expected, desired) == theirs

    @rule(key=KEYS, desired=VALUES)
    def compare_set_to_what_is_there(self, key: str, desired: str | bytes) -> None:
        self.compare_set(key, self.ours.get(key) or "", desired)

    @rule(key=KEYS, value=VALUES)
    def append(self, key: str, value: str | bytes) -> None:
        self.ours.append(key, value)
        self.torchs.append(key, value)

    @rule(pairs=st.lists(st.tuples(KEYS, VALUES), max_size=3))
    def multi_set(self, pairs: list[tuple[str, str | bytes]]) -> None:
        keys, values = [key for key, _ in pairs], [encoded(value) for _, value in pairs]
        self.ours.multi_set(keys, values)
        self.torchs.multi_set(keys, values)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        assert self.ours.delete_key(key) == self.torchs.delete_key(key)

    @rule(keys=st.lists(KEYS, max_size=3))
    def look(self, keys: list[str]) -> None:
        assert self.ours.check(keys) == self.torchs.check(keys) == (not self.ours.missing(keys))
        if self.ours.check(keys):
            assert self.ours.multi_get(keys) == self.torchs.multi_get(keys)
            assert [self.ours.get(key) for key in keys] == [self.torchs.get(key) for key in keys]

    @invariant()
    def as_many_keys(self) -> None:
        assert self.ours.num_keys() == self.torchs.num_keys()


SameAsHashStore.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, database=None
)


@pytest.mark.torch
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
class TestSameAsHashStore(SameAsHashStore.TestCase):  # type: ignore[misc]
    """Runs the comparison."""
