"""Where the threads of processes of this machine are, read by py-spy from outside.

py-spy reads the memory of the process and does not stop it: a dump changes nothing in a job. One that hangs is seen as
it is; one that runs on while it is read may be seen torn, without its outer calls, and is read again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from toolkit.adapters.recording.catalog import agent_is_alive
from toolkit.core.stacks import Answer, Frame, Stacks, Target, Thread, Unread

#: how long one process may take, and all that are asked for at a time, in seconds
ONE_S, ALL_S = 10.0, 30.0
#: py-spy takes a core for a moment, which belongs to the job
_AT_ONCE = 4
_TRIES = 5
_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")


class PySpy:
    """Implements `toolkit.fronts.tui.stacks.Dumper`.

    Args:
        program: py-spy; found by itself if it is installed beside this Python, or on the path.
        one_s: how long one process may take.
        all_s: how long all that are asked for at a time may.
    """

    def __init__(self, program: str | None = None, one_s: float = ONE_S, all_s: float = ALL_S) -> None:
        self._program = program or installed_py_spy()
        self._one_s = one_s
        self._all_s = all_s
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def dump(self, targets: Sequence[Target]) -> list[Answer]:
        """The stacks of each, or why they can't be read. Takes `all_s` at the most; never raises."""
        deadline_s = time.monotonic() + self._all_s
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="rally-stacks") as pool:
            return list(pool.map(lambda target: self._answer(target, deadline_s), targets))

    def close(self) -> None:
        """End what is being asked, and ask no more."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()

    def _answer(self, target: Target, deadline_s: float) -> Answer:
        lives = agent_is_alive(target.host, target.pid, target.started_wall_ns)
        if lives is None:
            return Unread(
                f"runs on {target.host}: `rally top` there can read it"
                if target.pid > 0
                else "has no process that its agent knows the pid of"
            )
        if not lives:
            return Unread("has ended since: the next events will say how")
        if not self._program:
            return Unread("can't be read without py-spy: pip install 'rallypoint[stacks]'")
        return self._read(target, deadline_s)

    def _read(self, target: Target, deadline_s: float) -> Answer:
        """The deepest of some tries, or why there is none."""
        deepest, problem = Stacks(()), ""
        for _ in range(_TRIES):
            patience_s = min(self._one_s, deadline_s - time.monotonic())
            if patience_s <= 0:
                problem = f"was not read: reading all took longer than {self._all_s:g} s"
                break
            try:
                stacks = decoded(self._ask(target.pid, patience_s), target.pid)
            except _Complaint as complaint:
                problem = str(complaint)
                if "permission denied" in problem.lower() or "not permitted" in problem.lower():
                    return Unread(_forbidden())
                problem = f"can't be read by py-spy: {problem}; is it a Python process?"
                continue
            except subprocess.TimeoutExpired:
                problem = f"was not read: py-spy did not answer within {patience_s:.0f} s; try again"
                break
            except OSError as error:
                return Unread(f"was not read: {self._program} can't be run: {error.strerror}")
            except msgspec.DecodeError as error:
                return Unread(f"was not read: py-spy answered something else than stacks ({error})")
            if len(stacks.main) >= len(deepest.main):
                deepest = stacks
            if _is_whole(stacks.main):
                break
        if deepest.threads or not problem:
            return deepest
        if not agent_is_alive(target.host, target.pid, target.started_wall_ns):
            return Unread("has ended since: the next events will say how")
        return Unread(problem)

    def _ask(self, pid: int, patience_s: float) -> bytes:
        """What py-spy says."""
        command = [self._program, "dump", "--nonblocking", "--json", "--pid", str(pid)]
        with self._lock:
            if self._closed:
                raise _Complaint("it is not asked any more")
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            self._running.add(process)
        try:
            output, complaint = process.communicate(timeout=patience_s)
        finally:
            process.kill()
            with self._lock:
                self._running.discard(process)
            process.communicate()
        if process.returncode == 0:
            return output
        said = complaint.decode(errors="replace").strip().splitlines()
        raise _Complaint(said[0].removeprefix("Error: ").rstrip(".") if said else "it said nothing")


class _Complaint(Exception):
    """What py-spy complains about, in a line."""


def _is_whole(frames: Sequence[Frame]) -> bool:
    """Whether a main thread was read down to where Python began; also if it is not in Python."""
    return not frames or frames[-1].function == "<module>"


def installed_py_spy() -> str:
    """The path of py-spy; empty if there is none."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.is_file() else shutil.which("py-spy") or ""


def _forbidden() -> str:
    """Why the kernel refuses, and what helps."""
    try:
        scope = int(_YAMA.read_text())
    except (OSError, ValueError):
        scope = 0
    if scope:
        return (
            f"may not be read: kernel.yama.ptrace_scope is {scope}; "
            "`sudo sysctl kernel.yama.ptrace_scope=0` allows it, or run `rally top` as root"
        )
    return (
        "may not be read by this user: run `rally top` as the user of the job; a container needs "
        "the capability SYS_PTRACE"
    )


# -- what py-spy says ---------------------------------------------------------------------------------------


class _Frame(msgspec.Struct):
    name: str = "?"
    filename: str = "?"
    line: int = 0


class _Thread(msgspec.Struct):
    frames: list[_Frame] = []
    thread_name: str | None = None
    os_thread_id: int | None = None
    thread_id: int = 0
    active: bool = False
    owns_gil: bool = False


_decode = msgspec.json.Decoder(list[_Thread]).decode


def decoded(output: bytes, pid: int) -> Stacks:
    """What `py-spy dump --json` said.

    Raises:
        msgspec.DecodeError: it is something else.
    """
    threads = [
        Thread(
            name=said.thread_name or "",
            number=said.os_thread_id or said.thread_id,
            frames=tuple(Frame(frame.name, frame.filename, frame.line) for frame in said.frames),
            main=said.os_thread_id == pid or (said.os_thread_id is None and said.thread_name == "MainThread"),
            idle=not said.active,
            holds_gil=said.owns_gil,
        )
        for said in _decode(output)
    ]
    return Stacks(tuple(sorted(threads, key=lambda thread: (not thread.main, thread.number))))
