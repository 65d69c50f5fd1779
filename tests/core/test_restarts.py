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
