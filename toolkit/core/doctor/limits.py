"""Judges of what processes may have: open files, processes, locked memory, core dumps, stack."""

from __future__ import annotations

from toolkit.core.doctor.amounts import GIB, MIB, number, size
from toolkit.core.doctor.facts import Limit, LimitsFacts, Machine
from toolkit.core.doctor.findings import Asked, Said, note, ok, problem, warning
from toolkit.core.words import plural

# Measured: an agent on one node has 10 files open, and with `--tee 3` 5 more for each worker. A worker of torch that
# has a gloo group of two and a DataLoader of four processes has 59; a GPU brings its own.
_FILES_OF_AGENT, _FILES_OF_EACH = 32, 6
_FILES_OF_WORKER = 128
_FILES_ENOUGH, _FILES_AMPLE = 1024, 4096
_FILES_ADVISED = 65536
#: threads of a worker with libraries that compute, communicate and load data, and of an agent
_THREADS_OF_WORKER, _THREADS_OF_AGENT = 64, 16
_LOCKED_FOR_RDMA = GIB
_STACK_MIN = MIB


def files_needed(nproc: int) -> int:
    """Open files that an agent of `nproc` workers needs, with something to spare; or each worker, if that is more."""
    return max(_FILES_OF_AGENT + _FILES_OF_EACH * nproc, _FILES_OF_WORKER)


def nofile(facts: LimitsFacts, asked: Asked, machine: Machine) -> Said:
    """Open files of one process."""
    soft, need = facts.nofile.soft, files_needed(asked.nproc)
    if soft is None or soft >= max(_FILES_AMPLE, need):
        return ok(f"open files {number(soft)}")
    what = f"a process may have {number(soft)} open files"
    command, remedy = _raised("-n", facts.nofile, _FILES_ADVISED, "nofile", "LimitNOFILE", machine)
    if soft < need:
        why = f"an agent of {plural(asked.nproc, 'worker')} and a worker of torch need up to {need}"
        return problem(what, f'{why}; the next fails with "Too many open files"', remedy, command)
    why = "a DataLoader opens one for each tensor that it hands over, NCCL and gloo one for each peer"
    return (warning if soft < _FILES_ENOUGH else note)(what, why, remedy, command)


def _raised(
    flag: str, limit: Limit, wanted: int, name: str, systemd: str, machine: Machine
) -> tuple[str, str]:
    """The command that raises a limit here, and the sentence for what it can't do."""
    if limit.hard is None or limit.hard > (limit.soft or 0):
        to = wanted if limit.hard is None else min(wanted, limit.hard)
        enough = "" if to == wanted else f", and let root raise the hard limit of {number(limit.hard)}"
        return f"ulimit {flag} {to}", f"raise it in the shell that starts the run{enough}"
    if machine.container:
        return f"docker run --ulimit {name}={wanted}:{wanted} ...", "raise it where the container is started"
    return (
        f"echo '* - {name} {wanted}' | sudo tee -a /etc/security/limits.conf",
        f"the hard limit is as low: raise it as root and log in again ({systemd}= in a unit of systemd)",
    )


def nproc(facts: LimitsFacts, asked: Asked, machine: Machine) -> Said:
    """Processes and threads, of this user and of the machine."""
    soft, name = min(
        (
            (limit, name)
            for limit, name in (
                (None if facts.privileged else facts.nproc.soft, "ulimit -u"),
                (facts.pid_max, "kernel.pid_max"),
                (facts.threads_max, "kernel.threads-max"),
            )
            if limit is not None
        ),
        default=(None, ""),
    )
    if soft is None:
        return ok("processes unlimited")
    need = threads_needed(asked.nproc)
    left = soft - facts.threads_now
    if left >= need:
        return ok(f"processes {number(soft)}")
    what = f"{number(max(left, 0))} more threads may be started ({name} is {number(soft)})"
    if name == "ulimit -u":
        command, remedy = _raised(
            "-u", facts.nproc, max(4096, 2 * (facts.threads_now + need)), "nproc", "TasksMax", machine
        )
    else:
        command, remedy = f"sudo sysctl {name}=4194304", "raise it for the machine"
    return too_few_threads(what, left, asked.nproc, remedy, command)


def threads_needed(nproc: int) -> int:
    """Of an agent of `nproc` workers and these, which load data, compute and communicate."""
    return nproc * _THREADS_OF_WORKER + _THREADS_OF_AGENT


def too_few_threads(what: str, left: int, nproc: int, remedy: str, command: str) -> Said:
    """Only `left` of them may still be started: a problem where that is too few for the start alone."""
    workers, need = plural(nproc, "worker"), threads_needed(nproc)
    why = f"{workers} may have some {need} threads: loading, computing and communicating"
    if left < nproc + _THREADS_OF_AGENT:
        return problem(
            what, f'{why}; starting one fails with "Resource temporarily unavailable"', remedy, command
        )
    return warning(what, why, remedy, command)


def memlock(facts: LimitsFacts, asked: Asked, machine: Machine) -> Said:
    """Memory that may be locked, which RDMA needs."""
    soft = facts.memlock.soft
    if not facts.rdma or soft is None or soft >= _LOCKED_FOR_RDMA:
        return ok(f"locked memory {size(soft)}")
    command, remedy = _raised(
        "-l", facts.memlock, _LOCKED_FOR_RDMA // 1024, "memlock", "LimitMEMLOCK", machine
    )
    if facts.memlock.hard is None:
        command = "ulimit -l unlimited"
    return warning(
        f"{size(soft)} of memory may be locked, and there is an RDMA device",
        'NCCL registers its buffers with it, and fails with "ibv_reg_mr failed: Cannot allocate memory"',
        remedy,
        command,
    )


def core(facts: LimitsFacts, asked: Asked, machine: Machine) -> Said:
    """Core dumps."""
    soft = facts.core.soft
    if soft == 0:
        return ok("core dumps off")
    if facts.core_pattern.startswith("|"):
        return ok(f"core dumps to {facts.core_pattern[1:].split()[0].rpartition('/')[2] or 'a program'}")
    return note(
        f"a worker that crashes leaves a core dump of up to {size(soft)} as {facts.core_pattern or 'core'}"
        if soft is not None
        else f"a worker that crashes leaves a core dump of any size as {facts.core_pattern or 'core'}",
        "of a process with a GPU that is as large as its memory, and each restart may leave one more",
        "switch them off where nobody reads them",
        "ulimit -c 0",
    )


def stack(facts: LimitsFacts, asked: Asked, machine: Machine) -> Said:
    """The stack, which new threads get as well."""
    soft = facts.stack.soft
    if soft is None or soft >= _STACK_MIN:
        return ok(f"stack {size(soft)}")
    return warning(
        f"a thread has {size(soft)} of stack",
        "libraries that compute take more, and end with a segmentation fault that says nothing",
        "raise it in the shell that starts the run",
        "ulimit -s 8192",
    )
