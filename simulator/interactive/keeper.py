"""A family of processes that hold runs, as its owner has it: started afresh, and gone when nobody talks to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import weakref

# A fresh interpreter: the owner may be full of threads, and what is forked from those can't be trusted. The paths of
# the owner, so that it finds whatever the owner has imported.
_BEGIN = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from simulator.interactive.host import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)
_END_S = 10.0


class Keeper:
    """The process above all of a family; it holds no run itself.

    Args:
        line: the end of a socket for the first host; closed here once that has it.
    """

    def __init__(self, line: socket.socket) -> None:
        life, self._life = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BEGIN, str(line.fileno()), str(life), *sys.path],
                pass_fds=(line.fileno(), life),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Out of reach of the Ctrl-C that goes to the group of the owner.
                start_new_session=True,
            )
        except BaseException:
            os.close(self._life)
            raise
        finally:
            os.close(life)
            line.close()
        self._talks = 0
        self._lock = threading.Lock()
        self._end = weakref.finalize(self, _end, self._process, self._life, os.getpid())

    @property
    def pid(self) -> int:
        """Of the keeper."""
        return self._process.pid

    def joined(self) -> None:
        """One more talks to a process of the family."""
        with self._lock:
            self._talks += 1

    def left(self) -> None:
        """One less; with the last of them the family ends."""
        with self._lock:
            self._talks -= 1
            last = self._talks == 0
        if last:
            self._end()

    def end(self) -> None:
        """All of the family ends, whoever talks to it."""
        self._end()


def _end(process: subprocess.Popen[bytes], life: int, owner: int) -> None:
    os.close(life)
    if os.getpid() != owner:
        return  # a fork of the owner
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
