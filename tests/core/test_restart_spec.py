"""A restart policy as one word of a command line."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.core.errors import ConfigurationError
from toolkit.core.restart_spec import duration_of, is_own, name_of, policy_of, spec_of
from toolkit.core.restarts import PLAIN_BUDGET, RestartPolicy


@pytest.mark.parametrize(
    ("spec", "policy"),
    [
        ("budget", PLAIN_BUDGET),
        ("never", RestartPolicy(never=True)),
        ("backoff", RestartPolicy(backoff_s=1, backoff_max_s=60, jitter=0.2)),
        ("crash-loop", RestartPolicy(crash_loop=3)),
        ("backoff,crash-loop", RestartPolicy(backoff_s=1, backoff_max_s=60, jitter=0.2, crash_loop=3)),
        ("window=1h", RestartPolicy(window_s=3600)),
        ("window=1h30m", RestartPolicy(window_s=5400)),
        ("window=90", RestartPolicy(window_s=90)),
        ("window=2d", RestartPolicy(window_s=172_800)),
        ("backoff=500ms..1min", RestartPolicy(backoff_s=0.5, backoff_max_s=60)),
        ("backoff=5s", RestartPolicy(backoff_s=5, backoff_max_s=60)),
        ("backoff=5m", RestartPolicy(backoff_s=300, backoff_max_s=300)),
        ("backoff,jitter=50%", RestartPolicy(backoff_s=1, backoff_max_s=60, jitter=0.5)),
        ("never-on=2/78/SIGSEGV", RestartPolicy(never_on=frozenset({2, 78, -11}))),
        ("free-on=75/usr1", RestartPolicy(free_on=frozenset({75, -10}))),
        ("never,free-on=75", RestartPolicy(never=True, free_on=frozenset({75}))),
        ("crash-loop=4,steady=1h", RestartPolicy(crash_loop=4, steady_s=3600)),
        (" window=1h , crash-loop=4 ", RestartPolicy(window_s=3600, crash_loop=4)),
    ],
)
def test_a_text_is_a_policy(spec: str, policy: RestartPolicy) -> None:
    assert policy_of(spec) == policy
    assert policy_of(spec_of(policy)) == policy


def test_a_text_needs_no_quotes_in_a_shell() -> None:
    spec = spec_of(
        RestartPolicy(
            window_s=3600,
            backoff_s=0.5,
            jitter=0.25,
            crash_loop=3,
            never_on=frozenset({2, -11}),
            free_on=frozenset({75}),
            steady_s=60,
        )
    )
    assert shlex.quote(spec) == spec or set(spec) <= set("abcdefghijklmnopqrstuvwxyzSIGEV0123456789=,./-")
    assert spec == (
        "window=1h,backoff=0.5s..1m,jitter=0.25,crash-loop=3,never-on=SIGSEGV/2,free-on=75,steady=1m"
    )


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("bakoff,never", "'bakoff' is not known; did you mean backoff?"),
        ("windw=1h", "'windw' is not known; did you mean window?"),
        ("crash_loop=3", "'crash_loop' is not known; did you mean crash-loop?"),
        ("xyzzy=1", "'xyzzy' is not known; words are budget, never"),
        ("window", "window needs a value; write window=1h"),
        ("never=3", "never takes no value, and is given '3'; write never"),
        ("window=x", "window is 'x'; write for instance window=1h"),
        ("window=0s", "window is '0s'"),
        ("window=-5s", "window is '-5s'"),
        ("window=1h5", "window is '1h5'"),
        ("window=", "window is ''"),
        ("backoff=9s..1s", "backoff is '9s..1s'"),
        ("backoff,jitter=1.5", "jitter is '1.5'"),
        ("backoff,jitter=nan", "jitter is 'nan'"),
        ("crash-loop=1", "crash-loop is '1'"),
        ("crash-loop=many", "crash-loop is 'many'"),
        ("never-on=0", "0 is no exit code of a failure, which is 1 to 255"),
        ("never-on=256", "256 is no exit code"),
        ("never-on=SIGSEGW", "did you mean SIGSEGV?"),
        ("never-on=", "'' is neither an exit code nor a signal"),
        ("never-on=3,free-on=3", "exit code 3 both forbids a restart and makes it free; name it once"),
        ("window=1h,window=2h", "has 'window=1h' and 'window=2h'; give window once"),
        ("never,window=1h", "with never nothing is started again, so that window has no effect"),
        ("jitter=0.2", "jitter lengthens a back-off, and there is none; add backoff"),
        ("steady=1m", "steady is for backoff, crash-loop and free-on"),
        ("budget,,never", "nothing between two commas"),
    ],
)
def test_what_is_none_is_refused_with_its_value_and_the_remedy(spec: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        policy_of(spec, "--restart-policy")
    assert said in str(caught.value)
    assert "--restart-policy" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "own"),
    [
        ("mine.policies:Mine", True),
        ("mine.py:make", True),
        ("cluster-policy", True),
        ("backoff", False),
        ("window", False),
        ("window=1h", False),
        ("backoff,never", False),
        ("", False),
    ],
)
def test_what_is_ones_own_is_told_from_what_is_ours(spec: str, own: bool) -> None:
    assert is_own(spec) == own


class Mine(RestartPolicy):
    """Judges in a way of its own."""


def test_a_policy_has_a_name_for_events() -> None:
    assert name_of(RestartPolicy(crash_loop=3)) == "crash-loop=3"
    assert name_of(Mine(crash_loop=3)) == "Mine"


_SECONDS = st.one_of(st.integers(1, 10_000_000).map(float), st.floats(0.001, 1e6))


@given(
    window_s=st.none() | _SECONDS | st.sampled_from([1e6, 1234567.0]),
    backoff_s=st.just(0.0) | st.floats(0.001, 60),
    jitter=st.floats(0, 1),
    crash_loop=st.none() | st.integers(2, 1000),
    never_on=st.frozensets(st.integers(1, 100) | st.sampled_from([-9, -11, -15])),
    free_on=st.frozensets(st.integers(101, 255)),
)
def test_every_policy_comes_back_from_its_text(
    window_s: float | None,
    backoff_s: float,
    jitter: float,
    crash_loop: int | None,
    never_on: frozenset[int],
    free_on: frozenset[int],
) -> None:
    policy = RestartPolicy(
        window_s=window_s,
        backoff_s=backoff_s,
        jitter=jitter if backoff_s else 0.0,
        crash_loop=crash_loop,
        never_on=never_on,
        free_on=free_on,
    )
    assert policy_of(spec_of(policy)) == policy


@given(st.text(max_size=30))
def test_any_text_is_a_policy_or_refused(text: str) -> None:
    try:
        policy_of(text)
    except ConfigurationError:
        pass


def test_durations_have_the_largest_unit_that_fits() -> None:
    assert [duration_of(seconds) for seconds in (0.5, 1, 90, 60, 5400, 3600, 86_400)] == [
        "0.5s",
        "1s",
        "90s",
        "1m",
        "90m",
        "1h",
        "1d",
    ]
