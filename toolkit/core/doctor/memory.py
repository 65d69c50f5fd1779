"""Judges of memory, of that which is shared, and of what a control group leaves of it."""

from __future__ import annotations

from toolkit.core.doctor.amounts import GIB, MIB, number, size
from toolkit.core.doctor.facts import CgroupFacts, Machine, MemoryFacts
from toolkit.core.doctor.findings import Asked, Said, note, ok, problem, warning
from toolkit.core.doctor.limits import threads_needed, too_few_threads
from toolkit.core.words import plural

#: of each worker, for NCCL's segments between ranks of one machine (some of 9 MiB each)
_SHM_OF_WORKER = 64 * MIB
#: with which DataLoaders get along
_SHM_AMPLE = GIB
#: of a worker that has imported torch
_MEMORY_OF_WORKER = GIB


def shm(facts: MemoryFacts, asked: Asked, machine: Machine) -> Said:
    """Shared memory: how ranks and DataLoaders of one machine hand each other tensors."""
    command, remedy = _larger_shm(machine)
    if not facts.shm_there:
        why = "NCCL, gloo, DataLoaders and Python's own locks between processes need it"
        return problem("there is no /dev/shm", why, "have it mounted", "sudo mount -t tmpfs tmpfs /dev/shm")
    if not facts.shm_writable:
        why = "NCCL, DataLoaders and Python's own locks between processes put files there"
        return problem("/dev/shm can't be written", why, "give it back its mode", "sudo chmod 1777 /dev/shm")
    free, total = facts.shm_free_bytes, facts.shm_total_bytes
    if free is None or total is None:
        return note("the size of /dev/shm is not known", "ranks of one machine hand each other tensors there")
    # Only NCCL can't do without; gloo does.
    by_nccl = machine.gpus is not None and machine.gpus.device_files > 0 and asked.nproc > 1
    need = _SHM_OF_WORKER * asked.nproc if by_nccl else 0
    if free >= max(_SHM_AMPLE, need):
        return ok(f"/dev/shm {size(free)} free")
    what = f"/dev/shm has {size(free)} free of {size(total)}"
    if total >= 2 * _SHM_AMPLE:
        command, remedy = "ls -lS /dev/shm", "see what dead processes have left there, and remove it"
    why = (
        "DataLoaders put batches there, and NCCL its buffers; a worker that finds it full is killed by SIGBUS"
    )
    if free < need:
        nccl = f"NCCL of {asked.nproc} workers needs about {size(need)}"
        return problem(what, f"{nccl}; {why}", remedy, command)
    return warning(what, why, remedy, command)


def _larger_shm(machine: Machine) -> tuple[str, str]:
    container = machine.container
    if container == "kubernetes":
        return (
            "volumes: [{name: shm, emptyDir: {medium: Memory, sizeLimit: 8Gi}}]",
            "give the pod a volume in memory, mounted at /dev/shm",
        )
    if container:
        return "docker run --shm-size=8g ...", "give the container more where it is started"
    return "sudo mount -o remount,size=8G /dev/shm", "enlarge it"


def available(facts: MemoryFacts, asked: Asked, machine: Machine) -> Said:
    """Memory that is free for workers, on the machine."""
    if facts.available_bytes is None:
        return note("how much memory is free is not known", "workers need some GiB each")
    need = _MEMORY_OF_WORKER * asked.nproc
    if facts.available_bytes < need:
        return warning(
            f"{size(facts.available_bytes)} of memory are free",
            f"a worker that has imported torch takes about 1 GiB: {size(need)} for {asked.nproc}",
            "start fewer workers, or see who holds it",
            "ps -eo pid,user,rss,comm --sort=-rss | head",
        )
    return ok(f"memory {size(facts.available_bytes)} free")


def overcommit(facts: MemoryFacts, asked: Asked, machine: Machine) -> Said | None:
    """Whether memory may be asked for that is not used."""
    if facts.overcommit != 2:
        return None
    return warning(
        "vm.overcommit_memory is 2: memory that is only asked for counts",
        'CUDA reserves far more addresses than it uses, and starting it fails with "out of memory"',
        "let the kernel decide",
        "sudo sysctl vm.overcommit_memory=0",
    )


def group_memory(facts: CgroupFacts, asked: Asked, machine: Machine) -> Said:
    """The memory limit of this control group."""
    limit, used = facts.memory_limit_bytes, facts.memory_used_bytes
    whole = machine.memory.total_bytes if machine.memory is not None else None
    if limit is None or (whole is not None and limit >= whole):
        return ok("no memory limit")
    left = limit - (used or 0)
    if left < _MEMORY_OF_WORKER * asked.nproc:
        return warning(
            f"this control group may use {size(limit)} of memory, and {size(max(left, 0))} are left",
            f"{plural(asked.nproc, 'worker')} with torch take about {size(_MEMORY_OF_WORKER * asked.nproc)}; the "
            "kernel ends one of them with SIGKILL when there is no more",
            "give it more where the container, the job or the unit is defined, or start fewer workers",
        )
    return ok(f"memory limit {size(limit)}, {size(left)} left")


def oom_kills(facts: CgroupFacts, asked: Asked, machine: Machine) -> Said | None:
    """Processes of this control group that the kernel has ended for want of memory."""
    if not facts.oom_kills:
        return None
    return note(
        f"the kernel has ended {number(facts.oom_kills)} processes of this control group for want of memory",
        "an earlier run may have needed more than there is",
    )


def group_cpu(facts: CgroupFacts, asked: Asked, machine: Machine) -> Said:
    """CPU time that this control group may have."""
    quota, cores = facts.cpu_quota_cores, facts.cores
    if quota is None or quota >= cores:
        return ok(f"{plural(cores, 'core')}, no CPU quota")
    each = max(int(quota / asked.nproc), 1)
    what = f"the CPU quota is {quota:g} cores, and {cores} are seen"
    why = f"libraries start {cores} threads for {quota:g} cores, and all are held up for parts of each 100 ms"
    if quota < asked.nproc:
        why = f"{asked.nproc} workers share {quota:g} cores; {why}"
    return warning(what, why, "say how many threads each worker is to have", f"export OMP_NUM_THREADS={each}")


def group_pids(facts: CgroupFacts, asked: Asked, machine: Machine) -> Said:
    """Processes and threads that this control group may have."""
    limit = facts.pids_limit
    if limit is None:
        return ok("no limit of processes")
    left = limit - (facts.pids_used or 0)
    if left >= threads_needed(asked.nproc):
        return ok(f"processes {number(limit)}")
    what = f"this control group may have {number(max(left, 0))} more threads (pids.max is {number(limit)})"
    remedy, command = (
        "raise it where it is set: pods-pids-limit, TasksMax=, or docker",
        "docker run --pids-limit=-1 ...",
    )
    return too_few_threads(what, left, asked.nproc, remedy, command)
