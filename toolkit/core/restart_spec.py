"""A restart policy as one word of a command line: `window=1h,backoff=1s..60s,never-on=78/SIGSEGV`. Pure.

No character of it means anything to a shell. Words stand for policies that are often wanted; settings refine them.
"""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

from toolkit.core.errors import ConfigurationError
from toolkit.core.restarts import PLAIN_BUDGET, RestartPolicy

#: what each word stands for
WORDS: dict[str, dict[str, Any]] = {
    "budget": {},
    "never": {"never": True},
    "backoff": {"backoff_s": 1.0, "backoff_max_s": 60.0, "jitter": 0.2},
    "crash-loop": {"crash_loop": 3},
}
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|min|m|h|d)?")


def policy_of(spec: str, name: str = "the restart policy") -> RestartPolicy:
    """The policy that a text describes.

    Args:
        name: what messages call it.

    Raises:
        ConfigurationError: a word, setting or value that is none; says which, and what there is.
    """
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    for part in spec.split(","):
        key, equals, text = (piece.strip() for piece in part.partition("="))
        if key in given:
            raise ConfigurationError(f"{name} has {given[key]!r} and {part.strip()!r}; give {key} once")
        given[key] = part.strip()
        if equals:
            values.update(_setting(key, text, name))
        else:
            values.update(_word(key, name))
    problem = _conflict(given, values)
    if problem:
        raise ConfigurationError(f"{name} is {spec!r}: {problem}")
    try:
        return RestartPolicy(**values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name} is {spec!r}: {error}") from None


def spec_of(policy: RestartPolicy) -> str:
    """The text that describes a policy; `policy_of` gives it back."""
    parts = ["never"] if policy.never else []
    if policy.window_s is not None:
        parts.append(f"window={duration_of(policy.window_s)}")
    if policy.backoff_s:
        parts.append(f"backoff={duration_of(policy.backoff_s)}..{duration_of(policy.backoff_max_s)}")
        if policy.jitter:
            parts.append(f"jitter={policy.jitter!r}")
    if policy.crash_loop is not None:
        parts.append(f"crash-loop={policy.crash_loop}")
    for key, codes in (("never-on", policy.never_on), ("free-on", policy.free_on)):
        if codes:
            parts.append(f"{key}={'/'.join(_code_of(code) for code in sorted(codes))}")
    if policy.steady_s != PLAIN_BUDGET.steady_s:
        parts.append(f"steady={duration_of(policy.steady_s)}")
    return ",".join(parts) or "budget"


def name_of(policy: Any) -> str:
    """What events call a policy: its text, or the name of one's own."""
    if type(policy) is RestartPolicy:
        return spec_of(policy)
    name = getattr(policy, "name", None)
    return name if isinstance(name, str) and name else type(policy).__qualname__


def is_own(spec: str) -> bool:
    """Whether a text names a policy of one's own: `module:name`, `file.py:name`, or a word that is none of ours."""
    text = spec.strip()
    return ":" in text or (
        text.isprintable() and not {"=", ","} & set(text) and text not in {"", *WORDS, *_SETTINGS}
    )


def what_there_is() -> str:
    """The set in a sentence, for messages."""
    return (
        f"words are {', '.join(WORDS)}; settings are {', '.join(f'{key}=' for key in _SETTINGS)}; "
        "module:name and file.py:name are for policies of one's own"
    )


def nearest(word: str) -> str:
    """What somebody who wrote this may have meant, or an empty string."""
    near = get_close_matches(word.replace("_", "-"), [*WORDS, *_SETTINGS], n=1)
    return near[0] if near else ""


def duration_of(seconds: float) -> str:
    """Seconds as a text with a unit: "1h", "1.5s"."""
    for unit in ("d", "h", "m"):
        whole = seconds / _UNITS[unit]
        if whole >= 1 and whole == int(whole):
            return f"{int(whole)}{unit}"
    text = repr(float(seconds))
    return f"{seconds:f}s" if "e" in text else f"{text.removesuffix('.0')}s"


# -- reading --------------------------------------------------------------------------------------------------


def _word(word: str, name: str) -> dict[str, Any]:
    if word in WORDS:
        return WORDS[word]
    if word in _SETTINGS:
        raise ConfigurationError(f"{name}: {word} needs a value; write {word}={_EXAMPLES[word]}")
    if not word:
        raise ConfigurationError(f"{name} has nothing between two commas, or is empty; {what_there_is()}")
    raise ConfigurationError(f"{name}: {word!r} is not known; {_remedy(word)}")


