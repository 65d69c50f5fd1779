"""What torch's variables say of hangs, and of the health check. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from toolkit.core.errors import ConfigurationError
from toolkit.core.hanging.watched import STUCK_S, TIMEOUT_S, Action, HangSettings

ENABLE_TIMERS = "TORCHELASTIC_ENABLE_FILE_TIMER"
TIMER_FILE = "TORCHELASTIC_TIMER_FILE"
STUCK_TIMEOUT = "TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT"
HEALTH_PORT = "TORCHELASTIC_HEALTH_CHECK_PORT"


def hang_settings(
    environ: Mapping[str, str], action: Action = "report", timeout_s: float = TIMEOUT_S
) -> HangSettings:
    """What is done about workers that hang.

    Args:
        environ: where torch's variables are looked up: its file timers, and the time that a worker may be in
            uninterruptible sleep, after which torch fails the group.

    Raises:
        ConfigurationError: a variable has a value that can't be.
    """
    stuck_s = _stuck_s(environ.get(STUCK_TIMEOUT, ""))
    timers = environ.get(ENABLE_TIMERS) == "1"
    return HangSettings(
        action=action,
        timeout_s=timeout_s,
        stuck_s=stuck_s or STUCK_S,
        stuck_fails=stuck_s > 0,
        timers=timers,
        timer_file=environ.get(TIMER_FILE, "") if timers else "",
    )


def _stuck_s(text: str) -> float:
    """Seconds, or 0 if the variable asks for nothing."""
    try:
        value = float(text or 0)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigurationError(f"{STUCK_TIMEOUT} is {text!r}; give a number of seconds, or 0")
    return max(value, 0.0)


def health_port(environ: Mapping[str, str]) -> int | None:
    """Where torch's variable wants a health check; None if it is not set.

    Raises:
        ConfigurationError: it is no port.
    """
    text = environ.get(HEALTH_PORT, "")
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) <= 65535:
        raise ConfigurationError(f"{HEALTH_PORT} is {text!r}; give a port from 1 to 65535")
    return int(text)
