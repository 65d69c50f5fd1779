"""What torch's Python modules see while they run in the simulator: simulated names for the outside world.

torch's source is not edited. While a simulation runs, the names `time`, `datetime`, `threading`, `random`, `socket`,
`os`, `signal`, `weakref` and the stores in its elastic modules mean what they mean to the simulated process of the
current task; afterwards they are what they were. Three things are left out for speed, for they only report: the
rendezvous telemetry (`construct_and_record_rdzv_event` and the `inspect.stack()` behind it), `events.record`, and the
modules' loggers and metrics.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

from simulator import torch_names as names
from simulator.guest import Guest
from simulator.world import Process, World
from toolkit.core.errors import ConfigurationError

_ELASTIC = "torch.distributed.elastic"


class TorchSurroundings:
    """A context manager, entered whenever the simulation goes on: torch sees the simulated world.

    Only one simulation at a time can be in it, for torch's modules exist once.

    Args:
        world: of the simulation.

    Raises:
        ConfigurationError: torch is not installed.
    """

    _entered: ClassVar[list[TorchSurroundings]] = []

    def __init__(self, world: World) -> None:
        self._kernel = world.kernel
        self._guests: dict[int, Guest] = {}
        # A version of torch in which a module has no such name doesn't use it there; the tripwire is for the rest.
        self._swaps = [swap for swap in self._make_swaps() if hasattr(*swap[:2])]
        self._stack = ExitStack()

    def __enter__(self) -> None:
        assert not self._entered, "torch's modules are in another simulation that runs now"
        with ExitStack() as stack:
            for owner, name, value in self._swaps:
                stack.enter_context(_swapped(owner, name, value))
            self._stack = stack.pop_all()
        self._entered.append(self)

    def __exit__(self, *_: object) -> None:
        self._entered.remove(self)
        self._stack.close()

    @classmethod
    def now(cls) -> TorchSurroundings:
        """Those that are in force."""
        assert cls._entered, "torch's code runs in a simulation only within TorchSurroundings"
        return cls._entered[-1]

    def guest(self) -> Guest:
        """The process of the current task."""
        task = self._kernel.current
        assert task is not None and isinstance(task.owner, Process), "torch's code runs in tasks of processes"
        found = self._guests.get(task.owner.pid)
        if found is None:
            found = self._guests[task.owner.pid] = Guest(task.owner)
        return found

    def _make_swaps(self) -> Iterator[tuple[Any, str, Any]]:
        guest = self.guest
        dynamic = torch_module("rendezvous.dynamic_rendezvous")
        backend = torch_module("rendezvous.c10d_rendezvous_backend")
        utils = torch_module("rendezvous.utils")
        rendezvous_api = torch_module("rendezvous.api")
        agent_api = torch_module("agent.server.api")
        local_agent = torch_module("agent.server.local_elastic_agent")
        processes = torch_module("multiprocessing.api")
        errors = torch_module("multiprocessing.errors")
        metrics = torch_module("metrics.api")
        launcher = torch_module("launcher.api", "torch.distributed")
        time, os, net = names.Time(guest), names.Os(guest), names.Socket(guest)
        threads, stores, quiet = names.Threading(guest), names.Distributed(guest), names.Quiet()
        for module in (dynamic, utils, agent_api, local_agent, processes, errors):
            yield module, "time", time
        for module in (dynamic, backend, agent_api, local_agent, processes, errors, launcher):
            yield module, "os", os
        for module in (dynamic, utils, rendezvous_api, agent_api, local_agent, errors):
            yield module, "socket", net
        for module in (dynamic, backend, agent_api, local_agent, processes, errors, launcher):
            yield module, "logger", quiet
        yield dynamic, "threading", threads
        yield dynamic, "datetime", names.Datetime(guest)
        yield dynamic, "dist", stores
        yield dynamic, "get_method_name", lambda depth=2: ""
        yield (
            dynamic.DynamicRendezvousHandler,
            "_node_desc_generator",
            names.Descriptions(guest, dynamic._NodeDescGenerator),
        )
        for module in (dynamic, backend):
            yield module, "construct_and_record_rdzv_event", names.nothing
        yield backend, "TCPStore", stores.TCPStore
        yield utils, "random", names.Random(guest)
        yield utils, "weakref", names.Weakref
        yield utils, "Event", lambda: names.Event(guest)
        yield utils, "Thread", lambda **how: names.Thread(guest, **how)
        yield rendezvous_api, "get_free_port", lambda: _free_port(guest())
        yield agent_api, "record", names.nothing
        yield agent_api, "put_metric", names.nothing
        yield agent_api, "store_util", names.Barriers(guest, agent_api.store_util)
        yield metrics, "put_metric", names.nothing
        yield metrics, "time", names.StillTime  # it measures what nobody is told
        yield processes, "threading", threads
        yield processes, "signal", names.Signal(guest)
        yield processes, "get_subprocess_handler", lambda **how: _started(guest(), **how)
        yield launcher, "events", quiet
        yield launcher, "metrics", quiet
        yield launcher, "torch", _NoGpu
        yield launcher, "LocalElasticAgent", lambda **how: _made_agent(guest(), **how)


def _started(guest: Guest, **how: Any) -> Any:
    assert guest.start_worker is not None, "only an agent's process starts workers"
    return guest.start_worker(**how)


def _free_port(guest: Guest) -> int:
    return guest.node.free_port()


def _made_agent(guest: Guest, **how: Any) -> Any:
    assert guest.make_agent is not None, "only the torch subject launches agents"
    return guest.make_agent(**how)


class _NoGpu:
    """The name `torch` in the launcher, which asks it for GPUs to choose NUMA options by."""

    class cuda:  # noqa: N801 - torch's spelling
        """No GPU is there."""

        @staticmethod
        def is_available() -> bool:
            """No."""
            return False


@contextmanager
def _swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def torch_module(name: str, package: str = _ELASTIC) -> Any:
    """One of torch's modules.

    Raises:
        ConfigurationError: torch is not installed, or has no such module.
    """
    try:
        return importlib.import_module(f"{package}.{name}")
    except ImportError as error:
        raise ConfigurationError(
            f"this needs torch, which can't be imported here ({error}); pip install torch (2.13), "
            "or run a scenario of one node with the subject rally"
        ) from error
