"""A subclass with the four hooks, over torch's base and over ours: the order of calls, results, errors."""

from __future__ import annotations

import signal
from typing import Any

import pytest

pytest.importorskip("torch")

from torch.distributed import HashStore
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousGracefulExitError,
)

from .scripted import ScriptedRendezvous, failure, scripted_agent, shutdown_signal
from .subjects import Subject

pytestmark = pytest.mark.torch

START = ["_initialize_workers", "_rendezvous", "_assign_worker_ranks", "_start_workers"]
RESTART = ["_restart_workers", "_stop_workers", *START]
LOOK = "_monitor_workers"
METRICS = ["_record_metrics", "_record_flakiness_metric", *["_record_metric_with_condition"] * 4]


def make_agent(
    subject: Subject,
    monitor: list[Any],
    *,
    handler: Any = None,
    errors: dict[str, list[BaseException | None]] | None = None,
    exit_barrier_timeout: float = 300,
    **fields: Any,
) -> Any:
    spec = subject.spec(handler or ScriptedRendezvous(), **fields)
    return scripted_agent(subject.api.SimpleElasticAgent)(
        spec, subject.api, monitor, errors, exit_barrier_timeout=exit_barrier_timeout, shutdown_timeout=7
    )


def order(agent: Any) -> list[str]:
    """The calls so far, without those that only report."""
    return [call for call in agent.calls if call not in ("_construct_event", "_get_worker_state")]


def ended(*middle: str) -> list[str]:
    return ["_invoke_run", *START, *middle, *METRICS, "_record_worker_events", "_shutdown"]


# -- how runs end -----------------------------------------------------------------------------------------------


def test_success(subject: Subject) -> None:
    agent = make_agent(subject, ["HEALTHY", "SUCCEEDED"], local_world_size=2)
    result = agent.run()
    assert order(agent) == ended(LOOK, LOOK, "_exit_barrier")
    assert result.state == "SUCCEEDED"
    assert result.return_values == {0: "ok", 1: "ok"}
    group = agent.get_worker_group()
    assert group.state == "SUCCEEDED"
    assert [worker.id for worker in group.workers] == ["w0", "w1"]
    assert (group.group_rank, group.group_world_size) == (0, 1)
    assert (group.master_addr, group.master_port) == ("127.0.0.1", 29555)
    assert group.store is agent._store is not None
    assert shutdown_signal(agent) == ([], 7)
    assert isinstance(agent._total_execution_time, int)


def test_failure_without_restarts(subject: Subject) -> None:
    agent = make_agent(subject, ["FAILED"])
    result = agent.run()
    assert order(agent) == ended(LOOK, "_stop_workers")
    assert result.is_failed()
    assert list(result.failures) == [0]
    assert agent.get_worker_group().state == "FAILED"


@pytest.mark.parametrize("restarts", [1, 3])
def test_failure_after_all_restarts(subject: Subject, restarts: int) -> None:
    handler = ScriptedRendezvous()
    agent = make_agent(subject, ["FAILED"] * (restarts + 1), handler=handler, max_restarts=restarts)
    assert agent.run().is_failed()
    assert order(agent) == ended(*[LOOK, *RESTART] * restarts, LOOK, "_stop_workers")
    assert agent.budget_seen == list(range(restarts, -1, -1))
    assert agent._remaining_restarts == 0
    assert handler.rounds == restarts + 1


@pytest.mark.parametrize("restarts", [1, 3])
def test_success_after_one_failure(subject: Subject, restarts: int) -> None:
    agent = make_agent(subject, ["FAILED", "SUCCEEDED"], max_restarts=restarts)
    assert agent.run().state == "SUCCEEDED"
    assert order(agent) == ended(LOOK, *RESTART, LOOK, "_exit_barrier")
    assert agent._remaining_restarts == restarts - 1


def test_an_unhealthy_group_is_restarted(subject: Subject) -> None:
    agent = make_agent(subject, ["UNHEALTHY", "SUCCEEDED"], max_restarts=1)
    assert agent.run().state == "SUCCEEDED"
    assert order(agent) == ended(LOOK, *RESTART, LOOK, "_exit_barrier")


def test_an_unhealthy_group_without_restarts_left(subject: Subject) -> None:
    agent = make_agent(subject, ["UNHEALTHY"])
    result = agent.run()
    assert result.state == subject.expects("result of an unhealthy group without restarts")
    assert order(agent) == ended(LOOK, "_stop_workers")
    assert agent.get_worker_group().state == "FAILED"


