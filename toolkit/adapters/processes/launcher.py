"""Worker processes of this machine: programs and Python functions, each in a session of its own.

A process that ended is not reaped before the group is closed: until then its pid, and with it the id of its process
group, belongs to nobody else, so signalling the group can't hit a stranger.

What workers start and leave behind ends with them (`left_behind`), and with the agent if that is killed (`supervisor`).
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from toolkit.adapters.interrupts import in_main_thread
from toolkit.adapters.leftovers import process_tree
from toolkit.adapters.leftovers.guard import Guard
from toolkit.adapters.leftovers.left_behind import LeftBehind
from toolkit.adapters.leftovers.orphans import Orphans
from toolkit.adapters.leftovers.process_tree import MARK, Seen
from toolkit.adapters.loop_bell import LoopBell
from toolkit.adapters.output.pump import OutputPump, WorkerStreams
from toolkit.adapters.processes import error_file
from toolkit.adapters.processes.child import Process
from toolkit.adapters.processes.deaths import Deaths
from toolkit.adapters.processes.evidence import evidence_of
from toolkit.adapters.processes.handing_on import ends_by_itself, hand_on
from toolkit.adapters.processes.kernel_record import KernelRecords
from toolkit.adapters.processes.program import ProgramProcess
from toolkit.core.errors import LaunchError
from toolkit.core.launch_plan import LaunchPlan, Leftover, WorkerExit, WorkerPlan
from toolkit.core.lost_output import LostOutput
from toolkit.ports import Bell, Clock

#: how long `close` waits for the last output of workers that are gone, in seconds
DRAIN_S = 2.0
#: how long workers of a failed start may take to vanish after SIGKILL, in seconds
KILLED_WAIT_S = 5.0
#: signals by which workers are told to come to their end
_ASK_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
#: between two looks for what is left of them, at the most, in seconds
LOOK_AGAIN_S = 0.1


class ProcessWorkers:
    """Implements `toolkit.ports.Workers`. Used by one thread."""

    def __init__(
        self, clock: Clock, bell: Bell, pump: OutputPump, guard: Guard, notices: Sequence[str] = ()
    ) -> None:
        self._clock = clock
        self._bell = bell
        self._pump = pump
        self._guard = guard
        start = guard.fresh_start()
        #: the mark in the environment of whatever these workers start
        self.mark = guard.mark(start)
        self.bonds = guard.bonds(start)
        self._left = LeftBehind(start, guard.orphans, bell, guard.strangers)
        self._notices = list(notices)
        self._found: Sequence[Seen] = ()
        #: groups that have had a signal, by its number
        self._signalled: dict[int, set[int]] = {}
        pump.on_loss = bell.ring
        self._plans: dict[int, WorkerPlan] = {}
        self._processes: dict[int, Process] = {}
        self._pids: dict[int, int] = {}
        #: local ranks that are gone, in that order; exits follow it, so that who failed first stays first
        self._gone: list[int] = []
        self._exits: dict[int, WorkerExit] = {}
        self._watched_fds: dict[int, int] = {}
        self._deaths = Deaths()
        self._watches_deaths = False
        self._records = KernelRecords()

    def add(self, plan: WorkerPlan, process: Process) -> None:
        """Take charge of a process that was just started."""
        self._plans[plan.local_rank] = plan
        self._processes[plan.local_rank] = process
        self._pids[plan.local_rank] = process.pid
        self._records.watch(process.pid)
        self._guard.supervisor.take(process.pid)
        self._watch(plan.local_rank, process.pid)

    def _watch(self, local_rank: int, pid: int) -> None:
        try:
            told = self._deaths.watch(local_rank, pid)
        except ProcessLookupError:
            self._note_gone(local_rank)  # and reaped, by multiprocessing or by its fork server
            self._bell.ring()
            return
        if told and isinstance(self._bell, LoopBell):
            if not self._watches_deaths:
                self._watches_deaths = True
                self._bell.watch(self._deaths.fileno(), self._note_deaths)
            return
        threading.Thread(
            target=_ring_at_exit, args=(pid, self._bell), name=f"exit-of-{pid}", daemon=True
        ).start()

    def _note_deaths(self) -> None:
        """Note those that have died since, in the order in which they did."""
        for rank in self._deaths.take():
            self._note_gone(rank)

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

    def supervised(self) -> None:
        """All are started: the end of their supervisor is noticed from now on."""
        self._guard.watch(self._bell, self._notices.append)

    def notices(self) -> Sequence[str]:
        """Sentences on what became of the supervisor, each once."""
        told = list(self._notices)
        self._notices.clear()
        return told

    def _look(self) -> None:
        self._guard.orphans.reap((*self._pids.values(), *self._guard.strangers()))
        self._note_deaths()
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
        plan, pid = self._plans[local_rank], self._pids[local_rank]
        self._exits[local_rank] = WorkerExit(
            local_rank=local_rank,
            pid=pid,
            exit_code=code,
            at_ns=self._clock.now_ns(),
            wall_s=self._clock.wall_ns() // 1_000_000_000,
            return_value=value,
            problem=problem,
            error_file=plan.error_file,
            **(evidence_of(plan, pid, code, self._pump, self._records) if code != 0 else {}),
        )

    def _unwatch(self, local_rank: int) -> None:
        fd = self._watched_fds.pop(local_rank, None)
        if fd is not None:
            assert isinstance(self._bell, LoopBell), "only such a bell watches descriptors"
            self._bell.unwatch(fd)
            os.close(fd)

    def signal(self, signum: int, local_ranks: Sequence[int] | None = None) -> None:
        """Signal the process group of each worker that runs, or of those among `local_ranks`.

        A worker that asks for stops gets it alone: it needs its helpers to save its work.
        """
        for rank in self.running():
            if local_ranks is not None and rank not in local_ranks:
                continue
            if ends_by_itself(self._pids[rank], signum):
                self._signal_leader(rank, self._pids[rank], signum)
            else:
                self._signalled.setdefault(signum, set()).add(self._pids[rank])
                self._signal_group(rank, signum)
            if signum in _ASK_TO_END:
                # One that is stopped would learn of it only when it is too late.
                self._signal_group(rank, signal.SIGCONT)

    def forward(self, signum: int, local_ranks: Sequence[int]) -> Sequence[int]:
        """Send a signal to these workers' first processes, save to who would die of it; returns who got it."""
        running = [rank for rank in self.running() if rank in local_ranks]
        return [rank for rank in running if hand_on(self._pids[rank], signum)]

    def kill(self) -> None:
        """SIGKILL to every worker's process group, and to what is left of workers that have ended."""
        for rank in self._processes:
            self._signal_group(rank, signal.SIGKILL)
        self._left.kill(self._find_left())

    def left_behind(self) -> Sequence[Leftover]:
        """What workers that have ended have left, wherever it is. Those in a session of their own may be kept."""
        found = self._found = self._find_left()
        self._left.watch(found)
        ranks = {pid: rank for rank, pid in self._pids.items()}
        return [
            Leftover(
                each.pid,
                each.name,
                ranks.get(each.session),
                process_tree.caught(each.pid),
                process_tree.supervises(each.pid),
            )
            for each in found
        ]

    def signal_left(self, signum: int) -> None:
        """Send a signal once to each of those that were found last; not to who has had it in a worker's group."""
        self._left.signal(self._found, signum, self._signalled.get(signum, set()))

    def _find_left(self) -> list[Seen]:
        running = set(self.running())
        ended = {
            pid
            for rank, pid in self._pids.items()
            if rank not in running and self._processes[rank].owns_group()
        }
        return self._left.find(ended, {self._pids[rank] for rank in running})

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
        """Without its group: a function's process that has not made its session yet has none of its own."""
        if local_rank in self._exits:
            return
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            pass

    def losses(self) -> Sequence[LostOutput]:
        """Output that did not reach its log, as far as this has not told of it."""
        return self._pump.losses()

    def close(self) -> Sequence[LostOutput]:
        """Reap the processes, flush their logs, forget them. Processes that still run are given up."""
        self._left.close()
        self._guard.unwatch(self._bell)
        self._guard.supervisor.forget(self._pids.values())
        for rank, process in self._processes.items():
            self._unwatch(rank)
            process.reap()
        if self._watches_deaths and isinstance(self._bell, LoopBell):
            self._watches_deaths = False
            self._bell.unwatch(self._deaths.fileno())
        self._deaths.close()
        self._records.close()
        self._pump.close(DRAIN_S)
        return self._pump.losses()


