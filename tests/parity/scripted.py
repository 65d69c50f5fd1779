"""A rendezvous and an agent that follow a script: no processes, no network, no time to wait for."""

from __future__ import annotations

import functools
import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch.distributed import HashStore
from torch.distributed.elastic.multiprocessing import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

#: what a subclass of torch's agent can override and call with super()
METHODS = (
    "_invoke_run",
    "_initialize_workers",
    "_restart_workers",
    "_rendezvous",
    "_assign_worker_ranks",
    "_exit_barrier",
    "_record_metrics",
    "_record_metric_with_condition",
    "_record_flakiness_metric",
    "_record_worker_events",
    "_get_worker_state",
    "_construct_event",
)


class ScriptedRendezvous(RendezvousHandler):
    """A handler as somebody outside torch would write it: one node, a store per round unless one is given.

    Args:
        waiting: what `num_nodes_waiting` answers, call by call; then 0.
        rounds: (rank, world_size) or an error, round by round; then the last one again.
        store: for all rounds.
        master_port: of the workers' store.
    """

    def __init__(
        self,
        waiting: Iterable[int | BaseException] = (),
        rounds: Sequence[tuple[int, int] | BaseException] = ((0, 1),),
        store: Any = None,
        master_port: int = 29555,
    ) -> None:
        self.rounds = 0
        self.asked = 0
        self._waiting = list(waiting)
        self._script = list(rounds)
        self._store = store
        self._master_port = master_port
        self._closed = False

    def get_backend(self) -> str:
        return "scripted"

    def next_rendezvous(self) -> RendezvousInfo:
        step = self._script[min(self.rounds, len(self._script) - 1)]
        self.rounds += 1
        if isinstance(step, BaseException):
            raise step
        rank, world_size = step
        store = HashStore() if self._store is None else self._store
        return RendezvousInfo(store, rank, world_size, RendezvousStoreInfo("127.0.0.1", self._master_port))

    def is_closed(self) -> bool:
        return self._closed

    def set_closed(self) -> None:
        self._closed = True

    def num_nodes_waiting(self) -> int:
        self.asked += 1
        answer = self._waiting.pop(0) if self._waiting else 0
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def get_run_id(self) -> str:
        return "parity-run"

    def shutdown(self) -> bool:
        return True


def failure(local_rank: int = 0, exit_code: int = 1) -> ProcessFailure:
    """A failed worker as torch's `start_processes` reports it: subclasses hand it on as it is."""
    return ProcessFailure(
        local_rank, pid=1000 + local_rank, exitcode=exit_code, error_file="/nowhere/error.json"
    )


def scripted_agent(base: type) -> type:
    """A subclass of `base` that has the four hooks and nothing else, as users write it."""

    class ScriptedAgent(base):  # type: ignore[misc]
        """Follows a script.

        Args:
            monitor: states, results or errors, one for each look at the workers.
            errors: by hook: what each of its calls raises, None for nothing.
        """

        def __init__(
            self,
            spec: Any,
            api: Any,
            monitor: Sequence[Any],
            errors: Mapping[str, Sequence[BaseException | None]] | None = None,
            **options: Any,
        ) -> None:
            super().__init__(spec, **options)
            self.calls: list[str] = []
            self.shutdowns: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
            self.budget_seen: list[int] = []
            self._api = api
            self._monitor = list(monitor)
            self._errors = {hook: list(steps) for hook, steps in (errors or {}).items()}

        def _start_workers(self, worker_group: Any) -> dict[int, Any]:
            self._note("_start_workers")
            return {worker.local_rank: f"w{worker.global_rank}" for worker in worker_group.workers}

        def _stop_workers(self, worker_group: Any) -> None:
            self._note("_stop_workers")

        def _monitor_workers(self, worker_group: Any) -> Any:
            self._note("_monitor_workers")
            self.budget_seen.append(self._remaining_restarts)
            step = self._monitor.pop(0)
            if isinstance(step, BaseException):
                raise step
            return step(self) if callable(step) else self.result(step)

        def _shutdown(self, *args: Any, **kwargs: Any) -> None:
            self.shutdowns.append((args, kwargs))
            self._note("_shutdown")

        def result(self, state: Any) -> Any:
            """The result of a group in that state; if it failed, local rank 0 did."""
            workers = self._worker_group.workers
            state = self._api.WorkerState[state] if isinstance(state, str) else state
            if state == "SUCCEEDED":
                return self._api.RunResult(state, return_values={w.global_rank: "ok" for w in workers})
            if state == "FAILED":
                return self._api.RunResult(state, failures={workers[0].global_rank: failure()})
            return self._api.RunResult(state)

        def _note(self, hook: str) -> None:
            self.calls.append(hook)
            steps = self._errors.get(hook)
            error = steps.pop(0) if steps else None
            if error is not None:
                raise error

    for name in METHODS:
        _note_and_call_super(ScriptedAgent, name)
    return ScriptedAgent


def _note_and_call_super(cls: type, name: str) -> None:
    inherited = getattr(cls, name)

    @functools.wraps(inherited)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(name)
        return getattr(super(cls, self), name)(*args, **kwargs)

    setattr(cls, name, method)


def shutdown_signal(agent: Any) -> tuple[list[signal.Signals], Any]:
    """How the one `_shutdown` of a scripted agent was called: its signal, if one was given, and the timeout."""
    ((args, kwargs),) = agent.shutdowns
    given = [*args[:1]] or [kwargs["death_sig"]] if args or "death_sig" in kwargs else []
    return given, kwargs.get("timeout")
