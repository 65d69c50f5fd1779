"""Which workers hang, by looks in their order, each with its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.core.errors import ConfigurationError
from toolkit.core.hanging.hang_settings import STUCK_TIMEOUT, hang_settings, health_port
from toolkit.core.hanging.hangs import (
    LOOK_S,
    STEPS_MISSED,
    STOPPED_S,
    Judge,
    Look,
    ProcessLook,
    Verdict,
)
from toolkit.core.hanging.watched import HangSettings

SETTINGS = HangSettings(timeout_s=60, stuck_s=30)


class Watching:
    """Workers that are looked at by a judge, every three seconds unless told otherwise."""

    def __init__(self, *workers: int, settings: HangSettings = SETTINGS) -> None:
        self.judge = Judge(settings)
        self.now_s = 1_000.0
        self.looks = {rank: Look(rank, (ProcessLook(100 + rank, "S", 1.0),)) for rank in workers}

    def change(self, rank: int, **fields: object) -> None:
        self.looks[rank] = replace(self.looks[rank], **fields)  # type: ignore[arg-type]

    def state(self, rank: int, state: str, tracer: int = 0) -> None:
        (own, *others) = self.looks[rank].processes
        self.change(rank, processes=(replace(own, state=state, tracer=tracer), *others))

    def works(self, rank: int, cpu_s: float = 1.0) -> None:
        (own, *others) = self.looks[rank].processes
        self.change(rank, processes=(replace(own, cpu_s=own.cpu_s + cpu_s), *others))

    def steps(self, rank: int, step: int) -> None:
        self.change(rank, step=step, told_ns=int(self.now_s * 1e9))

    def look(self, after_s: float = LOOK_S) -> list[Verdict]:
        self.now_s += after_s
        return self.judge.look(list(self.looks.values()), int(self.now_s * 1e9))

    def for_seconds(
        self, seconds: float, busy: Sequence[int] = (), step: Mapping[int, int] | None = None
    ) -> list[Verdict]:
        """Look on for so long, while some compute and some make a step each look, counting on from `step`."""
        found, ends_s, steps = [], self.now_s + seconds, dict(step or {})
        while self.now_s < ends_s:
            for rank in busy:
                self.works(rank)
            for rank in steps:
                self.steps(rank, steps[rank])
                steps[rank] += 1
            found = self.look()
        return found


def kinds(verdicts: Sequence[Verdict]) -> dict[int, str]:
    return {verdict.local_rank: verdict.kind for verdict in verdicts}


def test_workers_that_compute_do_not_hang() -> None:
    watching = Watching(0, 1)
    assert watching.for_seconds(10_000, busy=(0, 1)) == []
    assert not watching.judge.alarmed


def test_a_worker_that_is_stopped_is_told_after_some_seconds() -> None:
    watching = Watching(0, 1)
    watching.look()
    watching.state(1, "T")
    assert watching.look() == []
    assert watching.judge.alarmed, "it is looked at more often"
    assert watching.look(STOPPED_S / 2) == []
    assert watching.look(1.0) == []
    (verdict,) = [*watching.look(1.4), *watching.look(1.4)][-1:]
    assert (verdict.local_rank, verdict.kind, verdict.pid) == (1, "stopped", 101)
    assert STOPPED_S <= verdict.for_s < 2 * STOPPED_S
    watching.state(1, "R")
    assert watching.look() == []
    assert not watching.judge.alarmed


def test_a_child_that_is_stopped_counts_and_is_named() -> None:
    watching = Watching(0)
    watching.change(0, processes=(ProcessLook(100, "S", 1.0), ProcessLook(555, "T", 0.5)))
    (verdict,) = watching.for_seconds(12)
    assert (verdict.kind, verdict.pid) == ("stopped", 555)


@pytest.mark.parametrize(("state", "tracer"), [("t", 7), ("t", 0), ("T", 7)])
def test_a_debugger_is_no_hang_and_is_called_so(state: str, tracer: int) -> None:
    watching = Watching(0)
    watching.state(0, state, tracer)
    (verdict,) = watching.for_seconds(12)
    assert (verdict.kind, verdict.tracer) == ("traced", tracer)


def test_uninterruptible_sleep_is_a_hang_only_after_long_and_without_cpu_time() -> None:
    watching = Watching(0, 1)
    watching.state(0, "D")
    watching.state(1, "D")
    assert watching.for_seconds(24, busy=(1,)) == []
    assert kinds(watching.for_seconds(12, busy=(1,))) == {0: "stuck"}, "a loader that reads much is no hang"
    watching.state(0, "S")
    assert watching.look() == []


def test_a_worker_is_silent_without_cpu_and_output() -> None:
    watching = Watching(0, 1, 2)
    for second in range(0, 120, 3):
        watching.works(0)
        watching.change(1, written=second)
        found = watching.look()
    assert kinds(found) == {2: "silent"}
    assert found[0].for_s >= 60


def test_a_trickle_of_cpu_time_is_silence_and_spinning_is_not() -> None:
    watching = Watching(0, 1)
    for _ in range(40):
        watching.works(0, 0.01)  # idle threads of Python and NCCL
        watching.works(1, LOOK_S)
        found = watching.look()
    assert kinds(found) == {0: "silent"}


def test_what_children_compute_is_their_workers_and_their_end_is_no_work() -> None:
    watching = Watching(0)
    for second in range(60):
        watching.change(0, processes=(ProcessLook(100, "S", 1.0), ProcessLook(200, "R", float(second))))
        assert watching.look() == []
    watching.change(0, processes=(ProcessLook(100, "S", 1.0),))
    assert kinds(watching.for_seconds(70)) == {0: "silent"}


def test_who_is_nearly_silent_is_waited_for_so_that_one_report_has_all() -> None:
    watching = Watching(0, 1)
    watching.for_seconds(9, busy=(1,))
    assert watching.for_seconds(54) == [], "rank 0 is silent, rank 1 will be in a moment"
    assert kinds(watching.for_seconds(9)) == {0: "silent", 1: "silent"}


def test_who_was_told_once_does_not_recover_because_another_falls_silent() -> None:
    watching = Watching(0, 1)
    assert kinds(watching.for_seconds(66, busy=(1,))) == {0: "silent"}
    for _ in range(18):
        assert 0 in kinds(watching.look())


def test_time_that_nobody_saw_does_not_count() -> None:
    watching = Watching(0)
    watching.look()
    assert watching.look(10_000) == [], "the agent was suspended, and so was the worker"
    watching.state(0, "T")
    watching.look()
    assert watching.look(3) == []


def test_a_worker_with_steps_is_judged_by_them() -> None:
    watching = Watching(0, 1)
    watching.for_seconds(300, step={0: 0, 1: 0})  # no CPU, no output, but steps
    found = watching.for_seconds(54, busy=(1,), step={0: 1000})
    assert found == []
    found = watching.for_seconds(30, busy=(1,), step={0: 2000})
    assert kinds(found) == {1: "standing"}, "though it computes"
    last = int(300 / LOOK_S) - 1
    assert found[0].step == last
    watching.steps(1, last)
    assert watching.look() == [], "the same step once more says that it is at it"


def test_slow_steps_have_more_time() -> None:
    watching = Watching(0)
    for step in range(5):
        watching.steps(0, step)
        watching.for_seconds(50)
    watching.steps(0, 5)
    assert watching.for_seconds(STEPS_MISSED * 50 - 12) == []
    assert kinds(watching.for_seconds(30)) == {0: "standing"}


def test_before_its_first_step_a_worker_may_be_silent_no_longer_than_others() -> None:
    watching = Watching(0)
    assert kinds(watching.for_seconds(63)) == {0: "silent"}
    watching.steps(0, 0)
    assert watching.look() == []


def test_whoever_was_held_has_the_whole_time_again() -> None:
    watching = Watching(0)
    watching.state(0, "T")
    watching.for_seconds(200)
    watching.state(0, "S")
    assert watching.for_seconds(45) == []
    assert kinds(watching.for_seconds(20)) == {0: "silent"}


def test_who_has_ended_is_forgotten() -> None:
    watching = Watching(0, 1)
    watching.for_seconds(66, busy=(1,))
    del watching.looks[0]
    assert watching.for_seconds(30, busy=(1,)) == []


_PROCESSES = st.builds(
    ProcessLook,
    st.integers(1, 9),
    st.sampled_from(["R", "S", "D", "T", "t", "I", "", "?"]),
    st.floats(0, 1e6),
)
_LOOKS = st.builds(
    Look,
    st.integers(0, 3),
    st.lists(_PROCESSES, min_size=1, max_size=3).map(tuple),
    st.integers(0, 2),
    st.none() | st.integers(),
    st.integers(),
)


@given(st.lists(st.tuples(st.lists(_LOOKS, max_size=4), st.integers(0, 10**12)), max_size=12))
def test_whatever_is_seen_verdicts_are_about_those_who_were_seen(
    seen: list[tuple[list[Look], int]],
) -> None:
    judge, now_ns = Judge(HangSettings(timeout_s=1, stuck_s=1)), 0
    for looks, after_ns in seen:
        now_ns += after_ns
        unique = list({look.local_rank: look for look in looks}.values())
        found = judge.look(unique, now_ns)
        ranks = [verdict.local_rank for verdict in found]
        assert ranks == sorted(set(ranks))
        assert set(ranks) <= {look.local_rank for look in unique}
        assert all(verdict.for_s * 1e9 <= now_ns for verdict in found)


def test_torchs_variables_are_read() -> None:
    assert hang_settings({}) == HangSettings()
    told = hang_settings(
        {
            STUCK_TIMEOUT: "7.5",
            "TORCHELASTIC_ENABLE_FILE_TIMER": "1",
            "TORCHELASTIC_TIMER_FILE": "/tmp/pipe",
        },
        "restart",
        9.0,
    )
    assert told == HangSettings("restart", 9.0, 7.5, True, True, "/tmp/pipe")
    assert not hang_settings({"TORCHELASTIC_ENABLE_FILE_TIMER": "0", "TORCHELASTIC_TIMER_FILE": "x"}).timers
    assert not hang_settings({STUCK_TIMEOUT: "-1"}).stuck_fails, "torch: disabled"
    with pytest.raises(ConfigurationError, match="'soon'"):
        hang_settings({STUCK_TIMEOUT: "soon"})
    assert health_port({"TORCHELASTIC_HEALTH_CHECK_PORT": "8080"}) == 8080
    assert health_port({}) is None
    with pytest.raises(ConfigurationError, match="'70000'"):
        health_port({"TORCHELASTIC_HEALTH_CHECK_PORT": "70000"})
