"""What the agent says: typed events with their header, and torch's metrics. It reports; it decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from toolkit.core.events import AgentFinished, AgentStarted, Event
from toolkit.ports import Ports

METRIC_GROUP = "torchelastic"

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Reporter:
    """Stamps events with their header and hands them to the sink.

    Args:
        ports: of the agent.
        run_id: asked for the job when the first event is said; a handler may not know it before.
    """

    def __init__(self, ports: Ports, run_id: Callable[[], str]) -> None:
        self.node = f"{ports.host.hostname()}_{ports.host.pid()}"
        self.round = 0
        self.epoch = 0
        self.restart_count = 0
        self._ports = ports
        self._seq = 0
        self._ask_run_id = run_id
        # The rendezvous speaks from a thread of its own; numbers must be without gaps and in their order.
        self._lock = ports.tasks.new_lock()
        self._finished = False

    @cached_property
    def run_id(self) -> str:
        """The job."""
        return self._ask_run_id()

    def say(self, kind: type[Event], **fields: Any) -> None:
        """Emit one event. Safe in any thread."""
        with self._lock:
            self._emit(kind, fields)

    def say_while(self, still: Callable[[], bool], kind: type[Event], /, **fields: Any) -> None:
        """Emit one event if `still()` holds when it is this event's turn: for who speaks beside the agent's loop.

        What has just been said may have made it untrue, such as that workers run. Safe in any thread.
        """
        with self._lock:
            if still():
                self._emit(kind, fields)

    def _emit(self, kind: type[Event], fields: Mapping[str, Any]) -> None:
        # A task that has not heard of the end yet may still speak; a run that begins anew says so first.
        self._finished = (self._finished and kind is not AgentStarted) or kind is AgentFinished
        if self._finished and kind is not AgentFinished:
            return
        self._seq += 1
        self._ports.events.emit(
            kind(
                run_id=self.run_id,
                node=self.node,
                seq=self._seq,
                mono_ns=self._ports.clock.now_ns(),
                wall_ns=self._ports.clock.wall_ns(),
                round=self.round,
                epoch=self.epoch,
                restart_count=self.restart_count,
                **fields,
            )
        )


class HasPorts(Protocol):
    """Whoever owns a method that is measured."""

    @property
    def _ports(self) -> Ports: ...


_S = TypeVar("_S", bound=HasPorts)


def profiled(
    name: str,
) -> Callable[[Callable[Concatenate[_S, _P], _R]], Callable[Concatenate[_S, _P], _R]]:
    """Publish `<name>.success` or `.failure` and `<name>.duration.ms` for each call, as torch's `@prof` does."""

    def wrap(method: Callable[Concatenate[_S, _P], _R]) -> Callable[Concatenate[_S, _P], _R]:
        @wraps(method)
        def measured(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            with _measured(self._ports, name):
                return method(self, *args, **kwargs)

        return measured

    return wrap


@contextmanager
def _measured(ports: Ports, name: str) -> Iterator[None]:
    started_ns = ports.clock.now_ns()
    try:
        yield
        ports.telemetry.put_metric(f"{name}.success", 1, METRIC_GROUP)
    except Exception:
        ports.telemetry.put_metric(f"{name}.failure", 1, METRIC_GROUP)
        raise
    finally:
        took_ms = (ports.clock.now_ns() - started_ns) // 1_000_000
        ports.telemetry.put_metric(f"{name}.duration.ms", took_ms, METRIC_GROUP)
