"""What checkers are made of and what they say: promises, findings and verdicts, all values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from simulator.checkers.record import Life, Record, Told

Status = Literal["held", "broken", "undetermined", "not judged"]


@dataclass(frozen=True, slots=True)
class Broken:
    """A promise that was not kept.

    Args:
        promise: name of the checker.
        detail: what happened, in words, with nodes and numbers.
        node: whose doing it is or who suffers from it; empty for the job.
        at_s: seconds from the start of the run; None if it can't be dated.
    """

    promise: str
    detail: str
    node: str = ""
    at_s: float | None = None


def broken_by(promise: str, life: Life, told: Told, detail: str) -> Broken:
    """Broken by one agent, with what it said."""
    return Broken(promise, f"{life.name}: {detail}", life.name, told.at_s)


def _nothing(record: Record) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Checker:
    """One promise, and the pure function that holds a record against it.

    Args:
        promise: its name.
        about: what is promised, in one line.
        check: finds where it was broken.
        beyond: why it can't be judged on this kind of record at all, or empty. A promise that is not judged is not
            held, and a reader is told so.
        gaps: why this record is too incomplete to be sure that it held, or empty. Where it was broken, it was broken
            nevertheless.
    """

    promise: str
    about: str
    check: Callable[[Record], Iterable[Broken]]
    beyond: Callable[[Record], str] = _nothing
    gaps: Callable[[Record], str] = _nothing


@dataclass(frozen=True, slots=True)
class Ruling:
    """What one checker says.

    Args:
        checker: which.
        status: of its promise.
        broken: where it was broken.
        why: it is undetermined or not judged.
    """

    checker: Checker
    status: Status
    broken: tuple[Broken, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What all checkers say, `[checkers]`."""

    rulings: tuple[Ruling, ...]

    @property
    def broken(self) -> list[Broken]:
        """All that was broken, in the order of time; what can't be dated comes last."""
        found = [broken for ruling in self.rulings for broken in ruling.broken]
        return sorted(found, key=lambda broken: float("inf") if broken.at_s is None else broken.at_s)

    def with_status(self, status: Status) -> list[Ruling]:
        """The rulings of that kind."""
        return [ruling for ruling in self.rulings if ruling.status == status]


def rule(checker: Checker, record: Record) -> Ruling:
    """What `checker` says of `record`. A checker that raises is itself the finding."""
    try:
        why = checker.beyond(record)
        if why:
            return Ruling(checker, "not judged", why=why)
        broken = tuple(checker.check(record))
        if broken:
            return Ruling(checker, "broken", broken)
        why = checker.gaps(record)
        return Ruling(checker, "undetermined" if why else "held", why=why)
    except Exception as error:  # noqa: BLE001 - a mistake in a checker must not pass for a promise that held
        detail = f"the checker itself crashed: {type(error).__name__}: {error}"
        return Ruling(checker, "broken", (Broken(checker.promise, detail),))
