"""Death signals to a worker that wants to save its work before it ends: noted, and asked for once a step.

For `toolkit.stop_requested`. It imports nothing but a bit of the standard library, because it is for training scripts.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

#: A worker that has a handler for this one ends by itself when it is told to: then its agent signals it alone, and not
#: its process group. torch's data loaders would die of the signal, and raise an error in the midst of a checkpoint.
#: Nobody sends this signal; the kernel shows who has a handler (`/proc/PID/status`).
ENDS_BY_ITSELF = signal.SIGRTMIN + 20


class StopSignals:
    """Notes the first death signal of this process and when it came.

    Args:
        signals: those that ask for a stop. Those that the process ignores stay ignored.
        grace_s: between the signal and SIGKILL.
        now_s: a monotonic clock.
    """

    def __init__(
        self,
        signals: Sequence[signal.Signals],
        grace_s: float,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._signals, self._grace_s, self._now_s = tuple(signals), grace_s, now_s
        self._before: dict[int, Any] = {}
        self._at_s: float | None = None

    def watch(self) -> None:
        """Install the handlers. What the program had installed itself is called, too.

        Raises:
            RuntimeError: this is not the main thread, where Python can't.
        """
        try:
            signal.signal(ENDS_BY_ITSELF, _nobody_sends_it)
        except ValueError:
            raise RuntimeError(
                "stop_requested() was first called in another thread than the main one, where Python can handle no "
                "signals; call it once in the main thread before"
            ) from None
        for sig in self._signals:
            before = signal.getsignal(sig)
            if before is not signal.SIG_IGN:
                self._before[sig] = before
                signal.signal(sig, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._at_s is None:
            self._at_s = self._now_s()
        before = self._before.get(signum)
        # Python's own handler of SIGINT raises KeyboardInterrupt, in the midst of anything.
        if callable(before) and before is not signal.default_int_handler:
            before(signum, frame)

    @property
    def came(self) -> bool:
        """Whether there was one."""
        return self._at_s is not None

    def left_s(self) -> float:
        """Seconds until SIGKILL, at least 0; infinite before there was one."""
        return math.inf if self._at_s is None else max(0.0, self._at_s + self._grace_s - self._now_s())


def _nobody_sends_it(signum: int, frame: FrameType | None) -> None:
    """Handles `ENDS_BY_ITSELF`."""
