"""Plug-ins of torchrun that decide where logs go: entry points of the group "torchrun.logs_specs"."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from toolkit.core.errors import ConfigurationError
from toolkit.core.launch_plan import Std


def plugin(
    name: str,
    *,
    log_dir: str | None,
    redirects: Std | Mapping[int, Std],
    tee: Std | Mapping[int, Std],
    local_ranks_filter: frozenset[int] | None,
) -> Any:
    """An instance of the plug-in's class, with torch's types as its arguments.

    Raises:
        ConfigurationError: there is no such plug-in, or torch is missing.
    """
    found = entry_points(group="torchrun.logs_specs").select(name=name)
    if not found:
        raise ConfigurationError(f"--logs-specs is {name!r}, and no installed package offers that plug-in")
    try:
        from torch.distributed.elastic.multiprocessing import Std as TorchStd
    except ImportError as error:
        raise ConfigurationError(f"--logs-specs {name} is a plug-in of torch; pip install torch") from error

    def theirs(setting: Std | Mapping[int, Std]) -> Any:
        if isinstance(setting, Std):
            return TorchStd(int(setting))
        return {rank: TorchStd(int(std)) for rank, std in setting.items()}

    make = next(iter(found)).load()
    return make(
        log_dir=log_dir,
        redirects=theirs(redirects),
        tee=theirs(tee),
        local_ranks_filter=None if local_ranks_filter is None else set(local_ranks_filter),
    )
