"""Judges of what this kernel lets an agent do with its workers."""

from __future__ import annotations

from toolkit.core.doctor.facts import CgroupFacts, Machine, ProcessFacts
from toolkit.core.doctor.findings import Asked, Said, note, ok, warning

_SHELLS = ("sh", "bash", "dash", "ash", "zsh", "busybox")


def means(facts: ProcessFacts, asked: Asked, machine: Machine) -> Said:
    """By which means nothing outlives the agent."""
    there = ", ".join(facts.means) or "nothing"
    if facts.means_enough:
        return ok(f"nothing outlives the agent: {there}")
    lacking = "; ".join(f"no {name}: {why}" for name, why in facts.means_lacking.items())
    return warning(
        f"what a worker has made a daemon may outlive an agent that is killed: there is {there}",
        lacking or "this kernel has no more",
        "give this container or sandbox what is missing, or look after each run whether something is left",
    )


def pidfd(facts: ProcessFacts, asked: Asked, machine: Machine) -> Said:
    """Whether the end of a process can be waited for."""
    if facts.pidfd:
        return ok("pidfds")
    return warning(
        f"this kernel ({facts.kernel}) has no pidfds",
        "the agent learns of a worker's end by looking, and can't tell a pid from its successor",
        "run on Linux 5.3 or later; some sandboxes forbid pidfd_open",
    )


def proc(facts: ProcessFacts, asked: Asked, machine: Machine) -> Said:
    """What /proc shows."""
    hidden = facts.hidepid not in ("", "0", "off")
    if not hidden and facts.children_listed:
        return ok("/proc is whole")
    if hidden:
        return note(
            f"/proc is mounted with hidepid={facts.hidepid}",
            "who holds a port or a GPU can't be named if it is another user's",
        )
    return note(
        "/proc does not say which children a process has",
        "what a worker has started is found by its process group and session alone",
    )


def init(facts: ProcessFacts, asked: Asked, machine: Machine) -> Said | None:
    """Whether process 1 of a container hands on signals."""
    if not machine.container or facts.pid1 not in _SHELLS:
        return None
    return warning(
        f"process 1 of this container is {facts.pid1}",
        "a shell does not hand on SIGTERM: when the container is stopped the agent hears nothing, and all are killed",
        "begin the last line of the script with exec, or have an init",
        "docker run --init ...",
    )


def stacks(facts: ProcessFacts, asked: Asked, machine: Machine) -> Said:
    """Whether the stacks of a hanging worker can be read."""
    if not facts.pyspy:
        return note(
            "py-spy is not installed",
            "a hanging worker is then asked itself where it stands, by a signal, and many don't answer",
            "install it",
            "pip install 'rallypoint[stacks]'",
        )
    if facts.ptrace_self is False:
        scope = (
            f"kernel.yama.ptrace_scope is {facts.ptrace_scope}"
            if facts.ptrace_scope
            else facts.ptrace_problem
        )
        contained = bool(machine.container) and not facts.ptrace_scope
        return note(
            f"py-spy may not read other processes: {scope}",
            "the stacks of a hanging worker are then not in its report, nor in `rally top`",
            "give the container that right" if contained else "allow it",
            "docker run --cap-add=SYS_PTRACE ..." if contained else "sudo sysctl kernel.yama.ptrace_scope=0",
        )
    return ok("py-spy reads stacks")


def kill_group(facts: CgroupFacts, asked: Asked, machine: Machine) -> Said:
    """Whether workers can have a control group of their own."""
    if facts.child_possible:
        return ok("own cgroup for workers")
    return ok("no cgroup of their own for workers" if facts.version else "no cgroups")
