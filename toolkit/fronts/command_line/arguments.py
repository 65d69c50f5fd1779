"""Reading the command line of `rally run`: parser, `PET_` variables and abbreviations follow from one table."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, NoReturn

from toolkit.core.errors import ConfigurationError
from toolkit.fronts.command_line.option import Option, one_of
from toolkit.fronts.command_line.option_table import OPTIONS

USAGE = "rally run [options] SCRIPT [arguments of the script]"
HINT = "`rally run --help` lists the options"

_HELP = Option("help", "Show this and end.", short="-h", flag=True, in_environment=False)
_BY_NAME = {name: option for option in (_HELP, *OPTIONS) for name in option.names}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would print its usage, 40 lines, before the message.
        raise ConfigurationError(f"{message}; {HINT}")


class _Help(argparse.HelpFormatter):
    def _format_action_invocation(self, action: argparse.Action) -> str:
        # One spelling is enough to read; the description says that underscores work too.
        if not action.option_strings:
            return super()._format_action_invocation(action)
        names = ", ".join(name for name in action.option_strings if "_" not in name)
        return f"{names} {action.metavar}" if action.metavar else names


def build_parser() -> argparse.ArgumentParser:
    """The parser of `rally run`: all options of torchrun and ours.

    It raises ConfigurationError where argparse would print and exit. It reads no environment variable, and
    an abbreviation only as argparse does; `parse_arguments` does both as torchrun's users need it.
    """
    parser = _Parser(
        prog="rally run",
        usage=USAGE,
        description="Run a script on several workers, watch them, and start them again when they fail. Takes "
        "what torchrun takes; names may be written with underscores, and most values can be given as "
        "environment variables such as PET_NNODES.",
        formatter_class=_Help,
        add_help=False,
    )
    groups: dict[str, Any] = {}
    parser.add_argument("-h", "--help", action="help", help=_HELP.help)
    for option in OPTIONS:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        _add(groups[option.group], option)
    parser.add_argument(
        "training_script", metavar="SCRIPT", help="Path of the script; see also -m, --no-python."
    )
    parser.add_argument(
        "training_script_args", metavar="...", nargs=argparse.REMAINDER, help="Its arguments."
    )
    return parser


def _add(group: Any, option: Option) -> None:
    if option.flag:
        group.add_argument(*option.names, action="store_true", default=option.default, help=option.help)
        return
    group.add_argument(
        *option.names,
        type=option.kind,
        default=option.default,
        choices=list(option.choices) or None,
        metavar=option.metavar,
        help=option.help,
    )


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of one command line, not yet checked against each other.

    Args:
        values: by dest, as torchrun's parser has them.
        sources: dest -> where the value came from, "--nnodes" or "PET_NNODES"; missing for defaults.
    """

    values: argparse.Namespace
    sources: Mapping[str, str]

    def name(self, dest: str) -> str:
        """What a message calls the value."""
        return self.sources.get(dest, f"--{dest.replace('_', '-')}")


def parse_arguments(argv: Sequence[str], environ: Mapping[str, str]) -> Arguments:
    """Read a command line; what it leaves out comes from `PET_` variables, then from the defaults.

    Everything behind the script is the script's own, whatever it looks like. (argparse up to Python 3.11
    refuses `torchrun train.py --m 1`, because `--m` could be short for several options of torchrun.)

    Args:
        argv: the words behind `rally run`.
        environ: where `PET_` variables are looked up.

    Raises:
        ConfigurationError: an option or a value that is not known, or no script.
        SystemExit: with code 0 after `--help`.
    """
    words, script = _normalise(argv)
    values = argparse.Namespace(**{option.dest: None for option in OPTIONS})
    given = build_parser().parse_args([*words, "--", *script[:1]], namespace=values)
    given.training_script_args = script[1:]
    named = {word.partition("=")[0] for word in words}
    sources = {}
    for option in OPTIONS:
        if option.long in named:
            sources[option.dest] = option.long
        elif option.in_environment and option.variable in environ:
            sources[option.dest] = option.variable
            setattr(given, option.dest, option.read(environ[option.variable], option.variable))
        else:
            setattr(given, option.dest, option.default)
    return Arguments(given, sources)


