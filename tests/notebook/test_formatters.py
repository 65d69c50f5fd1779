"""How values show themselves: as HTML, and as text where there is no page."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest

pytest.importorskip("greenlet")

from simulator import Fail, Scenario, Workload, scenarios, simulate
from simulator.checkers import Broken, Checker, Record
from toolkit import RunResult, SoloRendezvous, WorkerGroup, WorkerSpec, WorkerState
from toolkit.core.model import ProcessFailure
from toolkit.fronts.notebook.formatters import register, report_html, result_html, scenario_html
from toolkit.fronts.page import Page


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


def test_a_failure_is_told_to_its_end_and_without_fillers() -> None:
    words = "RuntimeError: " + "very " * 40 + "long"
    failure = ProcessFailure(1, 77, 1, message=words)
    card = result_html(RunResult(WorkerState.FAILED, {}, {1: failure}))
    assert f'<td class="rally-long">{words}</td>' in card and "N/A" not in card


def test_where_pictures_are_taken_away_it_is_said_and_their_words_stay_apart() -> None:
    """As a page does that does not trust a notebook: elements of style and pictures go, words stay."""
    card = report_html(simulate(scenarios.moved_rank_0, seed=1))
    bare = re.sub("<style>.*?</style>|<[^>]*>", "", card)
    assert "Trust Notebook" in bare and " node-a node-a_" in bare and "+0s +" in bare
    assert "Trust Notebook" not in scenario_html(scenarios.happy)


def text_of(value: object) -> str:
    """What a console shows of it."""
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    register(shell)
    return str(shell.display_formatter.format(value)[0]["text/plain"])


def test_where_there_is_no_page_they_say_it_in_lines() -> None:
    report = simulate(scenarios.worker_crash, seed=3)
    assert text_of(report.timeline).startswith(
        "Timeline of sim: succeeded, 4 nodes, 8 ranks, round 2, restarts 1 of 3"
    )
    assert text_of(report) == str(report)
    assert text_of(scenarios.worker_crash).splitlines()[2:] == [
        "  4 nodes, 8 workers, 4 in a round, 3 restarts allowed",
        "  each worker trains 40 steps of 0.05 s, a checkpoint every 10 steps",
        "  each of node1 trains 40 steps of 1 s, a checkpoint every 10 steps",
        "       20 s  local rank 1 on node1 gets SIGKILL",
    ]
    assert "restart policy never" in text_of(Scenario(restart_policy="never"))
    group = WorkerGroup(WorkerSpec("trainer", 2, SoloRendezvous("x"), entrypoint="t.py", max_restarts=3))
    assert text_of(group).startswith("init trainer on this node: 2 workers, 3 restarts allowed\nrank ")


def test_text_that_is_kept_is_plain_and_whole_in_kernels_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    kept = io.StringIO()
    Page(kept).line(("long " * 60, "bold red"), indent=2)
    assert kept.getvalue() == f"  {'long ' * 60}\n"
