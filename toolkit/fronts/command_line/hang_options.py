"""The options about workers that hang: `--on-hang` and `--hang-timeout`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from toolkit.core.errors import ConfigurationError
from toolkit.core.hanging.hang_settings import STUCK_TIMEOUT, hang_settings, health_port
from toolkit.core.hanging.watched import ACTIONS, TIMEOUT_S, HangSettings
from toolkit.fronts.command_line.option import Option

#: less would take each pause of a healthy worker for a hang
_TIMEOUT_MIN_S = 1.0

OPTIONS: tuple[Option, ...] = (
    Option(
        "on-hang",
        "What is done about workers that are stopped, stuck in the kernel, silent, or without progress: report; "
        "restart also kills who is to blame, and the restart policy decides; off does not look. Default: report.",
        "ACTION",
        default="report",
        choices=ACTIONS,
        ours=True,
        group="supervision",
    ),
    Option(
        "hang-timeout",
        f"How long a worker may use no CPU and write nothing, or call no toolkit.progress(). Default: {TIMEOUT_S:g}.",
        "SECONDS",
        kind=float,
        default=TIMEOUT_S,
        ours=True,
        group="supervision",
    ),
)


def hang_options(values: Any, sources: Mapping[str, str], environ: Mapping[str, str]) -> HangSettings:
    """Read them, and torch's variables.

    Args:
        values: of all options, by dest.
        sources: dest -> where the value came from.

    Raises:
        ConfigurationError: a value that can't be.
    """
    name = sources.get("hang_timeout", "--hang-timeout")
    timeout_s: float = values.hang_timeout
    if not (timeout_s >= _TIMEOUT_MIN_S and math.isfinite(timeout_s)):
        raise ConfigurationError(
            f"{name} is {timeout_s:g}; give a number of seconds from {_TIMEOUT_MIN_S:g} on"
        )
    health_port(environ)
    return hang_settings(environ, values.on_hang, timeout_s)


def notices(values: Any, sources: Mapping[str, str], environ: Mapping[str, str]) -> list[str]:
    """Sentences on what has no effect."""
    if values.on_hang != "off":
        return []
    found = []
    if "hang_timeout" in sources:
        found.append(f"{sources['hang_timeout']} has no effect with --on-hang off")
    if environ.get(STUCK_TIMEOUT):
        found.append(f"{STUCK_TIMEOUT} has no effect with --on-hang off")
    return found
