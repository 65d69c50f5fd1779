"""What this kernel lets an agent do with its workers, found out by trying it on this very process."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from toolkit.adapters.doctor.child import output_of
from toolkit.adapters.doctor.limits import number_in, text_in
from toolkit.adapters.leftovers.means import of_this_machine
from toolkit.adapters.stacks import installed_py_spy
from toolkit.core.doctor.facts import ProcessFacts

_PROC = Path("/proc")


def processes(patience_s: float) -> ProcessFacts:
    """All of it.

    Args:
        patience_s: how long it may take.
    """
    pyspy = installed_py_spy()
    readable, trouble = _reads_stacks(pyspy, patience_s) if pyspy else (None, "")
    means = of_this_machine()
    return ProcessFacts(
        kernel=platform.release(),
        pidfd="pidfd" in means.used,
        parent_death="parent-death signal" in means.used,
        subreaper="subreaper" in means.used,
        children_listed=(_PROC / f"self/task/{os.getpid()}/children").exists(),
        hidepid=_hidepid(text_in(_PROC / "self/mounts") or ""),
        pid1=text_in(_PROC / "1/comm") or "",
        is_pid1_child=os.getpid() == 1 or os.getppid() == 1,
        means=list(means.used),
        means_lacking=means.missing,
        means_enough=means.enough,
        pyspy=pyspy,
        ptrace_scope=number_in(_PROC / "sys/kernel/yama/ptrace_scope"),
        ptrace_self=readable,
        ptrace_problem=trouble,
    )


def _hidepid(mounts: str) -> str:
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[1] == "/proc":
            for option in fields[3].split(","):
                if option.startswith("hidepid="):
                    return option.removeprefix("hidepid=")
    return ""


def _reads_stacks(pyspy: str, patience_s: float) -> tuple[bool | None, str]:
    """Whether py-spy may read a process that it did not start: this one, as beside an agent it reads workers."""
    done = output_of((pyspy, "dump", "--nonblocking", "--pid", str(os.getpid())), patience_s)
    if done is None:
        return None, "py-spy did not answer"
    code, _, complaint = done
    if code == 0:
        return True, ""
    first = (complaint.strip().splitlines() or ["it said nothing"])[0].removeprefix("Error: ")
    refused = "permission denied" in complaint.lower() or "not permitted" in complaint.lower()
    # Anything else is a process that changed while it was read.
    return (False if refused else None), first
