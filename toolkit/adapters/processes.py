"""Worker processes of this machine: programs and Python functions, each in a session of its own.

A process that ended is not reaped before the group is closed: until then its pid, and with it the id of its process
group, belongs to nobody else, so signalling the group can't hit a stranger.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from toolkit.adapters import error_file, function_worker, numa
from toolkit.adapters.loop_bell import LoopBell
from toolkit.adapters.output import OutputPump, WorkerStreams
from toolkit.adapters.parent_death import die_with
from toolkit.core.errors import LaunchError
from toolkit.core.launch_plan import LaunchPlan, WorkerExit, WorkerPlan
from toolkit.ports import Bell, Clock

#: how long `close` waits for the last output of workers that are gone, in seconds
DRAIN_S = 2.0
#: how long workers of a failed start may take to vanish after SIGKILL, in seconds
KILLED_WAIT_S = 5.0


class Process(Protocol):
    """One worker process."""

    @property
    def pid(self) -> int: ...

    def exit_code(self) -> int | None:
        """-N for death by signal N, None while it runs. Does not reap, never blocks."""
        ...

    def exit_code_fd(self) -> int | None:
        """A new descriptor that is readable once the exit code is known, where that is after the process is gone."""
        ...

    def outcome(self) -> tuple[Any, str]:
        """After an exit with code 0: the return value, and why the exit is a failure all the same, or ""."""
        ...

    def owns_group(self) -> bool:
        """Whether its process group can be signalled without hitting a stranger."""
        ...

    def reap(self) -> None:
        """Collect it if it has ended. Never blocks."""
        ...


def _ended(pid: int) -> int | None:
    """The exit code of a child that was not reaped, or None. Raises ChildProcessError if it was."""
    info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if info is None:
        return None
    return info.si_status if info.si_code == os.CLD_EXITED else -info.si_status


class ProgramProcess:
    """A program, started by its path."""

    def __init__(
        self,
        plan: WorkerPlan,
        entrypoint: str,
        streams: WorkerStreams,
        environment: Mapping[str, str],
        numa_options: Any,
    ) -> None:
        argv = numa.bound_command((entrypoint, *plan.args), plan.local_rank, numa_options)
        agent_pid = os.getpid()
        self._popen = subprocess.Popen(
            argv,
            env={**environment, **plan.env},
            stdout=streams.stdout,
            stderr=streams.stderr,
            start_new_session=True,
            preexec_fn=lambda: die_with(agent_pid),  # noqa: PLW1509 - calls one C function, looked up before
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def exit_code(self) -> int | None:
        if self._popen.returncode is not None:
            return self._popen.returncode
        return _ended(self._popen.pid)

    def exit_code_fd(self) -> int | None:
        return None

    def outcome(self) -> tuple[Any, str]:
        return None, ""

    def owns_group(self) -> bool:
        return self._popen.returncode is None

    def reap(self) -> None:
        self._popen.poll()


class FunctionProcess:
    """A Python function, run by multiprocessing."""

    def __init__(
        self, plan: WorkerPlan, launch: LaunchPlan, streams: WorkerStreams, return_path: Path
    ) -> None:
        assert callable(launch.entrypoint), "a path is started as a program"
        self._name = getattr(launch.entrypoint, "__qualname__", repr(launch.entrypoint))
        self._return_path = return_path
        self._reaped_code: int | None = None
        assignment = function_worker.Assignment(
            function=launch.entrypoint,
            args=plan.args,
            env=dict(plan.env),
            agent_pid=None if launch.start_method == "forkserver" else os.getpid(),
            return_path=str(return_path),
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
        self._process.start()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None, "it was started"
        return pid

    def exit_code(self) -> int | None:
        if self._is_child:
            try:
                return _ended(self.pid)
            except ChildProcessError:
                pass  # multiprocessing reaped it while it started another process
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
        if not self._is_child:
            return self._process.exitcode is None
        try:
            _ended(self.pid)
        except ChildProcessError:
            return False
        return True

    def reap(self) -> None:
        if self._process.exitcode is not None:
            self._process.close()


def _inherited(fd: int | None) -> function_worker.InheritedFd | None:
    return None if fd is None else function_worker.InheritedFd(fd)


class ProcessWorkers:
    """Implements `toolkit.ports.Workers`. Used by one thread."""

    def __init__(self, clock: Clock, bell: Bell, pump: OutputPump) -> None:
        self._clock = clock
        self._bell = bell
        self._pump = pump
        self._plans: dict[int, WorkerPlan] = {}
        self._processes: dict[int, Process] = {}
        self._pids: dict[int, int] = {}
        #: local ranks that are gone, in that order; exits follow it, so that who failed first stays first
        self._gone: list[int] = []
        self._exits: dict[int, WorkerExit] = {}
        self._watched_fds: dict[int, int] = {}
        self.scratch = Path(tempfile.mkdtemp(prefix="rally-return-values-"))

    def add(self, plan: WorkerPlan, process: Process) -> None:
        """Take charge of a process that was just started."""
        self._plans[plan.local_rank] = plan
        self._processes[plan.local_rank] = process
        self._pids[plan.local_rank] = process.pid
        self._watch(plan.local_rank, process.pid)

    def _watch(self, local_rank: int, pid: int) -> None:
        if isinstance(self._bell, LoopBell) and hasattr(os, "pidfd_open"):
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                self._bell.ring()  # gone and reaped already
                return
            except OSError:
                pass  # a kernel without pidfds
            else:
                self._watch_fd(local_rank, pidfd)
                return
        threading.Thread(
            target=_ring_at_exit, args=(pid, self._bell), name=f"exit-of-{pid}", daemon=True
        ).start()

    def _watch_fd(self, local_rank: int, fd: int) -> None:
        assert isinstance(self._bell, LoopBell), "only such a bell watches descriptors"
        self._watched_fds[local_rank] = fd
        self._bell.watch(fd, lambda: self._note_gone(local_rank))

    def ids(self) -> Mapping[int, int]:
        """Process ids by local rank."""
        return dict(self._pids)

    def exits(self) -> Sequence[WorkerExit]:
        """Workers that have ended, in the order in which that was noticed."""
        self._look()
        return list(self._exits.values())

    def running(self) -> Sequence[int]:
        """Local ranks of the others."""
        self._look()
        return [rank for rank in self._processes if rank not in self._exits]

    def _look(self) -> None:
        for rank, process in self._processes.items():
            if rank not in self._gone and process.exit_code() is not None:
                self._gone.append(rank)
        self._note_exits()

    def _note_gone(self, local_rank: int) -> None:
        if local_rank not in self._gone:
            self._gone.append(local_rank)
        self._note_exits()

    def _note_exits(self) -> None:
        for rank in self._gone[len(self._exits) :]:
            code = self._processes[rank].exit_code()
            self._unwatch(rank)
            if code is None:
                self._watch_exit_code(rank)
                return  # those that went after it have to wait for it
            self._note_exit(rank, code)

    def _watch_exit_code(self, local_rank: int) -> None:
        fd = self._processes[local_rank].exit_code_fd()
        assert fd is not None, "the exit code of a child is known when it is gone"
        self._watch_fd(local_rank, fd)

    def _note_exit(self, local_rank: int, code: int) -> None:
        value, problem = self._processes[local_rank].outcome() if code == 0 else (None, "")
        path = self._plans[local_rank].error_file
        self._exits[local_rank] = WorkerExit(
            local_rank=local_rank,
            pid=self._pids[local_rank],
            exit_code=code,
            at_ns=self._clock.now_ns(),
            wall_s=self._clock.wall_ns() // 1_000_000_000,
            return_value=value,
            problem=problem,
            error_file=path,
            error_data=error_file.read(path) if code != 0 and path else None,
        )

    def _unwatch(self, local_rank: int) -> None:
        fd = self._watched_fds.pop(local_rank, None)
        if fd is not None:
            assert isinstance(self._bell, LoopBell), "only such a bell watches descriptors"
            self._bell.unwatch(fd)
            os.close(fd)

    def signal(self, signum: int) -> None:
        """Signal the process group of each worker that runs."""
        for rank in self.running():
            self._signal_group(rank, signum)

    def kill(self) -> None:
        """SIGKILL to every worker's process group."""
        for rank in self._processes:
            self._signal_group(rank, signal.SIGKILL)

    def _signal_group(self, local_rank: int, signum: int) -> None:
        pid = self._pids[local_rank]
        if not self._processes[local_rank].owns_group():
            return
        try:
            os.killpg(pid, signum)
        except ProcessLookupError:
            self._signal_leader(local_rank, pid, signum)
        except PermissionError:
            pass  # the group holds somebody else's processes only (setuid); nothing we may do

    def _signal_leader(self, local_rank: int, pid: int, signum: int) -> None:
        """A function's process that has not made its session yet has no group of its own."""
        if local_rank in self._exits:
            return
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            pass

    def close(self) -> None:
        """Reap the processes, flush their logs, forget them. Processes that still run are given up."""
        for rank, process in self._processes.items():
            self._unwatch(rank)
            process.reap()
        self._pump.close(DRAIN_S)
        shutil.rmtree(self.scratch, ignore_errors=True)


