"""prctl(2), where the kernel has it."""

from __future__ import annotations

import ctypes

from toolkit.adapters.libc import linux_function

SET_PDEATHSIG = 1
SET_CHILD_SUBREAPER = 36
GET_CHILD_SUBREAPER = 37

#: prctl itself, with five numbers; None where there is none
call = linux_function("prctl", ctypes.c_int, *[ctypes.c_ulong] * 4)


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
