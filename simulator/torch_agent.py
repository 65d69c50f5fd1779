"""torch's `LocalElasticAgent`, unedited, made to say what it does in our events.

Each override says something and calls `super()`. Its workers come from torch's own `SubprocessContext`, whose processes
are simulated: start, poll, wait and kill are the only calls that are answered here.
"""

from __future__ import annotations

import functools
import signal
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

from simulator.adapters.launcher import SimLauncher
from simulator.adapters.sink import WorldSink
from simulator.guest import Guest
from simulator.kernel import Task
from simulator.subject import RUN_ID
from simulator.torch_surroundings import torch_module
from simulator.world import Process
from toolkit.core import events
from toolkit.core.events import Event
from toolkit.core.launch_plan import WorkerPlan
from toolkit.core.words import signal_name


class Speaker:
    """Stamps an agent's events and hands them to the world.

    Args:
        guest: the agent's process.
    """

    def __init__(self, guest: Guest) -> None:
        self.node = f"{guest.node.name}_{guest.process.pid}"
        self.round = 0
        self.restart_count = 0
        self._clock = guest.clock
        self._sink = WorldSink(guest.process)
        self._seq = 0

    def say(self, kind: type[Event], **fields: Any) -> None:
        """Emit one event."""
        self._seq += 1
        self._sink.emit(
            kind(
                run_id=RUN_ID,
                node=self.node,
                seq=self._seq,
                mono_ns=self._clock.now_ns(),
                wall_ns=self._clock.wall_ns(),
                round=self.round,
                restart_count=self.restart_count,
                **fields,
            )
        )


