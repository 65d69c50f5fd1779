"""The agent's loop in a world of fakes: what it does when, and what it says of it."""

from __future__ import annotations

import signal

import pytest

from tests.agent.world import SECOND, Script, World, crashes
from toolkit.core import events as ev
from toolkit.core.decisions import LEGAL_STEPS
from toolkit.core.errors import LaunchError, RendezvousGracefulExitError, SignalException, UnknownGroupState
from toolkit.core.lost_output import LostOutput
from toolkit.core.model import RunResult, WorkerState
from toolkit.core.restarts import RestartPolicy

LONG = Script(runs_s=3600)


def test_success_gives_the_return_values_by_rank() -> None:
    world = World([Script(value="a"), Script(runs_s=2, value="b")])
    result = world.agent().run()
    assert result == RunResult(WorkerState.SUCCEEDED, return_values={0: "a", 1: "b"})
    assert world.launcher.started[0].closed


def test_an_idle_agent_does_not_wake() -> None:
    world = World([LONG, LONG])
    world.agent().run()
    assert world.bell.waits == [None, None], "one wait for each exit, without a timeout"


def test_a_rendezvous_that_rings_no_bell_is_asked_each_interval() -> None:
    world = World([Script(runs_s=1)])
    agent = world.agent(monitor_interval=0.25)
    agent._worker_group.spec.rdzv_handler.rings_bell = False
    agent.run()
    assert set(world.bell.waits) == {0.25}


def test_a_failure_is_followed_by_a_restart_at_once() -> None:
    world = World([crashes(), LONG], [Script(), Script()])
    result = world.agent(max_restarts=1).run()
    assert result.state == WorkerState.SUCCEEDED
    first, second = world.launcher.plans
    assert (first.incarnation, second.incarnation) == (0, 1)
    assert second.workers[0].env["TORCHELASTIC_RESTART_COUNT"] == "1"
    assert first.workers[0].env["MASTER_PORT"] != second.workers[0].env["MASTER_PORT"]
    (restart,) = [d for d in world.recorded.of(ev.DecisionMade) if d.action == "restart"]
    assert restart.spends_budget
    assert restart.restarts_left == 0
    assert restart.mono_ns == 1 * SECOND, "no time between the death and the decision"


def test_the_budget_ends_the_run_with_the_failure() -> None:
    world = World([crashes(exit_code=3), LONG])
    agent = world.agent(max_restarts=2)
    result = agent.run()
    assert result.is_failed()
    assert result.failures[0].exitcode == 3
    assert len(world.launcher.plans) == 3
    assert agent._remaining_restarts == 0
    assert agent.get_worker_group().state == WorkerState.FAILED
    assert all(workers.closed for workers in world.launcher.started)


def test_all_groups_are_signalled_even_where_no_worker_runs() -> None:
    world = World([crashes()])
    world.agent(max_restarts=0).run()
    assert world.launcher.started[0].signals == [signal.SIGKILL], "a dead worker may have left children"


