"""`toolkit.progress(step)`: a training script tells its agent which step it is at. No torch; next to no cost.

Called in a worker of `rally run`, it stores the step and the time in memory that the agent reads every few seconds. The
first call also has `faulthandler` write the stacks of this process there when the agent asks, should it hang. Elsewhere
it does nothing.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import time
from collections.abc import Callable
from operator import index
from typing import Any

from toolkit import surroundings
from toolkit.core.hanging.worker_notes import (
    SLOT_BYTES,
    STACKS_SIGNAL_BELOW_MAX,
    STACKS_VARIABLE,
    STEP_MAX,
    STEPS_VARIABLE,
)


def progress(step: int) -> None:
    """Tell the agent that this worker makes progress, and is at `step`. Takes about a microsecond; never blocks.

    A worker that has called this is judged by it: the agent reports it as hanging when no further call comes for
    `--hang-timeout`, or for ten of its usual steps if that is longer. In long phases without steps, such as an
    evaluation, call it with the same step again.

    Args:
        step: 0 or more; usually counts on.

    Raises:
        TypeError: `step` is no whole number.
        ValueError: it is negative, or has more than 63 bits.
    """
    number = index(step)
    if not 0 <= number <= STEP_MAX:
        raise ValueError(f"step is {number}; give the number of a step, 0 or more")
    _note(number)


def _first(step: int) -> None:
    global _note  # noqa: PLW0603 - the way to the agent is looked for once
    _note = _way_to_agent()
    _note(step)


#: stores a step
_note: Callable[[int], None] = _first
#: what must stay alive as long as the process
_kept: list[Any] = []


def _nowhere(step: int) -> None:
    """There is no agent."""


def _way_to_agent() -> Callable[[int], None]:
    environ = surroundings.environment()
    path, _, offset = environ.get(STEPS_VARIABLE, "").rpartition(":")
    if not path or not offset.isdecimal():
        return _nowhere
    try:
        slot = _opened(path, int(offset))
    except (OSError, ValueError):
        return _nowhere  # the agent is gone, or in another namespace of processes
    _write_stacks_when_asked(environ.get(STACKS_VARIABLE, ""))
    now_ns = time.monotonic_ns

    def note(step: int) -> None:
        # The step first: a look in between sees an old time, and takes it for a moment longer to come.
        slot[1] = step
        slot[0] = now_ns()

    return note


def _opened(path: str, offset: int) -> memoryview:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        memory = mmap.mmap(fd, offset + SLOT_BYTES)
    finally:
        os.close(fd)
    return memoryview(memory)[offset : offset + 16].cast("q")


def _write_stacks_when_asked(path: str) -> None:
    try:
        signum = signal.SIGRTMAX - STACKS_SIGNAL_BELOW_MAX
        if not path or signal.getsignal(signum) is not signal.SIG_DFL:
            return  # the signal has another use here
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        _kept.append(fd)
        faulthandler.register(signum, file=fd, all_threads=True)
    except (OSError, ValueError, AttributeError, RuntimeError):
        return  # py-spy may do without
