"""The option `--restart-policy`: a text, the policy it stands for, and what has no effect beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.core.errors import ConfigurationError
from toolkit.fronts.command_line.option import Option

if TYPE_CHECKING:
    from toolkit.core.restarts import RestartJudge

OPTION = Option(
    "restart-policy",
    "When failed workers are started again, within --max-restarts: words and settings with commas between them. "
    "Words: budget (each time, at once), never, backoff (backoff=1s..60s,jitter=0.2), crash-loop (crash-loop=3). "
    "Settings: window=1h (only restarts of the last hour count), backoff=1s..60s (doubling), jitter=0.2, "
    "crash-loop=3 (ends the run when it fails 3 times in a row of the same at about the same step), "
    "never-on=2/78/SIGSEGV (exit codes and signals that end the run), free-on=75/SIGUSR1 (those that cost nothing), "
    "steady=10m (workers that ran so long had started well). Or a policy of your own: module:name, "
    "path/to/file.py:name, or an entry point of the group rallypoint.restart_policies. Default: budget.",
    "SPEC",
    ours=True,
    group="supervision",
)


def restart_policy(values: Any, sources: Mapping[str, str]) -> str | None:
    """The text, checked as far as it can be without importing anybody's code; None for the plain budget.

    Args:
        values: of all options, by dest.
        sources: dest -> where the value came from.

    Raises:
        ConfigurationError: it is none.
    """
    spec: str | None = values.restart_policy
    if spec is None:
        return None
    from toolkit.core import restart_spec  # few runs need it

    name = sources["restart_policy"]
    if not spec.strip():
        raise ConfigurationError(f"{name} is empty; {restart_spec.what_there_is()}")
    if not restart_spec.is_own(spec):
        restart_spec.policy_of(spec, name)
    return spec.strip()


def judge_of(spec: str | None, cwd: Path, name: str = "--restart-policy") -> RestartJudge | None:
    """The policy of a text; imports the code of one that is somebody's own.

    Raises:
        ConfigurationError: it is none, or can't be imported.
    """
    if spec is None:
        return None
    from toolkit.core import restart_spec

    if not restart_spec.is_own(spec):
        return restart_spec.policy_of(spec, name)
    from toolkit.adapters import own_policies

    return own_policies.load(spec, cwd, name)


def notices(values: Any, sources: Mapping[str, str]) -> list[str]:
    """What has no effect with so few restarts."""
    spec: str | None = values.restart_policy
    if not spec:
        return []
    from toolkit.core import restart_spec

    if restart_spec.is_own(spec) or "free-on=" in spec or spec.strip() in ("budget", "never"):
        return []
    name = sources["restart_policy"]
    if not values.max_restarts:
        return [f"{name} {spec} has no effect with --max-restarts 0; give a number of restarts"]
    policy = restart_spec.policy_of(spec, name)
    if (
        policy.crash_loop is None
        or policy.window_s is not None
        or policy.crash_loop <= values.max_restarts + 1
    ):
        return []
    return [
        f"crash-loop={policy.crash_loop} of {name} has no effect with --max-restarts {values.max_restarts}, "
        f"which is used up first; give at least {policy.crash_loop} restarts"
    ]
