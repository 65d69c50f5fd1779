"""The notebooks: each runs from its text, and what is shown of it in the repository is of that text."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from notebooks.render import execute, read, sources


@pytest.mark.parametrize("source", sources(), ids=lambda path: path.stem)
@pytest.mark.timeout(300)
def test_it_runs(source: Path) -> None:
    notebook = execute(read(source))
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    for cell in cells:
        for output in cell.outputs:
            data = output.get("data", {})
            assert "application/vnd.jupyter.widget-view+json" not in data, f"not frozen: {cell.source[:60]}"
            assert "<script" not in data.get("text/html", "")


@pytest.mark.parametrize("source", sources(), ids=lambda path: path.stem)
def test_what_is_rendered_is_of_this_text(source: Path) -> None:
    rendered = nbformat.read(source.with_suffix(".ipynb"), 4)
    assert [(cell.cell_type, cell.source) for cell in rendered.cells] == [
        (cell.cell_type, cell.source) for cell in read(source).cells
    ], f"{source.name} has changed; run: make notebooks"
    assert all(cell.execution_count for cell in rendered.cells if cell.cell_type == "code")
    assert not [
        output
        for cell in rendered.cells
        for output in cell.get("outputs", ())
        if output.output_type == "error"
    ]
    assert source.with_suffix(".ipynb").stat().st_size < 600_000
