"""Recorded runs for the screen: small clusters in the simulator, and one of a real agent's shape, made once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from toolkit.adapters.recording.catalog import wall_clock_ns
from toolkit.adapters.recording.follow import FollowedRun
from toolkit.core.actions import Action, Outcome
from toolkit.fronts.tui.app import TopApp
from toolkit.fronts.watching import read_all, simulated
from toolkit.views.session import Session


class FakeController:
    """Implements Controller: takes down what it is told."""

    def __init__(self, outcome: Outcome | None = None) -> None:
        self.told: list[tuple[str, Action]] = []
        self.outcome = outcome or Outcome(outcome="done")

    def act(self, node: str, action: Action) -> Outcome:
        self.told.append((node, action))
        return self.outcome


class Ticks:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


def app_of(path: Path, controller: FakeController | None = None, live: bool = False) -> TopApp:
    """The screen over a recording; `live` makes it one that goes on."""
    run = FollowedRun(path)
    session = Session(run, "" if live else simulated(run), wall_clock_ns)
    if live:
        run.is_live = lambda timeline: True  # type: ignore[method-assign]
    read_all(session)
    return TopApp(session, title=run.name, folder=path, controller=controller, by="me", now_s=Ticks())


def drive(
    app: TopApp, steps: Callable[[Pilot[Any]], Awaitable[None]], size: tuple[int, int] = (120, 40)
) -> None:
    """Run it without a terminal."""

    async def go() -> None:
        async with app.run_test(size=size, notifications=True) as pilot:
            await pilot.pause()
            await steps(pilot)

    asyncio.run(go())


def shown(app: TopApp) -> str:
    """What is on the screen, as text."""
    height = app.size.height
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips[:height])
