"""What an agent does when it is told to, in a world of fakes: one node, its own loop."""

from __future__ import annotations

import signal

import pytest

from tests.agent.world import FakeOrder, Script, World, crashes
from toolkit.agent.blame import Blame
from toolkit.core import events as ev
from toolkit.core.actions import Action
from toolkit.core.errors import SignalException
from toolkit.core.launch_plan import WorkerExit
from toolkit.core.model import WorkerState
from toolkit.core.restarts import RestartPolicy

LONG = Script(runs_s=3600)
SHORT = Script(runs_s=10)


def kill(*local_ranks: int, incarnation: int = 0, name: str = "SIGKILL") -> Action:
    return Action(
        action="signal", local_ranks=local_ranks or (0,), signal=name, incarnation=incarnation, by="ada"
    )


def told(world: World, after_s: float, action: Action, withdrawn: str = "") -> list[FakeOrder]:
    """Have it told later; what was given is then in the list."""
    orders: list[FakeOrder] = []
    world.time.at(after_s, lambda: orders.append(world.control.put(action, withdrawn)))
    return orders


def outcome(orders: list[FakeOrder]) -> tuple[str, str]:
    (order,) = orders
    assert order.outcome is not None, "it was answered"
    return order.outcome.outcome, order.outcome.detail


def test_a_signal_reaches_the_workers_that_are_named_and_is_told() -> None:
    world = World([LONG, LONG], [SHORT, SHORT])
    orders = told(world, 5, kill(1))
    assert world.agent(max_restarts=1).run().state == WorkerState.SUCCEEDED
    assert outcome(orders) == ("done", "")
    assert world.launcher.started[0].ends[0].local_rank == 1
    (action,) = world.recorded.of(ev.ActionTaken)
    assert (action.action, action.local_ranks, action.signal, action.outcome) == (
        "signal",
        [1],
        "SIGKILL",
        "done",
    )
    (failure,) = world.recorded.of(ev.FailureRecorded)
    assert failure.signal == "SIGKILL"
    assert failure.what == "SIGKILL to local rank 1 asked for by ada", (
        "it was this agent's, and it knows whose wish"
    )
    assert action.seq < failure.seq


def test_of_a_death_by_another_signal_nobody_is_told_to_have_asked() -> None:
    end = WorkerExit(local_rank=1, pid=7, exit_code=-signal.SIGKILL, at_ns=0, wall_s=0)
    blame = Blame(World([LONG]).ports)
    blame.asked_for(kill(1, name="SIGUSR1"))
    assert blame.diagnosis(end).what == "SIGKILL from outside, not from this agent"


def test_a_signal_for_workers_of_before_is_refused() -> None:
    world = World([crashes()], [SHORT])
    orders = told(world, 5, kill(0, incarnation=0))
    world.agent(max_restarts=1).run()
    verdict, why = outcome(orders)
    assert verdict == "refused"
    assert "incarnation 0" in why
    assert "incarnation 1 is here now" in why
    assert world.recorded.of(ev.ActionTaken)[0].detail == why
    assert len(world.launcher.plans) == 2, "nobody was shot"


def test_a_signal_for_a_worker_that_is_not_there_reaches_nobody() -> None:
    world = World([SHORT, Script(runs_s=1)])
    orders = told(world, 5, kill(0, 1))
    assert world.agent().run().state == WorkerState.SUCCEEDED
    assert outcome(orders) == ("refused", "local rank 1 does not run now; nobody got the signal")
    assert world.launcher.started[0].signals == [signal.SIGKILL], "only the last sweep"


def test_a_restart_that_is_asked_for_costs_nothing() -> None:
    world = World([LONG, LONG], [SHORT, SHORT])
    orders = told(world, 5, Action(action="restart", by="ada", why="new data", incarnation=0))
    agent = world.agent(max_restarts=1)
    assert agent.run().state == WorkerState.SUCCEEDED
    assert outcome(orders) == ("done", "")
    assert agent._remaining_restarts == 1
    (restart,) = [d for d in world.recorded.of(ev.DecisionMade) if d.action == "restart"]
    assert (restart.reason, restart.spends_budget) == ("restart asked for by ada: new data", False)
    assert restart.restart_count == 0


def test_the_second_of_two_equal_restarts_is_refused() -> None:
    world = World([LONG], [LONG], [SHORT])
    first = told(world, 5, Action(action="restart", incarnation=0))
    second = told(world, 5, Action(action="restart", incarnation=0))
    world.time.at(9, lambda: world.launcher.started[-1]._end_after(0, 0, 0))
    world.agent().run()
    assert outcome(first)[0] == "done"
    assert outcome(second)[0] == "refused"
    assert len(world.launcher.plans) == 2


