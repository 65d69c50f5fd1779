"""The processes of an experiment: some are held until they may start, all die with it, all are found by their mark."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from toolkit.adapters.leftovers.process_tree import environment, supervises
from toolkit.adapters.processes.parent_death import die_with
from toolkit.core.errors import LaunchError

#: the variable that all processes of an experiment have, `TOKEN/NODE`
MARK = "RALLY_EXPERIMENT"
_PROC = Path("/proc")
#: how long processes may take to vanish after SIGKILL, in seconds
_VANISH_S, _AGAIN_S = 10.0, 0.005
#: and how long supervisors may take to end by themselves
_TIDY_S = 5.0
_READY, _GO = b"r", b"g"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW


class HeldProcess:
    """A process in a session of its own that says when it has loaded all it needs, and then waits to be let go.

    The kernel kills it when the thread that started it ends. Its side of that is `wait_to_be_let_go`.

    Args:
        argv: its command line.
        environ: its environment.
        cwd: where it starts.
        output: a file that takes what it writes to its console; made new, for its owner alone.

    Raises:
        LaunchError: it can't be started.
    """

    def __init__(self, argv: Sequence[str], *, environ: Mapping[str, str], cwd: Path, output: Path) -> None:
        self.output = output
        #: whether it has loaded all it needs
        self.ready = False
        own_pid = os.getpid()
        self._ours, theirs = socket.socketpair()
        try:
            with os.fdopen(os.open(output, _NEW_FILE, 0o600), "wb") as file, theirs:
                self._process = subprocess.Popen(
                    argv,
                    stdin=theirs.fileno(),
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=dict(environ),
                    cwd=cwd,
                    start_new_session=True,
                    preexec_fn=lambda: die_with(own_pid),  # noqa: PLW1509 - calls one C function, looked up before
                )
        except (OSError, subprocess.SubprocessError) as error:
            self._ours.close()
            raise LaunchError(f"a process of the experiment can't be started: {error}") from error

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ready_fd(self) -> int:
        """A descriptor that can be read when it is ready, or gone; to be closed by who asked."""
        return os.dup(self._ours.fileno())

    def take_word(self) -> bool:
        """Whether it has just said that it is ready; False if it has gone. To be asked when `ready_fd` can be read."""
        with suppress(OSError):
            self.ready = self._ours.recv(1) == _READY
        return self.ready

    def end_fd(self) -> int:
        """A descriptor that can be read when it has ended; to be closed by who asked."""
        return os.pidfd_open(self.pid)

    def let_go(self) -> None:
        """It may start. Nothing happens if it has ended."""
        with suppress(OSError):
            self._ours.sendall(_GO)
        self._ours.close()

    def exit_code(self) -> int | None:
        """How it ended, -N by signal N; None while it runs. Reaps it."""
        return self._process.poll()

    def send(self, signum: int) -> None:
        """A signal to it; nothing happens if it has ended."""
        self._process.send_signal(signum)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_VANISH_S)

    def said(self) -> str:
        """The last line that it wrote to its console."""
        with suppress(OSError):
            lines = self.output.read_text("utf-8", "replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""

    def close(self) -> None:
        """Reap it; it must have ended, or end now."""
        self._ours.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_VANISH_S)


def wait_to_be_let_go() -> bool:
    """Say that all is loaded, and wait. Returns whether it may start; stdin is empty from then on."""
    os.write(0, _READY)
    told = os.read(0, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return told == _GO


def marked(mark: str) -> list[int]:
    """Processes of this machine whose mark begins so. Zombies have none."""
    needle = f"{MARK}={mark}".encode()
    pids = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal()]
    return [pid for pid in pids if any(word.startswith(needle) for word in environment(pid).split(b"\0"))]


def signal_all(mark: str, signum: int, spared: Sequence[int] = ()) -> None:
    """A signal to each process with the mark, once, save those that are spared."""
    told = dict.fromkeys(spared)
    while new := [pid for pid in marked(mark) if pid not in told]:
        for pid in new:
            told[pid] = None
            send(pid, signum)


def kill_all(mark: str, spared: Sequence[int] = ()) -> list[int]:
    """SIGKILL to each process with the mark, until none is left but those that are spared. Returns who won't vanish.

    Supervisors have some seconds in which they end by themselves: they take their cgroups with them.
    """
    return end_all(lambda: [pid for pid in marked(mark) if pid not in spared], _VANISH_S)


def end_all(look: Callable[[], Collection[int]], patience_s: float) -> list[int]:
    """SIGKILL to each that `look` finds, until that is nobody; supervisors may end by themselves.

    Returns:
        Who is left after `patience_s`.
    """
    start = time.monotonic()
    while left := look():
        waited_s = time.monotonic() - start
        for pid in left:
            tidies_up = waited_s < _TIDY_S and supervises(pid)
            send(pid, signal.SIGCONT if tidies_up else signal.SIGKILL)
        if waited_s > patience_s:
            return list(left)
        time.sleep(_AGAIN_S)
    return []


def send(pid: int, signum: int) -> bool:
    """A signal to one process. Returns whether it was there."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True
