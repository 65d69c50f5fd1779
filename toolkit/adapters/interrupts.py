"""Death signals to the agent's process, and signals that it hands on to its workers.

A handler never raises into clean-up code: it notes the signal and rings the bell. It raises only inside
`interruptible()`, which wraps calls into foreign code that blocks.

`rally run` has its signals from its first line to its last: what comes before there is an agent is kept for it, and
what comes when the run is over changes nothing any more. This imports next to nothing, for that reason.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType
from typing import TYPE_CHECKING, Any

from toolkit.core.errors import SignalException

if TYPE_CHECKING:
    from toolkit.ports import Bell

#: what torchrun handles
DEFAULT_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
#: how long a process that has only to exit may take, in seconds, before it is ended from outside
EXIT_S = 30.0


class SignalInterrupts:
    """Implements `toolkit.ports.Interrupts`.

    Args:
        signals: the death signals. Those that the process ignores (nohup's SIGHUP, a background job's SIGINT) stay
            ignored.
        pid: of this process, for the message.
        forwarded: signals that are meant for the workers.
    """

    def __init__(
        self,
        pid: int,
        signals: Sequence[signal.Signals] = DEFAULT_SIGNALS,
        forwarded: Sequence[signal.Signals] = (),
    ) -> None:
        self._signals, self._forwarded = tuple(signals), tuple(forwarded)
        self._pid = pid
        self._pending: deque[int] = deque()
        #: signals for the workers, each once, as the kernel keeps them
        self._to_forward: dict[int, None] = {}
        self._count = 0
        self._raise_at_once = False
        self._raised: int | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._installed = False
        self._bell: Bell | None = None

    # -- the handlers ---------------------------------------------------------------------------------------

    def install(self) -> None:
        """Take the signals from now on, before there is a bell. To be called in the main thread."""
        self._installed = True
        for sig in self._signals:
            self._take_over(sig, self._handle)
        for sig in self._forwarded:
            self._take_over(sig, self._handle_forwarded)

    def _take_over(self, sig: signal.Signals, handler: Any) -> None:
        if signal.getsignal(sig) is not signal.SIG_IGN:
            before = signal.signal(sig, handler)
            self._before.setdefault(sig, before)

    def uninstall(self) -> None:
        """Put the handlers of before back."""
        for sig in list(self._before):
            self._give_back(sig)
        self._installed = False

    def _give_back(self, sig: signal.Signals) -> None:
        handler = self._before.pop(sig)
        signal.signal(sig, signal.SIG_DFL if handler is None else handler)

    def choose(self, signals: Sequence[signal.Signals], forwarded: Sequence[signal.Signals] = ()) -> None:
        """Other signals than before. Those that stay are never without a handler."""
        self._signals, self._forwarded = tuple(signals), tuple(forwarded)
        if not self._installed:
            return
        for sig in [sig for sig in self._before if sig not in (*signals, *forwarded)]:
            self._give_back(sig)
        self.install()

    @contextmanager
    def handling(self, bell: Bell) -> Iterator[None]:
        """Count death signals and ring `bell`; the handlers of before are back afterwards.

        In another thread than the main one, where handlers can't be installed, nothing changes.
        """
        if self._bell is not None or not in_main_thread():
            yield
            return
        self._bell, had_them = bell, self._installed
        # A signal that comes just before the wait begins, or to another thread, breaks no wait off: Python would see it
        # only after the wait. So it rings by itself.
        wakeup_fd = getattr(bell, "wakeup_fd", None)
        fd_before = None if wakeup_fd is None else signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
        try:
            if not had_them:
                self.install()
            yield
        finally:
            if not had_them:
                self.uninstall()
            if fd_before is not None:
                signal.set_wakeup_fd(fd_before)
            self._bell = None

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
        self._ring()
        if self._raise_at_once:
            self._raise_pending()

    def _handle_forwarded(self, signum: int, frame: FrameType | None) -> None:
        self._to_forward[signum] = None
        self._ring()

    def _ring(self) -> None:
        if self._bell is not None:
            self._bell.ring()

    def _raise_pending(self) -> None:
        signum = self.take()
        if signum is not None:
            # Once: signals often come in bursts, and the next one must not break off the clean-up after the first.
            self._raise_at_once, self._raised = False, signum
            raise SignalException.of(self._pid, signum)

    # -- what came ------------------------------------------------------------------------------------------

    def take(self) -> int | None:
        """The oldest signal that nobody took yet."""
        try:
            return self._pending.popleft()
        except IndexError:
            return None

    def count(self) -> int:
        """Signals so far."""
        return self._count

    def forget(self) -> None:
        """Those that nobody took came too late to matter."""
        self._pending.clear()

    def take_forwarded(self) -> list[int]:
        """The signals for the workers that nobody took yet, each once, in the order in which they came."""
        taken = list(self._to_forward)
        for signum in taken:
            self._to_forward.pop(signum)
        return taken


def in_main_thread() -> bool:
    """Whether Python runs signal handlers in the calling thread."""
    return current_thread() is main_thread()


def interrupt_kills() -> None:
    """Until the agent handles signals, Ctrl-C simply ends the process: no traceback, and nothing is running yet."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def ignore_from_now_on() -> None:
    """The last that a process does before it exits: its exit code stands, whatever comes.

    Python takes its handlers off before the process is gone; a signal would then end it, and be its exit code. If the
    exit hangs, in some library's own clean-up, SIGALRM ends it after `EXIT_S`.
    """
    ours = [sig for sig in signal.valid_signals() if _is_ours(signal.getsignal(sig))]
    for sig in ours:
        signal.signal(sig, signal.SIG_IGN)
    if ours:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, EXIT_S)


def _is_ours(handler: Any) -> bool:
    return isinstance(getattr(handler, "__self__", None), SignalInterrupts)
