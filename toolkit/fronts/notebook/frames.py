"""Rows as a pandas DataFrame, or as a list that shows itself as a table where pandas is not installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from toolkit.views import html
from toolkit.views.tables import Row

#: rows that a list shows of itself
_SHOWN_MAX = 60


class Rows(list[Row]):
    """Rows of plain values: a list of dicts with the same keys. A name, or a list of them, gives columns."""

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, str):
            return [row[at] for row in self]
        if isinstance(at, list):
            return Rows({name: row[name] for name in at} for row in self)
        return super().__getitem__(at)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(
            f"without pandas this is a list of rows, which has no {name!r}: pip install pandas"
        )

    def _repr_html_(self) -> str:
        columns = list(dict.fromkeys(key for row in self for key in row))
        # Numbers as they are: a pid has no thousands.
        shown = [[_plain(row.get(column)) for column in columns] for row in self[:_SHOWN_MAX]]
        more = f'<div class="rally-note">of {len(self)} rows</div>' if len(self) > _SHOWN_MAX else ""
        return html.card(html.table(columns, shown), more)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, int) else value


def frame(rows: Sequence[Row], columns: Sequence[str] = ()) -> Any:
    """A `pandas.DataFrame` if pandas is installed, else `Rows`.

    Args:
        columns: of a DataFrame without rows, so that `events()["type"]` is no error before the first one.
    """
    if find_spec("pandas") is None:
        return Rows(rows)
    import pandas

    return pandas.DataFrame(list(rows)) if rows else pandas.DataFrame(columns=list(columns))