def _ring_at_exit(pid: int, bell: Bell) -> None:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        pass  # reaped, or no child of ours
    bell.ring()


class ProcessLauncher:
    """Implements `toolkit.ports.Launcher`.

    Args:
        clock: of this machine.
        environment: what programs inherit; kept by reference.
        new_pump: makes what carries the output of one incarnation.
    """

    def __init__(
        self, clock: Clock, environment: Mapping[str, str], new_pump: Callable[[LaunchPlan], OutputPump]
    ) -> None:
        self._clock = clock
        self._environment = environment
        self._new_pump = new_pump

    def start(self, plan: LaunchPlan, bell: Bell) -> ProcessWorkers:
        """Start all workers of the plan.

        Raises:
            LaunchError: one could not be started; the others are gone again.
        """
        pump = self._new_pump(plan)
        workers = ProcessWorkers(self._clock, bell, pump)
        try:
            for worker in plan.workers:
                self._start_one(plan, worker, workers, pump)
        except BaseException:
            workers.kill()
            self._wait_until_gone(workers, bell)
            workers.close()
            raise
        return workers

    def _wait_until_gone(self, workers: ProcessWorkers, bell: Bell) -> None:
        deadline_ns = self._clock.now_ns() + int(KILLED_WAIT_S * 1e9)
        while workers.running() and (left_ns := deadline_ns - self._clock.now_ns()) > 0:
            bell.wait(left_ns / 1e9)

    def _start_one(
        self, plan: LaunchPlan, worker: WorkerPlan, workers: ProcessWorkers, pump: OutputPump
    ) -> None:
        try:
            if worker.error_file:
                Path(worker.error_file).parent.mkdir(parents=True, exist_ok=True)
            streams = pump.open(worker)
            process: Process
            if callable(plan.entrypoint):
                return_path = workers.scratch / str(worker.local_rank)
                process = FunctionProcess(worker, plan, streams, return_path)
            else:
                process = ProgramProcess(
                    worker, plan.entrypoint, streams, self._environment, plan.numa_options
                )
        except (
            OSError,
            subprocess.SubprocessError,
            pickle.PicklingError,
            AttributeError,
            TypeError,
            RuntimeError,
        ) as error:
            raise LaunchError(_start_problem(plan, worker, error)) from error
        finally:
            pump.started(worker.local_rank)
        workers.add(worker, process)


def _start_problem(plan: LaunchPlan, worker: WorkerPlan, error: Exception) -> str:
    if callable(plan.entrypoint):
        name = getattr(plan.entrypoint, "__qualname__", repr(plan.entrypoint))
        return (
            f"local rank {worker.local_rank} can't be started: {name} or its arguments can't be sent to a new process "
            f"({type(error).__name__}: {error}); define the function at the top level of an importable module"
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"local rank {worker.local_rank} can't be started: {plan.entrypoint}: {reason}"
