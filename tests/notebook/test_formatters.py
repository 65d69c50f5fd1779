"""How a scenario and the report of a run show themselves as HTML."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("greenlet")

from simulator import Fail, Scenario, Workload, scenarios, simulate
from simulator.checkers import Broken, Checker, Record
from toolkit.fronts.notebook.formatters import report_html, scenario_html


def test_a_scenario_says_who_comes_later_and_what_strikes_in_the_order_of_time() -> None:
    card = scenario_html(scenarios.late_joiner)
    assert "<td>110 s</td><td>node-c starts</td>" in card
    assert "nothing goes wrong" not in card
    card = scenario_html(scenarios.store_stall)
    assert card.index("answers nothing for 20 s") < card.index("node-c starts")


def test_a_scenario_says_which_workers_fail() -> None:
    work = Workload(failures=(Fail(rank=1, at_s=3), Fail(rank=0, at_step=7, incarnations=None)))
    card = scenario_html(Scenario(nodes=2, workload=work))
    assert "<td>3 s of work</td><td>rank 1 fails</td>" in card
    assert "<td>step 7</td><td>rank 0 fails, each time</td>" in card
    assert "each node fails every 3,600 s in the mean" in scenario_html(Scenario(mtbf_s=3600))
    assert "nothing goes wrong" in scenario_html(scenarios.happy)


def test_a_broken_promise_is_told_in_full_and_once() -> None:
    def check(record: Record) -> list[Broken]:
        return [Broken("never", f"in round {number} {'very ' * 60}much") for number in (1, 2, 3)]

    card = report_html(
        simulate(replace(scenarios.solo, checkers=(Checker("never", "nothing happens", check),)))
    )
    assert card.count("✗ never") == 1
    assert f"in round 1 {'very ' * 60}much" in card
    assert "(and 2 more of this kind)" in card


def test_what_is_excused_is_told_and_who_never_ended_has_no_time() -> None:
    card = report_html(simulate(scenarios.store_host_loss, seed=1))
    assert "no-needless-end is excused: the store&#x27;s host node-a is lost" in card
    assert "0.0 s</td>" not in card.replace("120.0 s</td>", "")
