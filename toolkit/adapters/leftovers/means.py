"""By what means the workers of this machine's agents are kept from outliving them: for `rally doctor` and people."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from toolkit.adapters.leftovers import cgroup, process_tree, supervisor
from toolkit.adapters.processes import prctl


@dataclass(frozen=True, slots=True)
class Means:
    """What is used here, and what is not.

    Args:
        used: a name each, strongest against the death of the agent first.
        missing: name -> why it is not used.
    """

    used: tuple[str, ...]
    missing: dict[str, str]

    @property
    def enough(self) -> bool:
        """Whether also a daemon that a worker has started dies with an agent that is killed."""
        return {"supervisor", "environment marker"} <= set(self.used)

    def __str__(self) -> str:
        """One line: "parent-death signal, supervisor, subreaper; no cgroup: /sys/fs/cgroup can't be written"."""
        used = ", ".join(self.used) or "nothing"
        return "; ".join((used, *(f"no {name}: {why}" for name, why in self.missing.items())))


def of_this_machine() -> Means:
    """Look at this machine. Starts nothing and changes nothing."""
    found = {
        "parent-death signal": "" if prctl.call is not None else "it takes Linux",
        "supervisor": _against_supervisor(),
        "process groups": "" if hasattr(os, "killpg") else "it takes a Unix",
        "subreaper": "" if prctl.is_subreaper() is not None else "it takes Linux 3.4",
        "environment marker": _against_marker(),
        "limit marker": process_tree.against_limit_mark(),
        "pidfd": _against_pidfd(),
        "cgroup": cgroup.own_folder()[1],
    }
    used = tuple(name for name, why in found.items() if not why)
    return Means(used, {name: why for name, why in found.items() if why})


def _against_supervisor() -> str:
    if not hasattr(os, "posix_spawn"):
        return "it takes a Unix"
    if not sys.executable or not os.access(sys.executable, os.X_OK):
        return f"there is no Python interpreter at {sys.executable!r}"
    if not os.access(supervisor.SHELL, os.X_OK):
        return f"there is no {supervisor.SHELL}"
    return ""


def _against_marker() -> str:
    if process_tree.look(os.getpid()) is None:
        return "/proc/PID/stat can't be read"
    return "" if process_tree.environment(os.getpid()) else "/proc/PID/environ can't be read"


def _against_pidfd() -> str:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except AttributeError:
        return "it takes Linux"
    except OSError as error:
        return f"the kernel refuses ({error.strerror})"
    return ""
