"""What `--rdzv-conf` says to the backend rally: its keys, what each takes, and the settings of a job that they make."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from toolkit.core.errors import ConfigurationError
from toolkit.core.rounds import Settings

#: the name of the backend
RALLY = "rally"
#: where the nodes meet if an endpoint names no port; torch's c10d has the same
DEFAULT_PORT = 29400

_TRUE, _FALSE = ("1", "true", "t", "yes", "y"), ("0", "false", "f", "no", "n")


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def positive(text: str) -> str | None:
    """What a time must be, if it is not that."""
    return None if _number(text) > 0 else "a number of seconds above 0"


def not_negative(text: str) -> str | None:
    """What a time that may be nothing must be, if it is not that."""
    return None if _number(text) >= 0 else "a number of seconds, 0 or more"


def boolean(text: str) -> str | None:
    """What a switch must be, if it is not that."""
    return None if text.lower() in _TRUE + _FALSE else "true or false"


def says_yes(value: object) -> bool:
    """Whether a value of `--rdzv-conf` means true."""
    return str(value).lower() in _TRUE


#: key -> field of `Settings`. Names are torch's where it has the like.
_FIELDS: Mapping[str, str] = {
    "join_timeout": "join_timeout_s",
    "last_call_timeout": "last_call_s",
    "lease": "lease_s",
    "beat": "beat_s",
    "join_window": "join_window_s",
    "store_timeout": "store_timeout_s",
    "read_timeout": "store_timeout_s",
}
#: key -> says what a value must be if it is not that
KEYS: Mapping[str, Callable[[str], str | None]] = {
    **dict.fromkeys(_FIELDS, positive),
    "last_call_timeout": not_negative,
    "join_window": not_negative,
    "spare": boolean,
    "is_host": boolean,
}


def job_settings(
    conf: Mapping[str, object],
    *,
    min_nodes: int,
    max_nodes: int,
    max_restarts: int | None = None,
    spares: int | None = None,
    name: str = "--rdzv-conf",
) -> Settings:
    """The settings of a job.

    Args:
        conf: values by key; keys that the backend does not know are not looked at.
        min_nodes: nodes without which no round starts.
        max_nodes: nodes that a round admits.
        max_restarts: the job's budget; None where nobody said.
        spares: nodes that may wait beside a full round; None means any number.
        name: what messages call the source of `conf`.

    Raises:
        ConfigurationError: a value that can't be, or two that can't be together.
    """
    for key, value in conf.items():
        wanted = KEYS[key](str(value)) if key in KEYS else None
        if wanted is not None:
            raise ConfigurationError(f"{name} has {key}={value}; {key} must be {wanted}")
    _check_one_name(conf, name)
    times = {field: _number(str(conf[key])) for key, field in _FIELDS.items() if key in conf}
    nodes = {"min_nodes": min_nodes, "max_nodes": max_nodes, "max_restarts": max_restarts, "spares": spares}
    try:
        return Settings(**nodes, **times)  # type: ignore[arg-type]
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from error


def _check_one_name(conf: Mapping[str, object], name: str) -> None:
    both = [key for key in ("store_timeout", "read_timeout") if key in conf]
    if len({_number(str(conf[key])) for key in both}) > 1:
        said = " and ".join(f"{key}={conf[key]}" for key in both)
        raise ConfigurationError(f"{name} has {said}, two names for one thing; leave one of them out")


def wants_to_wait(conf: Mapping[str, object]) -> bool:
    """Whether the node would rather be a spare."""
    return says_yes(conf.get("spare", False))


def may_host(conf: Mapping[str, object]) -> bool | None:
    """Whether the node hosts the store; None where that depends on whose address the endpoint is."""
    return says_yes(conf["is_host"]) if "is_host" in conf else None