@pytest.mark.parametrize("state", ["UNKNOWN", "INIT", "STOPPED"])
def test_a_state_that_can_not_be_ends_the_run(subject: Subject, state: str) -> None:
    agent = make_agent(subject, [state], max_restarts=3)
    with pytest.raises(Exception, match=state) as raised:
        agent.run()
    assert type(raised.value).__name__ == subject.expects("error for an unexpected state")
    assert order(agent) == ["_invoke_run", *START, LOOK, "_shutdown"]
    assert agent.get_worker_group().state == state
    assert shutdown_signal(agent) == ([], 7)


def test_a_result_that_knows_nothing_of_a_worker(subject: Subject) -> None:
    agent = make_agent(
        subject, [lambda a: subject.api.RunResult(subject.api.WorkerState.SUCCEEDED, return_values={0: 1})],
        local_world_size=2,
    )  # fmt: skip
    with pytest.raises(ValueError, match="Unknown worker: 1"):
        agent.run()


# -- the budget -------------------------------------------------------------------------------------------------


def test_a_hook_can_forbid_further_restarts(subject: Subject) -> None:
    def wedged(agent: Any) -> Any:
        agent._remaining_restarts = 0
        return agent.result("UNHEALTHY")

    agent = make_agent(subject, [wedged], max_restarts=3)
    agent.run()
    assert order(agent) == ended(LOOK, "_stop_workers")


def test_a_hook_can_grant_a_restart(subject: Subject) -> None:
    def granted(agent: Any) -> Any:
        agent._remaining_restarts += 1
        return agent.result("FAILED")

    agent = make_agent(subject, [granted, "SUCCEEDED"], max_restarts=0)
    assert agent.run().state == "SUCCEEDED"
    assert agent._remaining_restarts == 0


def test_the_budget_is_spent_before_the_workers_are_started_again(subject: Subject) -> None:
    seen = []
    agent = make_agent(subject, ["FAILED", "SUCCEEDED"], max_restarts=2)
    start = agent._start_workers
    agent._start_workers = lambda group: (seen.append(agent._remaining_restarts), start(group))[1]
    agent.run()
    assert seen == [2, 1]


# -- membership -------------------------------------------------------------------------------------------------


def test_nodes_that_wait_restart_the_group_and_cost_nothing(subject: Subject) -> None:
    handler = ScriptedRendezvous(waiting=[0, 2], rounds=[(0, 1), (1, 3)], store=HashStore())
    cards = [subject.api._RoleInstanceInfo("default", rank, 1) for rank in range(3)]
    agent = make_agent(
        subject, ["HEALTHY", "HEALTHY", lambda a: raised(SignalException("stop here", signal.SIGTERM))],
        handler=handler, max_restarts=1,
    )  # fmt: skip
    # The two others of the second round are played by the test: rank 0 has assigned the ranks.
    agent._rendezvous = rendezvous_then(agent, handler._store, cards)
    with pytest.raises(SignalException):
        agent.run()
    assert [c for c in order(agent) if c in (LOOK, "_restart_workers", "_stop_workers", "_start_workers")] == [
        "_start_workers", LOOK, LOOK, "_restart_workers", "_stop_workers", "_start_workers", LOOK,
    ]  # fmt: skip
    assert agent._remaining_restarts == 1
    assert (handler.rounds, handler.asked) == (2, 2)
    (worker,) = agent.get_worker_group().workers
    assert (worker.global_rank, worker.world_size, worker.id) == (1, 3, "w1")


def raised(error: BaseException) -> Any:
    raise error


def rendezvous_then(agent: Any, store: HashStore, cards: list[Any]) -> Any:
    """`_rendezvous` of the agent, after the other nodes of a larger round have done their part."""
    inherited = agent._rendezvous

    def play_the_others(group: Any) -> None:
        if agent._worker_group.state == "STOPPED":
            for card in cards:
                store.set(f"torchelastic/role_info/{card.rank}", card.serialize())
            store.set("torchelastic/assigned_ranks/1", "[1, 3, 1, 3]")
        inherited(group)

    return play_the_others


@pytest.mark.parametrize("state", ["FAILED", "SUCCEEDED"])
def test_nobody_asks_for_waiting_nodes_when_the_workers_have_ended(subject: Subject, state: str) -> None:
    handler = ScriptedRendezvous(waiting=[1])
    make_agent(subject, [state], handler=handler).run()
    assert handler.asked == 0


def test_an_error_of_the_rendezvous_while_it_is_asked(subject: Subject) -> None:
    handler = ScriptedRendezvous(waiting=[RendezvousClosedError("closed")])
    agent = make_agent(subject, ["HEALTHY"], handler=handler)
    with pytest.raises(RendezvousClosedError):
        agent.run()
    assert order(agent)[-1] == "_shutdown"


