"""When a failed group is started again: the restart policy as a value, and its verdict as a value.

The policy decides from what it is given and nothing else: no clock, no randomness. The default policy is
torch's meaning of `max_restarts`: that many restarts, at once, whatever the cause.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from toolkit.core.errors import ConfigurationError
from toolkit.core.words import signal_name

#: steps count as about equal if they differ by no more than this, or by this share of the larger one
STEPS_APART, STEPS_APART_SHARE = 10, 0.01
#: so many restarts in a row are free where nobody gave the length of a crash loop; then they spend the budget
FREE_IN_A_ROW = 5


def code_in_words(code: int) -> str:
    """An exit code as sentences call it: "exit code 3", "SIGSEGV"; -N is signal N."""
    return signal_name(code) or f"exit code {code}"


def _wait_in_words(seconds: float) -> str:
    """Such as "2.0 s", "50 ms"."""
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"


@dataclass(frozen=True, slots=True)
class PastRestart:
    """One restart that has happened.

    Args:
        at_ns: the agent's own monotonic time of the decision.
        cause: what the group failed of, as `FailureCause.key`.
        free: whether it did not spend the budget.
        progress: the step that the group had reached when it failed, if it was told.
        uptime_s: how long the workers had run when they failed, if that is known.
    """

    at_ns: int
    cause: str
    free: bool = False
    progress: int | None = None
    uptime_s: float | None = None


@dataclass(frozen=True, slots=True)
class FailureCause:
    """What made the group fail, as far as a policy needs to know.

    Args:
        exit_codes: exit codes of the workers that failed; -N for signal N. Where it is known who died of itself, those
            that only died of somebody else's death are left out.
        key: equal for failures that look the same; crash loops are recognised by it.
        hand: "first" if the worker died of itself, "second" if of somebody else's death, else "unclear".
        progress: the step that the group had reached, if it was told.
        uptime_s: how long the workers had run, if that is known.
    """

    exit_codes: tuple[int, ...] = ()
    key: str = ""
    hand: Literal["first", "unclear", "second"] = "unclear"
    progress: int | None = None
    uptime_s: float | None = None


@dataclass(frozen=True, slots=True)
class RestartVerdict:
    """What a policy says of one failure.

    Args:
        allowed: whether the group is started again.
        reason: why, for the log and the screen.
        delay_s: seconds to wait before the restart.
        free: whether the restart leaves the budget as it is.
    """

    allowed: bool
    reason: str
    delay_s: float = 0.0
    free: bool = False


@runtime_checkable
class RestartJudge(Protocol):
    """What decides about restarts: a `RestartPolicy`, or anything of one's own with this method."""

    def judge(
        self,
        cause: FailureCause,
        past: tuple[PastRestart, ...],
        *,
        remaining: int,
        restarts_max: int,
        now_ns: int,
        draw: float = 0.0,
    ) -> RestartVerdict:
        """Say whether a group that failed of `cause` is started again. Must not block: the agent's loop waits for it.

        If it raises, or returns something else, the plain budget decides and the reason says so.

        Args:
            cause: of this failure.
            past: the restarts so far after failures, oldest first. Of a job of several nodes all of them, whichever
                node failed.
            remaining: what is left of the budget, as the agent counts it.
            restarts_max: the whole budget (`--max-restarts`).
            now_ns: the agent's monotonic time, as in `past`.
            draw: a number in [0, 1) for jitter, so that a simulated run can be repeated.
        """
        ...


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a failed group is started again.

    Args:
        window_s: only restarts younger than this spend the budget; None counts all of them.
        backoff_s: wait before the first restart, in seconds; it doubles with each further one in a row, and begins anew
            after workers that ran for `steady_s`.
        backoff_max_s: upper bound of the wait.
        jitter: the wait is lengthened by up to this share of itself, 0 to 1.
        crash_loop: this many failures in a row with the same cause at about the same progress end the run; None never
            does. Where steps are told (`toolkit.progress`), about the same is within 10 steps or 1 % of each other;
            else it is within `steady_s` after the start.
        never_on: exit codes after which a restart is useless (-N for signal N).
        free_on: exit codes that demand a restart and leave the budget as it is, such as 75 (EX_TEMPFAIL). It stays
            bounded: of a crash loop the run ends, and without `crash_loop` the sixth in a row spends the budget.
        steady_s: workers that ran for so long were started well.
        never: nothing is started again, save on `free_on`.

    Raises:
        ConfigurationError: a value outside its range, or values that exclude each other.
    """

    window_s: float | None = None
    backoff_s: float = 0.0
    backoff_max_s: float = 60.0
    jitter: float = 0.0
    crash_loop: int | None = None
    never_on: frozenset[int] = field(default_factory=frozenset)
    free_on: frozenset[int] = field(default_factory=frozenset)
    steady_s: float = 600.0
    never: bool = False

    def __post_init__(self) -> None:
        if self.window_s is not None and not 0 < self.window_s < math.inf:
            raise ConfigurationError(f"restart window is {self.window_s} s; it must be more than 0")
        if not (0 <= self.backoff_s < math.inf and 0 <= self.backoff_max_s < math.inf):
            raise ConfigurationError(
                f"back-off is {self.backoff_s} s, at most {self.backoff_max_s} s; neither may be negative"
            )
        if not 0 <= self.jitter <= 1:
            raise ConfigurationError(f"back-off jitter is {self.jitter}; it must be between 0 and 1")
        if self.crash_loop is not None and self.crash_loop < 2:
            raise ConfigurationError(f"crash loop length is {self.crash_loop}; it must be at least 2")
        if not 0 < self.steady_s < math.inf:
            raise ConfigurationError(f"steady time is {self.steady_s} s; it must be more than 0")
        both = sorted(self.never_on & self.free_on)
        if both:
            raise ConfigurationError(
                f"{code_in_words(both[0])} both forbids a restart and makes it free; name it once"
            )

    def judge(
        self,
        cause: FailureCause,
        past: tuple[PastRestart, ...],
        *,
        remaining: int,
        restarts_max: int,
        now_ns: int,
        draw: float = 0.0,
    ) -> RestartVerdict:
        """Say whether a group that failed of `cause` is started again.

        Args:
            past: the restarts so far, oldest first.
            remaining: what is left of the budget, as the agent counts it.
            restarts_max: the whole budget.
            now_ns: the agent's monotonic time.
            draw: a number in [0, 1) for the jitter.
        """
        forbidden = [code for code in cause.exit_codes if code in self.never_on]
        if forbidden:
            return RestartVerdict(False, f"{code_in_words(forbidden[0])} forbids a restart")
        loop = self._crash_loop_length(cause, past)
        if self.crash_loop is not None and loop >= self.crash_loop:
            return RestartVerdict(
                False,
                f"crash loop: {loop} failures in a row with the same cause ({cause.key}){self._where(cause)}",
            )
        delay_s = self._delay(cause, past, draw)
        waits = f", back-off {_wait_in_words(delay_s)}" if delay_s else ""
        demanded = [code for code in cause.exit_codes if code in self.free_on]
        if demanded and loop <= FREE_IN_A_ROW:
            asks = f"{code_in_words(demanded[0])} asks for a restart, which is free"
            return RestartVerdict(True, f"{asks}{waits}", delay_s, free=True)
        had = (
            f"{code_in_words(demanded[0])} has had {FREE_IN_A_ROW} free restarts in a row; "
            if demanded
            else ""
        )
        if self.never:
            return RestartVerdict(False, f"{had}the restart policy is never")
        left = self._left(past, remaining, restarts_max, now_ns)
        if left <= 0:
            return RestartVerdict(False, f"{had}{self._exhausted(restarts_max)}")
        number = f"restart {restarts_max - left + 1} of {restarts_max}{self._within()}{waits}"
        return RestartVerdict(True, f"{had}{number}", delay_s)

    def _left(self, past: tuple[PastRestart, ...], remaining: int, restarts_max: int, now_ns: int) -> int:
        if self.window_s is None:
            return remaining
        since_ns = now_ns - int(self.window_s * 1e9)
        return restarts_max - sum(1 for restart in past if restart.at_ns > since_ns and not restart.free)

    def _exhausted(self, restarts_max: int) -> str:
        if restarts_max == 0:
            return "no restarts are allowed (max_restarts is 0)"
        spent = "the only restart is" if restarts_max == 1 else f"all {restarts_max} restarts are"
        return f"{spent} used up{self._within()}"

    def _within(self) -> str:
        return "" if self.window_s is None else f" within {self.window_s:g} s"

    def _crash_loop_length(self, cause: FailureCause, past: tuple[PastRestart, ...]) -> int:
        length = 1
        for restart in reversed(past):
            if not self._alike(cause, restart):
                break
            length += 1
        return length

    def _alike(self, cause: FailureCause, restart: PastRestart) -> bool:
        """Whether the group failed of the same at about the same progress."""
        if restart.cause != cause.key:
            return False
        if cause.progress is not None and restart.progress is not None:
            apart = abs(cause.progress - restart.progress)
            return apart <= max(STEPS_APART, STEPS_APART_SHARE * max(cause.progress, restart.progress))
        return self._early(cause.uptime_s) and self._early(restart.uptime_s)

    def _early(self, uptime_s: float | None) -> bool:
        return uptime_s is None or uptime_s < self.steady_s

    def _where(self, cause: FailureCause) -> str:
        if cause.progress is not None:
            return f" at about step {cause.progress}"
        return "" if cause.uptime_s is None else f" within {self.steady_s:g} s after the start"

    def _delay(self, cause: FailureCause, past: tuple[PastRestart, ...], draw: float) -> float:
        if self.backoff_s == 0:
            return 0.0
        # The exponent is capped: 2.0**2000 is an OverflowError, not a long wait.
        delay = min(self.backoff_s * 2.0 ** min(self._in_a_row(cause, past), 64), self.backoff_max_s)
        return delay * (1 + self.jitter * draw)

    def _in_a_row(self, cause: FailureCause, past: tuple[PastRestart, ...]) -> int:
        """Restarts since workers last ran for a steady time."""
        count, uptime_s = 0, cause.uptime_s
        for restart in reversed(past):
            if not self._early(uptime_s):
                break
            count, uptime_s = count + 1, restart.uptime_s
        return count


#: torch's meaning of `max_restarts`
PLAIN_BUDGET = RestartPolicy()
