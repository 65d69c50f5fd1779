"""What this kernel lets an agent do with its workers, found out by trying it on this very process."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

from toolkit.adapters.doctor.child import output_of
from toolkit.adapters.doctor.limits import number_in, text_in
from toolkit.adapters.stacks import installed_py_spy
from toolkit.core.doctor.facts import ProcessFacts

_PROC = Path("/proc")
_PR_GET_PDEATHSIG, _PR_GET_CHILD_SUBREAPER = 2, 37


def processes(patience_s: float) -> ProcessFacts:
    """All of it.

    Args:
        patience_s: how long it may take.
    """
    pyspy = installed_py_spy()
    readable, trouble = _reads_stacks(pyspy, patience_s) if pyspy else (None, "")
    pidfd, parent_death, subreaper = (
        _has_pidfd(),
        _answers(_PR_GET_PDEATHSIG),
        _answers(_PR_GET_CHILD_SUBREAPER),
    )
    means = {
        "parent-death signal": parent_death,
        "process groups": True,
        "subreaper": subreaper,
        "pidfd": pidfd,
    }
    return ProcessFacts(
        kernel=platform.release(),
        pidfd=pidfd,
        parent_death=parent_death,
        subreaper=subreaper,
        children_listed=(_PROC / f"self/task/{os.getpid()}/children").exists(),
        hidepid=_hidepid(text_in(_PROC / "self/mounts") or ""),
        pid1=text_in(_PROC / "1/comm") or "",
        is_pid1_child=os.getpid() == 1 or os.getppid() == 1,
        means=[name for name, there in means.items() if there],
        means_lacking={name: "this kernel has none" for name, there in means.items() if not there},
        means_enough=parent_death,
        pyspy=pyspy,
        ptrace_scope=number_in(_PROC / "sys/kernel/yama/ptrace_scope"),
        ptrace_self=readable,
        ptrace_problem=trouble,
    )


def _has_pidfd() -> bool:
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def _answers(question: int) -> bool:
    """Whether the kernel knows a setting of prctl."""
    if sys.platform != "linux":
        return False
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return False
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 4
    value = ctypes.c_int()
    return bool(prctl(question, ctypes.byref(value), None, None, None) == 0)


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