class SimPopen:
    """What torch uses of `subprocess.Popen`, for a simulated process.

    Args:
        guest: the agent's process.
        process: the worker.
        noticed: called once, when the agent first sees that it has ended, with the exit code.
    """

    def __init__(self, guest: Guest, process: Process, noticed: Callable[[SimPopen, int], None]) -> None:
        self.pid = process.pid
        self.told_to_end = False
        self._guest = guest
        self._process = process
        self._noticed = noticed
        self._seen = False
        self._queue: list[Task] = []
        process.on_exit.append(lambda _code: self._wake())

    def _wake(self) -> None:
        for task in self._queue:
            self._guest.kernel.wake(task)

    @property
    def exit_code(self) -> int | None:
        """Its exit code, noticed or not."""
        return self._process.exit_code

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        code = self._process.exit_code
        if code is not None and not self._seen:
            self._seen = True
            self._noticed(self, code)
        return code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            TimeoutExpired: it did not come in `timeout` seconds.
        """
        queue, why = self._queue, f"pid {self.pid} to end"
        if not self._guest.wait_until(lambda: self.exit_code is not None, queue, why, timeout):
            raise subprocess.TimeoutExpired("train", timeout or 0.0)
        code = self.poll()
        assert code is not None, "it was waited for"
        return code


class SimSubprocessHandler:
    """What torch uses of its `SubprocessHandler`: a process and the signals to its group.

    Args:
        proc: the worker.
        group: its process group, itself first.
    """

    def __init__(self, proc: SimPopen, group: list[Process]) -> None:
        self.proc = proc
        self._group = group

    def close(self, death_sig: signal.Signals | None = None) -> None:
        """Signal the process group."""
        signum = int(death_sig or signal.SIGTERM)
        self.proc.told_to_end = True
        for process in self._group:
            process.receive(signum)


class Signals:
    """Death signals to a process that runs Python: handlers run in its main thread, between two bytecodes.

    A sleep, a lock or a wait for a process is broken off by a handler that raises; a call into C++ (the store's) is
    not: the handler runs when it returns. A signal that comes again before its handler ran counts once.

    Args:
        guest: the process.
        told: called when a handler is about to run, with the signal and how many have been handled.
    """

    def __init__(self, guest: Guest) -> None:
        self.told: Callable[[signal.Signals, int], None] = lambda signum, count: None
        self._guest = guest
        self._pending: list[int] = []
        self._handled = 0
        guest.handlers[signal.SIGINT] = _interrupt
        guest.handle_signals = self.handle
        guest.process.on_signal = self.arrive

    def arrive(self, signum: int) -> None:
        """The process is signalled. Without a handler it ends, as by default."""
        if signum not in self._guest.handlers:
            self._guest.process.end(-signum)
        elif signum not in self._pending:
            self._pending.append(signum)
            if self._guest.main is not None:
                self._guest.kernel.wake(self._guest.main)

    def handle(self) -> None:
        """Run the handler of a signal that came, if this is the main thread."""
        while self._pending and self._guest.kernel.current is self._guest.main:
            signum = min(self._pending)
            self._pending.remove(signum)
            self._handled += 1
            self.told(signal.Signals(signum), self._handled)
            self._guest.handlers[signum](signum, None)


def _interrupt(_signum: int, _frame: None) -> None:
    raise KeyboardInterrupt


@functools.cache
def speaking_agent() -> type[Any]:
    """torch's `LocalElasticAgent` with our events, for `torch.distributed.launcher.api`.

    Raises:
        ConfigurationError: torch is not installed.
    """
    local_agent, agent_api = (
        torch_module("agent.server.local_elastic_agent"),
        torch_module("agent.server.api"),
    )

    class SpeakingGroup(agent_api.WorkerGroup):  # type: ignore[misc, name-defined]
        """A worker group that says when its state changes."""

        __slots__ = ("say", "_state")

        def __init__(self, spec: Any, say: Callable[..., None]) -> None:
            self.say = say
            self._state: Any = None
            super().__init__(spec)

        @property
        def state(self) -> Any:
            return self._state

        @state.setter
        def state(self, after: Any) -> None:
            before, self._state = self._state, after
            if before is not None and before != after:
                self.say(events.GroupStateChanged, before=before.value, after=after.value)

    class SpeakingAgent(local_agent.LocalElasticAgent):  # type: ignore[misc, name-defined]
        """Says, and calls `super()`."""

        def __init__(self, guest: Guest, launcher: SimLauncher, signals: Signals, **how: Any) -> None:
            super().__init__(**how)
            self._guest = guest
            self._launcher = launcher
            self._speaker = Speaker(guest)
            self._say = self._speaker.say
            self._worker_group = SpeakingGroup(how["spec"], self._say)
            self._incarnation = -1
            self._restarting = False
            self._spent = 0
            self._processes: dict[int, SimPopen] = {}
            self._failed_before = False
            self.outcome: Any = None
            guest.start_worker = self._start_one
            signals.told = lambda signum, count: self._say(
                events.SignalReceived, signal=signum.name, count=count
            )
            handler = how["spec"].rdzv_handler
            handler.num_nodes_waiting = functools.partial(self._ask_waiting, handler.num_nodes_waiting)

        # -- the run ------------------------------------------------------------------------------------------

        def run(self, role: str = "default") -> Any:
            spec, started_ns = self._worker_group.spec, self._guest.clock.now_ns()
            self._say(
                events.AgentStarted,
                pid=self._guest.process.pid,
                hostname=self._guest.node.name,
                role=spec.role,
                local_world_size=spec.local_world_size,
                restarts_max=spec.max_restarts,
                backend=spec.rdzv_handler.get_backend(),
                entrypoint=spec.get_entrypoint_name(),
            )
            result, reason, failed = "ERROR", "the agent was ended from outside", []
            try:
                self.outcome = super().run(role)
                result, reason = _in_words(self.outcome)
                failed = sorted(self.outcome.failures) if self.outcome is not None else []
                return self.outcome
            except Exception as error:
                sigval = getattr(error, "sigval", None)
                if sigval is None:
                    reason = f"{type(error).__name__}: {error}"
                else:
                    result, reason = "SIGNAL", f"the agent got {sigval.name}"
                raise
            finally:
                took_s = (self._guest.clock.now_ns() - started_ns) / 1e9
                self._say(
                    events.AgentFinished, result=result, reason=reason, duration_s=took_s, failed_ranks=failed
                )

        def _ask_waiting(self, ask: Callable[[], int]) -> int:
            waiting = ask()
            if waiting > 0:
                self._say(events.MembershipChanged, nodes_waiting=waiting)
            return waiting

        def _rendezvous(self, worker_group: Any) -> None:
            self._say(events.RendezvousStarted, backend=self._worker_group.spec.rdzv_handler.get_backend())
            try:
                super()._rendezvous(worker_group)
            except Exception as error:
                self._say(events.RendezvousFailed, error=f"{type(error).__name__}: {error}")
                raise
            self._speaker.round += 1
            workers = worker_group.workers
            self._say(
                events.RendezvousCompleted,
                group_rank=worker_group.group_rank,
                group_world_size=worker_group.group_world_size,
                world_size=workers[0].world_size,
                role_world_size=workers[0].role_world_size,
                master_addr=str(worker_group.master_addr),
                master_port=int(worker_group.master_port),
                global_ranks=[worker.global_rank for worker in workers],
            )

        # -- what it decides, which torch's loop does without saying ------------------------------------------

        def _restart_workers(self, worker_group: Any) -> None:
            spec = worker_group.spec
            spent = spec.max_restarts - self._remaining_restarts
            spends, self._spent = spent > self._spent, spent
            self._speaker.restart_count = spent
            reason = (
                f"a worker failed; restart {spent} of {spec.max_restarts}" if spends else "nodes wait to join"
            )
            self._say_decision("restart", reason, spends_budget=spends)
            self._restarting = True
            try:
                super()._restart_workers(worker_group)
            finally:
                self._restarting = False

        def _stop_workers(self, worker_group: Any) -> None:
            if not self._restarting:
                self._say_decision("fail", f"a worker failed, and all {self._spent} restarts are used up")
            super()._stop_workers(worker_group)

        def _exit_barrier(self) -> None:
            self._say_decision("finish", "all workers of this node succeeded")
            members, started_ns = int(self._worker_group.group_world_size), self._guest.clock.now_ns()
            self._say(events.BarrierEntered, members=members, timeout_s=self._exit_barrier_timeout)
            outcome, detail = "interrupted", ""
            try:
                super()._exit_barrier()
                error = self._guest.barrier_error
                outcome, detail = _barrier_outcome(error), "" if error is None else str(error)
            finally:
                waited_s = (self._guest.clock.now_ns() - started_ns) / 1e9
                self._say(events.BarrierLeft, outcome=outcome, waited_s=waited_s, detail=detail)

        def _monitor_workers(self, worker_group: Any) -> Any:
            result = super()._monitor_workers(worker_group)
            if result.state.name not in ("HEALTHY", "SUCCEEDED", "FAILED", "UNHEALTHY"):
                self._say_decision("abort", f"the group is in state {result.state.value}")
            return result

        def _say_decision(self, action: str, reason: str, *, spends_budget: bool = False) -> None:
            self._say(
                events.DecisionMade,
                action=action,
                reason=reason,
                spends_budget=spends_budget,
                restarts_left=self._remaining_restarts,
            )

        # -- workers ------------------------------------------------------------------------------------------

        def _start_workers(self, worker_group: Any) -> dict[int, Any]:
            self._incarnation += 1
            self._processes, self._failed_before = {}, False
            self._say(
                events.WorkersStarting,
                incarnation=self._incarnation,
                count=worker_group.spec.local_world_size,
            )
            ids: dict[int, Any] = super()._start_workers(worker_group)
            self._pcontext.close = functools.partial(self._close, self._pcontext.close)
            for worker in worker_group.workers:
                self._say(
                    events.WorkerStarted,
                    incarnation=self._incarnation,
                    local_rank=worker.local_rank,
                    global_rank=worker.global_rank,
                    role_rank=worker.role_rank,
                    world_size=worker.world_size,
                    worker_id=str(ids[worker.local_rank]),
                    pid=ids[worker.local_rank],
                )
            self._say(events.WorkersStarted, incarnation=self._incarnation)
            return ids

        def _start_one(self, *, env: Mapping[str, str], local_rank_id: int, **_: Any) -> Any:
            """What `get_subprocess_handler` means here."""
            plan = WorkerPlan(local_rank_id, int(env["RANK"]), dict(env), ())
            group = self._launcher.start_worker(plan)
            noticed = functools.partial(self._noticed, local_rank_id, plan.global_rank)
            proc = self._processes[local_rank_id] = SimPopen(self._guest, group[0], noticed)
            return SimSubprocessHandler(proc, group)

        def _close(self, close: Callable[..., None], death_sig: Any = None, timeout: int = 30) -> None:
            running = [rank for rank, proc in self._processes.items() if proc.exit_code is None]
            if running:
                self._say(
                    events.WorkersStopping,
                    signal=(death_sig or signal.SIGTERM).name,
                    grace_s=timeout,
                    local_ranks=running,
                )
            close(death_sig, timeout)
            if running:
                ends = {rank: self._processes[rank].exit_code for rank in running}
                self._say(
                    events.WorkersStopped,
                    killed=[rank for rank, code in ends.items() if code == -signal.SIGKILL],
                    unkillable=[rank for rank, code in ends.items() if code is None],
                )

        def _noticed(self, local_rank: int, global_rank: int, proc: SimPopen, code: int) -> None:
            exit_code, by = None if code < 0 else code, signal_name(code)
            self._say(
                events.WorkerExited,
                incarnation=self._incarnation,
                local_rank=local_rank,
                global_rank=global_rank,
                pid=proc.pid,
                exit_code=exit_code,
                signal=by,
                stopped_by_agent=proc.told_to_end,
            )
            if code == 0 or proc.told_to_end:
                return
            first, self._failed_before = not self._failed_before, True
            self._say(
                events.FailureRecorded,
                incarnation=self._incarnation,
                local_rank=local_rank,
                global_rank=global_rank,
                pid=proc.pid,
                hostname=self._guest.node.name,
                exit_code=exit_code,
                signal=by,
                message=f"Signal {-code} ({by}) received by PID {proc.pid}"
                if by
                else f"exited with code {code}",
                first=first,
            )

    return SpeakingAgent


def _in_words(outcome: Any) -> tuple[str, str]:
    if outcome is None:
        return "STOPPED", "the rendezvous had no place for this node"
    words = "the workers failed" if outcome.is_failed() else "all workers succeeded"
    return outcome.state.value, words


def _barrier_outcome(error: Exception | None) -> str:
    if error is None:
        return "complete"
    return "timeout" if isinstance(error, TimeoutError) else "error"
