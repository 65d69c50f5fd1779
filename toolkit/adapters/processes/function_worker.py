"""The worker's side of a function entrypoint: what runs in the new process before and after the user's function.

The return value goes into a file, written whole or not at all, so that a large value, or a worker that is stopped
while it writes, can't hold up the agent.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import reduction
from pathlib import Path
from typing import Any

from toolkit.adapters.interrupts import DEFAULT_SIGNALS, SignalInterrupts
from toolkit.adapters.leftovers import marking
from toolkit.adapters.leftovers.bonds import Bonds
from toolkit.adapters.leftovers.process_tree import MARK
from toolkit.adapters.processes import error_file, numa
from toolkit.adapters.processes.parent_death import die_after, die_with


class InheritedFd:
    """A descriptor that a worker gets, whatever the start method. Only good as a process's argument."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def detach(self) -> int:
        """The descriptor, in the worker."""
        return self._fd

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _received, (reduction.DupFd(self._fd),)


def _received(duplicate: Any) -> InheritedFd:
    return InheritedFd(duplicate.detach())


@dataclass(frozen=True)
class Assignment:
    """What one function worker is to do.

    Args:
        function: the user's function.
        args: its arguments.
        env: added to the environment.
        agent_pid: the process to die with; the parent, unless a fork server is.
        return_path: where the pickled return value goes.
        stdout: a path, a descriptor, or None for the console.
        stderr: the same.
        gpu_index: for NUMA binding.
        numa_options: torch's `NumaOptions`, or None.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    env: Mapping[str, str]
    agent_pid: int
    bonds: Bonds
    return_path: str
    stdout: InheritedFd | None
    stderr: InheritedFd | None
    gpu_index: int
    numa_options: Any | None


def run(assignment: Assignment) -> None:
    """Entry point of the new process."""
    _become_own_session(assignment.agent_pid)
    assignment.bonds.take()
    os.environ.update(dict(os.environ))  # each is stored anew, so that the first ones can be written over
    marking.show(assignment.env[MARK])
    _redirect(assignment.stdout, 1)
    _redirect(assignment.stderr, 2)
    os.environ.update(assignment.env)
    _enable_faulthandler()
    function = numa.bound_function(assignment.function, assignment.gpu_index, assignment.numa_options)
    value = _call(function, assignment.args, assignment.env.get("TORCHELASTIC_ERROR_FILE", ""))
    _save(value, assignment)


def _become_own_session(agent_pid: int) -> None:
    if hasattr(os, "setsid") and os.getpid() != os.getsid(0):
        os.setsid()
    if os.getppid() == agent_pid:
        die_with(agent_pid)
    else:  # the child of a fork server, which outlives the agent as long as it has children
        die_after(agent_pid)
    _take_off_handlers()


def _take_off_handlers() -> None:
    """A forked worker has the handlers of its agent, which has blocked those signals for the time of the fork."""
    handled = [sig for sig in signal.valid_signals() if callable(signal.getsignal(sig))]
    for sig in handled:
        agents = isinstance(getattr(signal.getsignal(sig), "__self__", None), SignalInterrupts)
        if agents or sig in DEFAULT_SIGNALS:
            signal.signal(sig, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)


def _redirect(inherited: InheritedFd | None, target: int) -> None:
    if inherited is not None:
        fd = inherited.detach()
        os.dup2(fd, target)
        os.close(fd)


def _enable_faulthandler() -> None:
    try:
        faulthandler.enable(file=2, all_threads=True)
    except (OSError, ValueError, RuntimeError):
        pass  # no stderr to write to


def _call(function: Callable[..., Any], args: tuple[Any, ...], path: str) -> Any:
    try:
        return function(*args)
    except SystemExit as leaving:
        if leaving.code in (None, 0):
            return None
        raise
    except Exception as error:
        error_file.write_own(error, path, traceback.format_exc())
        raise


def _save(value: Any, assignment: Assignment) -> None:
    name = getattr(assignment.function, "__qualname__", repr(assignment.function))
    try:
        pickled = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as cause:
        error = TypeError(
            f"the return value of {name} can't be sent to the agent: {type(value).__name__} object can't be pickled "
            f"({cause}); return plain data instead"
        )
        path = assignment.env.get("TORCHELASTIC_ERROR_FILE", "")
        error_file.write_own(error, path, "".join(traceback.format_exception(error)))
        raise error from cause
    temporary = Path(assignment.return_path + ".partial")
    temporary.write_bytes(pickled)
    temporary.rename(assignment.return_path)
