"""A finding of `rally doctor`, what a judge is told beside the facts, and the report over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from toolkit.core.doctor.facts import Machine
from toolkit.core.words import plural

Level = Literal["ok", "note", "warning", "problem"]
#: worst first
LEVELS: tuple[Level, ...] = ("problem", "warning", "note", "ok")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The run that the machine is judged for.

    Args:
        nproc: workers on this node.
        nproc_from: where that number is from, in words.
        shutdown_timeout_s: that workers have to end.
        endpoint: HOST:PORT of the rendezvous; empty for none.
        environ: what workers would inherit.
        variables: that stand for options of `rally run`, such as "PET_NNODES".
    """

    nproc: int = 1
    nproc_from: str = "--nproc-per-node"
    shutdown_timeout_s: int = 30
    endpoint: str = ""
    environ: dict[str, str] = {}
    variables: tuple[str, ...] = ()


class Said(msgspec.Struct, frozen=True):
    """What a judge says.

    Args:
        level: how bad it is.
        what: the fact, in a few words.
        why: why it matters, a sentence; empty if it is well.
        remedy: what to do, a sentence without its end; empty if it is well.
        command: what to type for that, if that is one line.
    """

    level: Level
    what: str
    why: str = ""
    remedy: str = ""
    command: str = ""


def ok(what: str) -> Said:
    """All is well."""
    return Said("ok", what)


def note(what: str, why: str, remedy: str = "", command: str = "") -> Said:
    """Good to know; nothing is wrong."""
    return Said("note", what, why, remedy, command)


def warning(what: str, why: str, remedy: str, command: str = "") -> Said:
    """A run begins, and may suffer later."""
    return Said("warning", what, why, remedy, command)


def problem(what: str, why: str, remedy: str, command: str = "") -> Said:
    """A run would break."""
    return Said("problem", what, why, remedy, command)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one check found.

    Args:
        id: of the check, such as "limits.nofile"; stays the same over versions.
        title: of the check, in words.
        level: ok, note (good to know), warning (a run begins, and may suffer) or problem (a run would break).
        what: the fact, in a few words.
        why: why it matters; empty if it is well.
        remedy: what to do; empty if there is nothing to do.
        command: what to type for that; empty if that is not one line.
    """

    id: str
    title: str
    level: Level
    what: str
    why: str
    remedy: str
    command: str


class Silence(msgspec.Struct, frozen=True):
    """Facts that could not be had.

    Args:
        after_s: how long they were waited for; None if they came to an end by themselves.
        why: what went wrong, if it said so.
    """

    after_s: float | None = None
    why: str = ""

    def words(self) -> str:
        """In a few words."""
        return f"did not answer in {self.after_s:g} s" if self.after_s is not None else self.why


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `rally doctor --json` prints.

    Args:
        version: of this format; within one version, fields are only added.
        verdict: the worst level there is.
        problems: how many; any makes the exit code 1.
        warnings: how many; they count with --strict.
        notes: how many.
        strict: whether warnings make the exit code 1.
        asked: the run that the machine was judged for.
        findings: one of each check that applies here.
        facts: what was found out; null where it was not asked for, or did not come.
        silent: facts that did not come, by name, and why.
        took_s: how long all of it took, in seconds.
    """

    version: int = 1
    verdict: Level
    problems: int
    warnings: int
    notes: int
    strict: bool
    asked: ReportedAsk
    findings: list[Finding]
    facts: Machine
    silent: dict[str, Silence]
    took_s: float

    @property
    def exit_code(self) -> int:
        """0 if a run can be, 1 if not."""
        return int(self.problems > 0 or (self.strict and self.warnings > 0))

    def verdict_in_words(self) -> str:
        """Such as "2 warnings, no problems"."""
        if not (self.problems or self.warnings):
            return "no warnings, no problems"
        warnings = plural(self.warnings, "warning") if self.warnings else "no warnings"
        problems = plural(self.problems, "problem") if self.problems else "no problems"
        return f"{problems}, {warnings}" if self.problems else f"{warnings}, {problems}"


class ReportedAsk(msgspec.Struct, frozen=True, kw_only=True):
    """The run that the machine was judged for, without its environment, which may hold secrets.

    Args:
        nproc: workers on this node.
        nproc_from: where that number is from.
        shutdown_timeout_s: that workers have to end.
        endpoint: HOST:PORT of the rendezvous; empty for none.
    """

    nproc: int
    nproc_from: str
    shutdown_timeout_s: int
    endpoint: str


def report(
    findings: Sequence[Finding],
    asked: Asked,
    facts: Machine,
    silent: dict[str, Silence],
    *,
    strict: bool,
    took_s: float,
) -> Report:
    """All that was found, counted."""
    counts = {level: sum(found.level == level for found in findings) for level in LEVELS}
    return Report(
        verdict=next((level for level in LEVELS if counts[level]), "ok"),
        problems=counts["problem"],
        warnings=counts["warning"],
        notes=counts["note"],
        strict=strict,
        asked=ReportedAsk(
            nproc=asked.nproc,
            nproc_from=asked.nproc_from,
            shutdown_timeout_s=asked.shutdown_timeout_s,
            endpoint=asked.endpoint,
        ),
        findings=list(findings),
        facts=facts,
        silent=silent,
        took_s=took_s,
    )
