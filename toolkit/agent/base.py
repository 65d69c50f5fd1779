"""The agent's loop: form the group, start the workers, wait for a change, do what was decided.

`SimpleElasticAgent` has the hooks, the attributes and the order of calls of torch's class of the same name
(`torch/distributed/elastic/agent/server/api.py`, 2.13), so that subclasses written for that one run here. What to do
next is decided in `toolkit.core.decisions`; everything outside comes in through `self._ports`.
"""

from __future__ import annotations

import abc
import json
import signal
from collections.abc import Callable
from typing import Any, assert_never

from toolkit.agent import barrier
from toolkit.agent.directed import Directed, ToldToEnd
from toolkit.agent.reporting import Reporter, profiled
from toolkit.agent.together import Together
from toolkit.agent.torch_reports import TorchReports
from toolkit.core import events, ranks
from toolkit.core.decisions import (
    Abort,
    Continue,
    Decision,
    Fail,
    Finish,
    Restart,
    after_membership,
    after_monitor,
)
from toolkit.core.errors import (
    SignalException,
    StoreTimeoutError,
    UnknownGroupState,
    death_signal,
    is_graceful_exit,
)
from toolkit.core.model import (
    DEFAULT_ROLE,
    RunResult,
    Worker,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
    _RoleInstanceInfo,
)
from toolkit.core.rounds import Over
from toolkit.core.status import EventSource
from toolkit.ports import Ports

_ROLE_INFO = "torchelastic/role_info/"
_ASSIGNED_RANKS = "torchelastic/assigned_ranks/"


class ElasticAgent(abc.ABC):
    """Something that runs the workers of a node."""

    @abc.abstractmethod
    def run(self, role: str = DEFAULT_ROLE) -> RunResult:
        """Run the workers to their end, starting them again as the spec allows. Blocks.

        Returns:
            How the run ended on this node. Never None.
        """

    @abc.abstractmethod
    def get_worker_group(self, role: str = DEFAULT_ROLE) -> WorkerGroup:
        """The worker group; a live object that the agent changes."""