def _normalise(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split into options, each written in full as one word, and the script with its arguments."""
    words: list[str] = []
    rest = list(argv)
    while rest and rest[0] != "--" and _is_option(rest[0]):
        for option, value in _options_of(rest.pop(0)):
            words.append(option.long if option.flag else f"{option.long}={_value(option, value, rest)}")
    if "--help" in words:
        return ["--help"], []
    if rest[:1] == ["--"]:
        rest = rest[1:]
    elif rest[1:2] == ["--"]:
        # argparse gives the script no `--` that directly follows its name.
        rest = [rest[0], *rest[2:]]
    if not rest:
        raise ConfigurationError(f"there is no script to run; the form is: {USAGE}")
    return words, rest


def _value(option: Option, value: str | None, rest: list[str]) -> str:
    if value is None:
        if not rest or rest[0] == "--" or _is_option(rest[0]):
            raise ConfigurationError(f"{option.long} needs a value ({option.metavar}); {HINT}")
        value = rest.pop(0)
    # argparse would say the same in words that name all spellings and a Python type.
    option.read(value, option.long)
    return value


def _is_option(word: str) -> bool:
    if not word.startswith("-") or word == "-" or re.fullmatch(r"-\d+|-\d*\.\d+", word):
        return False
    return " " not in word or "=" in word or word[:2] in _BY_NAME


def _options_of(word: str) -> Iterator[tuple[Option, str | None]]:
    """The options in one word, with their values where the word has them: `--tee=3`, `-t3`, `-mq`."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        option = _resolve(name)
        if option.flag and equals:
            raise ConfigurationError(
                f"{option.long} takes no value, and {word!r} gives one; write {option.long}"
            )
        yield option, value if equals else None
        return
    if f"-{word}" in _BY_NAME:
        raise ConfigurationError(f"{word} is not an option; write it with two dashes: -{word}")
    letters = word[1:]
    while letters:
        short, letters = _BY_NAME.get(f"-{letters[0]}"), letters[1:]
        if short is None:
            raise ConfigurationError(f"{word} is not an option; {HINT}")
        if short.flag:
            yield short, None
            continue
        yield short, letters.removeprefix("=") or None
        return


def _resolve(name: str) -> Option:
    """The option with this name, or with the one name that begins like this.

    torchrun's come first, so that ours never take an abbreviation away from them.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    for ours in (False, True):
        found = {
            option.long: option
            for key, option in _BY_NAME.items()
            if key.startswith(name) and option.ours == ours
        }
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            raise ConfigurationError(f"{name} could be {one_of(list(found))}; write it in full")
    near = _nearest(name.replace("_", "-"))
    raise ConfigurationError(f"{name} is not an option; {f'did you mean {near}?' if near else HINT}")


def check_keyword(name: str) -> None:
    """That an option is called so, with underscores, in full: an abbreviation could be meant for something else.

    Raises:
        ConfigurationError: it is not; the nearest is named.
    """
    if f"--{name.replace('_', '-')}" not in _BY_NAME:
        near = _nearest(f"--{name.replace('_', '-')}")
        hint = f"did you mean {near.strip('-').replace('-', '_')}?" if near else HINT
        raise ConfigurationError(f"{name} is not an option; {hint}")


def _nearest(name: str) -> str | None:
    names = [option.long for option in OPTIONS]
    if close := get_close_matches(name, names, n=1, cutoff=0.75):
        return close[0]
    # `--nprocs` is far from `--nproc-per-node` by edits, but it begins like it.
    begins = max(names, key=lambda known: _same_start(known, name))
    return begins if _same_start(begins, name) >= len("--four") else None


def _same_start(one: str, other: str) -> int:
    """How many characters they begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
