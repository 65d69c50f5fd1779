"""Orphans of the workers become children of the agent's process while this is on: none gets away, all are reaped.

Only for a process that is the agent's alone (`rally run`): who embeds an agent has children and a SIGCHLD handler of
their own, and their process is left as it is.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

from toolkit.adapters.interrupts import in_main_thread
from toolkit.adapters.leftovers import process_tree
from toolkit.adapters.leftovers.process_tree import Seen
from toolkit.adapters.processes import prctl


class Orphans:
    """Takes in orphans from `begin` to `end`. Used by the main thread."""

    def __init__(self) -> None:
        self._active = False
        self._was_subreaper = False
        self._handler: Callable[[int, FrameType | None], Any] | int | None = None
        self._some_ended = False

    @property
    def active(self) -> bool:
        """Whether every orphan of a worker is a child of this process now."""
        return self._active

    def begin(self) -> None:
        """Take in those that come from now on. Does nothing the second time, in another thread, or without Linux."""
        before = prctl.is_subreaper()
        if self._active or before is None or not in_main_thread():
            return
        if process_tree.children(os.getpid()) is None or not prctl.set_subreaper(True):
            return
        self._active, self._was_subreaper = True, before
        # With a handler of Python's, an exit rings the bell of the agent's loop: its wake-up descriptor is written to.
        self._handler = signal.signal(signal.SIGCHLD, self._note)
        signal.siginterrupt(signal.SIGCHLD, False)

    def end(self) -> None:
        """Leave the process as it was."""
        if self._active:
            self._active = False
            prctl.set_subreaper(self._was_subreaper)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if self._handler is None else self._handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._some_ended = True

    def reap(self, known: Iterable[int]) -> None:
        """Collect orphans that have ended, if a child has ended since the last time.

        Args:
            known: children that are somebody's.
        """
        if self._active and self._some_ended:
            self._some_ended = False
            self.living(known)

    def living(self, known: Iterable[int]) -> list[Seen]:
        """The orphans that live; collects the others. Empty while this is off."""
        if not self._active:
            return []
        found = []
        own_session = os.getsid(0)
        for pid in set(process_tree.children(os.getpid()) or ()) - set(known):
            seen = process_tree.look(pid)
            # What this process has started by itself is in its session; a worker's children never are.
            if seen is None or seen.session == own_session:
                continue
            if seen.state != "Z":
                found.append(seen)
                continue
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass
        return found
