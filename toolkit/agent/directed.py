"""What an agent does because somebody outside tells it to: signal workers, start them anew, leave the job, end it.

The part of `SimpleElasticAgent` for `toolkit.ports.Control`. Orders are carried out by the agent's own loop, between
two looks at the workers and in the waits of its rendezvous; each is told of, and so is what was refused and why.
"""

from __future__ import annotations

from collections.abc import Callable

from toolkit.agent.restarting import Restarting
from toolkit.core import events
from toolkit.core.actions import Action, Outcome
from toolkit.core.decisions import Continue, Decision, Fail, Restart, after_round
from toolkit.core.errors import RallyError
from toolkit.core.model import WorkerState
from toolkit.core.rounds import Over
from toolkit.ports import Order

#: orders that are taken between two looks at the workers
_AT_ONCE = 64


class ToldToEnd(RallyError):
    """The agent was told to end; gets no further than `run`.

    Args:
        state: with which it ends.
    """

    def __init__(self, state: WorkerState, why: str) -> None:
        super().__init__(why)
        self.state = state


class Directed(Restarting):
    """The part of `SimpleElasticAgent` that does what it is told from outside."""

    _job_failed_of: str
    _in_exit_barrier: bool
    #: of the workers that run or ran last, where the agent counts them; -1 before the first
    _incarnation: int = -1
    #: whether an order is being carried out, so that none is taken in the waits that this needs
    _obeying = False

    def _say_over(self, over: Over) -> None:
        raise NotImplementedError

    def _signal_workers(self, action: Action) -> str:
        """Send some workers the signal that is asked for. Returns why it can't be done, or an empty string."""
        return "this agent does not start its workers itself and can't signal them"

    # -- when -----------------------------------------------------------------------------------------------

    def _obey(self) -> Decision:
        """Do what somebody asked for while the workers run; returns what follows from that."""
        return self._take_orders(self._while_running)

    def _heed_orders(self) -> None:
        """Do what somebody asked for while this agent waits for its group, or for the end.

        Raises:
            ToldToEnd: so that the wait ends.
        """
        self._take_orders(self._while_waiting)

    def _take_orders(self, carry_out: Callable[[Order], Decision]) -> Decision:
        if self._obeying:
            return Continue()
        self._obeying = True
        try:
            for _ in range(_AT_ONCE):
                order = self._ports.control.take()
                if order is None:
                    break
                refusal = self._refusal(order)
                decision = self._refuse(order, refusal) if refusal else carry_out(order)
                if not isinstance(decision, Continue):
                    return decision
        finally:
            self._obeying = False
        return Continue()

    def _refusal(self, order: Order) -> str:
        """Why an order is not carried out, whatever it is, or an empty string."""
        meant = order.action.incarnation
        if order.withdrawn or meant is None or meant == self._incarnation:
            return order.withdrawn
        return (
            f"it was meant for incarnation {meant} of the workers, and "
            + (
                f"incarnation {self._incarnation} is here now"
                if self._incarnation >= 0
                else "none is here yet"
            )
            + "; look again"
        )

    # -- what -----------------------------------------------------------------------------------------------

    def _while_running(self, order: Order) -> Decision:
        match order.action.action:
            case "signal":
                return self._send_signal(order)
            case "restart":
                return self._restart_as_told(order)
            case "drain":
                return self._drain(order)
            case "stop":
                return self._stop_job(order)

    def _while_waiting(self, order: Order) -> Decision:
        match order.action.action:
            case "signal":
                return self._send_signal(order)
            case "restart" if self._pausing:
                self._hurry()
                return self._done(order)
            case "restart":
                doing = "waits for other nodes to finish" if self._in_exit_barrier else "forms its group"
                return self._refuse(order, f"this agent {doing}; there is nothing to start anew")
            case "drain":
                return self._drain(order)
            case "stop":
                decision = self._stop_job(order)
                if isinstance(decision, Fail) and self._job is None:
                    raise ToldToEnd(WorkerState.FAILED, decision.reason)
                return Continue()  # the wait sees that the job has ended

    def _send_signal(self, order: Order) -> Decision:
        action = order.action
        problem = self._signal_workers(action)
        return self._refuse(order, problem) if problem else self._done(order)

    def _restart_as_told(self, order: Order) -> Decision:
        why, job = order.action.in_words(), self._job
        if job is None:
            backend = str(self._worker_group.spec.rdzv_handler.get_backend())
            if backend == "static" and self._has_others:
                return self._refuse(
                    order,
                    "the static rendezvous can't tell the other nodes to start anew; kill a worker instead",
                )
            self._done(order)
            return Restart(why, spends_budget=False)
        over = job.restart(why)
        if over is None:
            return self._refuse(order, "other nodes have finished, so that nothing can be started again")
        if over.reason == why:
            self._done(order)
        else:
            self._refuse(order, f"the round had ended before: {over.reason}")
        return self._follow(over)

    def _drain(self, order: Order) -> Decision:
        job = self._job
        if job is None and not self._has_others:
            return self._refuse(order, "this node is the whole job; stop it instead")
        if job is None:
            backend, pid = self._worker_group.spec.rdzv_handler.get_backend(), self._ports.host.pid()
            return self._refuse(
                order,
                f"the {backend} rendezvous can't be left in order; SIGTERM to this agent, process {pid}, ends it",
            )
        if self._in_exit_barrier:
            return self._refuse(order, "the workers of this node have finished; it only waits for the others")
        over = job.over()
        if over is not None and over.kind in ("failed", "succeeded"):
            return self._refuse(order, f"the job has ended: {over.reason}")
        self._done(order)
        self._job_failed_of = order.action.in_words()
        raise ToldToEnd(WorkerState.STOPPED, self._job_failed_of)

    def _stop_job(self, order: Order) -> Decision:
        why, job = order.action.in_words(), self._job
        if job is None:
            if self._has_others:
                backend = self._worker_group.spec.rdzv_handler.get_backend()
                return self._refuse(
                    order,
                    f"the {backend} rendezvous can't end the other nodes; send SIGTERM to each node's agent",
                )
            self._done(order)
            self._job_failed_of = why
            return Fail(why)
        if not job.stop(why):
            return self._refuse(order, "the job did not end")
        over = job.over()
        if over is not None and over.reason != why:
            self._refuse(order, f"the job had ended before: {over.reason}")
        else:
            self._done(order)
        return Continue() if over is None else self._follow(over)

    @property
    def _has_others(self) -> bool:
        """Whether there are other nodes in the group."""
        return int(self._worker_group.group_world_size or 1) > 1

    def _follow(self, over: Over) -> Decision:
        self._over = over
        self._say_over(over)
        return after_round(over)

    # -- what is said of it ---------------------------------------------------------------------------------

    def _done(self, order: Order) -> Decision:
        return self._tell(order, Outcome(outcome="done"))

    def _refuse(self, order: Order, why: str) -> Decision:
        return self._tell(order, Outcome(outcome="refused", detail=why))

    def _tell(self, order: Order, outcome: Outcome) -> Decision:
        action: Action = order.action
        self._reporter.say(
            events.ActionTaken,
            action=action.action,
            by=action.by,
            why=action.why,
            local_ranks=list(action.local_ranks),
            signal=action.signal,
            outcome=outcome.outcome,
            detail=outcome.detail,
        )
        order.answer(outcome)
        return Continue()
