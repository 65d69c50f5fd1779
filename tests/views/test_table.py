"""Tables: figures as one reads them, and nothing in a cell that could do harm."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from toolkit.views.table import cell, figure, html_table, text_table


def test_figures_have_the_digits_that_one_reads() -> None:
    numbers = (0.8734, 12.44, 1907.4, 0.00123, 0.0, 3.0, math.nan)
    assert [figure(number) for number in numbers] == ["0.873", "12.4", "1,907", "0.0012", "0", "3", "-"]


def test_cells_are_one_harmless_line() -> None:
    assert cell(True) == "yes" and cell(None) == "none" and cell(("a", "b")) == "a, b"
    assert "\n" not in cell("a\nb") and "\x1b" not in cell("\x1b[2J") and len(cell("x" * 500)) == 60


def test_tables_of_text_and_html() -> None:
    rows = [("a", 1.0), ("<b>", 200.0)]
    assert text_table(("name", "n"), rows).splitlines() == ["name    n", "a       1", "<b>   200"]
    assert "<td>&lt;b&gt;</td>" in html_table(("name", "n"), rows)
    assert "and 40 more rows" in text_table(("n",), [(at,) for at in range(100)])
    ElementTree.fromstring(f"<div>{html_table(('<n>',), [(at,) for at in range(100)])}</div>")
