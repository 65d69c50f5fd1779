"""When a failed group is started again: the restart policy as a value, and its verdict as a value.

The policy decides from what it is given and nothing else: no clock, no randomness. The default policy is
torch's meaning of `max_restarts`: that many restarts, at once, whatever the cause.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from toolkit.core.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class PastRestart:
    """One restart that has happened.

    Args:
        at_ns: the agent's own monotonic time of the decision.
        cause: what the group failed of, as `FailureCause.key`.
    """

    at_ns: int
    cause: str


@dataclass(frozen=True, slots=True)
class FailureCause:
    """What made the group fail, as far as a policy needs to know.

    Args:
        exit_codes: exit codes of the workers that failed; -N for signal N.
        key: equal for failures that look the same; crash loops are recognised by it.
    """

    exit_codes: tuple[int, ...] = ()
    key: str = ""


@dataclass(frozen=True, slots=True)
class RestartVerdict:
    """What a policy says of one failure.

    Args:
        allowed: whether the group is started again.
        reason: why, for the log and the screen.
        delay_s: seconds to wait before the restart.
    """

    allowed: bool
    reason: str
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a failed group is started again.

    Args:
        window_s: only restarts younger than this spend the budget; None counts all of them.
        backoff_s: wait before the first restart, in seconds; it doubles with each further one.
        backoff_max_s: upper bound of the wait.
        jitter: the wait is lengthened by up to this share of itself, 0 to 1.
        crash_loop: this many failures in a row with the same cause end the run; None never does.
        never_on: exit codes after which a restart is useless (-N for signal N).

    Raises:
        ConfigurationError: a value outside its range.
    """

    window_s: float | None = None
    backoff_s: float = 0.0
    backoff_max_s: float = 60.0
    jitter: float = 0.0
    crash_loop: int | None = None
    never_on: frozenset[int] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if self.window_s is not None and self.window_s <= 0:
            raise ConfigurationError(f"restart window is {self.window_s} s; it must be more than 0")
        if self.backoff_s < 0 or self.backoff_max_s < 0:
            raise ConfigurationError(
                f"back-off is {self.backoff_s} s, at most {self.backoff_max_s} s; neither may be negative"
            )
        if not 0 <= self.jitter <= 1:
            raise ConfigurationError(f"back-off jitter is {self.jitter}; it must be between 0 and 1")
        if self.crash_loop is not None and self.crash_loop < 2:
            raise ConfigurationError(f"crash loop length is {self.crash_loop}; it must be at least 2")

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
            return RestartVerdict(False, f"exit code {forbidden[0]} forbids a restart")
        loop = self._crash_loop_length(cause, past)
        if self.crash_loop is not None and loop >= self.crash_loop:
            return RestartVerdict(
                False, f"crash loop: {loop} failures in a row with the same cause ({cause.key})"
            )
        left = self._left(past, remaining, restarts_max, now_ns)
        if left <= 0:
            return RestartVerdict(False, self._exhausted(restarts_max))
        number = f"restart {restarts_max - left + 1} of {restarts_max}{self._within()}"
        return RestartVerdict(True, number, self._delay(past, draw))

    def _left(self, past: tuple[PastRestart, ...], remaining: int, restarts_max: int, now_ns: int) -> int:
        if self.window_s is None:
            return remaining
        since_ns = now_ns - int(self.window_s * 1e9)
        return restarts_max - sum(1 for restart in past if restart.at_ns > since_ns)

    def _exhausted(self, restarts_max: int) -> str:
        if restarts_max == 0:
            return "no restarts are allowed (max_restarts is 0)"
        return f"all {restarts_max} restarts are used up{self._within()}"

    def _within(self) -> str:
        return "" if self.window_s is None else f" within {self.window_s:g} s"

    def _crash_loop_length(self, cause: FailureCause, past: tuple[PastRestart, ...]) -> int:
        length = 1
        for restart in reversed(past):
            if restart.cause != cause.key:
                break
            length += 1
        return length

    def _delay(self, past: tuple[PastRestart, ...], draw: float) -> float:
        if self.backoff_s == 0:
            return 0.0
        # The exponent is capped: 2.0**2000 is an OverflowError, not a long wait.
        delay = min(self.backoff_s * 2.0 ** min(len(past), 64), self.backoff_max_s)
        return delay * (1 + self.jitter * draw)


#: torch's meaning of `max_restarts`
PLAIN_BUDGET = RestartPolicy()