def _setting(key: str, text: str, name: str) -> dict[str, Any]:
    if key not in _SETTINGS:
        if key in WORDS:
            raise ConfigurationError(f"{name}: {key} takes no value, and is given {text!r}; write {key}")
        raise ConfigurationError(f"{name}: {key!r} is not known; {_remedy(key)}")
    try:
        return _SETTINGS[key](text)
    except ValueError as error:
        why = f" ({error})" if isinstance(error, _WrongCode) else ""
        raise ConfigurationError(
            f"{name}: {key} is {text!r}{why}; write for instance {key}={_EXAMPLES[key]}"
        ) from None


def _remedy(word: str) -> str:
    near = nearest(word)
    return f"did you mean {near}?" if near else what_there_is()


class _WrongCode(ValueError):
    """Neither an exit code nor a signal."""


def _seconds(text: str) -> float:
    """A duration such as 90s, 1.5h or 1h30m; a bare number is seconds."""
    matches = list(_DURATION.finditer(text))
    if not text or "".join(match[0] for match in matches) != text:
        raise ValueError(text)
    if len(matches) > 1 and any(match[2] is None for match in matches):
        raise ValueError(text)
    seconds = sum(float(match[1]) * _UNITS[match[2] or "s"] for match in matches)
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(text)
    return seconds


def _backoff(text: str) -> dict[str, Any]:
    low, dots, high = text.partition("..")
    first = _seconds(low)
    longest = _seconds(high) if dots else max(first, PLAIN_BUDGET.backoff_max_s)
    if first > longest:
        raise ValueError(text)
    return {"backoff_s": first, "backoff_max_s": longest}


def _share(text: str) -> float:
    share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    if not 0 <= share <= 1:
        raise ValueError(text)
    return share


def _length(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 2 <= int(text) <= 1000:
        raise ValueError(text)
    return int(text)


def _codes(text: str) -> frozenset[int]:
    return frozenset(_code(word) for word in text.split("/"))


def _code(word: str) -> int:
    """1 to 255, or a signal by its name, with or without SIG."""
    if word.isascii() and word.isdecimal():
        if 1 <= int(word) <= 255:
            return int(word)
        raise _WrongCode(f"{word} is no exit code of a failure, which is 1 to 255")
    known = signal.Signals.__members__
    named = word.upper() if word.upper().startswith("SIG") else f"SIG{word.upper()}"
    if named in known:
        return -int(known[named])
    near = get_close_matches(named, known, n=1, cutoff=0.6)
    raise _WrongCode(
        f"{word!r} is neither an exit code nor a signal" + (f"; did you mean {near[0]}?" if near else "")
    )


def _code_of(code: int) -> str:
    return str(code) if code >= 0 else _signal_of(-code)


def _signal_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(-number)


_SETTINGS: dict[str, Callable[[str], dict[str, Any]]] = {
    "window": lambda text: {"window_s": _seconds(text)},
    "backoff": _backoff,
    "jitter": lambda text: {"jitter": _share(text)},
    "crash-loop": lambda text: {"crash_loop": _length(text)},
    "never-on": lambda text: {"never_on": _codes(text)},
    "free-on": lambda text: {"free_on": _codes(text)},
    "steady": lambda text: {"steady_s": _seconds(text)},
}
_EXAMPLES = {
    "window": "1h",
    "backoff": "1s..60s",
    "jitter": "0.2",
    "crash-loop": "3",
    "never-on": "2/78/SIGSEGV",
    "free-on": "75/SIGUSR1",
    "steady": "10m",
}


def _conflict(given: Iterable[str], values: dict[str, Any]) -> str:
    keys = set(given)
    if values.get("never") and not values.get("free_on"):
        useless = sorted(keys - {"never"})
        if useless:
            return f"with never nothing is started again, so that {useless[0]} has no effect; leave one of them out"
    if "jitter" in keys and not values.get("backoff_s"):
        return "jitter lengthens a back-off, and there is none; add backoff, or leave jitter out"
    if "steady" in keys and not {"backoff", "crash-loop", "free-on"} & keys:
        return "steady is for backoff, crash-loop and free-on, and none of them is given; add one, or leave steady out"
    return ""
