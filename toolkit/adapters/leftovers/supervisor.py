"""The supervisor: a process beside the agent that ends what the agent's workers have started when the agent is gone.

It is a shell that reads what the agent says, one line after the other, and at the end of that becomes `sweep`: so it
starts in a millisecond, needs a megabyte and never wakes. It is nobody's child, in a session of its own, deaf to
all signals that matter: no Ctrl-C, hang-up or kill of a whole tree takes it along, nobody else's `wait` finds it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from weakref import WeakSet

from toolkit.adapters.leftovers import cgroup, process_tree
from toolkit.core.errors import LaunchError

#: it is started anew so often, and then no more: something here kills it
STARTS_MAX = 5
#: how long a message waits for it, in seconds, before the next one does so no more
PATIENCE_S = 0.25
#: runs it
SHELL = "/bin/sh"
#: `+ PID`: a process that leads a session of a worker. `= PIDS`: all that there are. `.`: the agent has left nothing.
#: The words are the cgroup, or nothing, and the command line of `sweep`. Descriptor 1 is the socket; the first thing
#: that is said there is the supervisor's pid. What the agent itself has inherited from others is closed.
_SCRIPT = """
(
    trap '' HUP INT QUIT TERM USR1 USR2 ALRM PIPE TSTP
    cgroup=$1
    shift
    cd /
    exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
    pids=
    while read -r word rest; do
        case $word in
            +) pids="$pids $rest"; [ -z "$cgroup" ] || echo "$rest" > "$cgroup/cgroup.procs" ;;
            =) pids=$rest ;;
            .) [ -z "$cgroup" ] || exec "$@" tidy; exit ;;
        esac
    done <&1
    for pid in $pids; do
        kill -s KILL -- "-$pid"
    done
    exec "$@" sweep $pids
) &
echo $!
"""
_SWEEP = str(Path(__file__).with_name("sweep.py"))
#: no signal ends it before it ignores them by itself (dash unblocks all when it has waited for a program)
_BLOCKED = tuple(signal.valid_signals())


class Supervisor:
    """One supervisor at a time, for the workers of one launcher. Used by one thread.

    Args:
        token: by which the environment of whatever the workers start is marked.
        environment: of the agent.
    """

    def __init__(self, token: str, environment: Mapping[str, str]) -> None:
        self._token = token
        self._environment = environment
        self._socket: socket.socket | None = None
        self._pid = 0
        self._cgroup: cgroup.Cgroup | None = None
        self._sessions: set[int] = set()
        #: what it was told and has not taken yet
        self._unsent = bytearray()
        self._deaf = False
        self._starts = 0
        _held.add(self)

    @property
    def fd(self) -> int | None:
        """Readable when it has ended, as `check` sees; None while there is no supervisor."""
        return None if self._socket is None else self._socket.fileno()

    @property
    def pid(self) -> int:
        """Its process; 0 while there is none."""
        return self._pid

    @property
    def cgroup_procs(self) -> str:
        """The file by which a worker gets into the cgroup that ends with the agent; "" where there is none."""
        return "" if self._cgroup is None else self._cgroup.procs

    def start(self) -> None:
        """Start it if there is none. Blocks for a millisecond.

        Raises:
            LaunchError: it can't be started, or it was ended too often.
        """
        if self._socket is not None:
            return
        if self._starts >= STARTS_MAX:
            raise LaunchError(f"it was ended {self._starts} times; what ends it here?")
        self._starts += 1
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise LaunchError(f"{error.strerror}") from error
        try:
            starter = self._spawn(theirs.fileno())
        except (OSError, NotImplementedError, AttributeError, ValueError) as error:
            ours.close()
            raise LaunchError(f"{SHELL}: {getattr(error, 'strerror', None) or error}") from error
        finally:
            theirs.close()
        self._socket = ours
        ours.setblocking(False)
        # Now that there is one who takes it along.
        if self._cgroup is not None and not self._cgroup.make():
            self._cgroup = None
        self._settle(starter)
        if self._sessions:
            self._tell("=", self._sessions)

    def _spawn(self, theirs: int) -> int:
        me = process_tree.look(os.getpid())
        parent = cgroup.own_folder()[0]
        self._cgroup = cgroup.Cgroup(parent, self._token) if parent else None
        path = "" if self._cgroup is None else self._cgroup.path
        words = (str(os.getpid()), str(0 if me is None else me.started), self._token, parent)
        return os.posix_spawn(
            SHELL,
            [
                SHELL,
                "-c",
                _SCRIPT,
                process_tree.SUPERVISOR,
                path,
                sys.executable,
                "-I",
                "-S",
                "-E",
                _SWEEP,
                *words,
            ],
            self._environment,
            file_actions=(
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, theirs, 1),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ),
            setsid=True,
            setsigmask=_BLOCKED,
        )

    def _settle(self, starter: int) -> None:
        """Wait for the shell that leaves it to init; it says whom it has left."""
        try:
            os.waitpid(starter, 0)
        except ChildProcessError:
            pass  # another part of this program reaps all children
        assert self._socket is not None, "the shell has the other end"
        try:
            said = self._socket.recv(64)
        except BlockingIOError:
            said = b""
        if not said.strip().isdigit():
            self._let_go()
            raise LaunchError(f"{SHELL} could not start it")
        self._pid = int(said)

    def take(self, pid: int) -> None:
        """This process leads a session that ends with the agent."""
        self._sessions.add(pid)
        self._tell("+", {pid})

    def forget(self, pids: Iterable[int]) -> None:
        """These don't any more; their numbers may be anybody's."""
        old = self._sessions & set(pids)
        if old:
            self._sessions -= old
            self._tell("=", self._sessions)

    def _tell(self, word: str, pids: set[int]) -> None:
        if self._socket is None:
            return
        if word == "=":  # says all that those before it say, but for the one of which it has a part
            del self._unsent[self._unsent.find(b"\n") + 1 :]
        self._unsent += f"{word} {' '.join(map(str, sorted(pids)))}\n".encode()
        self._send()

    def _send(self) -> None:
        """Send what is to be sent. Waits for a supervisor that is busy, but for one that is stopped only once."""
        while self._unsent and self._socket is not None:
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                if self._deaf or not self._listens():
                    self._deaf = True
                    return
            except OSError:
                return  # it is gone, as `check` will find
            else:
                self._deaf = False
                del self._unsent[:sent]

    def _listens(self) -> bool:
        assert self._socket is not None
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        return bool(poll.poll(PATIENCE_S * 1000))

    def check(self) -> bool:
        """Whether it is still there."""
        if self._socket is None:
            return False
        try:
            gone = not self._socket.recv(64)
        except BlockingIOError:
            gone = False
        except OSError:
            gone = True
        if gone:
            self._let_go()
        self._send()
        return not gone

    def _let_go(self) -> None:
        ours, self._socket, self._pid = self._socket, None, 0
        self._unsent.clear()
        self._deaf = False
        if ours is not None:
            ours.close()

    def close(self) -> None:
        """Let it end. If workers are there even so, it takes this for the end of the agent and ends them."""
        if not self._sessions:
            if self._socket is None and self._cgroup is not None:
                self._cgroup.remove()  # there is no supervisor who would
            self._tell(".", set())
        self._cgroup = None
        self._let_go()

    def abandon(self) -> None:
        """A forked child has no part in this."""
        self._cgroup = None
        self._let_go()

    def __del__(self) -> None:
        # Launchers have no end of life that their users tell us.
        self.close()


#: those of this process
_held: WeakSet[Supervisor] = WeakSet()


def _abandon_in_a_fork() -> None:
    for each in list(_held):
        each.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_in_a_fork)
