"""How an agent asks its restart policy, counts and remembers restarts, and waits out a back-off.

The part of `SimpleElasticAgent` between a failure and the next start. The policy is anybody's code: what it raises is
told, and the plain budget decides instead, so that a mistake in it neither ends a job nor restarts it for ever.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from toolkit.agent.reporting import Reporter
from toolkit.core.decisions import Restart
from toolkit.core.failures import cause_of
from toolkit.core.job_restarts import Entry, entry_of, shortened
from toolkit.core.model import RunResult, WorkerGroup, WorkerState
from toolkit.core.restarts import PLAIN_BUDGET, FailureCause, PastRestart, RestartJudge, RestartVerdict
from toolkit.core.rounds import Over
from toolkit.ports import JobRendezvous, Ports

#: restarts kept for the policy; older ones can't matter to any window or crash loop anyone would set
_HISTORY_MAX = 1000
#: the longest wait that a policy of one's own may ask for, in seconds; more is a mistake of units
_DELAY_MAX_S = 7 * 86_400.0
#: characters of what such a policy says
_REASON_MAX = 500


class Restarting:
    """The part of `SimpleElasticAgent` that is about restarts after failures."""

    _worker_group: WorkerGroup
    _ports: Ports
    _reporter: Reporter
    _over: Over | None
    _remaining_restarts: int
    _past_restarts: tuple[PastRestart, ...] = ()
    #: when the workers that run were started, by the own clock
    _up_since_ns: int | None = None
    #: of a back-off: whether an order has ended it
    _hurried = False
    _pausing = False

    @property
    def _job(self) -> JobRendezvous | None:
        raise NotImplementedError

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        raise NotImplementedError

    def _heed_signals(self) -> None:
        raise NotImplementedError

    def _heed_orders(self) -> None:
        raise NotImplementedError

    def _progress(self) -> int | None:
        """The step that the workers have reached, where they tell it: that of the one that got furthest."""
        return max(self._ports.watch.steps().values(), default=None)

    # -- asking ---------------------------------------------------------------------------------------------

    @property
    def _policy(self) -> RestartJudge:
        return self._worker_group.spec.restart_policy or PLAIN_BUDGET

    @property
    def _policy_name(self) -> str:
        """As events call it; empty for the plain budget."""
        return "" if self._policy == PLAIN_BUDGET else _name_of(self._policy)

    def _restart_verdict(self, result: RunResult) -> RestartVerdict | None:
        if result.state not in (WorkerState.UNHEALTHY, WorkerState.FAILED):
            return None
        given: dict[str, Any] = {
            "remaining": self._remaining_restarts,
            "restarts_max": self._worker_group.spec.max_restarts,
            "now_ns": self._ports.clock.now_ns(),
            "draw": self._ports.entropy.random(),
        }
        cause, policy = self._cause_of(result), self._policy
        if isinstance(policy, type(PLAIN_BUDGET)) and type(policy).judge is type(PLAIN_BUDGET).judge:
            return policy.judge(cause, self._past_restarts, **given)
        try:
            verdict = policy.judge(cause, self._past_restarts, **given)
            problem = _problem(verdict)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a policy is anybody's code
            problem = f"raised {type(error).__name__}: {error}"
        if not problem:
            return replace(verdict, reason=" ".join(verdict.reason.split())[:_REASON_MAX])
        instead = PLAIN_BUDGET.judge(cause, self._past_restarts, **given)
        said = (
            f"the restart policy {_name_of(policy)} {problem[:_REASON_MAX]}, so that the plain budget decides"
        )
        return replace(instead, reason=f"{said}: {instead.reason}")

    def _cause_of(self, result: RunResult) -> FailureCause:
        cause = cause_of(result.failures)
        uptime_s = None
        if self._up_since_ns is not None:
            uptime_s = (self._ports.clock.now_ns() - self._up_since_ns) / 1e9
        return replace(cause, key=shortened(cause.key), progress=self._progress(), uptime_s=uptime_s)

    def _entry(self, cause: FailureCause, *, free: bool) -> Entry | None:
        """This failure as the job remembers it; None where nobody asks."""
        if self._policy == PLAIN_BUDGET:
            return None
        return entry_of(cause, self._past_restarts, self._ports.clock.now_ns(), free=free)

    # -- counting -------------------------------------------------------------------------------------------

    def _spend_restart(self, decision: Restart, result: RunResult) -> None:
        over = self._over
        if not (decision.spends_budget or decision.free):
            return
        if over is not None:
            self._count_restarts(over.restarts)
            self._remember_restart(FailureCause(key=over.cause), free=over.free)
            return
        self._remember_restart(self._cause_of(result), free=decision.free)
        if decision.free:
            return
        # With a window old restarts come back into the budget; torch's count of what remains can't say so.
        self._remaining_restarts = max(0, self._remaining_restarts - 1)
        self._reporter.restart_count += 1

    def _count_restarts(self, restarts: int) -> None:
        """Take the job's count for this agent's own."""
        self._reporter.restart_count = restarts
        self._remaining_restarts = max(0, self._worker_group.spec.max_restarts - restarts)

    def _remember_restart(self, cause: FailureCause, *, free: bool) -> None:
        restart = PastRestart(self._ports.clock.now_ns(), cause.key, free, cause.progress, cause.uptime_s)
        self._past_restarts = (*self._past_restarts[-_HISTORY_MAX:], restart)

    def _take_history(self, info: Any) -> None:
        """Take the job's memory of restarts for this agent's own, also where this node came late."""
        self._past_restarts = getattr(info, "past", ()) or self._past_restarts

    # -- waiting --------------------------------------------------------------------------------------------

    def _pause_before_restart(self, delay_s: float) -> None:
        """Wait out a back-off, without workers. A signal ends it, an order, and in a job what another node decides."""
        if delay_s <= 0:
            return
        self._stop_workers(self._worker_group)
        since_ns = self._ports.clock.now_ns()
        self._pausing, self._hurried = True, False
        try:
            while not self._hurried:
                self._heed_signals()
                self._heed_orders()
                delay_s = self._delay_now(delay_s)
                left_s = delay_s - (self._ports.clock.now_ns() - since_ns) / 1e9
                if left_s <= 0 or self._hurried:
                    return
                self._ports.bell.wait(left_s if self._job is None else min(left_s, self._job.patience_s()))
        finally:
            self._pausing = False

    def _delay_now(self, delay_s: float) -> float:
        """The back-off as the job has it now: over when the job has ended or gone on, or when somebody cut it short."""
        if self._job is None:
            return delay_s
        over = self._job.over()
        return over.delay_s if over is not None and over.kind == "restart" else 0.0

    def _hurry(self) -> None:
        """Start the workers now."""
        self._hurried = True
        if self._job is not None:
            self._job.hurry()


def _name_of(policy: RestartJudge) -> str:
    from toolkit.core.restart_spec import name_of  # most runs have the plain budget, which needs no name

    return name_of(policy)


def _problem(verdict: Any) -> str:
    """What is wrong with what a policy said, or an empty string."""
    if not isinstance(verdict, RestartVerdict):
        return f"returned {verdict!r}, which is no RestartVerdict"
    delay_s: Any = verdict.delay_s
    if isinstance(delay_s, bool) or not isinstance(delay_s, int | float) or math.isnan(delay_s):
        return f"asks for a wait of {delay_s!r}, which is no number of seconds"
    if not 0 <= delay_s <= _DELAY_MAX_S:
        return f"asks for a wait of {delay_s} s; 0 to {_DELAY_MAX_S:.0f} can be had"
    if not isinstance(verdict.reason, str) or not verdict.reason:
        return f"gives {verdict.reason!r} as its reason, which is no sentence"
    return ""
