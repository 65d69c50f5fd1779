"""`rally doctor`: looks at this machine before a run. Changes nothing; needs no root. stdout is data."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import msgspec

from toolkit.adapters.doctor.gather import Gathered, Gatherer, gather
from toolkit.core import rally_conf
from toolkit.core.doctor.checks import CHECKS, Check, chosen_checks, facts_needed, judged
from toolkit.core.doctor.facts import Machine
from toolkit.core.doctor.findings import Asked, Report, report
from toolkit.core.errors import ConfigurationError
from toolkit.core.words import plural
from toolkit.fronts.show import json_text
from toolkit.views.doctor_lines import report_lines
from toolkit.views.wording import shows_unicode, visible

BAD_INPUT = 2
#: importing torch from a slow disk, and asking a driver that nobody has woken up, take longer
_PATIENT = {"torch": 6.0, "gpus": 3.0}
#: columns where there is no terminal
_WIDTH = 100
_SHUTDOWN_TIMEOUT = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"

#: fields of `Machine` -> what gathers them, and how long each may take -> what came
Gather = Callable[[Mapping[str, Gatherer], Mapping[str, float]], Gathered]


class _Words(msgspec.Struct, frozen=True, kw_only=True):
    """The command line, read."""

    as_json: bool
    every: bool
    listing: bool
    strict: bool
    checks: list[Check]
    nproc: int | str | None
    endpoint: tuple[str, int] | None
    endpoint_text: str
    log_dir: str
    shutdown_timeout_s: int
    patience_s: float


def doctor_command(
    argv: Sequence[str],
    *,
    environ: Mapping[str, str],
    state_dir: Path,
    executable: str,
    stdout: TextIO,
    stderr: TextIO,
    gatherers: Callable[[_Words], dict[str, Gatherer]] | None = None,
    run: Gather = gather,
) -> int:
    """Look at this machine.

    Args:
        argv: the words behind `rally doctor`.
        environ: what workers would inherit.
        state_dir: where runs are recorded.
        executable: the interpreter if PYTHON_EXEC names none.
        gatherers: what gathers facts; by default from this machine.
        run: has them gather.

    Returns:
        The exit code: 0 a run can be, 1 a problem would break it (with --strict: or there is a warning), 2 bad input.
    """
    try:
        words = _read(argv, environ)
        if words.listing:
            _print_list(words, stdout)
            return 0
        make = gatherers or (lambda words: _of_this_machine(words, environ, state_dir, executable))
        needed = facts_needed(words.checks)
        asking = {name: gatherer for name, gatherer in make(words).items() if name in needed}
        gathered = run(asking, {name: words.patience_s * _PATIENT.get(name, 1.0) for name in asking})
        asked = _asked(words, environ, gathered.machine, executable)
    except ConfigurationError as error:
        print(visible(f"rally doctor: {error}", stderr), file=stderr)
        return BAD_INPUT
    found = report(
        judged(words.checks, gathered.machine, asked, gathered.silent),
        asked,
        gathered.machine,
        gathered.silent,
        strict=words.strict,
        took_s=gathered.took_s,
    )
    if words.as_json:
        stdout.write(json_text(found, stdout))
    else:
        _print(found, asked, words, stdout)
    return found.exit_code


def json_schema() -> bytes:
    """The JSON schema of `Report`, as `doctor.schema.json` has it."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Report)), indent=2) + b"\n"


# -- the command line -----------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rally doctor",
        description="Look at this machine before a run: limits, memory, control groups, names and ports, GPUs and "
        "their driver, torch, the clock, disks, variables. Changes nothing, needs no root.",
        epilog="exit codes: 0 a run can be, 1 a problem would break it (--strict: or there is a warning), 2 bad input",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--json", action="store_true", help="one JSON object on stdout, for machines")
    add("--strict", action="store_true", help="a warning makes the exit code 1, too")
    add("-a", "--all", action="store_true", help="a line for each check, also where all is well")
    add("--list", action="store_true", help="the ids of all checks, and what each looks at; checks nothing")
    add(
        "--only",
        action="append",
        default=[],
        metavar="ID",
        help="only these checks: ids, groups or patterns (gpu.*)",
    )
    add("--skip", action="append", default=[], metavar="ID", help="not these")
    add(
        "--nproc-per-node",
        "--nproc",
        metavar="N",
        help="judge for N workers: a number, cpu, gpu or auto. Default: one for each GPU, or for each core without",
    )
    add("--endpoint", metavar="HOST:PORT", help="can the rendezvous endpoint be reached from here")
    add("--log-dir", metavar="DIR", help="can logs be written there")
    add("--shutdown-timeout", metavar="SECONDS", help="of the run, to judge what Slurm or Kubernetes allows")
    add(
        "--timeout",
        metavar="SECONDS",
        default="5",
        help="each check may take so long (default: 5); the GPU driver 3 times, torch 6 times that",
    )
    return parser


def _read(argv: Sequence[str], environ: Mapping[str, str]) -> _Words:
    args = _parser().parse_args(list(argv))
    if args.list and args.json:
        raise ConfigurationError("--list is for people and --json of what is found; leave one of them out")
    checks = chosen_checks(_split(args.only, "--only"), _split(args.skip, "--skip"))
    timeout = args.shutdown_timeout
    source = "--shutdown-timeout" if timeout is not None else _SHUTDOWN_TIMEOUT
    return _Words(
        as_json=args.json,
        every=args.all,
        listing=args.list,
        strict=args.strict,
        checks=checks,
        nproc=_nproc(args.nproc_per_node),
        endpoint=_endpoint(args.endpoint),
        endpoint_text=args.endpoint or "",
        log_dir=args.log_dir or "",
        shutdown_timeout_s=int(_number(timeout or environ.get(_SHUTDOWN_TIMEOUT) or "30", source, least=0)),
        patience_s=_number(args.timeout, "--timeout", least=0.1),
    )


