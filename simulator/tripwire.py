"""The tripwire: during a run, real clocks, sleeps, sockets, threads, processes and entropy raise where they are called.

What is deterministic only by luck is found at its first use. Only the thread that runs the simulation is watched, and
in it the calls of test runners, debuggers and the standard library's own imports are let pass.
"""

from __future__ import annotations

import functools
import os
import random
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from toolkit.core.errors import RallyError

#: packages whose calls are no part of what is simulated: they measure, trace or debug it
_BYSTANDERS = frozenset(
    {
        "_pytest",
        "coverage",
        "debugpy",
        "execnet",
        "faulthandler",
        "hypothesis",
        "importlib",
        "IPython",
        "ipykernel",
        "pdb",
        "pluggy",
        "pydevd",
        "pytest",
        "pytest_timeout",
        "xdist",
    }
)

_CLOCKS = (
    "time",
    "time_ns",
    "monotonic",
    "monotonic_ns",
    "perf_counter",
    "perf_counter_ns",
    "process_time",
    "process_time_ns",
    "thread_time",
    "thread_time_ns",
    "sleep",
)
_DRAWS = (
    "random",
    "uniform",
    "randint",
    "randrange",
    "choice",
    "choices",
    "sample",
    "shuffle",
    "gauss",
    "normalvariate",
    "expovariate",
    "betavariate",
    "triangular",
    "getrandbits",
    "randbytes",
    "seed",
)
_SECRETS = ("token_bytes", "token_hex", "token_urlsafe", "randbelow", "randbits", "choice")
_LOOKUPS = ("gethostname", "getfqdn", "getaddrinfo", "gethostbyname", "create_connection")

_WATCHED: tuple[tuple[Any, str], ...] = (
    *((time, name) for name in _CLOCKS),
    *((random, name) for name in _DRAWS),
    *((secrets, name) for name in _SECRETS),
    *((socket, name) for name in _LOOKUPS),
    (socket.socket, "__init__"),
    (threading.Thread, "start"),
    (threading.Condition, "wait"),
    (subprocess.Popen, "__init__"),
    (os, "urandom"),
    (os, "fork"),
)


class RealWorldTouched(RallyError):
    """Simulated code used this machine: its clock, its network, a thread, a process or its entropy."""


class Tripwire:
    """A context manager, entered whenever the simulation goes on.

    What was touched is also kept in `touched`: the code that did it may have swallowed the error.
    """

    def __init__(self) -> None:
        self.touched: list[RealWorldTouched] = []
        self._thread = 0
        self._before: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> None:
        self._thread = threading.get_ident()
        for owner, name in _WATCHED:
            real = getattr(owner, name, None)
            if real is not None:
                self._before.append((owner, name, real))
                setattr(owner, name, self._guarded(real, f"{_name_of(owner)}.{name}"))

    def __exit__(self, *_: object) -> None:
        while self._before:
            owner, name, real = self._before.pop()
            setattr(owner, name, real)

    def _guarded(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(real)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == self._thread:
                frame = sys._getframe(1)
                if frame.f_globals.get("__name__", "").partition(".")[0] not in _BYSTANDERS:
                    raise self._trip(name, frame)
            return real(*args, **kwargs)

        return guarded

    def _trip(self, name: str, frame: Any) -> RealWorldTouched:
        error = RealWorldTouched(
            f"simulated code called {name} at {frame.f_code.co_filename}:{frame.f_lineno}; "
            "use a port, or have the simulator give that module a simulated name"
        )
        self.touched.append(error)
        return error


def _name_of(owner: Any) -> str:
    return owner.__name__ if not isinstance(owner, type) else f"{owner.__module__}.{owner.__qualname__}"
