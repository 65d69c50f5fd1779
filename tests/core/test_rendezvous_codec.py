"""What nodes write into the store can be read, and nothing read can hurt."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.rendezvous_values import FOUR, card, gathering, regathering
from toolkit.core import rounds, seats
from toolkit.core.rounds import (
    STEPS,
    Head,
    Malformed,
    Ring,
    Settings,
    encoded,
)
from toolkit.core.seats import (
    CARD_MAX,
    Card,
    Place,
    Plan,
    Seat,
    planned,
)

# -- codec ----------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBER = st.integers(-(2**63), 2**63 - 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
ANY_SETTINGS = st.builds(
    Settings,
    min_nodes=st.integers(1, 3),
    max_nodes=st.integers(3, 2**31),
    max_restarts=st.none() | st.integers(0, 10),
    spares=st.none() | st.integers(0, 10),
    beat_s=st.floats(0.1, 2),
    lease_s=st.floats(4, 50),
    last_call_s=st.floats(0, 1e9),
    join_timeout_s=st.floats(0.1, 1e9),
    join_window_s=st.floats(0, 1e9),
    store_timeout_s=st.floats(51, 1e9),
)
ANY_RING = st.builds(
    Ring,
    action=st.sampled_from(["restart", "membership"]),
    reason=TEXT,
    by=TEXT,
    cause=TEXT,
    spends=st.booleans(),
    delay_s=FINITE,
)
ANY_HEAD = st.builds(
    Head,
    version=NUMBER,
    writer=TEXT,
    epoch=NUMBER,
    coordinator=TEXT,
    round=NUMBER,
    phase=st.sampled_from(list(STEPS)),
    sealed_epoch=NUMBER,
    size=NUMBER,
    restarts=NUMBER,
    moves=NUMBER,
    settings=ANY_SETTINGS,
    ring=st.none() | ANY_RING,
    why=TEXT,
    losses=st.dictionaries(TEXT, NUMBER, max_size=5),
)
ANY_CARD = st.builds(
    Card,
    v=NUMBER,
    node=TEXT,
    host=TEXT,
    address=TEXT,
    port=NUMBER,
    role=TEXT,
    local_world_size=NUMBER,
    topology=TEXT,
    node_rank=st.none() | NUMBER,
    spare=st.booleans(),
    round=NUMBER,
    group_rank=NUMBER,
    settings=ANY_SETTINGS,
)
ANY_SEAT = st.builds(
    Seat,
    verdict=st.sampled_from(get_args(seats.Verdict)),
    reason=TEXT,
    round=NUMBER,
    epoch=NUMBER,
    coordinator=TEXT,
    group_rank=NUMBER,
    group_world_size=NUMBER,
    base=st.tuples(NUMBER, NUMBER, NUMBER, NUMBER),
    master_addr=TEXT,
    master_port=NUMBER,
    restarts=NUMBER,
    seat=NUMBER,
)
ANY_PLACE = st.builds(Place, node=TEXT, host=TEXT, node_rank=st.none() | NUMBER, seat=ANY_SEAT)
ANY_PLAN = st.builds(
    Plan,
    round=NUMBER,
    epoch=NUMBER,
    members=st.lists(ANY_PLACE, max_size=3),
    parked=st.lists(ANY_PLACE, max_size=3),
    read_to=NUMBER,
)
DECODERS: dict[str, Callable[[bytes], Any]] = {
    "head": rounds.head_of,
    "card": seats.card_of,
    "seat": seats.seat_of,
    "plan": seats.plan_of,
}
SAMPLES: dict[str, msgspec.Struct] = {
    "head": regathering(losses={"x": 1}),
    "card": card("a", topology="räck 1"),
    "seat": Seat(verdict="member", base=(1, 2, 3, 4)),
    "plan": planned(gathering(), FOUR, FOUR[:2]),
}


@given(
    st.one_of(
        st.tuples(st.just("head"), ANY_HEAD),
        st.tuples(st.just("card"), ANY_CARD),
        st.tuples(st.just("seat"), ANY_SEAT),
        st.tuples(st.just("plan"), ANY_PLAN),
    )
)
def test_what_is_written_is_read(what: tuple[str, Any]) -> None:
    name, value = what
    data = encoded(value)
    assert DECODERS[name](data) == value
    json.loads(data)


def test_one_value_is_always_the_same_bytes() -> None:
    """Compare-and-set needs it."""
    head = regathering(losses={"b": 1, "a": 2})
    assert encoded(rounds.head_of(encoded(head))) == encoded(head)


@pytest.mark.parametrize("name", DECODERS)
def test_what_a_later_version_adds_is_passed_over(name: str) -> None:
    more = json.loads(encoded(SAMPLES[name])) | {"new": {"deep": [1, 2]}}
    assert DECODERS[name](json.dumps(more).encode()) == SAMPLES[name]


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")))
def test_garbage_is_malformed(name: str, data: bytes) -> None:
    with pytest.raises(Malformed):
        DECODERS[name](data)


@pytest.mark.parametrize("name", DECODERS)
def test_torn_json_is_malformed(name: str) -> None:
    data = encoded(SAMPLES[name])
    for end in range(len(data)):
        with pytest.raises(Malformed):
            DECODERS[name](data[:end])


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("deep", [b"[" * 10_000, b'{"a":' * 2_500, b"[" * 8_000 + b"]" * 8_000])
def test_what_is_nested_too_deeply_is_malformed(name: str, deep: bytes) -> None:
    # Also where it stands in a field that nobody reads.
    for data in (deep, encoded(SAMPLES[name])[:-1] + b',"new":' + deep + b"}"):
        with pytest.raises(Malformed):
            DECODERS[name](data)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("data", [b"", b"null", b"0", b"[]", b'"text"', b"{}", b"\xff\xfe", b"NaN"])
def test_other_json_is_malformed(name: str, data: bytes) -> None:
    with pytest.raises(Malformed):
        DECODERS[name](data)


@pytest.mark.parametrize("name", DECODERS)
def test_text_that_is_no_utf8_is_malformed(name: str) -> None:
    field = {"head": b'"writer":"', "card": b'"node":"', "seat": b'"verdict":"', "plan": b'"node":"'}[name]
    data = encoded(SAMPLES[name])
    assert field in data
    with pytest.raises(Malformed):
        DECODERS[name](data.replace(field, field + b"\xff\xfe", 1))


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("head", "phase", "sleeping"),
        ("head", "round", "1"),
        ("head", "round", 1.5),
        ("head", "losses", {"x": "often"}),
        ("head", "losses", None),
        ("card", "port", True),
        ("card", "node", None),
        ("card", "node_rank", "0"),
        ("seat", "verdict", "maybe"),
        ("seat", "base", [1, 2, 3]),
        ("seat", "base", [1, 2, 3, 4, 5]),
        ("plan", "members", {}),
        ("plan", "members", [{}]),
    ],
)
def test_a_field_of_another_kind_is_malformed(name: str, field: str, value: Any) -> None:
    changed = json.loads(encoded(SAMPLES[name])) | {field: value}
    with pytest.raises(Malformed, match=r"is malformed: .*" + field):
        DECODERS[name](json.dumps(changed).encode())


@pytest.mark.parametrize("name", ["head", "card"])
@pytest.mark.parametrize(
    "change", [{"min_nodes": 0}, {"beat_s": -1}, {"lease_s": 1e300}, {"max_nodes": None}]
)
def test_settings_that_cannot_be_are_malformed_in_the_store(name: str, change: dict[str, Any]) -> None:
    changed = json.loads(encoded(SAMPLES[name]))
    changed["settings"] |= change
    with pytest.raises(Malformed):
        DECODERS[name](json.dumps(changed).encode())


def test_a_card_has_a_size_that_is_bounded() -> None:
    left = CARD_MAX - len(encoded(card("a", role="")))
    largest = card("a", role="x" * left)
    assert seats.card_of(encoded(largest)) == largest
    with pytest.raises(Malformed, match=r"16,385 bytes; 16,384 are allowed"):
        seats.card_of(encoded(card("a", role="x" * (left + 1))))
