"""Simulations that end with the test, also when it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("greenlet")

from simulator.interactive.hosted import HostedRun
from simulator.scenario import Scenario


@pytest.fixture
def opened() -> Iterator[Callable[..., HostedRun]]:
    """Makes them."""
    made: list[HostedRun] = []

    def make(scenario: Scenario, seed: int = 1, subject: str = "rally") -> HostedRun:
        run = HostedRun(scenario, seed, subject)
        made.append(run)
        return run

    yield make
    for run in made:
        # With its branches, whoever still holds them.
        run._history.talk._keeper.end()
        run.close()
