"""The state machine: every state has an answer, every answer a reason, and the table of steps is closed."""

from __future__ import annotations

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
)
from toolkit.core.model import WorkerState
from toolkit.core.restarts import RestartVerdict

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


def test_the_table_knows_every_state() -> None:
    assert set(LEGAL_STEPS) == set(WorkerState)
    assert all(after != before for before, nexts in LEGAL_STEPS.items() for after in nexts)


@given(st.sampled_from(WorkerState), st.booleans(), st.text(max_size=20))
def test_every_decision_has_a_reason(state: WorkerState, allowed: bool, reason: str) -> None:
    decision = after_monitor(state, RestartVerdict(allowed, reason))
    assert decision.reason
