"""NUMA binding of workers, as torch does it (`torch.numa.binding`). torch is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toolkit.core.errors import ConfigurationError

_MISSING = (
    "NUMA binding needs a torch with torch.numa (2.8 or later); install one or leave --numa-binding out"
)


def bound_command(argv: tuple[str, ...], gpu_index: int, numa_options: Any | None) -> tuple[str, ...]:
    """The command, run by numactl where binding was asked for."""
    if numa_options is None:
        return argv
    try:
        from torch.numa.binding import _maybe_wrap_command_args_with_numa_binding as wrap
    except ImportError as error:
        raise ConfigurationError(_MISSING) from error
    return tuple(wrap(argv, gpu_index=gpu_index, numa_options=numa_options))


def bound_function(
    function: Callable[..., Any], gpu_index: int, numa_options: Any | None
) -> Callable[..., Any]:
    """The function, which first binds its process where binding was asked for."""
    if numa_options is None:
        return function
    try:
        from torch.numa.binding import _maybe_wrap_with_numa_binding as wrap
    except ImportError as error:
        raise ConfigurationError(_MISSING) from error
    bound: Callable[..., Any] = wrap(function, gpu_index=gpu_index, numa_options=numa_options)
    return bound


def options(mode: str) -> Any:
    """torch's `NumaOptions` for a mode such as "node".

    Raises:
        ConfigurationError: torch is missing or too old, or doesn't know the mode.
    """
    try:
        from torch.numa.binding import AffinityMode, NumaOptions
    except ImportError as error:
        raise ConfigurationError(_MISSING) from error
    try:
        return NumaOptions(affinity_mode=AffinityMode(mode))
    except ValueError as error:
        raise ConfigurationError(f"NUMA binding mode {mode!r} is not known to this torch: {error}") from error
