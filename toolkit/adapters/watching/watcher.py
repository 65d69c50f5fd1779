"""Starts and ends the watch over the workers of one incarnation after the other, and knows what it has found.

Rule: it never raises into the agent and never holds it up. It tells of what it finds by events; whom to kill it tells
the agent's loop, which does it. While its lock is held it says nothing and looks at nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from toolkit.adapters.watching.group import WatchedGroup
from toolkit.adapters.watching.shared import SharedNotes
from toolkit.core.hanging.hang_settings import TIMER_FILE
from toolkit.core.hanging.watched import Condemned, HangSettings, WatchedWorker
from toolkit.ports import Bell, SayWhile

if TYPE_CHECKING:
    from toolkit.adapters.watching.evidence import Dumper
    from toolkit.adapters.watching.timers import TimerPipe

#: nothing that hangs is known before so many seconds
FIRST_LOOK_S = 3.0
#: how long the agent's loop may not answer, in seconds; torch gives its health check so much
_LOOP_S = 60.0


class WorkerWatcher:
    """Implements `toolkit.ports.Watch`.

    Args:
        settings: what is done about workers that hang.
        dumper: reads stacks from outside; None is py-spy.
        note: takes a sentence for people about timers that can't be; must not raise.

    Raises:
        ConfigurationError: the pipe for torch's timers can't be where it is to be.
    """

    def __init__(
        self,
        settings: HangSettings,
        dumper: Dumper | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        if settings.timers and settings.timer_file:
            from toolkit.adapters.watching.timers import check_place

            check_place(settings.timer_file)
        self._settings = settings
        self._dumper = dumper
        self._note = note
        self._notes: SharedNotes | None = None
        self._timers: TimerPipe | None = None
        self._group: WatchedGroup | None = None
        self._bell: Bell | None = None
        self._asked_s: float | None = None

    def prepare(self, local_world_size: int) -> Sequence[Mapping[str, str]]:
        """Make what the workers share with this agent."""
        self.end()
        if self._notes is not None:
            self._notes.close()
        self._notes = SharedNotes(local_world_size)
        self._timers = self._timer_pipe()
        more = {TIMER_FILE: self._timers.path} if self._timers is not None else {}
        return [{**variables, **more} for variables in self._notes.variables()]

    def _timer_pipe(self) -> TimerPipe | None:
        if not self._settings.timers:
            return None
        from toolkit.adapters.watching.timers import TimerPipe

        try:
            return TimerPipe(self._settings.timer_file)
        except Exception as error:  # noqa: BLE001 - out of descriptors, or the folder has gone
            self._note(f"no timers of torch's for these workers: {error}")
            return None

    def begin(
        self, incarnation: int, workers: Sequence[WatchedWorker], *, alone: bool, say: SayWhile, bell: Bell
    ) -> None:
        """Look at them from now on, in a thread of their own."""
        self._bell = bell
        local = {worker.local_rank: worker for worker in workers if worker.pid > 0}
        if self._notes is None or not local or (self._settings.action == "off" and self._timers is None):
            return
        try:
            wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            self._note("out of descriptors: nobody looks whether these workers hang (ulimit -n)")
            return
        group = WatchedGroup(
            incarnation, local, alone, say, bell, self._notes, self._timers, time.time_ns(), wake_fd
        )
        self._group = group
        threading.Thread(target=self._run, args=(group,), name="rally-watch", daemon=True).start()

    def _run(self, group: WatchedGroup) -> None:
        try:
            # Loaded late, and not in the agent's thread: nobody has to wait for it, and a short run does without.
            if group.timers is None and group.wait(FIRST_LOOK_S):
                return
            from toolkit.adapters.watching.watch import Watch

            Watch(group, self._settings, self._dumper, self._note).run()
        finally:
            group.close()

    def condemned(self) -> Sequence[Condemned]:
        """Workers that the agent is to kill."""
        self._asked_s = None  # the loop lives
        return () if self._group is None else self._group.condemned()

    def steps(self) -> Mapping[int, int]:
        """The step that each worker has told last."""
        notes = self._notes
        return {} if notes is None else {rank: step for rank, (step, _) in notes.notes().items()}

    def end(self) -> None:
        """Look no more. The thread ends by itself, within moments."""
        self._bell = self._asked_s = None
        group, self._group = self._group, None
        timers, self._timers = self._timers, None
        if timers is not None:
            timers.remove()
        if group is not None:
            group.end()
        elif timers is not None:
            timers.close()

    def loop_lives(self) -> bool:
        """Whether the agent's loop answers its bell while workers run; otherwise it does something else, and lives.

        Safe in any thread. The loop is asked by this, and may have answered by the next call.
        """
        bell, asked_s = self._bell, self._asked_s
        if bell is None:
            return True
        if asked_s is None:
            self._asked_s = time.monotonic()
            bell.ring()
            return True
        return time.monotonic() - asked_s < _LOOP_S
