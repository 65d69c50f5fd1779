"""`rally sim`: a scenario in the deterministic simulator, judged. stdout is data, stderr is narration."""

from __future__ import annotations

import argparse
import math
import shlex
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from toolkit.adapters.clock import SystemClock
from toolkit.adapters.recording.experiment_file import note_experiment
from toolkit.core.errors import ConfigurationError, LaunchError, RallyError
from toolkit.core.experiment import NodeEnd, NotedExperiment, Strike
from toolkit.fronts.show import json_text
from toolkit.views.wording import visible

if TYPE_CHECKING:
    from simulator.report import Report
    from simulator.scenario import Scenario
    from simulator.simulation import ScenarioRun
    from simulator.tape_file import Recorded
    from simulator.verify import Trace

BAD_INPUT = 2
EXIT_CODES = {"held": 0, "broken": 1, "undetermined": 3}
#: the seed of who gives none
SEED = 0
#: what JSON readers take for a whole number
_SEED_MAX = (1 << 63) - 1
#: how long the fresh process of --verify may take, in seconds
_VERIFY_TIMEOUT_S = 600.0
_INTERRUPTED = "it was stopped by Ctrl-C"

_DESCRIPTION = """\
Run a scenario in the deterministic simulator: the agent as it is in production, or torch's, on virtual time, in a
cluster whose nodes, network and store fail when the scenario says so. The same seed gives the same run.
"""
_EPILOG = """\
exit codes: 0 all promises held, 1 a promise was broken (or, with --verify, a run was not the same again),
2 bad usage or input, 3 undetermined: a limit was reached, or Ctrl-C.
"""


def sim_command(
    argv: Sequence[str],
    *,
    environ: Mapping[str, str],
    executable: str,
    stdout: TextIO,
    stderr: TextIO,
) -> int:
    """Run a scenario and say what became of it.

    Args:
        argv: what follows `rally sim`.
        environ: of the fresh process that --verify starts.
        executable: its interpreter.

    Returns:
        The exit code: 0 all promises held, 1 one was broken, 2 bad usage or input, 3 undetermined.
    """
    args = _parse(argv)
    try:
        need_greenlet()
        if args.list:
            _list(stdout, as_json=args.json)
            return 0
        return _run(args, argv, environ, executable, stdout, stderr)
    except RallyError as error:
        print(visible(f"rally sim: {error}", stderr), file=stderr)
        return BAD_INPUT


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rally sim",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("scenario", nargs="?", metavar="SCENARIO|FILE", help="a name from --list, or a TOML file")
    add("--list", action="store_true", help="name the scenarios, with a line each")
    add("--seed", type=int, metavar="N", help=f"draws what is left open: latencies, races (default: {SEED})")
    add("--subject", default="rally", metavar="rally|torch", help="whose agent runs (default: rally)")
    add("--nodes", type=int, metavar="N", help="so many nodes; short for --set nodes=N")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a field of the scenario, such as workload.steps=100 or fault.0.at_s=30; may be repeated",
    )
    add("--json", action="store_true", help="one JSON object on stdout, for machines")
    add(
        "--run-dir", type=Path, metavar="DIR", help="record the run there, for `rally show` and `rally check`"
    )
    add("--top", action="store_true", help="open the run in `rally top`; with no --run-dir it is not kept")
    add("--tape", type=Path, metavar="FILE", help="repeat the decisions of a recorded run")
    add("--save-tape", type=Path, metavar="FILE", help="record the decisions of this run; .gz compresses")
    add("--trace", type=Path, metavar="FILE", help="write every step and event of this run")
    add("--verify", action="store_true", help="run it again, also in a fresh process, and compare")
    args = parser.parse_args(argv)
    if args.list == (args.scenario is not None):
        parser.error("name a scenario or a file, or give --list")
    if args.seed is not None and not -_SEED_MAX <= args.seed <= _SEED_MAX:
        parser.error(f"--seed {args.seed} has more than 63 bits; give a smaller one")
    if args.tape is not None and args.seed is not None:
        parser.error("--tape has its own seed; leave out --seed")
    return args


def need_greenlet() -> None:
    try:
        import greenlet  # noqa: F401 - whether it is there
    except ModuleNotFoundError as error:
        raise ConfigurationError("the simulator needs greenlet: pip install 'rallypoint[sim]'") from error


def _list(stdout: TextIO, *, as_json: bool) -> None:
    from simulator import scenarios

    if as_json:
        said = [
            {"name": s.name, "about": s.about, "nodes": s.nodes, "source": s.source, "note": s.note}
            for s in scenarios.ALL.values()
        ]
        stdout.write(json_text(said, stdout))
        return
    width = max(map(len, scenarios.ALL))
    for scenario in scenarios.ALL.values():
        print(visible(f"{scenario.name:<{width}}  {scenario.about}", stdout), file=stdout)


