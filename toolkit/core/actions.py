"""What somebody may tell a running agent to do: a value that is checked here and carried out by `agent/directed.py`."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any, Literal, get_args

import msgspec

from toolkit.core.errors import ConfigurationError
from toolkit.core.words import ranks

Kind = Literal["signal", "restart", "drain", "stop"]
KINDS: tuple[str, ...] = get_args(Kind)

#: bytes of an action as JSON, and characters of who tells it and why
ACTION_MAX, BY_MAX, WHY_MAX = 1 << 16, 200, 1000
#: no node has more workers
_LOCAL_RANK_MAX = 4095


class Action(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One thing to do.

    Args:
        action: "signal" goes to the process groups of some workers of this node. "restart" ends the round of all nodes
            and starts their workers anew, at no cost to the budget. "drain" has this node stop its workers and leave
            the job; the others go on. "stop" ends the job for all nodes.
        by: who tells it: user@host and process.
        why: in their words.
        local_ranks: to whom the signal goes.
        signal: its name.
        incarnation: of the workers that are meant. With another one running nothing is done. A signal needs it.

    Raises:
        ConfigurationError: it can't be.
    """

    action: Kind
    by: str = ""
    why: str = ""
    local_ranks: tuple[int, ...] = ()
    signal: str = ""
    incarnation: int | None = None

    def __post_init__(self) -> None:
        if self.action not in KINDS:
            raise ConfigurationError(f"action is {self.action!r}; give signal, restart, drain or stop")
        _check_text("by", self.by, BY_MAX)
        _check_text("why", self.why, WHY_MAX)
        if self.incarnation is not None and self.incarnation < 0:
            raise ConfigurationError(f"incarnation is {self.incarnation}; they count from 0")
        if self.action == "signal":
            self._check_signal()
        elif self.local_ranks or self.signal:
            raise ConfigurationError(
                f"local_ranks and signal are for the action signal; {self.action} is for all workers of the node"
            )

    def _check_signal(self) -> None:
        if self.signal not in signal.Signals.__members__:
            raise ConfigurationError(f"signal is {self.signal!r}; give a name such as SIGKILL or SIGUSR1")
        if not self.local_ranks:
            raise ConfigurationError(
                "local_ranks is empty; name those whose workers get the signal, such as [0]"
            )
        wrong = [rank for rank in self.local_ranks if not 0 <= rank <= _LOCAL_RANK_MAX]
        if wrong:
            raise ConfigurationError(f"local_ranks has {wrong[0]}; give numbers from 0 to {_LOCAL_RANK_MAX}")
        if len(set(self.local_ranks)) != len(self.local_ranks):
            raise ConfigurationError("local_ranks names a rank twice; name each once")
        if self.incarnation is None:
            raise ConfigurationError(
                "incarnation is missing; say which workers are meant, so that those that come after them are spared"
            )

    @property
    def signum(self) -> int:
        """The number of its signal."""
        return int(signal.Signals[self.signal])

    def in_words(self) -> str:
        """What is asked, by whom and why, as reasons are given."""
        return asked(self.action, self.by, self.why, self.local_ranks, self.signal)


def asked(action: str, by: str, why: str, local_ranks: Sequence[int] = (), signal: str = "") -> str:
    """An action in words: "restart asked for by ada@gpu-a: loss is NaN"."""
    what = f"{signal} to local {ranks(list(local_ranks))}" if action == "signal" else action
    return f"{what} asked for by {by or 'somebody'}{f': {why}' if why else ''}"


def was_asked_for(reason: str) -> bool:
    """Whether a restart was asked for, by the reason that is given for it; see `asked`."""
    return reason.startswith("restart asked for by ")


def _check_text(name: str, text: str, length_max: int) -> None:
    if len(text) > length_max or not text.isprintable():
        raise ConfigurationError(
            f"{name} is {text[:60]!r}; give at most {length_max} printable characters on one line"
        )


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an action.

    Args:
        outcome: "unknown" is for one that the agent has begun with and not ended in time; the events will tell.
        detail: why it was refused.
    """

    outcome: Literal["done", "refused", "unknown"]
    detail: str = ""


class NoOrders:
    """Implements `toolkit.ports.Control` for an agent whom nobody tells anything."""

    def waiting(self) -> bool:
        """No."""
        return False

    def take(self) -> None:
        """Nothing."""
        return

    def met(self, store: Any, group_rank: int, group_world_size: int) -> None:
        """Nobody asks for the others."""


_actions: msgspec.json.Decoder[Action] = msgspec.json.Decoder(Action)


def action_of(data: bytes) -> Action:
    """The action in a JSON object.

    Raises:
        ConfigurationError: it is none.
    """
    if len(data) > ACTION_MAX:
        raise ConfigurationError(f"the action has {len(data)} bytes; give at most {ACTION_MAX}")
    try:
        return _actions.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        said = error.__cause__ if isinstance(error.__cause__, ConfigurationError) else error
        raise ConfigurationError(f"that is no action: {said}") from error
