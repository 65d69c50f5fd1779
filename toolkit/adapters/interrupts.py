"""Death signals to the agent's process.

A handler never raises into clean-up code: it notes the signal and rings the bell. It raises only inside
`interruptible()`, which wraps calls into foreign code that blocks.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from toolkit.adapters.loop_bell import in_main_thread
from toolkit.core.errors import SignalException
from toolkit.ports import Bell

#: what torchrun handles
DEFAULT_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class SignalInterrupts:
    """Implements `toolkit.ports.Interrupts`.

    Args:
        signals: the death signals. Those that the process ignores (nohup's SIGHUP, a background job's SIGINT) stay
            ignored.
        pid: of this process, for the message.
    """

    def __init__(self, pid: int, signals: Sequence[signal.Signals] = DEFAULT_SIGNALS) -> None:
        self._signals = tuple(signals)
        self._pid = pid
        self._pending: deque[int] = deque()
        self._count = 0
        self._raise_at_once = False
        self._raised: int | None = None
        self._installed = False
        self._bell: Bell | None = None

    @contextmanager
    def handling(self, bell: Bell) -> Iterator[None]:
        """Count death signals and ring `bell`; the handlers of before are back afterwards.

        In another thread than the main one, where handlers can't be installed, nothing changes.
        """
        if self._installed or not in_main_thread():
            yield
            return
        self._bell, self._installed = bell, True
        before = {}
        # A signal that comes just before the wait begins, or to another thread, breaks no wait off: Python would see it
        # only after the wait. So it rings by itself.
        wakeup_fd = getattr(bell, "wakeup_fd", None)
        fd_before = None if wakeup_fd is None else signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
        try:
            for sig in self._signals:
                if signal.getsignal(sig) is not signal.SIG_IGN:
                    before[sig] = signal.signal(sig, self._handle)
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, signal.SIG_DFL if handler is None else handler)
            if fd_before is not None:
                signal.set_wakeup_fd(fd_before)
            self._bell, self._installed = None, False

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Raise SignalException as soon as a death signal comes, or now if one is pending."""
        if not (self._installed and in_main_thread()):
            yield
            return
        self._raised = None
        self._raise_at_once = True
        try:
            self._raise_pending()
            yield
        finally:
            self._raise_at_once = False
        if self._raised is not None:  # and the foreign code swallowed it
            raise SignalException.of(self._pid, self._raised)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._count += 1
        self._pending.append(signum)
        if self._bell is not None:
            self._bell.ring()
        if self._raise_at_once:
            self._raise_pending()

    def _raise_pending(self) -> None:
        signum = self.take()
        if signum is not None:
            # Once: signals often come in bursts, and the next one must not break off the clean-up after the first.
            self._raise_at_once, self._raised = False, signum
            raise SignalException.of(self._pid, signum)

    def take(self) -> int | None:
        """The oldest signal that nobody took yet."""
        try:
            return self._pending.popleft()
        except IndexError:
            return None

    def count(self) -> int:
        """Signals so far."""
        return self._count
