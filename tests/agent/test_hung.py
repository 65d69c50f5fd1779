"""What an agent does about workers that hang or can't be killed, in a world of fakes."""

from __future__ import annotations

import signal

import pytest

from tests.agent.world import Script, World
from toolkit.core import events as ev
from toolkit.core.actions import Action
from toolkit.core.errors import SignalException
from toolkit.core.failures import exit_code_of
from toolkit.core.model import WorkerState

LONG = Script(runs_s=3600)
SHORT = Script(runs_s=10)
STUCK = Script(runs_s=None, dies_after_s=None, killable=False)


def test_workers_are_watched_from_their_start_to_their_stop() -> None:
    world = World([SHORT, SHORT])
    world.agent().run()
    ((incarnation, workers, alone),) = world.watch.begun
    assert (incarnation, alone) == (0, True)
    assert [(w.local_rank, w.global_rank, w.pid) for w in workers] == [(0, 0, 100), (1, 1, 101)]
    assert not world.watch.watching
    envs = [worker.env for worker in world.launcher.plans[0].workers]
    assert [env["RALLY_STEPS"] for env in envs] == ["slot 0", "slot 1"]


def test_a_condemned_worker_is_killed_and_has_failed_of_that() -> None:
    world = World([LONG, LONG], [SHORT, SHORT])
    world.watch.told = {1: 120}
    world.time.at(5, lambda: world.watch.condemn(1))
    assert world.agent(max_restarts=1).run().state == WorkerState.SUCCEEDED
    (failure,) = world.recorded.of(ev.FailureRecorded)
    assert (failure.local_rank, failure.signal, failure.first) == (1, "SIGKILL", True)
    assert failure.message == "hung: it does not move"
    assert len(world.launcher.plans) == 2
    (restart,) = [d for d in world.recorded.of(ev.DecisionMade) if d.action == "restart"]
    assert restart.spends_budget
    stopped = [e for e in world.recorded.of(ev.WorkerExited) if e.stopped_by_agent]
    assert [e.local_rank for e in stopped] == [0], "the other one was stopped in order"


def test_without_restarts_left_the_run_fails_with_its_exit_code() -> None:
    world = World([LONG, LONG])
    world.time.at(5, lambda: world.watch.condemn(0, signal.SIGABRT, "hung: timer 'step' expired"))
    result = world.agent(max_restarts=0).run()
    assert result.is_failed()
    assert exit_code_of(result) == 128 + signal.SIGABRT
    assert result.failures[0].message == "hung: timer 'step' expired"


def test_a_condemned_worker_that_ends_with_code_0_has_failed_all_the_same() -> None:
    world = World([Script(runs_s=6, dies_after_s=None), LONG])
    world.time.at(5, lambda: world.watch.condemn(0, signal.SIGTERM))
    result = world.agent(max_restarts=0).run()
    assert (result.is_failed(), exit_code_of(result)) == (True, 1)


def test_one_that_survives_its_killing_has_failed_and_nothing_starts_beside_it() -> None:
    world = World([LONG, STUCK], [SHORT, SHORT])
    world.time.at(5, lambda: world.watch.condemn(1))
    result = world.agent(max_restarts=3, shutdown_timeout=1).run()
    assert result.state == WorkerState.FAILED
    assert exit_code_of(result) == 128 + signal.SIGKILL
    assert len(world.launcher.plans) == 1
    (failure,) = world.recorded.of(ev.FailureRecorded)
    assert failure.message == "hung: it does not move; it did not end of it"
    (stopped,) = world.recorded.of(ev.WorkersStopped)
    assert stopped.unkillable == [1]
    (finished,) = world.recorded.of(ev.AgentFinished)
    assert finished.result == "FAILED"
    assert "local rank 1 can't be killed" in finished.reason


def test_an_exit_of_another_is_told_while_one_survives_its_killing() -> None:
    world = World([Script(runs_s=10.5), STUCK])
    world.time.at(5, lambda: world.watch.condemn(1))
    world.agent(shutdown_timeout=1).run()
    assert [e.local_rank for e in world.recorded.of(ev.WorkerExited)] == [0]
    assert [e.local_rank for e in world.recorded.of(ev.FailureRecorded)] == [1]


def test_a_failure_with_an_unkillable_sibling_is_a_failed_run_and_no_restart() -> None:
    world = World([Script(runs_s=1, exit_code=3), STUCK], [SHORT, SHORT])
    result = world.agent(max_restarts=3, shutdown_timeout=1).run()
    assert result.state == WorkerState.FAILED
    assert len(world.launcher.plans) == 1


@pytest.mark.parametrize("restarts", [0, 3])
def test_the_failure_is_what_a_run_ends_with_that_leaves_a_worker_behind(restarts: int) -> None:
    world = World([Script(runs_s=1, exit_code=3), STUCK])
    result = world.agent(max_restarts=restarts, shutdown_timeout=1).run()
    assert exit_code_of(result) == 3


def test_a_stop_that_leaves_a_worker_behind_is_failed() -> None:
    world = World([STUCK])
    world.time.at(5, lambda: world.control.put(Action(action="stop", by="ada")))
    assert world.agent(shutdown_timeout=1).run().state == WorkerState.FAILED


def test_a_signal_that_leaves_a_worker_behind_tells_of_it() -> None:
    world = World([STUCK])
    world.time.at(5, lambda: world.interrupts.send(signal.SIGTERM))
    with pytest.raises(SignalException):
        world.agent(shutdown_timeout=1).run()
    assert world.recorded.of(ev.WorkersStopped)[0].unkillable == [0]