class SimpleElasticAgent(Together, Directed, TorchReports, ElasticAgent):
    """An agent for the workers of one spec. Subclasses say how workers are started, stopped and watched.

    Args:
        spec: what to run.
        exit_barrier_timeout: seconds that finished workers wait for those of other nodes.
        shutdown_timeout: seconds between a death signal to the workers and SIGKILL.
        ports: the outside world.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        exit_barrier_timeout: float = 300,
        shutdown_timeout: float = 30,
        *,
        ports: Ports,
    ) -> None:
        self._worker_group = WorkerGroup(spec)
        self._remaining_restarts = spec.max_restarts
        self._store: Any = None
        self._exit_barrier_timeout = exit_barrier_timeout
        self._shutdown_timeout = shutdown_timeout
        self._total_execution_time = 0
        self._in_exit_barrier = False
        self._ports = ports
        self._reporter = Reporter(ports, self._run_id)
        self._base: ranks.RankBase | None = None
        self._over: Over | None = None
        self._job_failed_of = ""
        job = self._job
        if job is not None:
            job.attach(self._reporter.say, ports, spec, self._heed_orders)

    def get_worker_group(self, role: str = DEFAULT_ROLE) -> WorkerGroup:
        """The worker group; a live object that the agent changes."""
        return self._worker_group

    def _run_id(self) -> str:
        return str(self._worker_group.spec.rdzv_handler.get_run_id())

    @property
    def restarts(self) -> int:
        """Restarts so far that spent the budget."""
        return max(
            self._reporter.restart_count, self._worker_group.spec.max_restarts - self._remaining_restarts
        )

    def say_while(self, still: Callable[[], bool], kind: type[events.Event], /, **fields: Any) -> None:
        """Say an event of this agent if `still()` holds when its turn comes. Safe in any thread."""
        self._reporter.say_while(still, kind, **fields)

    #: whether all that happens to the workers rings the bell, so that they need no look without a ring
    _is_woken = False

    # -- hooks ----------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        """Start all workers; return their ids by local rank."""

    @abc.abstractmethod
    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        """Stop all workers, whatever state they are in, also those that don't exist."""

    @abc.abstractmethod
    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """Look at the workers and say which state the group is in."""

    @abc.abstractmethod
    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        """Stop the workers with `death_sig`, SIGKILL after `timeout` seconds, and release what they held."""

    def _patience_s(self) -> float | None:
        """How long the loop may wait before it looks again, in seconds; None while it is woken by all changes."""
        interval_s = self._worker_group.spec.monitor_interval
        return interval_s if self._job is None else min(interval_s, self._job.patience_s())

    # -- the run --------------------------------------------------------------------------------------------

    @profiled("SimpleElasticAgent.run")
    def run(self, role: str = DEFAULT_ROLE) -> RunResult:
        """Run the workers to their end. Blocks.

        Returns:
            How the run ended on this node; state STOPPED if the rendezvous had no place for it.

        Raises:
            SignalException: a death signal came; the workers are stopped.
            RallyError, or what a hook or the rendezvous raised: the agent can't go on; the workers are stopped.
        """
        with self._ports.interrupts.handling(self._ports.bell):
            return self._run_and_clean_up(role)

    def _run_and_clean_up(self, role: str) -> RunResult:
        started_ns = self._ports.clock.now_ns()
        self._say_started()
        outcome: RunResult | BaseException | None = None
        death_sig: signal.Signals | None = None
        try:
            outcome = result = self._invoke_run(role)
            self._total_execution_time = self._seconds_since(started_ns)
            self._record_metrics(result)
            self._record_worker_events(result)
            return result
        except Exception as error:
            outcome = error
            if isinstance(error, ToldToEnd):
                outcome = RunResult(error.state)
                return outcome
            if is_graceful_exit(error):
                outcome = RunResult(WorkerState.STOPPED)
                return outcome
            death_sig = self._note_death_signal(error)
            raise
        except BaseException as error:
            outcome = error
            raise
        finally:
            self._shut_down_with(death_sig)
            if self._job is not None:
                self._job.leave(_outcome_in_words(outcome, self._job_failed_of)[1])
            self._total_execution_time = self._seconds_since(started_ns)
            self._say_finished(outcome, self._ports.clock.now_ns() - started_ns)

    def _note_death_signal(self, error: Exception) -> signal.Signals | None:
        sigval = death_signal(error)
        if sigval is not None:
            self._reporter.say(
                events.SignalReceived, signal=sigval.name, count=self._ports.interrupts.count()
            )
        return sigval

    def _shut_down_with(self, death_sig: signal.Signals | None) -> None:
        if death_sig is None:
            # Not SIGTERM by name: a subclass may have a default of its own.
            self._shutdown(timeout=self._shutdown_timeout)  # type: ignore[arg-type]
        else:
            self._shutdown(death_sig, timeout=self._shutdown_timeout)  # type: ignore[arg-type]

    def _seconds_since(self, started_ns: int) -> int:
        return (self._ports.clock.now_ns() - started_ns) // 1_000_000_000

    def _invoke_run(self, role: str = DEFAULT_ROLE) -> RunResult:
        """Start the workers and carry out one decision after the other until one of them ends the run."""
        self._initialize_workers(self._worker_group)
        while True:
            self._wait_for_change()
            result = self._monitor_workers(self._worker_group)
            decision = self._decide(result) if self._job is None else self._decide_together(self._job, result)
            if isinstance(decision, Continue):
                decision = self._obey()
            self._put_loop_metrics(result.state)
            if self._carry_out(decision, result):
                return result

    def _wait_for_change(self) -> None:
        self._heed_signals()
        # A ring may have been used up by another wait, so that the rendezvous and the orders are asked first.
        while (self._job is None or self._job.over() is None) and not self._ports.control.waiting():
            rung = self._ports.bell.wait(self._patience_s())
            self._heed_signals()
            if rung or self._job is None or not self._is_woken:
                return

    def _heed_signals(self) -> None:
        signum = self._ports.interrupts.take()
        if signum is not None:
            raise SignalException.of(self._ports.host.pid(), signum)

    def _decide(self, result: RunResult) -> Decision:
        self._enter(result.state)
        decision = after_monitor(result.state, self._restart_verdict(result))
        if not isinstance(decision, Continue):
            return decision
        with self._ports.interrupts.interruptible():
            waiting = self._worker_group.spec.rdzv_handler.num_nodes_waiting()
        if waiting > 0:
            self._reporter.say(events.MembershipChanged, nodes_waiting=waiting)
        return after_membership(waiting, self._worker_group.group_rank)

    def _carry_out(self, decision: Decision, result: RunResult) -> bool:
        """Do what was decided. Returns whether the run has ended."""
        match decision:
            case Continue():
                return False
            case Finish():
                self._say_decision(decision)
                if self._job is None:
                    self._exit_barrier()
                else:
                    self._end_together(self._job, result)
                return True
            case Restart():
                self._spend_restart(decision, result)
                self._say_decision(decision)
                self._pause_before_restart(decision.delay_s)
                return self._restart_or_end(result)
            case Fail():
                self._say_decision(decision)
                self._stop_workers(self._worker_group)
                self._enter(WorkerState.FAILED)
                # torch leaves UNHEALTHY here, which its launcher takes for success.
                result.state = WorkerState.FAILED
                if self._job is not None:
                    self._tell_of_job(self._job, result)
                return True
            case Abort():
                self._say_decision(decision)
                raise UnknownGroupState(
                    f"{decision.reason}; the agent ends and stops its workers, and the node should be started anew"
                )
            case _:
                assert_never(decision)

    # -- forming and starting the group ---------------------------------------------------------------------

    @profiled("SimpleElasticAgent._rendezvous")
    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        """Form the group and give each worker its ranks."""
        spec = worker_group.spec
        self._reporter.say(events.RendezvousStarted, backend=spec.rdzv_handler.get_backend())
        try:
            if self._job is not None:
                info = self._form_group(worker_group)  # its waits heed signals themselves
            else:
                with self._ports.interrupts.interruptible():
                    info = self._form_group(worker_group)
        except Exception as error:
            self._reporter.say(events.RendezvousFailed, error=f"{type(error).__name__}: {error}")
            raise
        workers = worker_group.workers
        self._reporter.say(
            events.RendezvousCompleted,
            group_rank=worker_group.group_rank,
            group_world_size=worker_group.group_world_size,
            world_size=workers[0].world_size,
            role_world_size=workers[0].role_world_size,
            master_addr=str(worker_group.master_addr),
            master_port=int(worker_group.master_port or 0),
            global_ranks=[worker.global_rank for worker in workers],
            seat=getattr(info, "seat", -1),
            coordinator=getattr(info, "coordinator", ""),
        )

    def _form_group(self, worker_group: WorkerGroup) -> Any:
        spec = worker_group.spec
        with self.record_duration("RENDEZVOUS"):
            info = spec.rdzv_handler.next_rendezvous()
        self._store = info.store
        self._base = getattr(info, "base", None)
        if self._job is None:
            self._reporter.round += 1
        else:
            self._reporter.round, self._reporter.epoch = info.round, info.epoch
            self._count_restarts(info.restarts)
            self._take_history(info)
        with self.record_duration("ASSIGN_WORKER_RANKS"):
            workers = self._assign_worker_ranks(info.store, info.rank, info.world_size, spec)
        worker_group.workers = workers
        worker_group.store = info.store
        worker_group.group_rank = info.rank
        worker_group.group_world_size = info.world_size
        bootstrap = info.bootstrap_store_info
        worker_group.master_addr = spec.master_addr or bootstrap.master_addr
        worker_group.master_port = spec.master_port or bootstrap.master_port
        self._ports.control.met(info.store, info.rank, info.world_size)
        return info

    @profiled("SimpleElasticAgent._assign_worker_ranks")
    def _assign_worker_ranks(
        self, store: Any, group_rank: int, group_world_size: int, spec: WorkerSpec
    ) -> list[Worker]:
        """The ranks of this node's workers, `[local_world_size]`.

        Each agent writes what it has, rank 0 reads all of it and writes every node's rank base. The environment
        variable `TORCH_ELASTIC_WORKER_IDENTICAL=1` says that all nodes are alike, which needs no exchange. Nor does a
        rendezvous that gives out the ranks itself.
        """
        if self._base is not None:
            return ranks.workers_of(self._base, spec.local_world_size)
        if self._ports.host.environment().get("TORCH_ELASTIC_WORKER_IDENTICAL", "0") == "1":
            base = ranks.identical_nodes(group_rank, group_world_size, spec.local_world_size)
            return ranks.workers_of(base, spec.local_world_size)
        mine = _RoleInstanceInfo(spec.role, group_rank, spec.local_world_size)
        store.set(f"{_ROLE_INFO}{group_rank}", mine.serialize())
        if group_rank == 0:
            self._publish_rank_bases(store, group_world_size)
        # Waits until rank 0 has written.
        base = ranks.RankBase(*json.loads(store.get(f"{_ASSIGNED_RANKS}{group_rank}")))
        return ranks.workers_of(base, spec.local_world_size)

    def _publish_rank_bases(self, store: Any, group_world_size: int) -> None:
        infos = store.multi_get([f"{_ROLE_INFO}{i}" for i in range(group_world_size)])
        bases = ranks.rank_bases([_RoleInstanceInfo.deserialize(info) for info in infos])
        store.multi_set(
            [f"{_ASSIGNED_RANKS}{i}" for i in range(group_world_size)],
            [
                json.dumps([base.global_rank, base.world_size, base.role_rank, base.role_world_size])
                for base in bases
            ],
        )

    @profiled("SimpleElasticAgent._initialize_workers")
    def _initialize_workers(self, worker_group: WorkerGroup) -> None:
        """Form the group and start its workers. Workers of before must have been stopped."""
        self._heed_signals()
        self._rendezvous(worker_group)
        # An agent that was stopped in between belongs to a round that is over: it starts nothing.
        while self._job is not None and not self._job.still_in():
            self._rendezvous(worker_group)
        self._heed_signals()
        for local_rank, worker_id in self._start_workers(worker_group).items():
            worker = worker_group.workers[local_rank]
            worker.id = worker_id
            self._record("START", EventSource.WORKER, worker)
        self._up_since_ns = self._ports.clock.now_ns()
        self._enter(WorkerState.HEALTHY)

    @profiled("SimpleElasticAgent._restart_workers")
    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        """Stop the workers, form the group anew and start them again."""
        self._stop_workers(worker_group)
        self._enter(WorkerState.STOPPED)
        self._initialize_workers(worker_group)

    def _enter(self, state: WorkerState) -> None:
        before = self._worker_group.state
        self._worker_group.state = state
        if before != state:
            self._reporter.say(events.GroupStateChanged, before=before.value, after=state.value)

    # -- the exit barrier -----------------------------------------------------------------------------------

    def _exit_barrier(self) -> None:
        """Wait until the workers of all nodes have finished, or the timeout has passed."""
        timeout_s = self._exit_barrier_timeout

        def wait(members: int) -> tuple[str, str]:
            barrier.wait_for_all(self._ports.stores, self._store, members, timeout_s)
            return "complete", ""

        # The workers have succeeded, whatever happened here.
        self._at_barrier(timeout_s, wait)

    def _at_barrier(self, timeout_s: float, wait: Callable[[int], tuple[str, str]]) -> str:
        """Wait for the other nodes, and tell of it. Only a death signal gets out as an error.

        Args:
            timeout_s: how long, as it is told; 0 is no limit.
            wait: for so many members; returns how that ended, and what there is to say of it.

        Returns:
            How it ended.
        """
        started_ns = self._ports.clock.now_ns()
        members = int(self._worker_group.group_world_size or 1)
        self._reporter.say(events.BarrierEntered, members=members, timeout_s=timeout_s)
        outcome, detail = "complete", ""
        self._in_exit_barrier = True
        try:
            outcome, detail = wait(members)
        except Exception as error:
            outcome, detail = _barrier_outcome(error), str(error)
            if outcome == "interrupted":
                raise
        finally:
            self._in_exit_barrier = False
            waited_s = (self._ports.clock.now_ns() - started_ns) / 1e9
            self._reporter.say(events.BarrierLeft, outcome=outcome, waited_s=waited_s, detail=detail)
        return outcome

    # -- typed events ---------------------------------------------------------------------------------------

    def _say_started(self) -> None:
        spec = self._worker_group.spec
        self._reporter.say(
            events.AgentStarted,
            pid=self._ports.host.pid(),
            hostname=self._ports.host.hostname(),
            role=spec.role,
            local_world_size=spec.local_world_size,
            restarts_max=spec.max_restarts,
            backend=spec.rdzv_handler.get_backend(),
            entrypoint=spec.get_script_name(),
        )

    def _say_decision(self, decision: Finish | Restart | Fail | Abort) -> None:
        self._reporter.say(
            events.DecisionMade,
            action=type(decision).__name__.lower(),
            reason=decision.reason,
            spends_budget=isinstance(decision, Restart) and decision.spends_budget,
            delay_s=decision.delay_s if isinstance(decision, Restart) else 0.0,
            restarts_left=self._remaining_restarts,
            policy=self._policy_name if getattr(decision, "verdict", "") else "",
            verdict=getattr(decision, "verdict", ""),
            free=isinstance(decision, Restart) and decision.free,
        )

    def _say_finished(self, outcome: RunResult | BaseException | None, took_ns: int) -> None:
        failed = sorted(outcome.failures) if isinstance(outcome, RunResult) else []
        result, reason = _outcome_in_words(outcome, self._job_failed_of)
        self._reporter.say(
            events.AgentFinished, result=result, reason=reason, duration_s=took_ns / 1e9, failed_ranks=failed
        )


def _barrier_outcome(error: Exception) -> str:
    """How an exit barrier ended that ended with an error."""
    if death_signal(error) is not None:
        return "interrupted"
    return "timeout" if isinstance(error, StoreTimeoutError) else "error"


def _outcome_in_words(outcome: RunResult | BaseException | None, why: str = "") -> tuple[str, str]:
    """The result and the reason of an agent's end; `why` is what its job failed of."""
    match outcome:
        case RunResult(state=WorkerState.STOPPED):
            return outcome.state.value, why or "the rendezvous had no place for this node"
        case RunResult():
            return (
                outcome.state.value,
                (why or "the workers failed") if outcome.is_failed() else "all workers succeeded",
            )
        case None:
            return "ERROR", "the agent was ended from outside"
    sigval = death_signal(outcome)
    if sigval is not None:
        return "SIGNAL", f"the agent got {sigval.name}"
    return "ERROR", f"{type(outcome).__name__}: {outcome}"
