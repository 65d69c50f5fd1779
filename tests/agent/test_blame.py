"""The culprit of a node: waited for where only victims have died, and never one of those whom the agent stopped."""

from __future__ import annotations

import signal

import pytest

from toolkit.agent.blame import SETTLE_S
from toolkit.core import events
from toolkit.core.errors import SignalException
from toolkit.core.model import WorkerState

from .world import Script, World

VICTIM = "Traceback (most recent call last):\nConnectionResetError: [Errno 104] Connection reset by peer\n"
ERROR = "Traceback (most recent call last):\nValueError: loss is NaN\n"
LONG = Script(runs_s=None)


def fails(after_s: float, said: str = "", code: int = 1) -> Script:
    return Script(runs_s=after_s, exit_code=code, said=said)


def firsts(world: World) -> list[int]:
    """Who was told as the first, in the end of each incarnation."""
    told = {e.incarnation: e.local_rank for e in world.recorded.of(events.FailureRecorded) if e.first}
    return [told[incarnation] for incarnation in sorted(told)]


def run(*scripts: Script) -> tuple[World, list[int], float]:
    """Run to the end; returns the world, the failed ranks in their order, and how long it took, in seconds."""
    world = World(list(scripts))
    result = world.agent(max_restarts=0).run()
    assert result.state == WorkerState.FAILED
    return world, list(result.failures), world.time.ns / 1e9


def test_a_culprit_that_ends_after_its_victim_is_waited_for() -> None:
    world, failed, took_s = run(fails(5, VICTIM), fails(5.4, ERROR), LONG)
    assert failed == [1, 0]
    assert firsts(world) == [1]
    assert took_s == pytest.approx(5.4)


def test_no_longer_than_a_moment() -> None:
    world, failed, took_s = run(fails(5, VICTIM), fails(5.1 + SETTLE_S, ERROR), LONG)
    assert failed == [0]
    assert took_s == pytest.approx(5 + SETTLE_S)
    assert firsts(world) == [0]


@pytest.mark.parametrize("said", [ERROR, "", "all is well\n"])
def test_who_does_not_speak_of_a_peer_is_not_waited_for(said: str) -> None:
    _, failed, took_s = run(fails(5, said, code=7), fails(5.4, ERROR), LONG)
    assert (failed, took_s) == ([0], pytest.approx(5))


def test_nobody_is_waited_for_where_nobody_runs() -> None:
    _, failed, took_s = run(fails(5, VICTIM))
    assert (failed, took_s) == ([0], pytest.approx(5))


def test_many_victims_and_one_culprit() -> None:
    world, failed, _ = run(fails(5, VICTIM), fails(5.1, VICTIM), fails(5.2, VICTIM), fails(5.3, ERROR))
    assert failed == [3, 0, 1, 2]
    assert firsts(world) == [3]
    hands = {e.local_rank: e.hand for e in world.recorded.of(events.FailureRecorded)}
    assert hands == {0: "second", 1: "second", 2: "second", 3: "first"}


def test_the_exits_are_told_when_they_are_noticed() -> None:
    world, _, _ = run(fails(5, VICTIM), fails(5.4, ERROR), LONG)
    exits = {e.local_rank: e.mono_ns / 1e9 for e in world.recorded.of(events.WorkerExited)}
    assert (exits[0], exits[1]) == (pytest.approx(5), pytest.approx(5.4))


def test_a_death_signal_ends_the_wait() -> None:
    for restarts in (0, 3):
        world = World([fails(5, VICTIM), LONG])
        world.time.at(5.2, lambda world=world: world.interrupts.send(signal.SIGTERM))  # type: ignore[misc]
        if restarts:
            with pytest.raises(SignalException):
                world.agent(max_restarts=restarts).run()
        else:  # the failure came first, and is what the run ends with
            assert world.agent(max_restarts=0).run().state == WorkerState.FAILED
        assert world.time.ns / 1e9 < 5.5


# -- while the agent stops the others ---------------------------------------------------------------------------


def stopped(**fields: object) -> Script:
    return Script(runs_s=None, **fields)  # type: ignore[arg-type]


def test_who_had_said_before_what_it_dies_of_has_failed_too() -> None:
    slow = stopped(said=ERROR, said_s=4.9, dies_after_s=0.1, dies_with=1)
    world, failed, _ = run(fails(5, VICTIM), slow)
    assert failed == [1, 0]
    assert firsts(world) == [1]
    exits = {e.local_rank: e.stopped_by_agent for e in world.recorded.of(events.WorkerExited)}
    assert exits == {0: False, 1: False}


@pytest.mark.parametrize(
    "script",
    [
        stopped(said=ERROR, dies_with=1),
        stopped(said=ERROR, said_s=1),
        stopped(said="ready\n", said_s=1, dies_with=99),
        stopped(dies_with=99),
        stopped(dies_with=-signal.SIGABRT),
        stopped(dies_after_s=None),
    ],
    ids=["said after the signal", "went on", "no error", "no word", "crashed", "got SIGKILL from the agent"],
)
def test_what_the_agent_stopped_is_no_cause(script: Script) -> None:
    world, failed, _ = run(fails(5, ERROR), script)
    assert failed == [0]
    exits = {e.local_rank: e.stopped_by_agent for e in world.recorded.of(events.WorkerExited)}
    assert exits == {0: False, 1: True}


def test_a_sigkill_that_the_agent_did_not_send_is_a_failure() -> None:
    world = World([fails(5, VICTIM), stopped(dies_after_s=0.2, dies_with=-signal.SIGKILL)])
    result = world.agent(max_restarts=0).run()
    assert list(result.failures) == [1, 0]


def test_what_a_stopped_victim_had_said_is_told() -> None:
    world, _, _ = run(fails(5, ERROR), stopped(said=VICTIM, said_s=4.999))
    exits = {e.local_rank: e.consequence for e in world.recorded.of(events.WorkerExited)}
    assert exits == {0: "", 1: "connection reset by peer"}
