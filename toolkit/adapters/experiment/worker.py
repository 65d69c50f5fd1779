"""A worker of an experiment: what `simulator.workloads` says that workers do, as a real process.

Run as a script by its path, so that it starts in a few hundredths of a second: standard library only, nothing of ours.

    worker.py FOLDER NODE

`FOLDER/NODE.json` holds the workload, the port of the node's gate to the others, and what is in force on the node now;
it is read again before each piece of work. Checkpoints, and how often each rank has started, are files of the folder.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

#: how a worker ends whose peer closed the connection
PEER_GONE_EXIT = 1
#: how long to wait before asking again where nobody listens yet, in seconds
_AGAIN_S = 0.02
#: signals that ask a worker to end
_TOLD_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2)
#: what makes it fail as with a broken GPU
GPU_ERROR_SIGNAL = signal.SIGUSR1
GPU_ERROR = "RuntimeError: CUDA error: an uncorrectable memory error was found"
#: what is said to a gate by a process that only wants to end with the experiment
HOLD = b"hold\n"


def end(exit_code: int) -> None:
    """End at once; -N by signal N."""
    if exit_code >= 0:
        os._exit(exit_code)
    if -exit_code not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(-exit_code, signal.SIG_DFL)
    os.kill(os.getpid(), -exit_code)
    signal.pause()


class Alarms:
    """What is to happen later, in the main thread, whatever that does then."""

    def __init__(self) -> None:
        self._due: list[tuple[float, Callable[[], object]]] = []
        signal.signal(signal.SIGALRM, lambda _signum, _frame: self._ring())

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Do it so much later."""
        self._due.append((time.monotonic() + seconds, action))
        self._ring()

    def _ring(self) -> None:
        now = time.monotonic()
        due = [action for at, action in self._due if at <= now]
        self._due = [(at, action) for at, action in self._due if at > now]
        for action in due:
            action()
        if self._due:
            signal.setitimer(signal.ITIMER_REAL, max(min(at for at, _ in self._due) - now, 1e-4))


class Surroundings:
    """What the experiment says of this node, now.

    Args:
        folder: of the experiment.
        node: name of the node.
    """

    def __init__(self, folder: Path, node: str) -> None:
        self._folder, self._path = folder, folder / f"{node}.json"
        self.rank = int(os.environ["RANK"])
        self.world_size = int(os.environ["WORLD_SIZE"])
        said = self._said()
        self.workload: dict[str, Any] = said["workload"]
        self.gate: int = said["gate"]
        #: how often this rank had started before
        self.starts = self._count_start()

    def _said(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self._path.read_bytes())
        return said

    def _count_start(self) -> int:
        with (self._folder / f"starts-of-rank-{self.rank}").open("ab") as file:
            before = file.tell()
            file.write(b".")
        return before

    @property
    def slowness(self) -> float:
        """Work takes so many times longer now."""
        said = self._said()
        return float(said["slow"]) * float(said["slow_workers"].get(f"{os.getpid()}", 1.0))

    @property
    def start_delay_s(self) -> float:
        """Seconds more before user code."""
        return float(self._said()["start_delay_s"])

    def spend(self, seconds: float) -> None:
        """Work, which takes longer where the node or the worker is slow."""
        time.sleep(seconds * self.slowness)

    def checkpoint(self) -> int:
        """The step that was saved last."""
        try:
            return int((self._folder / "checkpoint").read_text())
        except FileNotFoundError:
            return 0

    def save_checkpoint(self, step: int) -> None:
        """Save this step, unless a later one is there."""
        part = self._folder / f".checkpoint-{os.getpid()}"
        part.write_text(f"{max(step, self.checkpoint())}")
        part.rename(self._folder / "checkpoint")


class Hub(threading.Thread):
    """Rank 0's part of a collective: lets all go on when all have come to a step. Ends with the process.

    Args:
        size: members.
    """

    def __init__(self, size: int) -> None:
        super().__init__(name="hub", daemon=True)
        self._size = size
        self._listener = socket.socket()
        # The agent has kept the port, bound and not listened on.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))
        self._listener.listen(self._size)
        self._steps: dict[socket.socket, float] = {}
        self._unread: dict[socket.socket, bytes] = {}
        self._released = -1.0
        #: set when no member needs it any more
        self.over = threading.Event()

    def run(self) -> None:
        """Serve the members until one of them breaks off, or all are done."""
        while not self.over.is_set():
            for ready in select.select([self._listener, *self._unread], [], [])[0]:
                if ready is self._listener:
                    member = self._listener.accept()[0]
                    member.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    # So that it knows that it has met somebody.
                    member.sendall(b"-1\n")
                    self._unread[member] = b""
                elif not self._hear(ready):
                    self._break_off()
                    return
            self._release()

    def _hear(self, member: socket.socket) -> bool:
        try:
            said = member.recv(4096)
        except OSError:
            said = b""
        if not said:
            del self._unread[member]
            # Who asked only whether somebody listens, and who is done, breaks nothing.
            return self._steps.get(member, float("inf")) == float("inf")
        *lines, self._unread[member] = (self._unread[member] + said).split(b"\n")
        for line in lines:
            self._steps[member] = float(line)
        return True

    def _release(self) -> None:
        if len(self._steps) < self._size:
            return
        step = min(self._steps.values())
        if step == float("inf"):
            self.over.set()
        elif step > self._released:
            self._released = step
            for member in list(self._unread):
                try:
                    member.sendall(b"%d\n" % step)
                except OSError:
                    pass  # its end is heard next

    def _break_off(self) -> None:
        self._listener.close()
        for member in self._unread:
            member.close()
        self.over.set()