def test_a_stop_ends_the_run_as_failed() -> None:
    world = World([LONG, LONG])
    orders = told(world, 5, Action(action="stop", by="ada", why="loss is NaN"))
    result = world.agent(max_restarts=3).run()
    assert result.is_failed()
    assert result.failures == {}
    assert outcome(orders) == ("done", "")
    (finished,) = world.recorded.of(ev.AgentFinished)
    assert finished.reason == "stop asked for by ada: loss is NaN"
    assert world.launcher.started[0].closed
    assert len(world.launcher.plans) == 1


def test_a_node_that_is_alone_can_not_be_drained() -> None:
    world = World([SHORT])
    orders = told(world, 5, Action(action="drain"))
    assert world.agent().run().state == WorkerState.SUCCEEDED
    assert outcome(orders) == ("refused", "this node is the whole job; stop it instead")


@pytest.mark.parametrize("kind", ["stop", "drain", "restart"])
def test_what_a_rendezvous_of_torch_can_not_do_is_refused(kind: str) -> None:
    world = World([SHORT])
    agent = world.agent()
    handler = agent.get_worker_group().spec.rdzv_handler
    handler.get_backend = lambda: "static"
    world.time.at(4, lambda: setattr(agent.get_worker_group(), "group_world_size", 2))
    world.time.at(6, lambda: setattr(agent.get_worker_group(), "group_world_size", 1))
    orders = told(world, 5, Action(action=kind))  # type: ignore[arg-type]
    assert agent.run().state == WorkerState.SUCCEEDED
    verdict, why = outcome(orders)
    assert verdict == "refused"
    assert "static rendezvous" in why


def test_what_was_withdrawn_is_not_done_but_told() -> None:
    world = World([SHORT])
    orders = told(world, 5, Action(action="stop"), withdrawn="nobody waits for it any more")
    assert world.agent().run().state == WorkerState.SUCCEEDED
    assert outcome(orders) == ("refused", "nobody waits for it any more")


def test_in_the_pause_before_a_restart_a_stop_is_heard() -> None:
    world = World([crashes()], [SHORT])
    late = told(world, 6, kill(0, incarnation=0))
    stop = told(world, 7, Action(action="stop", by="ada"))
    result = world.agent(max_restarts=1, restart_policy=RestartPolicy(backoff_s=100)).run()
    assert result.is_failed()
    assert outcome(late)[0] == "refused"
    assert outcome(stop) == ("done", "")
    assert len(world.launcher.plans) == 1
    assert world.recorded.of(ev.AgentFinished)[0].result == "FAILED"


def test_in_the_pause_before_a_restart_an_order_to_restart_ends_the_pause() -> None:
    world = World([crashes()], [SHORT])
    now = told(world, 5, Action(action="restart"))
    agent = world.agent(max_restarts=1, restart_policy=RestartPolicy(backoff_s=100))
    assert agent.run().state == WorkerState.SUCCEEDED
    assert outcome(now) == ("done", "")
    assert world.recorded.of(ev.WorkersStarting)[1].mono_ns == pytest.approx(5e9, abs=1e8)
    assert agent.restarts == 1, "it is the same restart, sooner"


def test_an_order_that_came_while_the_workers_were_stopped_is_heard_afterwards() -> None:
    world = World([crashes(), Script(runs_s=None, dies_after_s=5)], [SHORT, SHORT])
    orders = told(world, 3, Action(action="restart", incarnation=0))
    assert world.agent(max_restarts=1).run().state == WorkerState.SUCCEEDED
    assert outcome(orders)[0] == "refused", "they were started anew meanwhile"


def test_a_failure_in_the_same_moment_counts_as_one() -> None:
    world = World([LONG], [SHORT])
    orders: list[FakeOrder] = []

    def both() -> None:
        world.launcher.started[0].ends.append(WorkerExit(0, 100, 1, world.time.ns, 0))
        orders.append(world.control.put(Action(action="restart", incarnation=0)))

    world.time.at(5, both)
    agent = world.agent(max_restarts=1)
    agent.run()
    assert agent._remaining_restarts == 0
    assert outcome(orders)[0] == "refused"


def test_a_death_signal_goes_before_orders() -> None:
    world = World([LONG])
    orders = told(world, 5, Action(action="restart"))
    world.time.at(5, lambda: world.interrupts.send(signal.SIGTERM))
    world.bell.ring()
    with pytest.raises(SignalException):
        world.agent().run()
    assert [order.outcome.outcome for order in orders if order.outcome] in ([], ["done"])


def test_many_orders_at_once_do_not_keep_the_loop_from_its_work() -> None:
    world = World([SHORT])
    orders: list[FakeOrder] = []
    world.time.at(5, lambda: orders.extend(world.control.put(kill(0, name="SIGCONT")) for _ in range(1000)))
    world.launcher._rows = [[Script(runs_s=10, dies_after_s=None)]]
    assert world.agent().run().state == WorkerState.SUCCEEDED
    assert {order.outcome.outcome for order in orders if order.outcome} == {"done"}
    assert len(world.recorded.of(ev.ActionTaken)) == 1000
