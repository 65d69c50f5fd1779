"""Executes the notebooks and writes each as `.ipynb`, with what its cells show: `make notebooks`.

A notebook is written as text (jupytext, percent format) beside its `.ipynb`; the text is what is edited.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
#: seconds that one cell may take
CELL_S = 120


def sources() -> list[Path]:
    """The notebooks as text, in their order."""
    return sorted(HERE.glob("[0-9][0-9]-*.py"))


def read(source: Path) -> nbformat.NotebookNode:
    """One notebook, not executed."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{source.stem[:2]}-{number:02d}"  # the same each time
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "jupytext": {"formats": "ipynb,py:percent"},
        }
    )
    return notebook


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Run all cells. Raises CellExecutionError where one fails."""
    client = NotebookClient(
        notebook,
        timeout=CELL_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(HERE)}},
        store_widget_state=False,
        record_timing=False,
    )
    client.execute()
    return notebook


def main(names: list[str]) -> None:
    """Execute and write those that are named, or all."""
    os.environ["XDG_STATE_HOME"] = str(Path(tempfile.gettempdir()) / "rallypoint-notebooks")
    for source in sources():
        if names and source.stem not in names and source.stem[:2] not in names:
            continue
        began = time.monotonic()
        notebook = execute(read(source))
        nbformat.write(notebook, source.with_suffix(".ipynb"))
        print(f"{source.stem}: {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
