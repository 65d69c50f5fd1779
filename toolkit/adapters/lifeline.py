"""A process that ends when the one that started it goes away, however that ends: both hold an end of one pipe."""

from __future__ import annotations

import os
import signal
import threading
from weakref import WeakSet


class Lifeline:
    """The end of whoever starts the other; held as long as that is to live."""

    def __init__(self) -> None:
        self.theirs, self._ours = os.pipe()
        _held.add(self)

    def given(self) -> None:
        """The other process has its end; ours is all that is kept here."""
        os.close(self.theirs)
        self.theirs = -1

    def close(self) -> None:
        """Let the other go, which ends it if it is still there."""
        ours, self._ours = self._ours, -1
        if ours >= 0:
            os.close(ours)


#: those whose end this process holds
_held: WeakSet[Lifeline] = WeakSet()


def _forget_in_a_fork() -> None:
    """A child that is forked, by multiprocessing say, must not hold on to what is to end with its parent."""
    for each in list(_held):
        each.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_a_fork)


def end_with(theirs: int) -> None:
    """Have a thread send this process SIGTERM when the other end is closed. To be called in the process that is to end.

    Args:
        theirs: the descriptor of this end; children do not get it.
    """
    os.set_inheritable(theirs, False)
    threading.Thread(target=_watch, args=(theirs,), name="rally-lifeline", daemon=True).start()


def _watch(theirs: int) -> None:
    while os.read(theirs, 1):
        pass  # nobody writes; a byte would mean nothing
    os.kill(os.getpid(), signal.SIGTERM)
