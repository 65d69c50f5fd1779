"""The filter language of `rally top`, such as `state=failed node~gpu-1 util<5 !spare`. Pure.

Words stand side by side and must all hold. `field=value`, `!=`, `~` (contains), `<`, `<=`, `>`, `>=`; a word without a
field is looked for in everything, its letters in their order (fuzzy); `!` in front turns a word around. Quotes keep
blanks together.
"""

from __future__ import annotations

import operator
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from toolkit.core.errors import ConfigurationError

#: what a row is to a filter: text or a number by field; None where there is none
Fields = Mapping[str, str | float | None]

_WORD = re.compile(r"(?P<not>!?)(?P<field>[a-zA-Z_]+)(?P<op>!=|<=|>=|=|~|<|>)(?P<value>.*)", re.DOTALL)
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)([kmgt]i?)?b?%?", re.IGNORECASE)
_SIZES = {
    "": 1.0,
    "k": 1e3,
    "m": 1e6,
    "g": 1e9,
    "t": 1e12,
    "ki": 2.0**10,
    "mi": 2.0**20,
    "gi": 2.0**30,
    "ti": 2.0**40,
}
_ORDERS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter that was understood.

    Args:
        text: as it was typed.
        terms: all of which must hold.
    """

    text: str = ""
    terms: tuple[Callable[[Fields], bool], ...] = ()

    def __call__(self, fields: Fields) -> bool:
        return all(term(fields) for term in self.terms)

    def __bool__(self) -> bool:
        return bool(self.terms)


def parsed(text: str, known: tuple[str, ...]) -> Filter:
    """The filter that a user typed.

    Args:
        known: fields that rows have.

    Raises:
        ConfigurationError: a field that rows don't have, or an order of what is no number.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigurationError(f"{text!r} is not a filter: a quote is not closed") from error
    return Filter(text.strip(), tuple(_term(word, known) for word in words))


def typed(text: str, known: tuple[str, ...]) -> str:
    """What holds of a filter while it is typed: all but a last word that may become the name of a field."""
    before, blank, last = text.rpartition(" ")
    word = last.removeprefix("!").lower()
    return before + blank if word and any(name.startswith(word) for name in known) else text


def _term(word: str, known: tuple[str, ...]) -> Callable[[Fields], bool]:
    found = _WORD.fullmatch(word)
    if found is None:
        negated, letters = word.startswith("!"), word.removeprefix("!").lower()
        return lambda fields: _is_somewhere(letters, fields) != negated
    field, op, value = _field(found["field"].lower(), known), found["op"], found["value"]
    if op in _ORDERS:
        holds = _ordered(field, op, value)
    elif op == "~":
        holds = _contains(field, value.lower())
    else:
        holds = _equals(field, value.lower())
    negated = (found["not"] == "!") != (op == "!=")
    return lambda fields: holds(fields) != negated


def _field(name: str, known: tuple[str, ...]) -> str:
    if name in known:
        return name
    near = get_close_matches(name, known, n=1)
    remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    raise ConfigurationError(f"there is no field {name!r}; {remedy}")


def _ordered(field: str, op: str, text: str) -> Callable[[Fields], bool]:
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise ConfigurationError(
            f"{field}{op}{text}: {text!r} is not a number; such as {field}{op}5 or {field}{op}2G"
        )
    bound, compare = float(found[1]) * _SIZES[(found[2] or "").lower()], _ORDERS[op]

    def holds(fields: Fields) -> bool:
        value = fields.get(field)
        return isinstance(value, int | float) and compare(value, bound)

    return holds


def _contains(field: str, text: str) -> Callable[[Fields], bool]:
    return lambda fields: text in _text(fields.get(field))


def _equals(field: str, text: str) -> Callable[[Fields], bool]:
    return lambda fields: _text(fields.get(field)) == text


def _text(value: str | float | None) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value).lower()


def _is_somewhere(letters: str, fields: Fields) -> bool:
    return any(_fuzzy(letters, _text(value)) for value in fields.values())


def _fuzzy(letters: str, text: str) -> bool:
    """Whether the letters are there, in this order. Digits must stand together: 12 is not in 1x2."""
    if letters in text:
        return True
    if any(letter.isdigit() for letter in letters):
        return False
    position = 0
    for letter in letters:
        position = text.find(letter, position) + 1
        if not position:
            return False
    return True
