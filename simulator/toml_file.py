"""Scenarios as TOML files: read with the file and the line in each complaint, written so that they read back the same.

```toml
name = "mine"
nodes = 3
min_nodes = 2

[workload]
steps = 100
[[workload.failure]]
rank = 1
at_step = 20

[node.node2]
start_s = 60

[[fault]]
kind = "CrashNode"
target = "node1"
at_s = 30
```
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simulator.plain_data import Misfit, Place, scenario_of, table_of
from simulator.scenario import Scenario
from toolkit.core.errors import ConfigurationError


def load(path: Path | str) -> Scenario:
    """The scenario in a file; its name is the file's unless it has one.

    Raises:
        ConfigurationError: the file can't be read, is no TOML, or describes no scenario; names file and line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"scenario file {path} can't be read: {error}") from error
    return loads(text, str(path), path.stem)


def loads(text: str, source: str = "scenario", name: str = "unnamed") -> Scenario:
    """The scenario in a text.

    Args:
        text: TOML.
        source: how complaints call it.
        name: of the scenario, if the text gives none.

    Raises:
        ConfigurationError: it is no TOML, or describes no scenario; names source and line.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{source} is no TOML: {error}") from error
    try:
        return scenario_of({"name": name, **table})
    except Misfit as error:
        line = _line_of(text, error.place, error.key)
        raise ConfigurationError(f"{source}, line {line}: {error}") from error


def dumps(scenario: Scenario) -> str:
    """The scenario as TOML; what is as by default is left out. `loads` gives the same scenario.

    Faults, checkers and policies of somebody's own are there by their names.
    """
    return "\n".join(_lines(table_of(scenario), "")) + "\n"


def _lines(table: Mapping[str, Any], path: str) -> Iterator[str]:
    """Single values first: what follows the header of an inner table would belong to that one."""
    inner = {key: value for key, value in table.items() if isinstance(value, dict) or _is_tables(value)}
    for key, value in table.items():
        if key not in inner:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in inner.items():
        below = f"{path}.{_key(key)}" if path else _key(key)
        for entry in value if isinstance(value, list) else [value]:
            yield ""
            yield f"[[{below}]]" if isinstance(value, list) else f"[{below}]"
            yield from _lines(entry, below)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str():
            # JSON's escapes are TOML's, save for one character.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return f"[{', '.join(_value(entry) for entry in value)}]"
        case _:
            raise AssertionError(f"{value!r} is no plain data")


def _line_of(text: str, place: Place, key: str) -> int:
    """Where a key of a table stands, counted from 1; the table's header, or the first line, if it can't be found."""
    lines = text.splitlines()
    start = _header(lines, place)
    for number in range(start, len(lines)):
        if number > start and lines[number].lstrip().startswith("["):
            break
        if key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", lines[number]):
            return number + 1
    inner = _header(lines, (*place, key)) if key else 0
    return (inner or start) + 1


def _header(lines: list[str], place: Place) -> int:
    """Index of the line with the header of a table; 0 if there is none."""
    names = [str(part) for part in place if isinstance(part, str)]
    counts = [part for part in place if isinstance(part, int)]
    wanted, left = ".".join(names), counts[-1] if counts else 0
    for number, line in enumerate(lines):
        header = re.match(r"\s*\[\[?\s*(.+?)\s*\]\]?\s*(#.*)?$", line)
        if header and re.sub(r"[\"'\s]", "", header[1]) == wanted:
            if left == 0:
                return number
            left -= 1
    return 0
