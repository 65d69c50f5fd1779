"""What the owner of a simulation and the process that runs it say to each other: one request, one answer.

Both are pickles: each end runs the other's code anyway. What the user made (scenario, faults) is a pickle within the
pickle, so that one that can't be opened is an answer in words; events are in the codec of all events.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from simulator.checkers import Facts
from simulator.rng import Choice
from toolkit.core.errors import ConfigurationError
from toolkit.core.events import AnyEvent, Event

#: `Moment.drained_ns` of a run with nothing left to happen at all
ENDLESS = -1


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a run stands, exactly: runs that stand at equal moments of one history go on in the same way.

    Args:
        now_ns: virtual time.
        steps: of the kernel.
        drained_ns: the moment by which nothing was left to happen, if that is why it stands here; else None.
    """

    now_ns: int = 0
    steps: int = 0
    drained_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Build the cluster.

    Args:
        scenario: from `packed`.
    """

    scenario: bytes
    subject: str
    seed: int


@dataclass(frozen=True, slots=True)
class Advance:
    """Go on until the first of these is reached. The result is whether one was, or nothing more happens.

    Args:
        events: so many have been said since the start.
        steps: so many of the kernel have been taken.
        until_ns: the moment of virtual time.
        for_s: of real time; then the answer comes whatever was reached.
    """

    events: int | None = None
    steps: int | None = None
    until_ns: int | None = None
    for_s: float = 0.25


@dataclass(frozen=True, slots=True)
class Inject:
    """Let a fault strike, from `packed`."""

    fault: bytes


@dataclass(frozen=True, slots=True)
class Look:
    """At a node. The result is a `NodeView`."""

    node: str


@dataclass(frozen=True, slots=True)
class Branch:
    """Fork; the descriptor beside this is the line of the child. The result is its pid."""


@dataclass(frozen=True, slots=True)
class Collect:
    """What the run has come to. The result is `Collected`."""

    choices: bool = False


@dataclass(frozen=True, slots=True)
class Nothing:
    """Only the state, and the events that the owner lacks."""


Ask: TypeAlias = Start | Advance | Inject | Look | Branch | Collect | Nothing


@dataclass(frozen=True, slots=True)
class Request:
    """What the owner sends.

    Args:
        number: comes back with the answer.
        have: how many events the owner has.
        ask: what it wants.
    """

    number: int
    have: int
    ask: Ask


@dataclass(frozen=True, slots=True)
class State:
    """What is told with each answer.

    Args:
        moment: where the run stands.
        over: whether the job is over.
        finding: why nothing more happens although it is not; or empty.
        injected: how many faults were.
        pid: of the process that holds the run.
    """

    moment: Moment = Moment()
    over: bool = False
    finding: str = ""
    injected: int = 0
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """An error, instead of a result.

    Args:
        kind: name of its class.
        words: its message.
        traceback: where it was raised.
    """

    kind: str
    words: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the owner gets.

    Args:
        number: of the request.
        state: afterwards.
        have: the events that the owner had; `events` are those after them.
        events: packed.
        said_ns: the virtual time of each.
        ran_s: real seconds that the run took.
        result: what was asked for, or why not.
    """

    number: int
    state: State
    have: int = 0
    events: bytes = b""
    said_ns: Sequence[int] = ()
    ran_s: float = 0.0
    result: Any = None


@dataclass(frozen=True, slots=True)
class Collected:
    """What a run has come to, beside its events.

    Args:
        facts: what the simulator knows.
        finding: why it was not finished, or empty.
        digest: of everything that happened.
        quiet_at_s: when the last fault that passes has passed.
        struck: faults in words.
        choices: the tape, if it was asked for.
    """

    facts: Facts
    finding: str
    digest: str
    quiet_at_s: float
    struck: Sequence[str]
    choices: Sequence[Choice]


def packed(value: object, what: str) -> bytes:
    """Something of the user's, on its way into the other process: with cloudpickle where that is installed.

    Args:
        what: names it in the error.

    Raises:
        ConfigurationError: it can't be pickled.
    """
    try:
        import cloudpickle
    except ImportError:
        dumps, remedy = pickle.dumps, "define its parts in a module, or `pip install cloudpickle`"
    else:
        dumps, remedy = cloudpickle.dumps, "leave out what belongs to this process, such as locks and files"
    try:
        return bytes(dumps(value))
    except Exception as error:
        raise ConfigurationError(
            f"{what} can't be taken to the process that runs it: {type(error).__name__}: {error}; {remedy}"
        ) from error


def unpacked(data: bytes, what: str) -> Any:
    """What `packed` made.

    Raises:
        ConfigurationError: it can't be made here.
    """
    try:
        return pickle.loads(data)
    except Exception as error:
        raise ConfigurationError(
            f"{what} can't be made in the process that runs it: {type(error).__name__}: {error}; "
            "define its classes in a module that can be imported, or `pip install cloudpickle`"
        ) from error


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[list[AnyEvent]] = msgspec.msgpack.Decoder(list[AnyEvent])


def pack_events(events: Sequence[Event]) -> bytes:
    """Events as bytes."""
    return _encoder.encode(list(events))


def unpack_events(data: bytes) -> list[AnyEvent]:
    """And back."""
    return _decoder.decode(data)
