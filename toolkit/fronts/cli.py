"""The command `rally`. Sub-commands are imported when they are called: `rally --help` costs milliseconds."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from toolkit.core.errors import ConfigurationError, RallyError, SignalException

BAD_INPUT = 2
#: what `rally sim` returns when it could not find out
UNDETERMINED = 3

_COMMANDS = {
    "run": "run a job: what torchrun does, with the same options",
    "top": "watch a run on a screen: live, recorded or simulated",
    "web": "the same in a browser, behind a token",
    "show": "say what happened in a run",
    "logs": "show what the workers wrote",
    "runs": "list recent runs",
    "demo": "watch a real training job lose a worker and come back",
    "sim": "run a failing cluster in the deterministic simulator",
    "experiment": "run a scenario on real processes and in the simulator, and compare",
    "check": "hold the recording of a run against the promises",
    "doctor": "look at this machine before a run",
}

_HELP = """\
usage: rally COMMAND ...

The elastic agent for GPU worker groups that you can watch, break and replay.

{commands}

`rally COMMAND --help` says more. In place of torchrun:

  rally run --standalone --nproc-per-node 4 train.py --epochs 10
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script. Returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_help(), end="")
        return 0 if words else BAD_INPUT
    if words[0] == "--version":
        from toolkit import __version__

        print(f"rally {__version__}")
        return 0
    try:
        return _HANDLERS[words[0]](words[1:])
    except KeyError:
        if words[0] in _HANDLERS:
            raise
        return _unknown(words[0])
    except RallyError as error:
        print(f"rally {words[0]}: {error}", file=sys.stderr)
        return BAD_INPUT
    except RuntimeError as error:
        from toolkit.fronts.troubles import in_words, no_thread_left

        if not no_thread_left(error):
            raise
        print(f"rally {words[0]}: {in_words(error)}", file=sys.stderr)
        return BAD_INPUT


def _help() -> str:
    return _HELP.format(commands="\n".join(f"  {name:<10} {text}" for name, text in _COMMANDS.items()))


def _unknown(word: str) -> int:
    from difflib import get_close_matches

    near = get_close_matches(word, _COMMANDS, n=1)
    remedy = f"did you mean `rally {near[0]}`?" if near else f"the commands are {', '.join(_COMMANDS)}"
    print(f"rally: there is no command {word!r}; {remedy}", file=sys.stderr)
    return BAD_INPUT


def _run(argv: Sequence[str]) -> int:
    # Before all that takes time. The handlers stay: `entry` says what the end of the process does with signals.
    from toolkit.adapters.interrupts import SignalInterrupts, interrupt_kills

    interrupt_kills()
    interrupts = SignalInterrupts(os.getpid())
    interrupts.install()
    try:
        with interrupts.interruptible():
            from toolkit.fronts.run import run_command
            from toolkit.surroundings import environment
    except SignalException as error:
        print(f"rally run: stopped by {error.sigval.name} before anything was started", file=sys.stderr)
        return 128 + error.sigval
    return run_command(argv, environment(), _working_folder(), sys.executable, interrupts)