class Collective:
    """Where all workers of a round meet, by way of this node's gate.

    Args:
        around: what is known of this worker.
    """

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._hub: Hub | None = None
        self._connection: socket.socket | None = None
        self._heard = b""
        self._released = -1

    def meet(self, step: int, timeout_s: float) -> None:
        """Wait until all have come to this step. Ends the process if a peer is gone, or silent for too long."""
        deadline = time.monotonic() + timeout_s
        if self._around.rank == 0 and self._hub is None:
            self._hub = Hub(self._around.world_size)
            self._hub.start()
        try:
            while self._released < step:
                self._wait(step, deadline)
        except ConnectionError:
            end(PEER_GONE_EXIT)
        except TimeoutError:
            end(-int(signal.SIGABRT))

    def _wait(self, step: int, deadline: float) -> None:
        if self._connection is None:
            self._connection = self._met(deadline)
        self._connection.sendall(f"{step}\n".encode())
        while self._released < step:
            self._hear(self._connection, deadline)

    def _met(self, deadline: float) -> socket.socket:
        """A connection on which the hub has said a first word; before that, one that breaks has met nobody."""
        while True:
            connection = self._connect()
            try:
                self._hear(connection, deadline)
                return connection
            except ConnectionError:
                connection.close()
                if time.monotonic() > deadline:
                    raise TimeoutError from None
                time.sleep(_AGAIN_S)

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._around.gate))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(f"{os.environ['MASTER_ADDR']} {os.environ['MASTER_PORT']}\n".encode())
        return connection

    def _hear(self, connection: socket.socket, deadline: float) -> None:
        connection.settimeout(max(deadline - time.monotonic(), 1e-3))
        said = connection.recv(4096)
        if not said:
            raise ConnectionResetError
        *lines, self._heard = (self._heard + said).split(b"\n")
        self._released = max([self._released, *map(int, lines)])

    def leave(self) -> None:
        """This worker is done with all steps; its end breaks nothing."""
        try:
            if self._connection is not None:
                self._connection.sendall(b"inf\n")
        except OSError:
            pass  # they are done, too
        if self._hub is not None:
            self._hub.over.wait()


def leave_child(gate: int) -> None:
    """Leave a process in the group that ends only when killed, or with the experiment."""
    if os.fork():
        return
    for signum in _TOLD_TO_END:
        signal.signal(signum, signal.SIG_IGN)
    with socket.create_connection(("127.0.0.1", gate)) as held:
        held.sendall(HOLD)
        while held.recv(1):
            pass
    os._exit(0)


def report_gpu_error() -> None:
    """Fail with what torch's @record leaves of an error."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        said = {"message": GPU_ERROR, "extraInfo": {"py_callstack": GPU_ERROR}}
        Path(path).write_text(json.dumps({"message": said}))
    end(1)


def main(folder: str, node: str) -> None:
    """Work to the end."""
    around = Surroundings(Path(folder), node)
    workload, alarms = around.workload, Alarms()

    def told_to_end(signum: int) -> None:
        if workload["term_s"] is not None:
            alarms.after(workload["term_s"] * around.slowness, lambda: end(-signum))

    for signum in _TOLD_TO_END:
        signal.signal(signum, lambda got, _frame: told_to_end(got))
    signal.signal(GPU_ERROR_SIGNAL, lambda _signum, _frame: report_gpu_error())
    if workload["leaks_child"]:
        leave_child(around.gate)
    due = [f for f in workload["failures"] if f["rank"] == around.rank and _happens(f, around.starts)]
    for failure in due:
        if failure["at_s"] is not None:
            alarms.after(failure["at_s"], partial(end, failure["exit_code"]))
    fails_at = {f["at_step"]: f["exit_code"] for f in reversed(due) if f["at_step"] is not None}
    _train(around, fails_at)


def _happens(failure: dict[str, Any], start: int) -> bool:
    return failure["incarnations"] is None or start < failure["incarnations"]


def _train(around: Surroundings, fails_at: dict[int, int]) -> None:
    workload = around.workload
    every, timeout_s = workload["checkpoint_every"], workload["collective_timeout_s"]
    around.spend(workload["start_s"] + around.start_delay_s)
    collective = Collective(around)
    step = around.checkpoint() if every else 0
    if workload["collective"]:
        collective.meet(0, timeout_s)
    while step < workload["steps"]:
        if step in fails_at:
            end(fails_at[step])
        around.spend(workload["step_s"])
        step += 1
        if workload["collective"]:
            collective.meet(step, timeout_s)
        if around.rank == 0 and every and step % every == 0:
            around.save_checkpoint(step)
    collective.leave()
    around.spend(around.rank * workload["spread_s"])
    end(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