def test_the_shutdown_timeout_holds_on_a_restart() -> None:
    world = World([crashes(), Script(runs_s=None, dies_after_s=None)], [Script(), Script()])
    world.agent(max_restarts=1, shutdown_timeout=2).run()
    (stopped,) = [e for e in world.recorded.of(ev.WorkersStopped) if e.killed]
    assert stopped.killed == [1]
    assert stopped.mono_ns == pytest.approx(3 * SECOND, abs=SECOND // 10)


def test_a_worker_that_nothing_kills_is_given_up_and_named() -> None:
    world = World([crashes(), Script(runs_s=None, dies_after_s=None, killable=False)])
    assert world.agent(max_restarts=0, shutdown_timeout=2).run().is_failed()
    assert [e.unkillable for e in world.recorded.of(ev.WorkersStopped)] == [[1]]


def test_a_policy_can_delay_a_restart() -> None:
    world = World([crashes(), LONG], [Script(), Script()])
    world.agent(max_restarts=1, restart_policy=RestartPolicy(backoff_s=10)).run()
    stopped, again = world.recorded.of(ev.WorkersStopped)[0], world.recorded.of(ev.WorkersStarting)[1]
    assert stopped.mono_ns == 1 * SECOND, "the workers don't run on while the agent waits"
    assert again.mono_ns == 11 * SECOND


def test_a_signal_ends_the_wait_for_a_delayed_restart() -> None:
    world = World([crashes()], [Script()])
    world.time.at(3, lambda: world.interrupts.send(signal.SIGTERM))
    with pytest.raises(SignalException):
        world.agent(max_restarts=1, restart_policy=RestartPolicy(backoff_s=10)).run()
    assert world.time.ns == 3 * SECOND


def test_a_policy_can_forbid_a_restart() -> None:
    world = World([crashes(exit_code=64)])
    assert (
        world.agent(max_restarts=3, restart_policy=RestartPolicy(never_on=frozenset({64}))).run().is_failed()
    )
    assert world.recorded.of(ev.DecisionMade)[-1].reason == "a worker failed; exit code 64 forbids a restart"


def test_a_crash_loop_is_recognised_across_restarts() -> None:
    world = World([crashes()])
    assert world.agent(max_restarts=99, restart_policy=RestartPolicy(crash_loop=3)).run().is_failed()
    assert len(world.launcher.plans) == 3


def test_restarts_beyond_the_budget_of_a_window_are_counted_and_owe_nothing() -> None:
    world = World([crashes(at_s=100)])
    agent = world.agent(max_restarts=1, restart_policy=RestartPolicy(window_s=50, crash_loop=5))
    assert agent.run().is_failed()
    assert [plan.workers[0].env["TORCHELASTIC_RESTART_COUNT"] for plan in world.launcher.plans] == list(
        "01234"
    )
    assert agent._remaining_restarts == 0
    assert agent.restarts == 4


def test_nodes_that_wait_restart_the_group_for_free() -> None:
    world = World([LONG], [Script()])
    agent = world.agent(max_restarts=0)
    waiting = iter([0, 2])
    agent._worker_group.spec.rdzv_handler.num_nodes_waiting = lambda: next(waiting, 0)
    agent._worker_group.spec.rdzv_handler.rings_bell = False
    assert agent.run().state == WorkerState.SUCCEEDED
    (restart,) = [d for d in world.recorded.of(ev.DecisionMade) if d.action == "restart"]
    assert not restart.spends_budget
    assert world.launcher.plans[1].workers[0].env["TORCHELASTIC_RESTART_COUNT"] == "0"
    assert world.launcher.plans[1].incarnation == 1, "logs of the first incarnation are not overwritten"


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_passed_on_and_raised(sig: signal.Signals) -> None:
    world = World([LONG, LONG])
    world.time.at(5, lambda: world.interrupts.send(sig))
    with pytest.raises(SignalException) as caught:
        world.agent().run()
    assert caught.value.sigval == sig
    assert world.launcher.started[0].signals == [sig, signal.SIGKILL]
    (finished,) = world.recorded.of(ev.AgentFinished)
    assert (finished.result, finished.reason) == ("SIGNAL", f"the agent got {sig.name}")


def test_a_signal_before_the_first_start_starts_nothing() -> None:
    world = World([LONG])
    world.interrupts.send(signal.SIGTERM)
    with pytest.raises(SignalException):
        world.agent().run()
    assert world.launcher.plans == []
    assert world.recorded.of(ev.AgentFinished)


def test_a_signal_during_the_start_ends_the_start_and_is_told_as_such() -> None:
    world = World([LONG, LONG])
    start = world.launcher.start

    def interrupted(plan, bell, give_up):
        world.interrupts.send(signal.SIGTERM)
        return start(plan, bell, give_up)

    world.launcher.start = interrupted  # type: ignore[method-assign]
    with pytest.raises(SignalException):
        world.agent().run()
    assert world.launcher.plans == []


def test_a_signal_while_it_is_told_that_the_start_begins_ends_it() -> None:
    """Hundreds of workers would be started first, and then stopped."""
    world = World([LONG, LONG])
    emit = world.recorded.emit

    def interrupted(event: ev.Event) -> None:
        emit(event)
        if isinstance(event, ev.WorkersStarting):
            world.interrupts.send(signal.SIGTERM)

    world.recorded.emit = interrupted  # type: ignore[method-assign]
    with pytest.raises(SignalException):
        world.agent().run()
    assert world.launcher.plans == []


@pytest.mark.parametrize(("signals", "ends_at_s"), [(1, 35), (2, 11), (3, 7)])
def test_further_signals_shorten_the_grace(signals: int, ends_at_s: float) -> None:
    world = World([Script(runs_s=None, dies_after_s=None)])
    for n in range(signals):
        world.time.at(5 + n, lambda: world.interrupts.send(signal.SIGTERM))
    with pytest.raises(SignalException):
        world.agent(shutdown_timeout=30).run()
    assert world.time.ns / SECOND == pytest.approx(ends_at_s, abs=0.1)
    assert world.launcher.started[0].closed
    told = [(event.signals, event.left_s) for event in world.recorded.of(ev.GraceShortened)]
    assert told == [(2, 5), (3, 0)][: signals - 1]


def test_a_failed_start_is_an_error_and_cleans_up() -> None:
    world = World(LaunchError("no such program"), [Script()])
    with pytest.raises(LaunchError):
        world.agent().run()
    (finished,) = world.recorded.of(ev.AgentFinished)
    assert finished.result == "ERROR"
    assert "no such program" in finished.reason


def test_a_group_that_somebody_replaced_ends_the_agent() -> None:
    world = World([LONG, LONG])
    agent = world.agent()
    world.time.at(1, lambda: (setattr(agent._worker_group.workers[0], "id", 4711), world.bell.ring()))
    with pytest.raises(UnknownGroupState, match="UNKNOWN"):
        agent.run()
    assert world.launcher.started[0].closed


def test_a_node_that_is_not_needed_leaves_without_a_failure() -> None:
    world = World([Script()])
    agent = world.agent()

    def not_needed() -> None:
        raise RendezvousGracefulExitError("not needed")

    agent._worker_group.spec.rdzv_handler.next_rendezvous = not_needed
    result = agent.run()
    assert result == RunResult(WorkerState.STOPPED)
    assert not result.is_failed()


def test_unhealthy_without_restarts_left_is_a_failed_run() -> None:
    world = World([LONG])
    agent = world.agent(max_restarts=0)
    agent._monitor_workers = lambda group: RunResult(WorkerState.UNHEALTHY)  # type: ignore[method-assign]
    world.time.at(1, world.bell.ring)
    assert agent.run().is_failed()


def test_the_exit_barrier_times_out_without_harm() -> None:
    world = World([Script()])
    agent = world.agent()
    agent._exit_barrier_timeout = 7
    form = agent._form_group

    def form_with_two_nodes(group) -> None:
        form(group)
        group.group_world_size = 2

    agent._form_group = form_with_two_nodes  # type: ignore[method-assign]
    assert agent.run().state == WorkerState.SUCCEEDED
    (left,) = world.recorded.of(ev.BarrierLeft)
    assert (left.outcome, left.waited_s) == ("timeout", 7)


@pytest.mark.parametrize(
    "rows",
    [
        ([Script(), Script()],),
        ([crashes(), LONG], [Script(), Script()]),
        ([crashes(exit_code=-9), crashes(exit_code=1, at_s=1.05)],),
    ],
)
def test_the_story_is_complete_and_in_order(rows: tuple) -> None:
    world = World(*rows)
    world.agent(max_restarts=1).run()
    told = world.recorded.events
    assert [event.seq for event in told] == list(range(1, len(told) + 1))
    assert isinstance(told[0], ev.AgentStarted)
    assert isinstance(told[-1], ev.AgentFinished)
    assert {event.run_id for event in told} == {"job"}
    for step in world.recorded.of(ev.GroupStateChanged):
        assert WorkerState(step.after) in LEGAL_STEPS[WorkerState(step.before)]
    started, exited = world.recorded.of(ev.WorkerStarted), world.recorded.of(ev.WorkerExited)
    assert sorted((e.incarnation, e.local_rank) for e in started) == sorted(
        (e.incarnation, e.local_rank) for e in exited
    )


def test_the_first_failure_is_marked_and_victims_are_not_failures() -> None:
    world = World([LONG, crashes(exit_code=-9, at_s=1), LONG])
    world.agent(max_restarts=0).run()
    (failure,) = world.recorded.of(ev.FailureRecorded)
    assert (failure.global_rank, failure.signal, failure.first) == (1, "SIGKILL", True)
    stopped = [e for e in world.recorded.of(ev.WorkerExited) if e.stopped_by_agent]
    assert [e.global_rank for e in stopped] == [0, 2]


def test_lost_logs_are_told() -> None:
    world = World([Script()])
    world.time.at(0.5, lambda: setattr(world.launcher.started[0], "loses_logs", True))
    world.agent().run()
    assert [e.problem for e in world.recorded.of(ev.LogsLost)] == ["stdout.log: disk full, 7 bytes lost"]


def test_what_is_lost_while_workers_run_is_told_at_once() -> None:
    world = World([Script(runs_s=9.0)])
    lost = LostOutput("cannot write x: full", "x", bytes=70, lines=7)

    def lose() -> None:
        world.launcher.started[0].lost = [lost]
        world.launcher.started[0].bell.ring()

    world.time.at(0.5, lose)
    world.agent().run()
    (told,) = world.recorded.of(ev.LogsLost)
    assert (told.problem, told.path, told.lost_bytes, told.lost_lines) == (lost.problem, "x", 70, 7)
    assert told.mono_ns < world.recorded.of(ev.WorkerExited)[0].mono_ns


def test_metrics_count_as_torch_counts() -> None:
    world = World([crashes()], [Script()])
    world.agent(max_restarts=3).run()
    metrics = dict(world.recorded.metrics)
    assert metrics["workers.trainer.run_success_with_retries"] == 1
    assert metrics["workers.trainer.run_failed_no_retries"] == 0
    assert metrics["workers.trainer.flakiness"] == 25
    assert metrics["SimpleElasticAgent.run.success"] == 1


def test_ports_of_all_rounds_are_given_back() -> None:
    world = World([crashes()], [Script()])
    agent = world.agent(max_restarts=1)
    agent.run()
    agent._worker_group.spec.rdzv_handler.shutdown()
    assert world.host.released == [29501, 29502]


def test_after_the_end_nothing_is_said_whoever_speaks() -> None:
    world = World([Script(value="a")])
    agent = world.agent()
    agent.run()
    agent.say_while(lambda: True, ev.LogsLost, incarnation=0, problem="late")
    assert isinstance(world.recorded.events[-1], ev.AgentFinished)
