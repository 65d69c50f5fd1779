"""Signals that go on to the workers, in a world of fakes: to whom, when, and what is told."""

from __future__ import annotations

import signal

from tests.agent.world import Script, World, crashes
from toolkit.core import events as ev
from toolkit.core.model import WorkerState
from toolkit.core.restarts import RestartPolicy

USR1 = signal.SIGUSR1
READY = Script(runs_s=10, handles=frozenset({USR1}))
DEAF = Script(runs_s=10)


def forwarded(world: World) -> list[tuple[int, str, list[int], list[int]]]:
    return [
        (went.incarnation, went.signal, went.local_ranks, went.waiting)
        for went in world.recorded.of(ev.SignalForwarded)
    ]


def test_who_gets_it_later_is_told_twice_and_gets_it_once() -> None:
    """A fake worker has its handlers from the second look on."""
    world = World([READY, DEAF])
    world.time.at(2, lambda: world.interrupts.forward(USR1))
    assert world.agent().run().state == WorkerState.SUCCEEDED
    assert forwarded(world) == [(0, "SIGUSR1", [], [0, 1]), (0, "SIGUSR1", [0], [1])]
    assert world.launcher.started[0].forwarded == [(0, USR1)]


def test_nothing_is_looked_at_again_once_all_have_it() -> None:
    world = World([READY])
    world.time.at(2, lambda: world.interrupts.forward(USR1))
    world.agent().run()
    assert world.launcher.started[0].looks == 2
    assert world.launcher.started[0].forwarded == [(0, USR1)]


def test_one_that_comes_before_the_workers_is_theirs() -> None:
    world = World([READY])
    world.interrupts.forward(USR1)
    world.agent().run()
    assert world.launcher.started[0].forwarded == [(0, USR1)]


def test_one_that_comes_in_the_pause_before_a_restart_is_for_the_next() -> None:
    world = World([crashes(at_s=1)], [READY])
    policy = RestartPolicy(backoff_s=10)
    world.time.at(4, lambda: world.interrupts.forward(USR1))
    world.agent(max_restarts=1, restart_policy=policy).run()
    assert [workers.forwarded for workers in world.launcher.started] == [[], [(0, USR1)]]
    assert [went[0] for went in forwarded(world)] == [1, 1]


def test_who_waited_for_it_hands_it_down_to_those_that_take_its_place() -> None:
    world = World([crashes(at_s=3)], [READY])
    world.time.at(2, lambda: world.interrupts.forward(USR1))
    world.agent(max_restarts=1).run()
    assert [workers.forwarded for workers in world.launcher.started] == [[], [(0, USR1)]]


def test_what_was_delivered_is_not_delivered_again_after_a_restart() -> None:
    world = World([crashes(READY, at_s=5)], [READY])
    world.time.at(2, lambda: world.interrupts.forward(USR1))
    world.agent(max_restarts=1).run()
    assert [workers.forwarded for workers in world.launcher.started] == [[(0, USR1)], []]
