"""The state machine: every state has an answer, every answer a reason, and the table of steps is closed."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.core.decisions import (
    LEGAL_STEPS,
    Abort,
    Continue,
    Fail,
    Finish,
    Restart,
    after_membership,
    after_monitor,
    after_round,
)
from toolkit.core.model import WorkerState
from toolkit.core.restarts import RestartVerdict
from toolkit.core.rounds import Over

ALLOWED = RestartVerdict(True, "2 of 3 restarts left", delay_s=1.5)
REFUSED = RestartVerdict(False, "all 3 restarts are used up")


def test_running_workers_are_left_alone() -> None:
    assert after_monitor(WorkerState.HEALTHY, None) == Continue()


def test_success_leads_to_the_exit_barrier() -> None:
    assert isinstance(after_monitor(WorkerState.SUCCEEDED, None), Finish)


@pytest.mark.parametrize("state", [WorkerState.FAILED, WorkerState.UNHEALTHY])
def test_a_failure_restarts_or_ends_as_the_policy_says(state: WorkerState) -> None:
    restart = after_monitor(state, ALLOWED)
    assert isinstance(restart, Restart)
    assert restart.spends_budget
    assert restart.delay_s == 1.5
    assert "2 of 3 restarts left" in restart.reason
    fail = after_monitor(state, REFUSED)
    assert isinstance(fail, Fail)
    assert "used up" in fail.reason


@pytest.mark.parametrize("state", [WorkerState.INIT, WorkerState.STOPPED, WorkerState.UNKNOWN])
def test_a_state_that_no_monitor_should_see_ends_the_agent(state: WorkerState) -> None:
    abort = after_monitor(state, None)
    assert isinstance(abort, Abort)
    assert state.value in abort.reason


def test_waiting_nodes_restart_the_group_for_free() -> None:
    assert after_membership(0, 0) == Continue()
    one, two = after_membership(1, 3), after_membership(2, 0)
    assert isinstance(one, Restart)
    assert not one.spends_budget
    assert one.reason == "1 node waits to join (seen by group rank 3)"
    assert isinstance(two, Restart)
    assert "2 nodes wait" in two.reason


def test_a_round_that_was_ended_is_restarted_as_was_decided_for_all() -> None:
    over = Over("restart", "rank 1 exited with code 3", by="b", spends=True, delay_s=2.5, restarts=1)
    assert after_round(over) == Restart("rank 1 exited with code 3", spends_budget=True, delay_s=2.5)


@pytest.mark.parametrize("kind", ["membership", "evicted"])
def test_nodes_that_come_or_go_restart_the_group_for_free(kind: Literal["membership", "evicted"]) -> None:
    assert after_round(Over(kind, "node d waits to join")) == Restart("node d waits to join", False)


def test_the_end_of_the_job_is_the_end_of_each_member() -> None:
    assert after_round(Over("failed", "all 3 restarts are used up")) == Fail("all 3 restarts are used up")
    assert after_round(Over("succeeded", "all nodes succeeded")) == Finish("all nodes succeeded")


@given(
    st.sampled_from(get_args(get_type_hints(Over)["kind"])),
    st.text(max_size=20),
    st.booleans(),
    st.floats(0, 99),
)
def test_what_follows_from_a_round_says_what_was_decided(
    kind: Any, reason: str, spends: bool, delay_s: float
) -> None:
    decision = after_round(Over(kind, reason, spends=spends, delay_s=delay_s))
    assert decision.reason == reason
    if isinstance(decision, Restart):
        assert (decision.spends_budget, decision.delay_s) == (spends, delay_s)


def test_the_table_knows_every_state() -> None:
    assert set(LEGAL_STEPS) == set(WorkerState)
    assert all(after != before for before, nexts in LEGAL_STEPS.items() for after in nexts)


@given(st.sampled_from(WorkerState), st.booleans(), st.text(max_size=20))
def test_every_decision_has_a_reason(state: WorkerState, allowed: bool, reason: str) -> None:
    decision = after_monitor(state, RestartVerdict(allowed, reason))
    assert decision.reason
