"""A rendezvous handler whose wait ends with a signal, though it waits in C++.

torch's static rendezvous waits for the other nodes in the constructor of its store, up to 15 minutes. Python runs no
signal handler meanwhile: SIGTERM would do nothing.
"""

from __future__ import annotations

import threading
from typing import Any


class BreakableRendezvous:
    """A handler that does its waiting in a thread of its own; in all else it is the handler that it stands for.

    A wait that a signal has ended goes on in its thread, which keeps no process from ending. The handler is of no use
    any more then.
    """

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)

    def next_rendezvous(self) -> Any:
        """What the handler says. Raises what it raises, and what a signal handler raises meanwhile."""
        done, infos, errors = threading.Event(), list[Any](), list[BaseException]()

        def wait() -> None:
            try:
                infos.append(self._handler.next_rendezvous())
            except BaseException as error:  # noqa: BLE001 - it is raised below, where somebody waits for it
                errors.append(error)
            done.set()

        threading.Thread(target=wait, name="rendezvous", daemon=True).start()
        done.wait()
        if errors:
            raise errors[0]
        return infos[0]
