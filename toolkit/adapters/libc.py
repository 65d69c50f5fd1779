"""Functions of the C library that Python has no name for."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any


def linux_function(name: str, *arguments: Any) -> Callable[..., int] | None:
    """A function of Linux's C library that returns an int and sets errno; None where there is none.

    To be looked up at import, before any fork: the child of a fork must not load libraries.

    Args:
        name: such as "prctl".
        arguments: its C types.
    """
    if sys.platform != "linux":
        return None
    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_int
    function.argtypes = list(arguments)
    return function  # type: ignore[no-any-return]
