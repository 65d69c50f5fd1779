"""Rows of values as a table, in text and in HTML. Pure; what stands in a cell can't command a terminal or a page."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from toolkit.views.wording import harmless

#: rows that are shown; of more, the first ones and how many there are
ROWS_MAX = 60
_CELL_MAX = 60


def figure(value: float) -> str:
    """A number with as many digits as one reads: "0.873", "12.4", "1,907"."""
    if not math.isfinite(value):
        return "-" if math.isnan(value) else str(value)
    if value and abs(value) < 0.01:
        return f"{value:.2g}"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 3
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def cell(value: Any) -> str:
    """What stands in a cell, on one line."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return figure(value)
        case tuple() | list():
            text = ", ".join(map(cell, value))
        case _:
            text = str(value)
    text = sayable(text)
    return text if len(text) <= _CELL_MAX else f"{text[: _CELL_MAX - 1]}…"


def sayable(text: str) -> str:
    """Text on one line that any stream of UTF-8 takes."""
    return harmless(" ".join(text.split())).encode("utf-8", "replace").decode()


def text_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], rows_max: int = ROWS_MAX) -> str:
    """Columns side by side, numbers to the right.

    Args:
        columns: their names.
        rows: values, `[rows][columns]`.
        rows_max: how many are shown.
    """
    shown = [[cell(value) for value in row] for row in rows[:rows_max]]
    right = [_are_numbers([row[at] for row in rows[:rows_max]]) for at in range(len(columns))]
    names = [sayable(name) for name in columns]
    widths = [max(map(len, (name, *(row[at] for row in shown)))) for at, name in enumerate(names)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            f"{text:>{width}}" if is_right else f"{text:<{width}}"
            for text, width, is_right in zip(cells, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip()

    lines = [line(names), *map(line, shown)]
    if len(rows) > rows_max:
        lines.append(f"and {len(rows) - rows_max:,} more rows")
    return "\n".join(lines)


def html_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], rows_max: int = ROWS_MAX) -> str:
    """The same as a `<table>`, for notebooks. No style of its own: it looks like the page around it."""
    head = "".join(f"<th>{_escaped(name)}</th>" for name in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{_escaped(cell(value))}</td>' for value in row)}</tr>" for row in rows[:rows_max]
    )
    more = f"<p>and {len(rows) - rows_max:,} more rows</p>" if len(rows) > rows_max else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(
        value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values
    )


def _escaped(text: str) -> str:
    return html.escape(sayable(text))
