"""The gallery: torch breaks what the gallery says it breaks, and our agent holds all but what is known."""

from __future__ import annotations

import re

import pytest

from simulator import scenarios
from simulator.known import KNOWN
from simulator.report import simulate
from simulator.scenarios import with_settings
from simulator.scenarios.gallery import SHOWS

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

#: as many as the design's gallery has
NAMES = (
    "scale-up",
    "moved-rank-0",
    "store-stall",
    "clock-skew",
    "silent-node-loss",
    "store-host-loss",
    "crash-in-rank-exchange",
    "barrier-blocks-beat",
    "late-joiner",
    "bystander-closes",
    "flapping-joiner",
    "barrier-after-failure",
    "split-budget",
    "join-contention",
    "sigterm-anywhere",
)
#: the same for each, so that nothing is shown by one lucky interleaving
SEEDS = (1, 2)


def test_all_fifteen_are_there() -> None:
    assert tuple(scenarios.GALLERY) == NAMES
    assert tuple(SHOWS) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", SEEDS)
def test_torch_breaks_it_for_the_reason_in_the_gallery(name: str, seed: int) -> None:
    report, shows = simulate(scenarios.named(name), "torch", seed), SHOWS[name]
    assert report.verdict == "broken"
    details = [broken.detail for broken in report.broken if broken.promise == shows.promise]
    assert any(re.search(shows.detail, detail) for detail in details), str(report)


@pytest.mark.parametrize("name", scenarios.ALL)
@pytest.mark.parametrize("seed", SEEDS)
def test_ours_holds_all_but_what_is_known(name: str, seed: int) -> None:
    report = simulate(scenarios.named(name), "rally", seed)
    broken = {found.promise for found in report.broken}
    if name in KNOWN:
        assert broken == set(KNOWN[name].promises), f"mend simulator/known.py, it can only shrink:\n{report}"
    else:
        assert report.verdict == "held", str(report)


def test_what_is_known_says_why() -> None:
    assert set(KNOWN) <= set(scenarios.ALL)
    assert all(known.promises and known.reason for known in KNOWN.values())


def test_few_agents_contend_little() -> None:
    few = with_settings(scenarios.join_contention, {"nodes": "8"})
    assert simulate(few, "torch", seed=1).verdict == "held"


@pytest.mark.parametrize("at_s", [0.01, 0.2, 1.0, 2.0, 2.5, 5.0, 31.9, 32.5, 45.0])
@pytest.mark.parametrize("times", ["1", "2", "3"])
def test_ours_ends_at_once_wherever_the_signal_comes(at_s: float, times: str) -> None:
    settings = {"fault.0.at_s": str(at_s), "fault.0.times": times, "fault.0.every_s": "0.3"}
    report = simulate(with_settings(scenarios.sigterm_anywhere, settings), "rally", seed=3)
    assert report.nodes["node-a"].result == "SIGNAL"
    assert not [found for found in report.broken if found.node == "node-a"], str(report)
