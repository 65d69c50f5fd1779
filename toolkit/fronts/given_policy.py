"""A restart policy that is given in Python, to `launch` or in a scenario, on its way to `--restart-policy`.

It is a text as there, a `RestartPolicy`, or any object of one's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.adapters import packed_policy
from toolkit.core.restart_spec import spec_of
from toolkit.core.restarts import RestartPolicy

_NAME = "restart_policy"


def as_options(options: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The options with the policy as a text, and the files that this needs in `folder`.

    Raises:
        ConfigurationError: an object that is no policy, or can't be sent to the agent.
    """
    policy = options.get(_NAME)
    if policy is None or isinstance(policy, str):
        return dict(options), {}
    if type(policy) is RestartPolicy:
        return {**options, _NAME: spec_of(policy)}, {}
    data = packed_policy.pack(policy, f"{_NAME} is {_short(policy)}")
    files = {
        packed_policy.PICKLE: data,
        packed_policy.SCRIPT: packed_policy.script_for(folder).encode(),
    }
    return {**options, _NAME: f"{folder / packed_policy.SCRIPT}:policy"}, files


def _short(value: Any) -> str:
    return repr(value)[:80]