def _working_folder() -> Path:
    """Where relative paths start."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise ConfigurationError("the folder that this shell is in was deleted; go to another one") from None


def _top(argv: Sequence[str]) -> int:
    from toolkit.fronts.tui.command import top_command
    from toolkit.surroundings import state_directory

    return top_command(argv, state_dir=state_directory(), stdout=sys.stdout, stderr=sys.stderr)


def _web(argv: Sequence[str]) -> int:
    try:
        from toolkit.fronts.web import web_command
        from toolkit.surroundings import state_directory

        return web_command(
            argv,
            state_dir=state_directory(),
            executable=sys.executable,
            stdout=sys.stdout,
            stderr=sys.stderr,
        )
    except KeyboardInterrupt:
        return 0  # before it serves; then Ctrl-C is how it ends


def _show(argv: Sequence[str]) -> int:
    from toolkit.fronts.show import show_command
    from toolkit.surroundings import state_directory

    parser = argparse.ArgumentParser(prog="rally show", description="Say what happened in a run.")
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help="a run id, or a run directory; default: the latest run"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, for machines")
    args = parser.parse_args(argv)
    return show_command(
        args.run, as_json=args.json, state_dir=state_directory(), stdout=sys.stdout, stderr=sys.stderr
    )


def _logs(argv: Sequence[str]) -> int:
    try:
        from toolkit.fronts.logs import INTERRUPTED, logs_command
        from toolkit.surroundings import environment, state_directory

        return logs_command(
            argv,
            state_dir=state_directory(),
            environ=environment(),
            stdout=sys.stdout.buffer,
            stderr=sys.stderr,
        )
    except KeyboardInterrupt:
        return INTERRUPTED


def _runs(argv: Sequence[str]) -> int:
    from toolkit.fronts.runs import runs_command
    from toolkit.surroundings import state_directory

    parser = argparse.ArgumentParser(prog="rally runs", description="List recent runs, newest first.")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, for machines")
    parser.add_argument(
        "-n", "--limit", type=int, default=20, metavar="N", help="at most N runs (default: 20)"
    )
    prune = parser.add_argument_group(
        "old runs", "What would go is listed; --yes removes it. Running ones stay."
    )
    prune.add_argument(
        "--prune-to", metavar="SIZE", help="the oldest, until the others fill no more, such as 10GB"
    )
    prune.add_argument("--prune-older", metavar="AGE", help="those that began longer ago, such as 30d")
    prune.add_argument("--yes", action="store_true", help="remove them with their logs")
    args = parser.parse_args(argv)
    if args.limit < 1:
        raise ConfigurationError(f"--limit is {args.limit}; give at least 1 run")
    if args.prune_to is not None or args.prune_older is not None:
        if args.json:
            raise ConfigurationError(
                "--json is for the list of runs; leave it out, or --prune-to and --prune-older"
            )
        from toolkit.fronts.command_line import log_options
        from toolkit.fronts.pruning import prune_command

        return prune_command(
            state_dir=state_directory(),
            to_bytes=None if args.prune_to is None else log_options.size(args.prune_to, "--prune-to"),
            older_s=None
            if args.prune_older is None
            else log_options.age_s(args.prune_older, "--prune-older"),
            really=args.yes,
            stdout=sys.stdout,
            stderr=sys.stderr,
        )
    if args.yes:
        raise ConfigurationError("--yes removes nothing by itself; give --prune-to SIZE or --prune-older AGE")
    return runs_command(
        as_json=args.json, state_dir=state_directory(), limit=args.limit, stdout=sys.stdout, stderr=sys.stderr
    )


def _demo(argv: Sequence[str]) -> int:
    from toolkit.demo.scenario import demo_command
    from toolkit.fronts.show import show_command
    from toolkit.surroundings import environment, state_directory

    parser = argparse.ArgumentParser(
        prog="rally demo",
        description="Train a small network on handwritten digits, kill a worker, watch it come back.",
    )
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="workers (default: 4)")
    args = parser.parse_args(argv)
    return demo_command(
        state_dir=state_directory(),
        workers=args.workers,
        environ=environment(),
        stdout=sys.stdout,
        stderr=sys.stderr,
        show=lambda run: show_command(
            str(run), as_json=False, state_dir=state_directory(), stdout=sys.stdout, stderr=sys.stderr
        ),
    )


def _sim(argv: Sequence[str]) -> int:
    try:
        from toolkit.fronts.sim import sim_command
        from toolkit.surroundings import environment

        return sim_command(
            argv, environ=environment(), executable=sys.executable, stdout=sys.stdout, stderr=sys.stderr
        )
    except KeyboardInterrupt:
        # While a simulation runs Ctrl-C leaves its report; this is before, after, or in a second run of --verify.
        print("rally sim: stopped by Ctrl-C; what was asked for is not finished", file=sys.stderr)
        return UNDETERMINED


def _experiment(argv: Sequence[str]) -> int:
    from toolkit.fronts.experiment.command import experiment_command
    from toolkit.surroundings import state_directory

    return experiment_command(argv, state_dir=state_directory(), stdout=sys.stdout, stderr=sys.stderr)


def _check(argv: Sequence[str]) -> int:
    from toolkit.fronts.check import check_command
    from toolkit.surroundings import state_directory

    parser = argparse.ArgumentParser(
        prog="rally check",
        description="Hold the recording of a run against the promises of the agent and the rendezvous.",
        epilog="exit codes: 0 all promises held that a recording can tell of, 1 a promise was broken, "
        "2 bad usage or input, 3 the recording is too incomplete to say",
    )
    parser.add_argument("run", metavar="RUN_DIR", help="a run directory, or the id of a run")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, for machines")
    args = parser.parse_args(argv)
    return check_command(
        args.run, as_json=args.json, state_dir=state_directory(), stdout=sys.stdout, stderr=sys.stderr
    )


def _doctor(argv: Sequence[str]) -> int:
    try:
        from toolkit.fronts.doctor import doctor_command
        from toolkit.surroundings import environment, state_directory

        return doctor_command(
            argv,
            environ=environment(),
            state_dir=state_directory(),
            executable=sys.executable,
            stdout=sys.stdout,
            stderr=sys.stderr,
        )
    except KeyboardInterrupt:
        print("rally doctor: stopped by Ctrl-C", file=sys.stderr)
        return 130


_HANDLERS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": _run,
    "top": _top,
    "web": _web,
    "show": _show,
    "logs": _logs,
    "runs": _runs,
    "demo": _demo,
    "sim": _sim,
    "experiment": _experiment,
    "check": _check,
    "doctor": _doctor,
}


def entry() -> None:
    """Run `main` as a process: a reader that closed the pipe is no error."""
    _open_closed_streams()
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 141
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        print(f"rally: stdout can't be written: {error.strerror}", file=sys.stderr)
        code = 1
    interrupts = sys.modules.get("toolkit.adapters.interrupts")
    if interrupts is not None:
        interrupts.ignore_from_now_on()
    sys.exit(code)


def _open_closed_streams() -> None:
    """Some daemons start their children without standard streams; the next file opened would take their place."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    for name, fd in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, "w", closefd=False))


if __name__ == "__main__":
    entry()
