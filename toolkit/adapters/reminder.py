"""Says again, at growing intervals, that a wait goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable

#: seconds from the start of a wait to each reminder; from then on one every `LATER_EVERY_S`
FIRST_AT_S = (5.0, 15.0, 30.0, 60.0)
LATER_EVERY_S = 60.0


class Reminder:
    """Calls `say` with the seconds waited, in a thread of its own, until it is stopped.

    Args:
        say: must not raise.
    """

    def __init__(self, say: Callable[[float], None]) -> None:
        self._say = say
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rally-reminder", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more reminders. Does not wait for the thread."""
        self._stopped.set()

    def _run(self) -> None:
        waited_s, due = 0.0, list(FIRST_AT_S)
        while True:
            next_s = due.pop(0) if due else waited_s + LATER_EVERY_S
            if self._stopped.wait(next_s - waited_s):
                return
            waited_s = next_s
            self._say(waited_s)
