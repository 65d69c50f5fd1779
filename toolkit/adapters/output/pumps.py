"""The output pumps of one run: each incarnation has its own, and the console may lag behind the ones before."""

from __future__ import annotations

import time
from typing import Any

from toolkit.adapters.output.console import Console
from toolkit.adapters.output.pump import OutputPump
from toolkit.core.launch_plan import LaunchPlan


class Pumps:
    """Makes them.

    Args:
        console: where output is shown.
        settings: of each `OutputPump`.
    """

    def __init__(self, console: Console, **settings: Any) -> None:
        self._console = console
        self._settings = settings
        self._made: list[OutputPump] = []

    def new(self, plan: LaunchPlan) -> OutputPump:
        """The pump of one incarnation."""
        pump = OutputPump(self._console, **self._settings)
        pump.filters(plan)
        # Those that are done are forgotten: a run may have thousands of incarnations.
        self._made = [*(made for made in self._made if not made.finish(0)), pump]
        return pump

    def finish(self, timeout_s: float) -> None:
        """Wait until the console has got all that it takes, or is given up."""
        deadline = time.monotonic() + timeout_s
        for pump in self._made:
            pump.finish(max(deadline - time.monotonic(), 0.0))
