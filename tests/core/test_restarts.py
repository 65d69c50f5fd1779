"""The restart policy: torch's budget by default, and what it can do besides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.core.errors import ConfigurationError
from toolkit.core.restarts import PLAIN_BUDGET, FailureCause, PastRestart, RestartPolicy

SECOND = 1_000_000_000


def judge(
    policy: RestartPolicy, *, past: tuple[PastRestart, ...] = (), remaining: int = 3, budget: int = 3, **kw
):
    cause = kw.pop("cause", FailureCause((1,), "exit code 1"))
    return policy.judge(cause, past, remaining=remaining, restarts_max=budget, now_ns=100 * SECOND, **kw)


def test_the_plain_budget_is_torchs_meaning_of_max_restarts() -> None:
    assert judge(PLAIN_BUDGET, remaining=1).allowed
    assert judge(PLAIN_BUDGET, remaining=1).delay_s == 0
    assert judge(PLAIN_BUDGET, remaining=1).reason == "restart 3 of 3"
    spent = judge(PLAIN_BUDGET, remaining=0)
    assert not spent.allowed
    assert spent.reason == "all 3 restarts are used up"
    assert judge(PLAIN_BUDGET, remaining=0, budget=1).reason == "the only restart is used up"


def test_a_budget_of_none_says_so() -> None:
    assert judge(PLAIN_BUDGET, remaining=0, budget=0).reason == "no restarts are allowed (max_restarts is 0)"


def test_a_window_forgets_old_restarts() -> None:
    policy = RestartPolicy(window_s=60)
    old, young = PastRestart(10 * SECOND, "a"), PastRestart(90 * SECOND, "a")
    assert judge(policy, past=(old, old, young), remaining=0).allowed
    full = judge(policy, past=(young, young, young), remaining=0)
    assert not full.allowed
    assert full.reason.endswith("within 60 s")


def test_the_wait_doubles_up_to_its_bound() -> None:
    policy = RestartPolicy(backoff_s=1, backoff_max_s=5)
    past = PastRestart(0, "a")
    assert [judge(policy, past=(past,) * n).delay_s for n in range(5)] == [1, 2, 4, 5, 5]


def test_the_wait_survives_any_number_of_restarts() -> None:
    assert judge(RestartPolicy(backoff_s=1), past=(PastRestart(0, "a"),) * 5000).delay_s == 60


def test_jitter_only_lengthens() -> None:
    policy = RestartPolicy(backoff_s=10, jitter=0.5)
    assert judge(policy, draw=0.0).delay_s == 10
    assert judge(policy, draw=0.5).delay_s == 12.5


def test_a_crash_loop_ends_the_run_with_budget_left() -> None:
    policy = RestartPolicy(crash_loop=3)
    same, other = PastRestart(0, "exit code 1"), PastRestart(0, "SIGKILL")
    assert judge(policy, past=(same,)).allowed
    assert judge(policy, past=(same, other, same)).allowed, "another cause in between breaks the row"
    verdict = judge(policy, past=(other, same, same))
    assert not verdict.allowed
    assert "3 failures in a row" in verdict.reason


def test_an_exit_code_can_forbid_a_restart() -> None:
    policy = RestartPolicy(never_on=frozenset({64, -9}))
    assert judge(policy, cause=FailureCause((1, 64), "x")).reason == "exit code 64 forbids a restart"
    assert not judge(policy, cause=FailureCause((-9,), "SIGKILL")).allowed
    assert judge(policy, cause=FailureCause((1,), "x")).allowed


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"window_s": 0}, "restart window is 0"),
        ({"backoff_s": -1}, "back-off is -1"),
        ({"jitter": 1.5}, "jitter is 1.5"),
        ({"crash_loop": 1}, "crash loop length is 1"),
    ],
)
def test_values_out_of_range_are_refused_by_name(values: dict, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        RestartPolicy(**values)


@given(
    remaining=st.integers(-2, 10),
    restarts=st.integers(0, 200),
    backoff=st.floats(0, 100),
    jitter=st.floats(0, 1),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_a_plain_budget_allows_exactly_what_remains(
    remaining: int, restarts: int, backoff: float, jitter: float, draw: float
) -> None:
    policy = RestartPolicy(backoff_s=backoff, jitter=jitter)
    verdict = judge(policy, past=(PastRestart(0, "a"),) * restarts, remaining=remaining, draw=draw)
    assert verdict.allowed == (remaining > 0)
    assert 0 <= verdict.delay_s <= policy.backoff_max_s * 2
    assert verdict.reason


# -- what makes failures alike --------------------------------------------------------------------------------


def failed_at(
    step: int | None = None, uptime_s: float | None = None, key: str = "exit code 1"
) -> FailureCause:
    return FailureCause((1,), key, progress=step, uptime_s=uptime_s)


def restarted_at(step: int | None = None, uptime_s: float | None = None) -> PastRestart:
    return PastRestart(0, "exit code 1", progress=step, uptime_s=uptime_s)


@pytest.mark.parametrize(
    ("steps", "loops"),
    [
        ((500, 500, 500), True),
        ((500, 505, 510), True),
        ((500, 500, 511), False),
        ((100_000, 100_900, 100_500), True),
        ((100_000, 100_000, 102_000), False),
        ((1000, 2000, 3000), False),
        ((0, 0, 0), True),
    ],
)
def test_where_steps_are_told_a_loop_is_at_about_the_same_step(
    steps: tuple[int, int, int], loops: bool
) -> None:
    *before, now = steps
    past = tuple(restarted_at(step, uptime_s=10_000) for step in before)
    verdict = judge(RestartPolicy(crash_loop=3), past=past, cause=failed_at(now, uptime_s=10_000))
    assert verdict.allowed != loops, "steps say more than the time since the start"
    assert loops == ("at about step" in verdict.reason)


def test_without_steps_a_failure_after_hours_is_no_crash_loop() -> None:
    policy = RestartPolicy(crash_loop=3)
    early, late = restarted_at(uptime_s=20), restarted_at(uptime_s=10_800)
    assert not judge(policy, past=(early, early), cause=failed_at(uptime_s=30)).allowed
    assert judge(policy, past=(early, early), cause=failed_at(uptime_s=10_800)).allowed
    assert judge(policy, past=(early, late), cause=failed_at(uptime_s=30)).allowed
    assert not judge(
        RestartPolicy(crash_loop=3, steady_s=20_000), past=(late, late), cause=failed_at(uptime_s=10_800)
    ).allowed


def test_a_short_back_off_is_told_as_short_as_it_is() -> None:
    assert judge(RestartPolicy(backoff_s=0.04)).reason == "restart 1 of 3, back-off 40 ms"
    assert judge(RestartPolicy(backoff_s=0.1)).reason == "restart 1 of 3, back-off 0.1 s"


def test_the_back_off_begins_anew_after_workers_that_ran_steadily() -> None:
    policy = RestartPolicy(backoff_s=1, backoff_max_s=60)
    early, late = restarted_at(uptime_s=20), restarted_at(uptime_s=700)
    now = failed_at(uptime_s=20)
    assert judge(policy, past=(early, early, early), cause=now).delay_s == 8
    assert judge(policy, past=(early, early, late), cause=now).delay_s == 2
    assert judge(policy, past=(early, early, early), cause=failed_at(uptime_s=700)).delay_s == 1


# -- exit codes -----------------------------------------------------------------------------------------------


def test_an_exit_code_can_make_a_restart_free() -> None:
    policy = RestartPolicy(free_on=frozenset({75, -10}), backoff_s=2)
    asked = judge(policy, remaining=0, cause=FailureCause((75,), "exit code 75"))
    assert (asked.allowed, asked.free, asked.delay_s) == (True, True, 2.0)
    assert asked.reason == "exit code 75 asks for a restart, which is free, back-off 2.0 s"
    assert judge(policy, remaining=0, cause=FailureCause((-10,), "SIGUSR1")).reason.startswith("SIGUSR1 asks")
    assert not judge(policy, remaining=0, cause=FailureCause((1,), "exit code 1")).allowed


def test_what_asks_for_a_restart_again_and_again_spends_the_budget_at_last() -> None:
    policy = RestartPolicy(free_on=frozenset({75}))
    cause, free = FailureCause((75,), "exit code 75"), PastRestart(0, "exit code 75", free=True)
    assert judge(policy, past=(free,) * 4, cause=cause).free
    sixth = judge(policy, past=(free,) * 5, cause=cause)
    why = "exit code 75 has had 5 free restarts in a row; "
    assert (sixth.allowed, sixth.free, sixth.reason) == (True, False, f"{why}restart 1 of 3")
    none_left = judge(policy, past=(free,) * 5, cause=cause, remaining=0)
    assert (none_left.allowed, none_left.reason) == (False, f"{why}all 3 restarts are used up")
    assert not judge(policy, past=(free,) * 5, remaining=0, cause=cause).allowed
    steady = PastRestart(0, "exit code 75", free=True, uptime_s=3600)
    preempted = FailureCause((75,), "exit code 75", uptime_s=3600)
    assert judge(policy, past=(steady,) * 50, cause=preempted).free, (
        "who runs for an hour each time is preempted"
    )


def test_a_crash_loop_ends_free_restarts_too() -> None:
    policy = RestartPolicy(free_on=frozenset({75}), crash_loop=3)
    free = PastRestart(0, "exit code 75", free=True)
    verdict = judge(policy, past=(free, free), cause=FailureCause((75,), "exit code 75"))
    assert not verdict.allowed
    assert verdict.reason.startswith("crash loop")


def test_free_restarts_spend_no_window() -> None:
    free, paid = PastRestart(99 * SECOND, "a", free=True), PastRestart(99 * SECOND, "a")
    policy = RestartPolicy(window_s=60)
    assert judge(policy, past=(free,) * 9, remaining=0).reason == "restart 1 of 3 within 60 s"
    assert not judge(policy, past=(free, paid, paid, paid), remaining=0).allowed


def test_never_restarts_nothing_but_what_asks_for_it() -> None:
    policy = RestartPolicy(never=True, free_on=frozenset({75}))
    assert judge(policy).reason == "the restart policy is never"
    assert judge(policy, cause=FailureCause((75,), "exit code 75")).free


def test_a_code_can_not_both_forbid_and_demand_a_restart() -> None:
    with pytest.raises(ConfigurationError, match="exit code 75 both forbids a restart and makes it free"):
        RestartPolicy(never_on=frozenset({75}), free_on=frozenset({75, 3}))


def test_a_signal_that_forbids_is_called_by_its_name() -> None:
    policy = RestartPolicy(never_on=frozenset({-11}))
    assert judge(policy, cause=FailureCause((-11,), "SIGSEGV")).reason == "SIGSEGV forbids a restart"
