"""What `rally doctor` shows: each group of checks, what is well on one line, what is not with its remedy. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

from toolkit.core.doctor.amounts import size
from toolkit.core.doctor.environment import where
from toolkit.core.doctor.facts import Machine
from toolkit.core.doctor.findings import LEVELS, Asked, Finding, Level, Report
from toolkit.core.words import plural

#: parts of a line with their styles
Line = list[tuple[str, str]]

_SIGNS: dict[Level, tuple[str, str, str]] = {
    "ok": ("✔", "+", "green"),
    "note": ("•", "-", "cyan"),
    "warning": ("!", "!", "bold yellow"),
    "problem": ("✘", "x", "bold red"),
}
_STYLES: dict[Level, str] = {"ok": "", "note": "", "warning": "yellow", "problem": "bold red"}
_LABEL = 13
#: below that the name of a group has a line of its own
_NARROW = 64
_WIDTH_MIN, _ROOM_MIN = 28, 12


def report_lines(
    report: Report, asked: Asked, *, width: int, unicode: bool, every: bool = False
) -> list[Line]:
    """The whole report.

    Args:
        width: columns; commands are not broken, whatever it is.
        unicode: whether there is more than ASCII.
        every: whether what is well has a line for each check, too.
    """
    page = _Pen(max(width, _WIDTH_MIN), unicode)
    head = _head(report.facts, asked, unicode)
    lines: list[Line] = [[("rally doctor", "bold")]] if page.narrow else []
    lines += page.wrapped(
        head, "dim", [("  ", "")] if page.narrow else [("rally doctor".ljust(_LABEL), "bold")]
    )
    lines.append([])
    groups = groupby(report.findings, key=lambda found: found.id.partition(".")[0])
    for number, (group, findings) in enumerate(groups):
        if number and (page.narrow or every):
            lines.append([])
        lines += page.group(group, list(findings), every=every)
    return [*lines, [], *page.foot(report)]


def _head(machine: Machine, asked: Asked, unicode: bool) -> str:
    facts = []
    if machine.place is not None:
        facts += [machine.place.host, machine.place.system]
    if machine.cgroup is not None:
        facts.append(plural(machine.cgroup.cores, "core"))
    if machine.memory is not None and machine.memory.total_bytes:
        facts.append(size(machine.memory.total_bytes))
    if machine.place is not None and (said := where(machine.place, asked)).startswith("in "):
        facts.append(said)
    facts.append(f"judged for {plural(asked.nproc, 'worker')} ({asked.nproc_from})")
    return (" · " if unicode else ", ").join(facts)


class _Pen:
    """Writes lines of one width."""

    def __init__(self, width: int, unicode: bool) -> None:
        self.width = width
        self.unicode = unicode
        self.narrow = width < _NARROW

    def sign(self, level: Level) -> tuple[str, str]:
        """Before a finding."""
        sign, plain, style = _SIGNS[level]
        return f"{sign if self.unicode else plain} ", style

    def group(self, name: str, findings: Sequence[Finding], *, every: bool) -> Iterator[Line]:
        """A group: the worst first, what is well last."""
        label = [] if self.narrow else [(name.ljust(_LABEL), "bold")]
        if self.narrow:
            yield [(name, "bold")]
        blank = [(" " * (2 if self.narrow else _LABEL), "")]
        first = [*label] or blank
        for found in sorted(findings, key=lambda found: LEVELS.index(found.level)):
            if found.level != "ok":
                yield from self._told(found, first, blank)
                first = blank
            elif every:
                column: Line = [] if self.narrow else [(f"{found.id:<27}", "dim")]
                yield from self.wrapped(
                    found.what, "", [*first, self.sign("ok"), *column], found.id if self.narrow else ""
                )
                first = blank
        well = [found.what for found in findings if found.level == "ok"]
        if well and not every:
            yield from self._well(well, first)

    def _told(self, found: Finding, first: Line, blank: Line) -> Iterator[Line]:
        head = [*first, self.sign(found.level)]
        rows = list(self.wrapped(found.what, _STYLES[found.level], head, trail=found.id))
        yield from rows
        # Where there was no room for its id, behind the reason.
        trail = "" if rows[-1][-1][0].endswith(found.id) else found.id
        under = [*blank, ("  ", "")]
        if found.why:
            yield from self.wrapped(found.why, "dim" if found.level == "note" else "", under, trail=trail)
        arrow = "→ " if self.unicode else "-> "
        style = "" if found.level == "note" else "bold"
        if found.remedy:
            end = ":" if found.command else ""
            yield from self.wrapped(
                found.remedy + end, "dim" if found.level == "note" else "", [*under, (arrow, "cyan")]
            )
        if found.command:
            yield [*under, (" " * len(arrow), ""), (found.command, f"{style} cyan".strip())]

    def _well(self, said: Sequence[str], first: Line) -> Iterator[Line]:
        """What is well, many to a line; broken between them."""
        dot = " · " if self.unicode else ", "
        head = [*first, self.sign("ok")]
        room = max(self.width - _length(head), _ROOM_MIN)
        row = ""
        for text in said:
            if row and len(row) + len(dot) + len(text) > room:
                yield from self.wrapped(row, "", head)
                head, row = [(" " * _length(head), "")], text
            else:
                row = f"{row}{dot}{text}" if row else text
        yield from self.wrapped(row, "", head)

    def wrapped(self, text: str, style: str, first: Line, trail: str = "") -> Iterator[Line]:
        """A text behind `first`, its other lines under it; `trail` where there is room for it."""
        indent = _length(first)
        rows = textwrap.wrap(
            text, max(self.width - indent, _ROOM_MIN), break_long_words=False, break_on_hyphens=False
        )
        for number, row in enumerate(rows or [""]):
            line = [*(first if number == 0 else [(" " * indent, "")]), (row, style)]
            if trail and number == len(rows) - 1 and indent + len(row) + 2 + len(trail) <= self.width:
                line.append((f"  {trail}", "dim"))
            yield line

    def foot(self, report: Report) -> Iterator[Line]:
        """The verdict."""
        level: Level = "problem" if report.problems else "warning" if report.warnings else "ok"
        text, style = self.sign(level)
        more = [plural(report.notes, "note")] if report.notes else []
        more.append(f"{plural(len(report.findings), 'check')} in {report.took_s:.1f} s")
        dot = " · " if self.unicode else ", "
        line: Line = [(text, style), (report.verdict_in_words(), "bold")]
        if _length(line) + sum(len(dot) + len(said) for said in more) <= self.width:
            yield [*line, (dot + dot.join(more), "dim")]
        else:
            yield from self.wrapped(dot.join(more), "dim", [("  ", "")])
            yield line


def _length(line: Line) -> int:
    return sum(len(text) for text, _ in line)
