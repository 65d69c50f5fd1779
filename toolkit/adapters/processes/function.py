"""Python functions as worker processes. Imported only where there are any: multiprocessing costs the start of a run."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from toolkit.adapters.leftovers.bonds import Bonds
from toolkit.adapters.output.pump import WorkerStreams
from toolkit.adapters.processes import function_worker
from toolkit.adapters.processes.child import exit_code_of_child
from toolkit.core.errors import LaunchError
from toolkit.core.launch_plan import LaunchPlan, WorkerPlan


class FunctionProcess:
    """A Python function, run by multiprocessing. Implements `toolkit.adapters.processes.child.Process`.

    Args:
        plan: how to start it.
        launch: what all workers of the incarnation share.
        streams: what it writes to.
        bonds: to its agent.

    Raises:
        LaunchError: it can't be started.
    """

    def __init__(self, plan: WorkerPlan, launch: LaunchPlan, streams: WorkerStreams, bonds: Bonds) -> None:
        assert callable(launch.entrypoint), "a path is started as a program"
        self._name = getattr(launch.entrypoint, "__qualname__", repr(launch.entrypoint))
        self._folder = tempfile.mkdtemp(prefix="rally-return-value-")
        self._return_path = Path(self._folder) / "pickled"
        assignment = function_worker.Assignment(
            function=launch.entrypoint,
            args=plan.args,
            env=dict(plan.env),
            agent_pid=os.getpid(),
            bonds=bonds,
            return_path=str(self._return_path),
            stdout=_inherited(streams.stdout),
            stderr=_inherited(streams.stderr),
            gpu_index=plan.local_rank,
            numa_options=launch.numa_options,
        )
        context = multiprocessing.get_context(launch.start_method)
        self._is_child = launch.start_method != "forkserver"
        self._process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=function_worker.run, args=(assignment,), name=f"{launch.role}{plan.local_rank}"
        )
        try:
            with _handled_signals_blocked() if launch.start_method == "fork" else nullcontext():
                self._process.start()
        except Exception as error:  # pickling runs the user's code
            self._remove_folder()
            raise LaunchError(
                f"local rank {plan.local_rank} can't be started: {self._name} or its arguments can't be sent to a new "
                f"process ({type(error).__name__}: {error}); define the function at the top level of an importable "
                "module"
            ) from error

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None, "it was started"
        return pid

    def exit_code(self) -> int | None:
        if self._is_child:
            try:
                return exit_code_of_child(self.pid)
            except ChildProcessError:
                # multiprocessing reaped it while it started another process, or somebody else did
                return self._process.exitcode or 0
        return self._process.exitcode

    def exit_code_fd(self) -> int | None:
        # The fork server, whose child it is, tells us the code a moment after the kernel tells us of the end.
        return None if self._is_child else os.dup(self._process.sentinel)

    def outcome(self) -> tuple[Any, str]:
        try:
            return pickle.loads(self._return_path.read_bytes()), ""
        except FileNotFoundError:
            return None, (
                f"{self._name} ended its process with exit code 0 before it returned (os._exit or a killed "
                "interpreter); return from the function instead"
            )
        except Exception as error:  # noqa: BLE001 - unpickling runs the user's code
            return None, f"the return value of {self._name} can't be read: {type(error).__name__}: {error}"

    def owns_group(self) -> bool:
        if self._is_child:
            try:
                exit_code_of_child(self.pid)
            except ChildProcessError:
                pass  # reaped by multiprocessing
            else:
                return True
        # Somebody else reaps it. The number stays its group's as long as that has members; without members it may
        # have gone to a new process, and then there is one of that number.
        return self._process.exitcode is None or not _exists(self.pid)

    def reap(self) -> None:
        if self._process.exitcode is not None:
            self._process.close()
        self._remove_folder()

    def _remove_folder(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def _handled_signals_blocked() -> Iterator[None]:
    """While entered, signals that have a Python handler wait.

    A forked worker has the agent's handlers until it takes them off, and unblocks the signals after that: a death
    signal in between would be noted there by the agent's handler, and the worker would live on.
    """
    handled = [sig for sig in signal.valid_signals() if callable(signal.getsignal(sig))]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _inherited(fd: int | None) -> function_worker.InheritedFd | None:
    return None if fd is None else function_worker.InheritedFd(fd)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