# -- errors and signals -----------------------------------------------------------------------------------------


class HookError(Exception):
    """Something that a subclass raises."""


CALLS_BEFORE = {
    "_start_workers": ["_invoke_run", *START],
    "_stop_workers": ["_invoke_run", *START, LOOK, *RESTART[:2]],
    LOOK: ["_invoke_run", *START, LOOK],
}


def agent_that_fails_in(subject: Subject, hook: str, error: BaseException) -> Any:
    return make_agent(subject, ["FAILED", "SUCCEEDED"], errors={hook: [error]}, max_restarts=1)


@pytest.mark.parametrize("hook", sorted(CALLS_BEFORE))
def test_an_error_in_a_hook_ends_the_run_after_the_shutdown(subject: Subject, hook: str) -> None:
    agent = agent_that_fails_in(subject, hook, HookError("in the hook"))
    with pytest.raises(HookError, match="in the hook"):
        agent.run()
    assert order(agent) == [*CALLS_BEFORE[hook], "_shutdown"]
    assert shutdown_signal(agent) == ([], 7)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(3)], ids=lambda error: type(error).__name__
)
def test_errors_that_are_no_exceptions_end_the_run_after_the_shutdown(
    subject: Subject, error: BaseException
) -> None:
    agent = agent_that_fails_in(subject, LOOK, error)
    with pytest.raises(type(error)):
        agent.run()
    assert shutdown_signal(agent) == ([], 7)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda sig: sig.name)
@pytest.mark.parametrize("hook", sorted(CALLS_BEFORE))
def test_torchs_death_signal_in_a_hook_goes_to_the_workers(
    subject: Subject, hook: str, sig: signal.Signals
) -> None:
    agent = agent_that_fails_in(subject, hook, SignalException("killed", sig))
    with pytest.raises(SignalException) as raised:
        agent.run()
    assert raised.value.sigval == sig
    assert order(agent) == [*CALLS_BEFORE[hook], "_shutdown"]
    assert shutdown_signal(agent) == ([sig], 7)


def test_the_signal_class_of_the_module_itself(subject: Subject) -> None:
    error = subject.api.SignalException("killed", signal.SIGHUP)
    agent = agent_that_fails_in(subject, LOOK, error)
    with pytest.raises(subject.api.SignalException):
        agent.run()
    assert shutdown_signal(agent) == ([signal.SIGHUP], 7)


def test_an_error_in_the_shutdown_is_raised(subject: Subject) -> None:
    agent = make_agent(subject, ["SUCCEEDED"], errors={"_shutdown": [HookError("in the shutdown")]})
    with pytest.raises(HookError, match="in the shutdown"):
        agent.run()
    assert len(agent.shutdowns) == 1


def test_the_signal_survives_an_error_in_the_shutdown_as_its_context(subject: Subject) -> None:
    agent = make_agent(
        subject,
        [SignalException("killed", signal.SIGTERM)],
        errors={"_shutdown": [HookError("in the shutdown"), None]},
    )
    with pytest.raises(HookError) as raised:
        agent.run()
    assert isinstance(raised.value.__context__, SignalException)


# -- rendezvous and barrier -------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_round", [1, 2])
def test_a_node_that_is_not_needed_leaves_without_an_error(subject: Subject, in_round: int) -> None:
    rounds = [(0, 1)] * (in_round - 1) + [RendezvousGracefulExitError("not needed")]
    agent = make_agent(
        subject, ["HEALTHY"], handler=ScriptedRendezvous(waiting=[1], rounds=rounds), max_restarts=1
    )
    result = agent.run()
    expected = subject.expects("result of a node that is not needed")
    assert (result.state if result is not None else None) == expected
    assert order(agent)[-2:] == ["_rendezvous", "_shutdown"]
    assert shutdown_signal(agent) == ([], 7)


def test_a_closed_rendezvous_is_raised(subject: Subject) -> None:
    agent = make_agent(subject, [], handler=ScriptedRendezvous(rounds=[RendezvousClosedError("closed")]))
    with pytest.raises(RendezvousClosedError):
        agent.run()
    assert order(agent) == ["_invoke_run", "_initialize_workers", "_rendezvous", "_shutdown"]


def test_the_address_of_the_spec_wins(subject: Subject) -> None:
    agent = make_agent(subject, ["SUCCEEDED"], master_addr="node-0", master_port=1234)
    agent.run()
    group = agent.get_worker_group()
    assert (group.master_addr, group.master_port) == ("node-0", 1234)