def _run(
    args: argparse.Namespace,
    argv: Sequence[str],
    environ: Mapping[str, str],
    executable: str,
    stdout: TextIO,
    stderr: TextIO,
) -> int:
    from simulator.report import simulate

    scenario = _scenario(args)
    recorded = _tape(args, scenario)
    seed = recorded.seed if recorded else SEED if args.seed is None else args.seed
    choices = recorded.choices if recorded else ()
    clock = SystemClock()
    with _stopped_by_interrupt() as started:
        report = simulate(
            scenario,
            args.subject,
            seed,
            choices,
            stopwatch=lambda: clock.now_ns() / 1e9,
            command=_command(args, argv),
            started=started,
        )
    if recorded and len(report.choices) < len(choices) and report.verdict != "undetermined":
        raise ConfigurationError(
            f"the run ended after {len(report.choices)} of the {len(choices)} decisions of tape {args.tape}; "
            "it was recorded with another version"
        )
    if report.finding == _INTERRUPTED:
        print("rally sim: stopped by Ctrl-C; this is what was reached", file=stderr)
    _keep(args, scenario, seed, report)
    code = EXIT_CODES[report.verdict]
    if args.top:
        code = _open(args.run_dir, scenario, args.subject, seed, report, stdout, stderr) or code
    else:
        _tell(report, stdout, as_json=args.json)
    if args.verify and not _is_the_same_again(
        args, argv, scenario, seed, choices, environ, executable, stderr
    ):
        return code or 1
    return code


def _command(args: argparse.Namespace, argv: Sequence[str]) -> str:
    """The line that runs it again."""
    words = [word for word in _without_outputs(argv) if word != "--json"]
    if args.tape is None and args.seed is None:
        words += ["--seed", str(SEED)]
    return shlex.join(["rally", "sim", *words])


def _scenario(args: argparse.Namespace) -> Scenario:
    more = [] if args.nodes is None else [f"nodes={args.nodes}"]
    return scenario_from(args.scenario, [*args.set, *more])


def scenario_from(word: str, settings: Sequence[str] = ()) -> Scenario:
    """The scenario of that name, or in that file, with some fields set.

    Args:
        word: a name, or the path of a TOML file.
        settings: as after `--set`, such as workload.steps=100.

    Raises:
        ConfigurationError: there is none, or it makes no sense.
    """
    from simulator import scenarios

    if word not in scenarios.ALL and (word.endswith(".toml") or "/" in word):
        from simulator import toml_file

        scenario = toml_file.load(Path(word))
    else:
        scenario = scenarios.named(word)
    return scenarios.with_settings(scenario, dict(map(_setting, settings))) if settings else scenario


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ConfigurationError(
            f"--set {text} has no value; give --set key=value, such as workload.steps=100"
        )
    return key, value


def _tape(args: argparse.Namespace, scenario: Scenario) -> Recorded | None:
    if args.tape is None:
        return None
    from simulator import tape_file

    tape = tape_file.load(args.tape)
    tape.check(scenario, args.subject, _versions(scenario, args.subject))
    return tape


def _versions(scenario: Scenario, subject: str) -> dict[str, str]:
    """Of what decides the course of a run."""
    from toolkit import __version__

    versions = {"rally": __version__}
    if subject != "rally" or not scenario.solo:
        from importlib.metadata import PackageNotFoundError, version

        try:
            versions["torch"] = version("torch")
        except PackageNotFoundError:
            pass  # it takes no part, or the run will say that it is missing
    return versions


@contextmanager
def _stopped_by_interrupt() -> Iterator[Any]:
    """Within it, Ctrl-C stops the simulation that was handed to what this yields, and leaves what was reached."""
    running: list[ScenarioRun] = []

    def stop(signum: int, frame: object) -> None:
        if not running:
            raise KeyboardInterrupt
        running.pop().kernel.stop(_INTERRUPTED)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield running.append
    finally:
        signal.signal(signal.SIGINT, before)


def _keep(args: argparse.Namespace, scenario: Scenario, seed: int, report: Report) -> None:
    """Write what was asked for."""
    if args.save_tape is not None:
        from simulator import tape_file

        versions = _versions(scenario, args.subject)
        tape = tape_file.recorded(scenario, args.subject, seed, versions, report.choices)
        tape_file.save(args.save_tape, tape)
    if args.run_dir is not None:
        record(args.run_dir, scenario, args.subject, seed, report)
    if args.trace is not None:
        from simulator import verify

        verify.write(args.trace, _traced(scenario, args.subject, seed, tuple(report.choices)))


