"""The scenarios by name, and that the plain ones go as they say with both subjects."""

from __future__ import annotations

import importlib.util

import pytest

from simulator import scenarios
from simulator.checkers import checkers_named
from simulator.report import simulate
from simulator.scenarios import with_settings
from toolkit.core import events
from toolkit.core.errors import ConfigurationError

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
SUBJECTS = ("rally", "torch")


class TestNames:
    def test_by_name_and_as_attribute(self) -> None:
        assert scenarios.named("happy-4") is scenarios.happy_4
        assert scenarios.moved_rank_0.name == "moved-rank-0"
        with pytest.raises(AttributeError, match="no scenario 'moved_rank_1'"):
            _ = scenarios.moved_rank_1

    def test_a_miss_names_what_comes_near(self) -> None:
        with pytest.raises(ConfigurationError, match=r"did you mean .*moved-rank-0"):
            scenarios.named("move-rank-0")
        with pytest.raises(ConfigurationError, match="rally sim --list"):
            scenarios.named("qqqqqqq")

    @pytest.mark.parametrize("name", scenarios.ALL)
    def test_each_tells_what_it_is(self, name: str) -> None:
        scenario = scenarios.named(name)
        assert scenario.name == name
        assert scenario.about and "\n" not in scenario.about
        assert len(scenario.about) < 100
        assert scenario.source
        assert checkers_named(scenario.checkers)

    def test_the_plain_ones_are_all_there(self) -> None:
        wanted = (
            "happy-1 happy-4 happy-64 worker-crash budget-used-up mixed-roles spread-finish solo solo-crash"
        )
        assert set(wanted.split()) <= set(scenarios.PLAIN)


def results(name: str, subject: str, **settings: str) -> dict[str, str]:
    scenario = with_settings(scenarios.named(name), settings)
    report = simulate(scenario, subject, seed=7)
    assert report.verdict == "held", str(report)
    return {node: end.result for node, end in report.nodes.items()}


@needs_torch
@pytest.mark.torch
@pytest.mark.parametrize("subject", SUBJECTS)
class TestPlain:
    @pytest.mark.parametrize(
        "name", ["happy-1", "happy-4", "mixed-roles", "solo", "solo-crash", "worker-crash"]
    )
    def test_all_succeed(self, name: str, subject: str) -> None:
        assert set(results(name, subject).values()) == {"SUCCEEDED"}

    def test_on_64_nodes(self, subject: str) -> None:
        assert list(results("happy-64", subject).values()) == ["SUCCEEDED"] * 64

    def test_as_many_nodes_as_you_like(self, subject: str) -> None:
        assert len(results("happy", subject, nodes="7")) == 7

    def test_finish_times_far_apart(self, subject: str) -> None:
        report = simulate(scenarios.spread_finish, subject, seed=7)
        assert report.verdict == "held", str(report)
        waits = [event.waited_s for event in report.events if isinstance(event, events.BarrierLeft)]
        assert max(waits) > 55

    def test_the_budget_is_used_up(self, subject: str) -> None:
        report = simulate(scenarios.budget_used_up, subject, seed=7)
        assert {end.result for end in report.nodes.values()} == {"FAILED"}
        counts = [event.restart_count for event in report.events]
        assert max(counts) == 2
