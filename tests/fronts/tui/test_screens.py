"""The screens themselves, as text, and the timelines as pictures, too.

All views of four runs in three sizes, as they were looked at and found good.

`RALLY_SCREENS=update python -m pytest tests/fronts/tui/test_screens.py` writes them anew; look at the difference.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from tests.fronts.tui.conftest import app_of, drive, shown
from toolkit.fronts.tui.app import VIEWS

FOLDER = Path(__file__).parent / "screens"
#: a happy run, a restart, a lost node, many nodes
RUNS = {"happy-4": None, "worker-crash": None, "silent-node-loss": None, "happy-64": 64}


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", RUNS)
def test_the_screens_are_as_they_were(runs: Callable[..., Path], name: str, size: tuple[int, int]) -> None:
    app = app_of(runs(name, RUNS[name]))
    screens: list[str] = []
    pictures: list[str] = []

    async def steps(pilot: Pilot[Any]) -> None:
        for number, view in enumerate(VIEWS, 1):
            await pilot.press(str(number))
            await pilot.pause()
            text = "\n".join(line.rstrip() for line in shown(app).splitlines())
            screens.append(f"=== {view}\n{text}\n")
            if view == "timeline":
                pictures.append(app.export_screenshot(title=name, simplify=True))

    drive(app, steps, size)
    for ending, now in (("txt", "".join(screens)), ("svg", pictures[0])):
        file = FOLDER / f"{name}-{size[0]}x{size[1]}.{ending}"
        if os.environ.get("RALLY_SCREENS") == "update":
            FOLDER.mkdir(exist_ok=True)
            file.write_text(now, encoding="utf-8")
        assert file.read_text(encoding="utf-8") == now
