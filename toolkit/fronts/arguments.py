"""The arguments of `rally run`: those of torchrun, name by name, and ten of ours.

The table is the one source; the parser, the `PET_` variables and the reading of abbreviations follow from it.
Names, defaults, choices and meaning are those of `torch/distributed/run.py` (torch 2.13), which is not
imported; one default is ours, that of `--rdzv-backend`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from itertools import takewhile
from typing import Any, NoReturn

from toolkit.core.errors import ConfigurationError
from toolkit.fronts import control_options
from toolkit.fronts.option import Option, comma_separated, one_of

USAGE = "rally run [options] SCRIPT [arguments of the script]"
HINT = "`rally run --help` lists the options"

_SIZE, _SCRIPT, _RESTART = "size of the job", "what the workers run", "supervision"
_RENDEZVOUS, _LOGS, _OURS = "how nodes find each other", "logs", "only in rally"

#: an option that torchrun does not have
_ours = partial(Option, ours=True, group=_OURS)

OPTIONS: tuple[Option, ...] = (
    Option(
        "nnodes",
        "Nodes of the job: a number, or MIN:MAX for a job that may shrink and grow. Default: 1.",
        "N|MIN:MAX",
        default="1:1",
        group=_SIZE,
    ),
    Option(
        "nproc-per-node",
        "Workers on this node: a number; gpu, xpu or cpu for one per device; auto for one per GPU of any "
        "make, or per CPU core where there is none. Default: 1.",
        "N|WORD",
        default="1",
        group=_SIZE,
    ),
    Option(
        "rdzv-backend",
        "How the nodes meet: rally, or torch's static, c10d, etcd, etcd-v2, or the name of a plug-in. Default: rally.",
        "NAME",
        default="rally",
        group=_RENDEZVOUS,
    ),
    Option(
        "rdzv-endpoint",
        "Where they meet, usually HOST:PORT; the same on every node. Default for rally and static: --master-addr.",
        "HOST:PORT",
        default="",
        group=_RENDEZVOUS,
    ),
    Option(
        "rdzv-id",
        "Name of the job; the same on every node, different for each job.",
        "NAME",
        default="none",
        group=_RENDEZVOUS,
    ),
    Option(
        "rdzv-conf",
        "Settings of the backend, KEY=VALUE separated by commas; rally has join_timeout, last_call_timeout, "
        "lease, beat, store_timeout, join_window, spare, is_host.",
        "KEY=VALUE,...",
        default="",
        group=_RENDEZVOUS,
    ),
    Option(
        "standalone",
        "One node that asks nobody else; the --rdzv options are ignored.",
        flag=True,
        default=False,
        group=_RENDEZVOUS,
    ),
    Option(
        "max-restarts",
        "How often the workers are started again after a failure. Default: 0.",
        "N",
        kind=int,
        default=0,
        group=_RESTART,
    ),
    Option(
        "monitor-interval",
        "Longest time between two looks at the workers; an exit is seen at once in any case. Default: 0.1.",
        "SECONDS",
        kind=float,
        default=0.1,
        group=_RESTART,
    ),
    Option(
        "start-method",
        "How Python starts workers that are functions (--run-path). Default: spawn.",
        "METHOD",
        default="spawn",
        choices=("spawn", "fork", "forkserver"),
        group=_SCRIPT,
    ),
    Option(
        "event-log-handler",
        "Handler of torch.distributed.elastic.events that also gets the events. Default: null.",
        "NAME",
        default="null",
        group=_LOGS,
    ),
    Option("role", "Role of these workers. Default: default.", "NAME", default="default", group=_SIZE),
    Option(
        "module", "SCRIPT is a module, as for python -m.", short="-m", flag=True, default=False, group=_SCRIPT
    ),
    Option(
        "no-python",
        "SCRIPT is a program of any kind; run it without Python.",
        flag=True,
        default=False,
        group=_SCRIPT,
    ),
    Option(
        "run-path",
        "Run SCRIPT, an absolute path, inside the worker's interpreter; stronger than --no-python.",
        flag=True,
        default=False,
        group=_SCRIPT,
    ),
    Option("log-dir", "Folder for the workers' logs.", "DIR", group=_LOGS),
    Option(
        "redirects",
        "Streams that go to a file only: 0 none, 1 stdout, 2 stderr, 3 both, or a map by local rank such as "
        "0:3,1:2. Default: 0.",
        "STREAMS",
        short="-r",
        default="0",
        group=_LOGS,
    ),
    Option(
        "tee",
        "Streams that go to a file and to the console; written as for --redirects. Default: 0.",
        "STREAMS",
        short="-t",
        default="0",
        group=_LOGS,
    ),
    Option(
        "local-ranks-filter",
        "Local ranks that show on the console, such as 0,1. Files get all. Default: all.",
        "RANK,...",
        default="",
        group=_LOGS,
    ),
    Option(
        "duplicate-stdout-filters",
        "Words; lines of stdout with one of them also go to one file for all ranks. Two commas make one.",
        "WORD,...",
        kind=comma_separated,
        default=[],
        group=_LOGS,
    ),
    Option(
        "duplicate-stderr-filters",
        "The same for stderr.",
        "WORD,...",
        kind=comma_separated,
        default=[],
        group=_LOGS,
    ),
    Option(
        "node-rank",
        "Rank of this node, from 0; for static and rally. Default: 0, with rally open.",
        "RANK",
        kind=int,
        default=0,
        group=_RENDEZVOUS,
    ),
    Option(
        "master-addr",
        "Address of node 0; for static and rally. Default: 127.0.0.1.",
        "HOST",
        default="127.0.0.1",
        group=_RENDEZVOUS,
    ),
    Option(
        "master-port",
        "Port on node 0; for static and rally. Default: 29500, and a free one on a single node.",
        "PORT",
        kind=int,
        group=_RENDEZVOUS,
    ),
    Option(
        "local-addr", "Address of this node, if the one that is found is wrong.", "HOST", group=_RENDEZVOUS
    ),
    Option(
        "logs-specs",
        "Plug-in of the group torchrun.logs_specs that decides where logs go.",
        "NAME",
        in_environment=False,
        group=_LOGS,
    ),
    Option(
        "numa-binding",
        "Bind each worker to CPUs near its GPU: node, socket, exclusive or core-complex.",
        "MODE",
        choices=("node", "socket", "exclusive", "core-complex"),
        in_environment=False,
        group=_SCRIPT,
    ),
    Option(
        "signals-to-handle",
        "Signals that end the job in order. Default: SIGTERM,SIGINT,SIGHUP,SIGQUIT.",
        "SIGNAL,...",
        default="SIGTERM,SIGINT,SIGHUP,SIGQUIT",
        group=_RESTART,
    ),
    Option(
        "shutdown-timeout",
        "Time that workers have to end before SIGKILL. Default: TORCH_ELASTIC_SHUTDOWN_TIMEOUT, or 30.",
        "SECONDS",
        kind=int,
        group=_RESTART,
    ),
    Option(
        "virtual-local-rank",
        "Each worker sees one GPU, its own, as device 0, and LOCAL_RANK=0.",
        flag=True,
        default=False,
        group=_SCRIPT,
    ),
    _ours(
        "run-dir",
        "Folder for the recording of this run. Default: a new one under the user's state folder.",
        "DIR",
    ),
    _ours("quiet", "No status line, no notices.", short="-q", flag=True, default=False),
    _ours(
        "spares",
        "How many nodes may wait beside a full round, on top of --nnodes. Default: any number.",
        "N",
        kind=int,
    ),
    _ours(
        "topology",
        "Label of this node, such as its rack; like labels get ranks side by side. Default: RALLY_TOPOLOGY.",
        "LABEL",
        in_environment=False,
    ),
    _ours(
        "readings-interval",
        "Time between two readings of what the workers and GPUs use; 0 for none. Default: 1.",
        "SECONDS",
        kind=float,
        default=1.0,
    ),
    _ours(
        "exit-barrier-timeout",
        "How long a node that is done waits for the others; not with rally. Default: 300.",
        "SECONDS",
        kind=float,
        default=300.0,
    ),
    *control_options.OPTIONS,
)

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
