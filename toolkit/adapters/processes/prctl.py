"""prctl(2), where the kernel has it.

Looked up at import, before any fork: the child of a fork must not load libraries.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

SET_PDEATHSIG = 1
SET_CHILD_SUBREAPER = 36
GET_CHILD_SUBREAPER = 37


def _looked_up() -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_int
    function.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    return function


#: prctl itself, with five numbers; None where there is none
call = _looked_up()


def is_subreaper() -> bool | None:
    """Whether orphaned descendants of this process become its children; None where the kernel has no such thing."""
    if call is None:
        return None
    answer = ctypes.c_int(0)
    if call(GET_CHILD_SUBREAPER, ctypes.addressof(answer), 0, 0, 0) != 0:
        return None
    return bool(answer.value)


def set_subreaper(on: bool) -> bool:
    """Have orphaned descendants of this process become its children, or not. Returns whether that is so now."""
    return call is not None and call(SET_CHILD_SUBREAPER, int(on), 0, 0, 0) == 0
