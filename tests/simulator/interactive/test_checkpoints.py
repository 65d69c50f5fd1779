"""Which moments are kept: never too many, evenly spread, the first and the latest among them; shared by histories."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("greenlet")

from simulator.interactive.checkpoints import CHECKPOINTS_MAX, Checkpoint, Checkpoints
from simulator.interactive.messages import Moment, State


class Standing:
    """A process that stands still."""

    def __init__(self, now_ns: int) -> None:
        self.state = State(Moment(now_ns))
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def at(ran_s: float, injected: int = 0) -> Checkpoint:
    standing: Any = Standing(int(ran_s * 1e9))
    return Checkpoint(standing, ran_s, injected)


def closed(checkpoint: Checkpoint) -> int:
    standing: Any = checkpoint.conversation
    return int(standing.closed)


@given(st.lists(st.floats(0.0, 50.0), max_size=80), st.sampled_from([1, 900, 5_000]))
def test_they_are_bounded_and_those_that_go_are_closed(pauses: list[float], nodes: int) -> None:
    checkpoints = Checkpoints(nodes)
    made = [at(0.0)]
    checkpoints.add(made[0])
    for pause_s in pauses:
        made.append(at(made[-1].ran_s + pause_s))
        checkpoints.add(made[-1])
        assert len(checkpoints) <= CHECKPOINTS_MAX
        assert checkpoints.latest is made[-1]
        assert checkpoints.before(0, 0).now_ns == 0
    assert sum(map(closed, made)) == len(made) - len(checkpoints)
    checkpoints.release()
    assert set(map(closed, made)) == {1}


def test_those_that_stay_are_evenly_spread() -> None:
    checkpoints = Checkpoints(1, spacing_s=1.0)
    for second in range(101):
        checkpoints.add(at(float(second)))
    kept = [checkpoints.before(second * 10**9, 0).ran_s for second in range(101)]
    assert max(second - ran_s for second, ran_s in enumerate(kept)) <= 2 * checkpoints.spacing_s
    assert checkpoints.spacing_s <= 16


def test_the_nearest_that_has_no_fault_too_many() -> None:
    checkpoints = Checkpoints(1)
    for checkpoint in (at(0.0), at(1.0), at(1.0, injected=1), at(2.0, injected=1)):
        checkpoints.add(checkpoint)
    assert (checkpoints.before(10**9, 0).ran_s, checkpoints.before(10**9, 0).injected) == (1.0, 0)
    assert (checkpoints.before(10**9, 1).ran_s, checkpoints.before(10**9, 1).injected) == (1.0, 1)
    assert checkpoints.before(5 * 10**9, 1).ran_s == 2.0


def test_shared_ones_are_closed_by_the_last_holder() -> None:
    one = Checkpoints(1)
    made = [at(0.0), at(1.0), at(2.0)]
    for checkpoint in made:
        one.add(checkpoint)
    other = one.shared(up_to=made[1])
    assert (len(one), len(other)) == (3, 2)
    one.release()
    assert list(map(closed, made)) == [0, 0, 1]
    other.release()
    assert list(map(closed, made)) == [1, 1, 1]
