"""Values that say which of their fields was misspelt or got no number, where a dataclass would raise a TypeError."""

from __future__ import annotations

import inspect
from numbers import Integral, Real
from typing import Any, Self

from toolkit.core.errors import ConfigurationError
from toolkit.core.words import did_you_mean

#: annotations that are checked: what such a field takes, and how to say so
_NUMBERS = {"int": (Integral, "a whole number"), "float": (Real, "a number")}


class NamedFields:
    """A base of dataclasses whose fields are given by name. It looks at them before the dataclass does."""

    __slots__ = ()

    def __new__(cls, *_: Any, **given: Any) -> Self:
        known = getattr(cls, "__dataclass_fields__", {})
        for name, value in given.items():
            if name in known:
                _check_number(cls, name, value, str(known[name].type))
            elif not _takes(cls, name):
                raise ConfigurationError(
                    f"{cls.__name__} has no field {name!r}; {_remedy(name, list(known))}"
                )
        return super().__new__(cls)


def _takes(kind: type, name: str) -> bool:
    """Whether it is made by an `__init__` of somebody's own that knows the name."""
    known = inspect.signature(kind).parameters
    return name in known or any(each.kind == each.VAR_KEYWORD for each in known.values())


def _check_number(kind: type, name: str, value: Any, annotation: str) -> None:
    wanted, _, optional = annotation.partition(" | ")
    if wanted not in _NUMBERS or optional not in ("", "None") or (optional and value is None):
        return
    number, words = _NUMBERS[wanted]
    if not isinstance(value, number):
        raise ConfigurationError(f"{kind.__name__} has {name}={value!r}; give {words}")


def _remedy(name: str, known: list[str]) -> str:
    # `at` and `for` lack but their unit.
    longer = [each for each in known if each.startswith(f"{name}_")]
    otherwise = f"did you mean {' or '.join(longer)}?" if longer else f"there are {', '.join(known)}"
    return did_you_mean(name, known, otherwise)
