"""How single values of `rally run` are read: numbers, seconds, signals, ranks. Each error names value and remedy."""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Mapping
from difflib import get_close_matches

from toolkit.core.errors import ConfigurationError
from toolkit.fronts.command_line.arguments import Arguments
from toolkit.fronts.command_line.option import one_of

#: what `--nproc-per-node` may say besides a number and the name of an out-of-tree device
NPROC_WORDS = ("cpu", "gpu", "xpu", "auto")
_SHUTDOWN_TIMEOUT_S = 30
_SHUTDOWN_VARIABLE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
#: readings more often than this would cost what they measure
_READINGS_INTERVAL_MIN_S = 0.25
_UNHANDLED = (signal.SIGKILL, signal.SIGSTOP)


def at_least_0(value: int, name: str, what: str) -> int:
    """The value, which is 0 or more of `what`."""
    if value < 0:
        raise ConfigurationError(f"{name} is {value}; give 0 or more {what}")
    return value


def nproc(text: str, name: str) -> int | str:
    """The number of workers of a node, or a word that `preflight.resolve_nproc` turns into one."""
    try:
        number = int(text)
    except ValueError:
        if re.fullmatch(r"[A-Za-z_]\w*", text):
            return text
        raise ConfigurationError(f"{name} is {text!r}; give a number or {one_of(NPROC_WORDS)}") from None
    if number < 1:
        raise ConfigurationError(
            f"{name} is {text}; a node has at least 1 worker; give a number or {one_of(NPROC_WORDS)}"
        )
    return number


def positive(value: float, name: str) -> float:
    """The value, which is a number of seconds above 0."""
    if not (value > 0 and math.isfinite(value)):
        raise ConfigurationError(f"{name} is {value}; give a number of seconds above 0")
    return value


def readings_interval(value: float, name: str) -> float:
    """Seconds between two readings, or 0 for none."""
    if value != 0 and not (value >= _READINGS_INTERVAL_MIN_S and math.isfinite(value)):
        raise ConfigurationError(
            f"{name} is {value}; give at least {_READINGS_INTERVAL_MIN_S} seconds, or 0 for no readings"
        )
    return value


def shutdown_timeout(arguments: Arguments, environ: Mapping[str, str]) -> int:
    """The grace in seconds, of the option or of torch's variable."""
    value, name = arguments.values.shutdown_timeout, arguments.name("shutdown_timeout")
    if value is None:
        text, name = environ.get(_SHUTDOWN_VARIABLE, str(_SHUTDOWN_TIMEOUT_S)), _SHUTDOWN_VARIABLE
        try:
            value = int(text)
        except ValueError:
            raise ConfigurationError(f"{name} is {text!r}; give a whole number of seconds") from None
    return at_least_0(value, name, "seconds")


def signals(text: str, name: str) -> tuple[signal.Signals, ...]:
    """The signals that a list of names gives, each once."""
    return tuple(dict.fromkeys(_signal(word.strip(), name) for word in text.split(",")))


def _signal(word: str, name: str) -> signal.Signals:
    known = signal.Signals.__members__
    if word not in known:
        near = get_close_matches(word.upper(), known, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]}?" if near else "give names such as SIGTERM,SIGUSR1"
        raise ConfigurationError(f"{name} names {word!r}, which is not a signal here; {remedy}")
    if known[word] in _UNHANDLED:
        raise ConfigurationError(f"{name} names {word}, which no process can handle; leave it out")
    return known[word]


def ranks(text: str, name: str) -> frozenset[int] | None:
    """The local ranks of a list; None where there is none."""
    if not text:
        return None
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", text):
        raise ConfigurationError(f"{name} is {text!r}; give local ranks with commas in between, such as 0,1")
    return frozenset(int(rank) for rank in text.split(","))
