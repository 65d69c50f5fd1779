"""The scenarios by name: plain ones, short ones for real processes, too, and the gallery of what is known to go wrong.

`scenarios.ALL` maps names to values; `scenarios.moved_rank_0` and `scenarios.named("moved-rank-0")` are the same one.
"""

from __future__ import annotations

from simulator.plain_data import with_settings
from simulator.scenario import Scenario
from simulator.scenarios import gallery, plain, short
from toolkit.core.errors import ConfigurationError
from toolkit.core.words import did_you_mean

__all__ = ["ALL", "GALLERY", "PLAIN", "SHORT", "named", "with_settings"]

PLAIN: dict[str, Scenario] = {scenario.name: scenario for scenario in plain.SCENARIOS}
GALLERY: dict[str, Scenario] = {scenario.name: scenario for scenario in gallery.SCENARIOS}
SHORT: dict[str, Scenario] = {scenario.name: scenario for scenario in short.SCENARIOS}
ALL: dict[str, Scenario] = PLAIN | SHORT | GALLERY


def named(name: str) -> Scenario:
    """The scenario of that name.

    Raises:
        ConfigurationError: there is none; names the nearest ones.
    """
    if name in ALL:
        return ALL[name]
    remedy = did_you_mean(name, ALL, "`rally sim --list` names them all", count=3, cutoff=0.5)
    raise ConfigurationError(f"there is no scenario {name!r}; {remedy}")


def __getattr__(name: str) -> Scenario:
    try:
        return ALL[name.replace("_", "-")]
    except KeyError:
        known = [each.replace("-", "_") for each in ALL]
        remedy = did_you_mean(name, known, "`rally sim --list` names them all")
        raise AttributeError(f"module {__name__!r} has no scenario {name!r}; {remedy}") from None
