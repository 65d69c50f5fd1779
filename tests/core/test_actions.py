"""Actions: what can be asked of an agent, and in which words what can't be is refused."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.core.actions import ACTION_MAX, Action, NoOrders, action_of, asked
from toolkit.core.errors import ConfigurationError

KILL = {"action": "signal", "local_ranks": [1], "signal": "SIGKILL", "incarnation": 0}


def read(**fields: Any) -> Action:
    return action_of(json.dumps(fields).encode())


def test_a_signal_names_its_ranks_and_their_incarnation() -> None:
    action = read(**KILL, by="ada@gpu-a", why="it hangs")
    assert action == Action(
        action="signal", local_ranks=(1,), signal="SIGKILL", incarnation=0, by="ada@gpu-a", why="it hangs"
    )
    assert action.signum == signal.SIGKILL
    assert action.in_words() == "SIGKILL to local rank 1 asked for by ada@gpu-a: it hangs"


@pytest.mark.parametrize("kind", ["restart", "drain", "stop"])
def test_the_others_need_nothing_more(kind: str) -> None:
    assert read(action=kind).in_words() == f"{kind} asked for by somebody"
    assert read(action=kind, incarnation=3).incarnation == 3


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "action"),
        ({"action": "reboot"}, "reboot"),
        ({"action": "stop", "force": True}, "force"),
        ({**KILL, "signal": "KILL"}, "'KILL'; give a name such as SIGKILL"),
        ({**KILL, "local_ranks": []}, "local_ranks is empty"),
        ({**KILL, "local_ranks": [-1]}, "-1"),
        ({**KILL, "local_ranks": [10**6]}, "1000000"),
        ({**KILL, "local_ranks": [1, 1]}, "twice"),
        ({**KILL, "local_ranks": "0"}, "local_ranks"),
        ({**KILL, "incarnation": None}, "incarnation is missing"),
        ({**KILL, "incarnation": -2}, "-2"),
        ({"action": "stop", "local_ranks": [0]}, "stop is for all workers"),
        ({"action": "stop", "by": "x" * 201}, "at most 200"),
        ({"action": "stop", "why": "two\nlines"}, "one line"),
        ({"action": "stop", "why": "\x1b[2J"}, "printable"),
    ],
)
def test_what_can_not_be_is_refused_in_words(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match="that is no action") as caught:
        read(**fields)
    assert said in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"\xff", b"{", b"[" * 5000, b" " * (ACTION_MAX + 1)])
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigurationError):
        action_of(data)


@given(st.binary())
def test_no_bytes_do_harm(data: bytes) -> None:
    with pytest.raises(ConfigurationError):
        action_of(data)


@given(
    st.lists(st.integers(0, 4095), min_size=1, unique=True),
    st.sampled_from(sorted(signal.Signals.__members__)),
    st.integers(0, 2**31),
)
def test_an_action_survives_its_journey(ranks: list[int], name: str, incarnation: int) -> None:
    import msgspec

    action = Action(action="signal", local_ranks=tuple(ranks), signal=name, incarnation=incarnation)
    assert action_of(msgspec.json.encode(action)) == action


def test_an_event_says_it_in_the_same_words() -> None:
    assert asked("restart", "", "") == "restart asked for by somebody"
    assert asked("signal", "a", "b", [0, 1], "SIGTERM") == "SIGTERM to local ranks 0-1 asked for by a: b"


def test_nobody_orders_anything() -> None:
    nobody = NoOrders()
    assert not nobody.waiting()
    assert nobody.take() is None
