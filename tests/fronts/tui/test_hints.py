"""The line of keys: those of the view that is on, and a click is as good as the key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from textual.pilot import Pilot
from textual.widgets import ContentSwitcher

from tests.fronts.tui.conftest import app_of, drive, shown
from toolkit.fronts.tui.hints import Hints
from toolkit.fronts.tui.screens import Reading

Runs = Callable[..., Path]


def test_the_keys_are_those_of_the_view_that_is_on(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))

    async def steps(pilot: Pilot[Any]) -> None:
        assert "? Keys" in shown(app).splitlines()[-1]
        assert "o Order" not in shown(app).splitlines()[-1]
        await pilot.press("3")
        await pilot.pause()
        assert "o Order" in shown(app).splitlines()[-1]
        assert "Kill" not in shown(app), "there is nobody to kill in a recording"

    drive(app, steps)


def test_a_click_does_what_the_key_does(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))

    async def steps(pilot: Pilot[Any]) -> None:
        line = shown(app).splitlines()[-1]
        await pilot.click(Hints, offset=(line.index("Keys"), 0))
        await pilot.pause()
        assert isinstance(app.screen, Reading)
        await pilot.press("escape")
        await pilot.click(Hints, offset=(line.index("Logs"), 0))
        await pilot.pause()
        assert app.screen.query_one(ContentSwitcher).current == "logs"
        await pilot.click(Hints, offset=(119, 0))

    drive(app, steps)
