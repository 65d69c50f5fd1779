"""The codec: what is written can be read, and nothing read can hurt."""

from __future__ import annotations

import json
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.core import events
from toolkit.core.events import AnyEvent, decode, encode
from toolkit.core.job_report import FailureRecord

KINDS = get_args(AnyEvent)
_SAMPLES = {
    int: 7,
    str: "text",
    float: 1.5,
    bool: True,
    list[int]: [1, 2],
    list[str]: ["a", "b"],
    list[FailureRecord]: [FailureRecord(node="a", global_rank=3, message="boom", hand="first")],
    list[events.WorkerReading]: [events.WorkerReading(local_rank=1, cpu_percent=99.5, rss_bytes=1 << 30)],
    list[events.HungWorker]: [
        events.HungWorker(local_rank=1, global_rank=9, pid=77, kind="stopped", for_s=6.5, culprit=True)
    ],
    list[events.GpuReading]: [events.GpuReading(index=0, name="H100", local_ranks=[1], util_percent=97.0)],
}


def sample(kind: type[events.Event]) -> events.Event:
    fields = {
        field.name: _SAMPLES.get(field.type, 7) for field in msgspec.structs.fields(kind) if field.name != "v"
    }
    return kind(**fields)


def test_every_kind_of_event_is_in_the_union() -> None:
    defined = {
        cls for cls in vars(events).values() if isinstance(cls, type) and issubclass(cls, events.Event)
    }
    assert defined - {events.Event} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_can_be_read(kind: type[events.Event]) -> None:
    event = sample(kind)
    assert decode(encode(event)) == event
    assert b"\n" not in encode(event)
    assert json.loads(encode(event))["v"] == events.VERSION


def test_fields_of_later_versions_are_passed_over() -> None:
    line = json.loads(encode(sample(events.MembershipChanged))) | {"new_field": [1, {"a": None}]}
    assert isinstance(decode(json.dumps(line).encode()), events.MembershipChanged)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"type":"unheard_of"}',
        b'{"type":"membership_changed"}',
        b"\xff\xfe",
        b"[" * 10_000,
    ],
)
def test_lines_that_are_no_events_are_none(line: bytes) -> None:
    assert decode(line) is None


@given(st.binary(max_size=300))
def test_no_line_can_hurt(line: bytes) -> None:
    decode(line)


@given(st.sampled_from(KINDS), st.data())
def test_no_torn_line_is_taken_for_another(kind: type[events.Event], data: st.DataObject) -> None:
    line = encode(sample(kind))
    assert decode(line[: data.draw(st.integers(0, len(line) - 1))]) is None
