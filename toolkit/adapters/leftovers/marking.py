"""The mark in the environment of whatever workers start: how it is made, and how a function's process gets it.

/proc shows the environment with which a program began, so a process that was forked for a function shows its agent's.
There the mark is written over the first entries of that block, as setproctitle does with the arguments.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

from toolkit.adapters.leftovers.process_tree import MARK

#: agents inside workers of agents: so many tokens are kept, the innermost
_DEPTH_MAX = 32
_ENV_START_FIELD = 50


def fresh_token() -> str:
    """A token for one agent's workers."""
    return os.urandom(8).hex()


def value(token: str, start: str, inherited: Mapping[str, str]) -> str:
    """The value of the mark for some workers of an agent, which may itself be below another one.

    Args:
        token: of the agent.
        start: of those workers' incarnation.
        inherited: the environment of the agent.
    """
    above = [each for each in inherited.get(MARK, "").split("/") if each]
    return "/".join([*above, token, start][-_DEPTH_MAX:])


def show(mark: str) -> bool:
    """Have /proc show this mark as the first entry of this process's environment. Returns whether it does.

    To be called in a process of its own, before it has other threads, and when each variable has been set anew: C's
    environment points into that block, and setting a variable moves it elsewhere.
    """
    entry = f"{MARK}={mark}".encode() + b"\0"
    try:
        start, end = _block()
    except (OSError, ValueError, IndexError):
        return False
    if end - start <= len(entry):
        return False
    rest = ctypes.string_at(start, end - start)[len(entry) :].partition(b"\0")[0]
    ctypes.memmove(start, entry + b"\0" * len(rest), len(entry) + len(rest))
    return True


def _block() -> tuple[int, int]:
    """Where the kernel finds the environment: first address, and the one behind the last."""
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123 - pathlib is not needed for this
        fields = file.read().rpartition(b")")[2].split()
    # The fields behind the name begin with the third.
    return int(fields[_ENV_START_FIELD - 3]), int(fields[_ENV_START_FIELD - 3 + 1])
