"""The agent and its restart policy: what it is told, what comes of its verdict, and of a policy that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from toolkit.core import events as ev
from toolkit.core.model import WorkerState
from toolkit.core.restarts import FailureCause, PastRestart, RestartPolicy, RestartVerdict

from .world import Script, World


def crashes(exit_code: int = 1, at_s: float = 1) -> Script:
    return Script(runs_s=at_s, exit_code=exit_code)


class Own:
    """A policy of one's own that says what it is told to, and notes what it was asked."""

    name = "mine:Own"

    def __init__(self, says: Callable[..., Any]) -> None:
        self._says = says
        self.asked: list[tuple[FailureCause, tuple[PastRestart, ...], dict[str, Any]]] = []

    def judge(self, cause: FailureCause, past: tuple[PastRestart, ...], **given: Any) -> RestartVerdict:
        self.asked.append((cause, past, given))
        verdict: RestartVerdict = self._says()
        return verdict


def made(world: World, action: str) -> list[ev.DecisionMade]:
    return [decision for decision in world.recorded.of(ev.DecisionMade) if decision.action == action]


def test_a_decision_says_which_policy_made_it_and_what_that_said() -> None:
    world = World([crashes()], [Script()])
    world.agent(max_restarts=3, restart_policy=RestartPolicy(backoff_s=4)).run()
    (restart,) = made(world, "restart")
    assert (restart.policy, restart.verdict) == ("backoff=4s..1m", "restart 1 of 3, back-off 4.0 s")
    (finish,) = made(world, "finish")
    assert (finish.policy, finish.verdict) == ("", "")


def test_the_plain_budget_has_no_name() -> None:
    world = World([crashes()], [Script()])
    world.agent(max_restarts=1).run()
    (restart,) = made(world, "restart")
    assert (restart.policy, restart.verdict) == ("", "restart 1 of 1")


def test_a_free_restart_leaves_the_budget_and_the_count() -> None:
    world = World([crashes(75)], [crashes(75)], [Script()])
    agent = world.agent(max_restarts=1, restart_policy=RestartPolicy(free_on=frozenset({75})))
    assert agent.run().state == WorkerState.SUCCEEDED
    assert [(d.free, d.spends_budget, d.restarts_left) for d in made(world, "restart")] == [
        (True, False, 1)
    ] * 2
    assert agent.restarts == 0
    assert [plan.workers[0].env["TORCHELASTIC_RESTART_COUNT"] for plan in world.launcher.plans] == list("000")


def test_a_policy_is_told_the_cause_the_past_and_how_long_the_workers_ran() -> None:
    world = World([crashes(3, at_s=5)], [crashes(4, at_s=20)], [Script()])
    policy = Own(lambda: RestartVerdict(True, "again", 2.0))
    world.agent(max_restarts=0, restart_policy=policy).run()
    (cause, past, given), (cause_2, past_2, given_2) = policy.asked
    assert (cause.key, cause.exit_codes, cause.uptime_s, past) == ("exit code 3", (3,), 5.0, ())
    assert given["restarts_max"] == given["remaining"] == 0
    assert (cause_2.uptime_s, len(past_2)) == (20.0, 1)
    assert (past_2[0].cause, past_2[0].uptime_s) == ("exit code 3", 5.0)
    assert given_2["now_ns"] - past_2[0].at_ns == pytest.approx(22e9)
    assert [d.policy for d in made(world, "restart")] == ["mine:Own"] * 2


def _raises() -> RestartVerdict:
    raise ValueError("oops")


def _exits() -> RestartVerdict:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("says", "problem"),
    [
        (_raises, "raised ValueError: oops"),
        (_exits, "raised SystemExit: 3"),
        (lambda: True, "returned True, which is no RestartVerdict"),
        (lambda: None, "returned None"),
        (lambda: RestartVerdict(True, "again", -1.0), "asks for a wait of -1.0 s"),
        (lambda: RestartVerdict(True, "again", float("inf")), "asks for a wait of inf s"),
        (lambda: RestartVerdict(True, "again", float("nan")), "asks for a wait of nan"),
        (lambda: RestartVerdict(True, "again", "soon"), "asks for a wait of 'soon'"),
        (lambda: RestartVerdict(True, ""), "gives '' as its reason"),
    ],
)
def test_of_a_policy_that_fails_the_plain_budget_decides_and_the_reason_says_so(
    says: Callable[[], Any], problem: str
) -> None:
    world = World([crashes()])
    agent = world.agent(max_restarts=2, restart_policy=Own(says))
    assert agent.run().is_failed()
    reasons = [decision.reason for decision in made(world, "restart")]
    assert len(reasons) == 2
    assert f"the restart policy mine:Own {problem}" in reasons[0]
    assert reasons[0].endswith("so that the plain budget decides: restart 1 of 2")
    assert "all 2 restarts are used up" in made(world, "fail")[0].reason


def test_a_policy_that_is_a_subclass_of_ours_may_fail_too() -> None:
    class Broken(RestartPolicy):
        def judge(self, *args: Any, **given: Any) -> RestartVerdict:
            raise KeyError("x")

    world = World([crashes()], [Script()])
    assert world.agent(max_restarts=1, restart_policy=Broken()).run().state == WorkerState.SUCCEEDED
    assert "Broken raised KeyError" in made(world, "restart")[0].reason


def test_a_reason_without_end_is_cut() -> None:
    world = World([crashes()])
    world.agent(max_restarts=1, restart_policy=Own(lambda: RestartVerdict(False, "x" * 100_000))).run()
    assert len(made(world, "fail")[0].reason) < 1000