def test_the_barrier_uses_torchs_keys(subject: Subject) -> None:
    store = HashStore()
    agent = make_agent(subject, ["SUCCEEDED"], handler=ScriptedRendezvous(store=store))
    agent.run()
    assert store.get("torchelastic/agent/terminal_state/num_members") == b"1"
    assert store.check(["torchelastic/agent/terminal_state/last_member"])


def test_a_barrier_that_times_out_does_not_spoil_the_success(subject: Subject) -> None:
    store = HashStore()
    store.set("torchelastic/assigned_ranks/1", "[1, 2, 1, 2]")
    handler = ScriptedRendezvous(rounds=[(1, 2)], store=store)
    agent = make_agent(subject, ["SUCCEEDED"], handler=handler, exit_barrier_timeout=0.1)
    assert agent.run().state == "SUCCEEDED"
    assert agent._in_exit_barrier is False
    assert order(agent) == ended(LOOK, "_exit_barrier")


def test_the_barrier_opens_when_the_others_have_come(subject: Subject) -> None:
    store = HashStore()
    store.set("torchelastic/assigned_ranks/1", "[1, 2, 1, 2]")
    store.add("torchelastic/agent/terminal_state/num_members", 1)
    handler = ScriptedRendezvous(rounds=[(1, 2)], store=store)
    assert make_agent(subject, ["SUCCEEDED"], handler=handler).run().state == "SUCCEEDED"


class BrokenStore:
    """A store whose host has gone when the barrier comes; before that it is a store."""

    def __init__(self) -> None:
        self._store = HashStore()
        self.timeout = self._store.timeout

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def add(self, key: str, amount: int) -> int:
        raise RuntimeError("Connection reset by peer")


def test_an_error_of_the_store_in_the_barrier_does_not_spoil_the_success(subject: Subject) -> None:
    agent = make_agent(subject, ["SUCCEEDED"], handler=ScriptedRendezvous(store=BrokenStore()))
    assert agent.run().state == "SUCCEEDED"


class SignallingStore(BrokenStore):
    """The agent gets SIGTERM while it is in the barrier; torch's handler raises in its thread."""

    def add(self, key: str, amount: int) -> int:
        raise SignalException("killed", signal.SIGTERM)


def test_a_death_signal_in_the_barrier_gets_out(subject: Subject) -> None:
    agent = make_agent(subject, ["SUCCEEDED"], handler=ScriptedRendezvous(store=SignallingStore()))
    with pytest.raises(SignalException):
        agent.run()
    assert agent._in_exit_barrier is False
    assert shutdown_signal(agent) == ([signal.SIGTERM], 7)


def test_the_agent_is_in_the_barrier_while_it_waits(subject: Subject) -> None:
    seen = []

    class Watched(BrokenStore):
        def add(self, key: str, amount: int) -> int:
            seen.append(agent._in_exit_barrier)
            return int(self._store.add(key, amount))

    agent = make_agent(subject, ["SUCCEEDED"], handler=ScriptedRendezvous(store=Watched()))
    agent.run()
    assert seen == [True]


# -- overriding more than the hooks -----------------------------------------------------------------------------


def test_a_subclass_can_replace_the_barrier_and_the_loop(subject: Subject) -> None:
    class Own(scripted_agent(subject.api.SimpleElasticAgent)):  # type: ignore[misc]
        def _exit_barrier(self) -> None:
            self.calls.append("own barrier")

        def _invoke_run(self, role: str = "default") -> Any:
            result = super()._invoke_run(role)
            self.calls.append(f"own loop for {role}")
            return result

    agent = Own(subject.spec(ScriptedRendezvous()), subject.api, ["SUCCEEDED"])
    assert agent.run("worker").state == "SUCCEEDED"
    assert order(agent) == ended(LOOK, "own barrier", "own loop for worker")


def test_the_state_of_one_worker(subject: Subject) -> None:
    state = subject.api.WorkerState
    agent = make_agent(subject, [])
    result = subject.api.RunResult(state.FAILED, failures={0: failure()})
    workers = [subject.api.Worker(local, global_rank=local) for local in (0, 1)]
    assert [agent._get_worker_state(worker, result) for worker in workers] == ["FAILED", "TERMINATED"]
    fine = subject.api.RunResult(state.SUCCEEDED, return_values={0: None, 1: 5})
    assert [agent._get_worker_state(worker, fine) for worker in workers] == ["SUCCEEDED", "SUCCEEDED"]
