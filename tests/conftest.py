"""For all tests: how long an example of Hypothesis takes says how busy the machine is; recordings are made once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.disks import small_disk as small_disk

# A name service that does not answer costs a test of several nodes a second each time that torch's store asks it for a
# peer, and not ten.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")

# A shell ignores these for what it starts in the background, and what ignores them hands that on: to the agents whose
# answer to a signal is tested, who heed it.
for _signum, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, _usual)

settings.register_profile("rallypoint", deadline=None)
settings.load_profile("rallypoint")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The recording of a scenario, by its name."""
    pytest.importorskip("greenlet")
    from simulator import scenarios
    from simulator.report import simulate
    from toolkit.fronts.sim import record

    made: dict[str, Path] = {}

    def recorded(name: str, nodes: int | None = None) -> Path:
        key = f"{name}-{nodes}"
        if key not in made:
            scenario = scenarios.named(name)
            if nodes is not None:
                scenario = scenarios.with_settings(scenario, {"nodes": str(nodes)})
            path = tmp_path_factory.mktemp("run") / name
            record(path, scenario, "rally", 1, simulate(scenario, "rally", 1))
            made[key] = path
        return made[key]

    return recorded