def record(path: Path, scenario: Scenario, subject: str, seed: int, report: Report) -> None:
    """The run directory, as agents write it: an events file for each, and what struck whom.

    Raises:
        ConfigurationError: it can't be written, or holds a recording.
    """
    from simulator.subject import RUN_ID
    from toolkit import wiring
    from toolkit.adapters.recording.directory import open_for_writing
    from toolkit.adapters.recording.layout import is_recording

    if is_recording(path):
        raise ConfigurationError(f"{path} holds a recording; give another run directory, or remove it")
    said = {
        "entrypoint": scenario.name,
        "simulated": {"seed": seed, "subject": subject, "scenario": scenario.name},
    }
    # Of the recording: by the clock of its world it would be an old one, and be removed as such.
    directory = open_for_writing(path, RUN_ID, said, started_wall_ns=wiring.wall_ns())
    by_node: dict[str, list[Any]] = {}
    for event in report.events:
        by_node.setdefault(event.node, []).append(event)
    for node, events in by_node.items():
        sink = directory.open_sink(node)
        try:
            for event in events:
                sink.emit(event)
        finally:
            sink.close()
    note_experiment(path, noted(scenario, seed, report))


def noted(scenario: Scenario, seed: int, report: Report) -> NotedExperiment:
    """What a simulated run knows beside its events."""
    from simulator import toml_file
    from simulator.world import WALL_START_NS

    facts = report.record.facts
    return NotedExperiment(
        world="sim",
        scenario=toml_file.dumps(scenario),
        seed=seed,
        began_wall_ns=WALL_START_NS,
        strikes=[
            Strike(
                hit.kind, hit.node, hit.at_s, hit.until_s if math.isfinite(hit.until_s) else None, hit.words
            )
            for hit in facts.hits
        ],
        words=list(report.struck),
        ends={name: NodeEnd(end.result, end.exit_code) for name, end in facts.nodes.items()},
        finding=report.finding,
    )


def _open(
    path: Path | None,
    scenario: Scenario,
    subject: str,
    seed: int,
    report: Report,
    stdout: TextIO,
    stderr: TextIO,
) -> int:
    """The run in `rally top`. Returns its exit code."""
    from toolkit.fronts.tui.command import top_command

    with tempfile.TemporaryDirectory(prefix="rally-sim-") as folder:
        shown = path or Path(folder, scenario.name)
        if path is None:
            record(shown, scenario, subject, seed, report)
        return top_command([str(shown)], state_dir=Path(folder), stdout=stdout, stderr=stderr)


def _tell(report: Report, stdout: TextIO, *, as_json: bool) -> None:
    if as_json:
        stdout.write(json_text(report.as_json(), stdout))
    elif stdout.isatty():
        from rich.console import Console

        Console(file=stdout, highlight=False, markup=False, emoji=False).print(report)
    else:
        stdout.write("".join(f"{visible(line, stdout)}\n" for line in str(report).splitlines()))
    stdout.flush()


# -- --verify -------------------------------------------------------------------------------------------------


def _is_the_same_again(
    args: argparse.Namespace,
    argv: Sequence[str],
    scenario: Scenario,
    seed: int,
    choices: tuple[Any, ...],
    environ: Mapping[str, str],
    executable: str,
    stderr: TextIO,
) -> bool:
    from simulator import verify

    first = _traced(scenario, args.subject, seed, choices)
    again = _traced(scenario, args.subject, seed, choices)
    found = verify.difference(first, again)
    where = "when it was run again in this process"
    if not found:
        fresh = _traced_elsewhere(argv, environ, executable)
        found = verify.difference(verify.as_written(first), fresh)
        where = "in a fresh process with another PYTHONHASHSEED"
    if found:
        print(visible(f"rally sim: the run was not the same {where}: {found}", stderr), file=stderr)
        return False
    print(f"the same three times, once in a fresh process: digest {first.digest}", file=stderr)
    return True


def _traced(scenario: Scenario, subject: str, seed: int, choices: tuple[Any, ...]) -> Trace:
    from simulator import verify
    from simulator.subjects import subject_named

    with _stopped_by_interrupt() as started:
        return verify.traced(scenario, subject_named(subject), seed, choices, started)


def _traced_elsewhere(argv: Sequence[str], environ: Mapping[str, str], executable: str) -> Trace:
    """The same command in a fresh interpreter, up to its trace."""
    from simulator import verify
    from toolkit.adapters.processes.fresh_python import run_fresh

    hash_seed = 2 if environ.get("PYTHONHASHSEED") == "1" else 1
    with tempfile.TemporaryDirectory(prefix="rally-verify-") as folder:
        path = Path(folder, "trace.txt")
        arguments = ["sim", *_without_outputs(argv), "--trace", str(path)]
        ended = run_fresh(
            executable,
            "toolkit.fronts.cli",
            arguments,
            environ=environ,
            hash_seed=hash_seed,
            timeout_s=_VERIFY_TIMEOUT_S,
        )
        if ended.exit_code not in EXIT_CODES.values():
            last = (ended.stderr.strip().splitlines() or ["no words"])[-1]
            raise LaunchError(f"the fresh process ended with exit code {ended.exit_code}: {last}")
        return verify.read(path)


def _without_outputs(argv: Sequence[str]) -> list[str]:
    """The arguments without those that write something, or verify again."""
    kept: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, _ = word.partition("=")
        if name in ("--run-dir", "--save-tape", "--trace"):
            if not equals:
                next(words, None)
        elif word not in ("--verify", "--top"):
            kept.append(word)
    return kept
