"""For each promise our own code is made wrong, and a search finds it; without the mistake it finds nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import simulator.simulation  # noqa: F401 - loads all of our code that a mistake can be planted in
from simulator import Scenario, simulate
from simulator.checkers import checkers_named
from tests.simulator.mutants import MUTANTS, Mutant, planted
from toolkit.agent.rendezvous.keeper import Keeper
from toolkit.core import rounds

#: what runs without a mistake broke, by scenario: several mutants share theirs
_clean: dict[str, list[str]] = {}


def broken(scenario: Scenario) -> list[str]:
    """The promises that a run breaks."""
    return [found.promise for found in simulate(scenario, "rally", seed=1).broken]


def broken_without_mistake(scenario: Scenario) -> list[str]:
    """The same, once for each scenario."""
    key = repr(scenario)
    if key not in _clean:
        _clean[key] = broken(scenario)
    return _clean[key]


def until_caught(mutant: Mutant) -> Iterator[Scenario]:
    """The scenarios of its search, up to the one that catches it."""
    for scenario in mutant.search():
        yield scenario
        with mutant.plant():
            if mutant.checker in broken(scenario):
                return
    raise AssertionError(f"no run shows {mutant.checker} broken, though {mutant.name}")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mistake_is_caught_and_its_absence_is_not(mutant: Mutant) -> None:
    for scenario in until_caught(mutant):
        assert broken_without_mistake(scenario) == [], scenario.name


def test_each_promise_has_a_mutant_that_one_of_our_checkers_catches() -> None:
    assert {mutant.promise for mutant in MUTANTS} == set(range(1, 10))
    assert checkers_named(mutant.checker for mutant in MUTANTS)
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


# -- planting -------------------------------------------------------------------------------------------------


def test_what_is_planted_is_there_wherever_it_is_looked_up_and_gone_afterwards() -> None:
    function, method = rounds.taken_over, Keeper.claim
    with planted("taken_over", lambda original, *args: (original, args))():
        assert rounds.taken_over(1, 2) == (function, (1, 2))  # type: ignore[arg-type,comparison-overlap]
    with pytest.raises(RuntimeError, match="on the way"), planted("Keeper.claim", lambda *_: None)():
        assert Keeper.claim is not method
        raise RuntimeError("on the way")
    assert (rounds.taken_over, Keeper.claim) == (function, method)


@pytest.mark.parametrize("name", ["no_such_function", "Keeper.no_such_method", "NoSuchClass.look"])
def test_what_is_not_there_can_not_be_made_wrong(name: str) -> None:
    with pytest.raises(AssertionError, match="any more"), planted(name, lambda *_: None)():
        pass
