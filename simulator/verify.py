"""Is a run the same again? Traces of whole runs, written and compared: every step, every event.

Determinism is checked, not claimed: twice in one process, and in a fresh one with another PYTHONHASHSEED, which the
front starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from simulator.rng import Choice
from simulator.scenario import Scenario
from simulator.simulation import Outcome, ScenarioRun
from simulator.subject import Subject
from toolkit.core.errors import ConfigurationError
from toolkit.core.events import encode

#: steps that a trace keeps, the latest ones; a longer run is compared by its digest, events and last steps
STEPS_MAX = 2_000_000


@dataclass(frozen=True, slots=True)
class Trace:
    """A whole run.

    Args:
        digest: of the kernel.
        steps: one line for each.
        events: encoded, in the order in which they were said.
        outcome: a line for each node: how it ended.
    """

    digest: str
    steps: tuple[str, ...]
    events: tuple[str, ...]
    outcome: tuple[str, ...]


def traced(
    scenario: Scenario,
    subject: Subject,
    seed: int,
    recorded: tuple[Choice, ...] = (),
    started: Callable[[ScenarioRun], None] = lambda simulation: None,
) -> Trace:
    """Run a scenario and keep all of it.

    Args:
        scenario: what to run.
        subject: with whom.
        seed: fills the tape.
        recorded: a tape to repeat instead.
        started: given the simulation before it runs.
    """
    simulation = ScenarioRun(scenario, subject, seed, recorded)
    simulation.kernel.keep_trace(STEPS_MAX)
    started(simulation)
    try:
        outcome = simulation.run()
        steps = tuple(f"{entry.at_ns} {entry.what}" for entry in simulation.kernel.trace)
        return Trace(
            outcome.digest,
            steps,
            tuple(encode(event).decode() for event in outcome.events),
            tuple(_ends(outcome)),
        )
    finally:
        simulation.close()


def _ends(outcome: Outcome) -> Iterator[str]:
    yield f"after {outcome.virtual_s!r} s: {outcome.finding or 'ended'}"
    for name, node in outcome.nodes.items():
        yield f"{name}: {node.result} {node.exit_code} {node.exited_at_s!r} {node.reason} {node.waits_for}"


def difference(first: Trace, second: Trace) -> str:
    """The first place in which two runs differ, in words; empty if they are the same."""
    for noun, ours, theirs in (
        ("step", first.steps, second.steps),
        ("event", first.events, second.events),
        ("line of the outcome", first.outcome, second.outcome),
    ):
        for number, (one, other) in enumerate(zip_longest(ours, theirs), 1):
            if one != other:
                return f"the first {noun} that differs is number {number}: {_told(one)} once, {_told(other)} then"
    return "" if first.digest == second.digest else "a step that is no longer in the trace differs"


def _told(line: str | None) -> str:
    return "nothing" if line is None else f"`{line}`"


_SECTIONS = ("digest", "steps", "events", "outcome")


def write(path: Path, trace: Trace) -> None:
    """Write a trace as text: its parts, each under a line with its name.

    Raises:
        ConfigurationError: it can't be written.
    """
    try:
        with path.open("w", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
            for name, lines in zip(_SECTIONS, _parts(trace), strict=True):
                file.write(f"[{name}]\n")
                file.writelines(f" {_on_one_line(line)}\n" for line in lines)
    except OSError as error:
        raise ConfigurationError(f"trace {path} can't be written: {error.strerror}") from error


def _parts(trace: Trace) -> tuple[Sequence[str], ...]:
    return (trace.digest,), trace.steps, trace.events, trace.outcome


def _on_one_line(line: str) -> str:
    return line.replace("\\", "\\\\").replace("\n", "\\n")


def read(path: Path) -> Trace:
    """Read what `write` wrote.

    Raises:
        ConfigurationError: it can't be read, or is something else.
    """
    parts: dict[str, list[str]] = {}
    lines: list[str] = []
    try:
        with path.open(encoding="utf-8", errors="surrogatepass", newline="\n") as file:
            for line in file:
                if line.startswith("["):
                    lines = parts.setdefault(line[1:-2], [])
                else:
                    lines.append(line[1:-1])
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"trace {path} can't be read: {error}") from error
    if tuple(parts) != _SECTIONS or len(parts["digest"]) != 1:
        raise ConfigurationError(f"{path} is no trace; one is written by `rally sim ... --trace FILE`")
    return Trace(parts["digest"][0], *(tuple(parts[name]) for name in _SECTIONS[1:]))


def as_written(trace: Trace) -> Trace:
    """The trace as it comes back from a file, to be compared with one that did."""
    return Trace(*(tuple(map(_on_one_line, part)) if i else part[0] for i, part in enumerate(_parts(trace))))  # type: ignore[arg-type]