def _split(words: Sequence[str], option: str) -> list[str]:
    parts = [part for word in words for part in word.split(",") if part]
    if words and not parts:
        raise ConfigurationError(f"{option} is empty; `rally doctor --list` has what it takes")
    return parts


def _nproc(text: str | None) -> int | str | None:
    from toolkit.fronts.command_line.option_values import nproc

    return None if text is None else nproc(text, "--nproc-per-node")


def _endpoint(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    from toolkit.fronts.command_line.rendezvous_settings import RALLY, parse_endpoint

    host, port = parse_endpoint(text, RALLY, "--endpoint")
    return host, port


def _number(text: str, source: str, *, least: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= 1e6:
        raise ConfigurationError(f"{source} is {text!r}; give a number of seconds from {least:g} on")
    return value


def _asked(words: _Words, environ: Mapping[str, str], machine: Machine, executable: str) -> Asked:
    from toolkit.fronts.command_line.option_table import OPTIONS

    nproc, source = words.nproc, "--nproc-per-node"
    if isinstance(nproc, str):
        from toolkit.fronts.preflight import resolve_nproc

        nproc, source = (
            resolve_nproc(nproc, environ, environ.get("PYTHON_EXEC") or executable),
            f"{source} {nproc}",
        )
    elif nproc is None:
        nproc, source = _likely(machine)
    return Asked(
        nproc=nproc,
        nproc_from=source,
        shutdown_timeout_s=words.shutdown_timeout_s,
        endpoint=words.endpoint_text,
        environ=dict(environ),
        variables=tuple(option.variable for option in OPTIONS if option.in_environment),
    )


def _likely(machine: Machine) -> tuple[int, str]:
    """How many workers such a machine would have: one for each GPU, or for each core."""
    if machine.gpus is not None and machine.gpus.gpus:
        return len(machine.gpus.gpus), "one for each GPU"
    if machine.torch is not None and machine.torch.devices:
        return machine.torch.devices, "one for each GPU"
    cgroup = machine.cgroup
    if cgroup is None:
        return 1, "give --nproc-per-node for more"
    return max(int(min(cgroup.cpu_quota_cores or cgroup.cores, cgroup.cores)), 1), "one for each core"


# -- this machine ---------------------------------------------------------------------------------------------


def _of_this_machine(
    words: _Words, environ: Mapping[str, str], state_dir: Path, executable: str
) -> dict[str, Gatherer]:
    import sys
    import tempfile

    from toolkit import __version__
    from toolkit.adapters.doctor import (
        cgroups,
        gpus,
        limits,
        memory,
        names,
        network,
        place,
        processes,
        software,
        storage,
    )
    from toolkit.fronts.command_line.rally_options import MASTER_PORT

    python = environ.get("PYTHON_EXEC") or executable
    found: dict[str, Gatherer] = {
        "place": lambda _: place.place(environ, terminal=sys.stdin is not None and sys.stdin.isatty()),
        "limits": lambda _: limits.limits(),
        "memory": lambda _: memory.memory(),
        "cgroup": lambda _: cgroups.cgroup(),
        "processes": processes.processes,
        "name": lambda _: names.name(),
        "fqdn": lambda _: names.fqdn(),
        "peer_name": lambda _: names.peer_name(network.towards_world()),
        "localhost": lambda _: names.localhost(),
        "network": lambda _: network.network(rally_conf.DEFAULT_PORT, MASTER_PORT),
        "gpus": gpus.gpus,
        "torch": lambda patience_s: software.torch(python, environ, patience_s),
        "python": lambda _: software.python(environ, __version__),
        "clock": lambda _: software.clock(),
        "state_dir": lambda _: storage.folder(state_dir.absolute()),
        "tmp_dir": lambda _: storage.folder(Path(tempfile.gettempdir())),
    }
    if words.endpoint is not None:
        host, port = words.endpoint
        found["endpoint"] = lambda patience_s: network.endpoint(
            host, port, patience_s - 1 if patience_s > 2 else patience_s
        )
    if words.log_dir:
        found["log_dir"] = lambda _: storage.folder(Path(words.log_dir).absolute())
    return found


# -- for people -----------------------------------------------------------------------------------------------


def _print(found: Report, asked: Asked, words: _Words, stdout: TextIO) -> None:
    """In colour on a terminal unless NO_COLOR is set, plain elsewhere."""
    from rich.console import Console  # late: --json does without
    from rich.text import Text

    console = Console(force_jupyter=False, file=stdout, highlight=False, markup=False, emoji=False)
    width = console.width if console.is_terminal else _WIDTH
    lines = report_lines(found, asked, width=width, unicode=shows_unicode(stdout), every=words.every)
    with console.capture() as shown:  # a reader that went away is `entry`'s to deal with, not rich's
        for line in lines:
            parts = [(visible(text, stdout), style) for text, style in line]
            console.print(Text.assemble(*parts), soft_wrap=True)
    stdout.write(shown.get())


def _print_list(words: _Words, stdout: TextIO) -> None:
    width = max(len(check.id) for check in CHECKS)
    for check in words.checks:
        print(f"{check.id:<{width}}  {check.title}", file=stdout)
    print(f"\n{plural(len(words.checks), 'check')}", file=stdout)