def _keep_exit_codes() -> None:
    """Where SIGCHLD is ignored, which is inherited, the kernel throws the exit codes of children away."""
    if in_main_thread() and signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


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
        orphans: takes in what workers leave, where this process is the agent's alone; None leaves the process as it is.
    """

    def __init__(
        self,
        clock: Clock,
        environment: Mapping[str, str],
        new_pump: Callable[[LaunchPlan], OutputPump],
        orphans: Orphans | None = None,
    ) -> None:
        self._clock = clock
        self._environment = environment
        self._new_pump = new_pump
        self._guard = Guard(environment, orphans)

    def start(
        self, plan: LaunchPlan, bell: Bell, give_up: Callable[[], bool] = lambda: False
    ) -> ProcessWorkers:
        """Start all workers of the plan.

        Raises:
            LaunchError: one could not be started, or `give_up` said so; the others are gone again.
        """
        _keep_exit_codes()
        problem = self._guard.begin()
        pump = self._new_pump(plan)
        workers = ProcessWorkers(self._clock, bell, pump, self._guard, [problem] if problem else ())
        try:
            for worker in plan.workers:
                if give_up():
                    raise LaunchError(f"the start was given up before local rank {worker.local_rank}")
                self._start_one(plan, worker, workers, pump)
        except BaseException:
            workers.kill()
            self._wait_until_gone(workers, bell)
            workers.close()
            raise
        workers.supervised()
        return workers

    def close(self) -> None:
        """Let the supervisor end, which it also does when the process ends."""
        self._guard.supervisor.close()

    def _wait_until_gone(self, workers: ProcessWorkers, bell: Bell) -> None:
        deadline_ns = self._clock.now_ns() + int(KILLED_WAIT_S * 1e9)
        while (left_ns := deadline_ns - self._clock.now_ns()) > 0:
            if workers.running():
                bell.wait(left_ns / 1e9)
            elif workers.left_behind():
                workers.kill()
                bell.wait(min(left_ns / 1e9, LOOK_AGAIN_S))
            else:
                return

    def _start_one(
        self, plan: LaunchPlan, worker: WorkerPlan, workers: ProcessWorkers, pump: OutputPump
    ) -> None:
        try:
            if worker.error_file:
                _make_folder_of(worker.error_file)
                error_file.put_aside(worker.error_file)
            process = self._process(plan, worker, pump.open(worker), workers)
        finally:
            pump.started(worker.local_rank)
        workers.add(worker, process)

    def _process(
        self, plan: LaunchPlan, worker: WorkerPlan, streams: WorkerStreams, workers: ProcessWorkers
    ) -> Process:
        worker = replace(worker, env={**worker.env, MARK: workers.mark})
        if isinstance(plan.entrypoint, str):
            return ProgramProcess(
                worker, plan.entrypoint, streams, self._environment, workers.bonds, plan.numa_options
            )
        # Late: multiprocessing is a tenth of a run's start, and most runs are programs.
        from toolkit.adapters.processes.function import FunctionProcess

        return FunctionProcess(worker, plan, streams, workers.bonds)


def _make_folder_of(path: str) -> None:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return  # a full disk costs what would be written there, not the job
        raise LaunchError(f"log folder {Path(path).parent} can't be made: {error.strerror}") from error
