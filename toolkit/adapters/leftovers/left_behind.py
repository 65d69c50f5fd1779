"""What workers leave behind when they end: found, signalled and waited for, also where it has left their sessions."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable

from toolkit.adapters.leftovers import process_tree
from toolkit.adapters.leftovers.orphans import Orphans
from toolkit.adapters.leftovers.process_tree import Seen
from toolkit.adapters.loop_bell import LoopBell
from toolkit.ports import Bell


class LeftBehind:
    """For the workers of one incarnation. Used by one thread.

    Args:
        token: of their incarnation, which marks their environment.
        orphans: those that this process takes in.
        bell: rung when one of those that were found has ended.
        strangers: gives the pids that are not theirs, such as that of the supervisor, which may be replaced.
    """

    def __init__(
        self, token: str, orphans: Orphans, bell: Bell, strangers: Callable[[], Iterable[int]] = tuple
    ) -> None:
        self._token = token.encode()
        self._orphans = orphans
        self._bell = bell
        self._strangers = strangers
        me = process_tree.look(os.getpid())
        self._since = 0 if me is None else me.started
        self._told: set[tuple[int, int]] = set()
        self._watched: dict[int, int] = {}

    def find(self, ended: set[int], running: set[int]) -> list[Seen]:
        """What workers that have ended have left and is still there.

        Args:
            ended: pids of those; what is in a session or group of that number is theirs.
            running: pids of the other workers; what those have below them is not meant.
        """
        strangers = {os.getpid(), *self._strangers(), *ended, *running}
        orphans = self._orphans.living(strangers)
        # Whatever a dead worker leaves becomes a child of this process, if that takes in orphans.
        if not orphans and self._orphans.active:
            return []
        seen = process_tree.snapshot()
        roots = {each.pid for each in orphans}
        found = process_tree.family(seen, self._token, ended, roots, self._since, strangers)
        spared = _below(seen, running) if running else set()
        return [each for each in found if each.pid not in spared]

    def watch(self, left: Iterable[Seen]) -> None:
        """Ring the bell when one of these ends."""
        if not isinstance(self._bell, LoopBell) or not hasattr(os, "pidfd_open"):
            return
        for each in left:
            if each.pid in self._watched:
                continue
            try:
                fd = os.pidfd_open(each.pid)
            except OSError:
                continue  # it has ended, or can't be watched: the loop looks again
            self._watched[each.pid] = fd
            self._bell.watch(fd, lambda pid=each.pid: self._unwatch(pid))  # type: ignore[misc]

    def _unwatch(self, pid: int) -> None:
        fd = self._watched.pop(pid, None)
        if fd is not None:
            assert isinstance(self._bell, LoopBell), "only such a bell watches descriptors"
            self._bell.unwatch(fd)
            os.close(fd)

    def signal(self, left: Iterable[Seen], signum: int, told: set[int]) -> None:
        """Send a signal once to each of these.

        Args:
            told: process groups that have had it already.
        """
        for each in left:
            if each.group not in told and (each.pid, each.started) not in self._told:
                self._told.add((each.pid, each.started))
                process_tree.send(each, signum)

    def kill(self, left: Iterable[Seen]) -> None:
        """SIGKILL to each of these."""
        for each in left:
            process_tree.send(each, signal.SIGKILL)

    def close(self) -> None:
        """Watch nothing any more."""
        for pid in list(self._watched):
            self._unwatch(pid)


def _below(seen: dict[int, Seen], roots: set[int]) -> set[int]:
    """Whatever is in a session of the roots, or has one of them among its parents."""
    found = {each.pid for each in seen.values() if each.session in roots or each.pid in roots}
    grown = True
    while grown:
        more = {each.pid for each in seen.values() if each.parent in found} - found
        found |= more
        grown = bool(more)
    return found
