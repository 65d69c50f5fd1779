"""One option of `rally run` as a value, and how its text is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.core.errors import ConfigurationError

_KINDS = {int: "a whole number", float: "a number", str: "text"}


def comma_separated(text: str) -> list[str]:
    """Split at commas; a doubled comma stands for one comma."""
    return [item.replace("\0", ",") for item in text.replace(",,", "\0").split(",")]


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Args:
        name: with dashes, without the leading ones; the spelling with underscores works too.
        help: what it does.
        metavar: what the help calls its value.
        short: a name of one letter, such as "-r".
        flag: takes no value.
        kind: makes the value from text; raises ValueError.
        default: the value if neither the command line nor the environment has one.
        choices: the values there are; empty for any.
        in_environment: whether `PET_<NAME>` gives a value, too.
        ours: not an option of torchrun.
        group: heading in the help.
    """

    name: str
    help: str
    metavar: str = ""
    short: str = ""
    flag: bool = False
    kind: Callable[[str], Any] = str
    default: Any = None
    choices: tuple[str, ...] = ()
    in_environment: bool = True
    ours: bool = False
    group: str = ""

    @property
    def long(self) -> str:
        """The name as messages write it."""
        return f"--{self.name}"

    @property
    def dest(self) -> str:
        """The attribute that holds the value."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable that gives a value."""
        return f"PET_{self.dest.upper()}"

    @property
    def names(self) -> tuple[str, ...]:
        """All spellings, short before long, dashes before underscores."""
        names = dict.fromkeys((self.short, self.long, f"--{self.dest}"))
        return tuple(name for name in names if name)

    def read(self, text: str, source: str) -> Any:
        """The value that `text`, found at `source`, stands for.

        Raises:
            ConfigurationError: not a value of this option.
        """
        try:
            value = bool(int(text)) if self.flag else self.kind(text)
        except ValueError:
            wanted = "1 or 0" if self.flag else _KINDS.get(self.kind, "another value")  # type: ignore[call-overload]
            raise ConfigurationError(f"{source} is {text!r}; give {wanted}") from None
        if self.choices and value not in self.choices:
            raise ConfigurationError(f"{source} is {text!r}; give {one_of(self.choices)}")
        return value


def one_of(words: Sequence[str]) -> str:
    """The words as a phrase: "a, b or c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
