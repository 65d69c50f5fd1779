"""Choice tapes as files: what a run decided, and of which scenario, subject and version it was.

One JSON object a line: a header, then a list for each decision. A file is hostile input: sizes are bounded, and only
what fits comes out.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from simulator.plain_data import table_of
from simulator.rng import Choice
from simulator.scenario import Scenario
from toolkit.core.errors import ConfigurationError

FORMAT, VERSION = "rally-tape", 1

#: bounds of what is read: decisions, and bytes of the header and of any other line
_CHOICES_MAX, _HEADER_MAX, _LINE_MAX = 50_000_000, 1 << 22, 256
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Recorded:
    """A tape and whose it is.

    Args:
        scenario: as plain data.
        subject: who ran it.
        seed: which filled the tape.
        versions: of what decides the course of a run, by name: "rally", and "torch" if it took part.
        choices: the decisions, in their order.
    """

    scenario: Mapping[str, Any]
    subject: str
    seed: int
    versions: Mapping[str, str]
    choices: tuple[Choice, ...]

    def check(self, scenario: Scenario, subject: str, versions: Mapping[str, str]) -> None:
        """Make sure that the tape is of this scenario, subject and version.

        Raises:
            ConfigurationError: it is of another one; says what differs.
        """
        problem = self._differs(_plain(scenario), subject, versions)
        if problem:
            raise ConfigurationError(f"the tape is of another run: {problem}")

    def _differs(self, table: Mapping[str, Any], subject: str, versions: Mapping[str, str]) -> str:
        theirs, ours = self.scenario.get("name"), table.get("name")
        if theirs != ours:
            return f"it was recorded with scenario {theirs!r}, and this is {ours!r}"
        if self.subject != subject:
            return f"it was recorded with --subject {self.subject}, and this is {subject}"
        keys = [key for key in sorted({*self.scenario, *table}) if self.scenario.get(key) != table.get(key)]
        if keys:
            said = "; ".join(f"{key} was {_short(self.scenario, key)}" for key in keys[:3])
            return f"its scenario was not the same: {said} (set it as it was, with --set, or record again)"
        for name in sorted({*self.versions, *versions}):
            then, now = self.versions.get(name, "absent"), versions.get(name, "absent")
            if then != now:
                return f"it was recorded with {name} {then}, and this is {now}; record it again"
        return ""


def recorded(
    scenario: Scenario, subject: str, seed: int, versions: Mapping[str, str], choices: Sequence[Choice]
) -> Recorded:
    """The tape of a run."""
    return Recorded(_plain(scenario), subject, seed, dict(versions), tuple(choices))


def save(path: Path, tape: Recorded) -> None:
    """Write a tape; compressed if the name ends in `.gz`. A file that is there is replaced.

    Raises:
        ConfigurationError: it can't be written.
    """
    labels = {label: number for number, label in enumerate(dict.fromkeys(c.label for c in tape.choices))}
    header = _Header(
        format=FORMAT,
        version=VERSION,
        scenario=dict(tape.scenario),
        subject=tape.subject,
        seed=tape.seed,
        versions=dict(tape.versions),
        labels=list(labels),
        choices=len(tape.choices),
    )
    lines = io.BytesIO()
    lines.write(msgspec.json.encode(header) + b"\n")
    lines.writelines(b"[%d,%d,%d]\n" % (labels[c.label], c.value, c.bound) for c in tape.choices)
    data = lines.getvalue()
    try:
        # Without a time stamp: the same run gives the same bytes.
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    except OSError as error:
        raise ConfigurationError(f"tape {path} can't be written: {error.strerror}") from error


def load(path: Path) -> Recorded:
    """Read a tape, compressed or not.

    Raises:
        ConfigurationError: it can't be read, or is no tape of this version of the format.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            with gzip.open(file) if packed else file as lines:
                return _read(path, lines)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"tape {path} can't be read: {reason}") from error


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    format: str
    version: int
    scenario: dict[str, Any]
    subject: str
    seed: int
    versions: dict[str, str]
    labels: list[str]
    choices: int


def _read(path: Path, lines: Any) -> Recorded:
    header = _header(path, lines.readline(_HEADER_MAX))
    choices = tuple(_choices(path, lines, header))
    if len(choices) != header.choices:
        raise ConfigurationError(
            f"tape {path} has {len(choices)} of its {header.choices} decisions; it was cut off, record it again"
        )
    return Recorded(header.scenario, header.subject, header.seed, header.versions, choices)


def _header(path: Path, line: bytes) -> _Header:
    try:
        said = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = {}
    if said.get("format") != FORMAT:
        raise ConfigurationError(f"{path} is no tape; one is written by `rally sim ... --save-tape FILE`")
    if said.get("version") != VERSION:
        raise ConfigurationError(
            f"tape {path} has version {said.get('version')!r} of the format, and this reads {VERSION}; record it again"
        )
    try:
        return msgspec.convert(said, _Header)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"tape {path}: its first line is wrong: {error}") from error


_CHOICE = msgspec.json.Decoder(tuple[int, int, int])


def _choices(path: Path, lines: BinaryIO, header: _Header) -> Iterator[Choice]:
    labels, number = header.labels, 1
    while (line := lines.readline(_LINE_MAX)) and number <= _CHOICES_MAX:
        number += 1
        try:
            label, value, bound = _CHOICE.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"tape {path}, line {number}: {error}") from error
        if not (0 <= label < len(labels) and 0 <= value < bound):
            raise ConfigurationError(f"tape {path}, line {number}: {line.decode().strip()} is no decision")
        yield Choice(labels[label], value, bound)


def _plain(scenario: Scenario) -> dict[str, Any]:
    """As it comes back from JSON."""
    table: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(table_of(scenario)))
    # What is only told to people decides nothing.
    return {key: value for key, value in table.items() if key not in ("about", "source", "note", "checkers")}


def _short(table: Mapping[str, Any], key: str) -> str:
    if key not in table:
        return "as by default"
    text = msgspec.json.encode(table[key]).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."
