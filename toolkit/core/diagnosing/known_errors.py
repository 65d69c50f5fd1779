"""Errors that are known by their words: of CUDA, NCCL, gloo, torch's stores, the system and Python. Pure, a table.

The texts are those of torch 2.6 to 2.13, NCCL 2.18 to 2.28, gloo, CPython 3.11 to 3.14 and glibc. The first row that
fits counts, so that the particular stands above the general. All patterns are linear in the length of a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from toolkit.core.job_report import Hand

#: what it is about: the program's own error, a GPU, memory, a peer that is gone, somebody who stopped it
Kind = Literal["own", "gpu", "memory", "peer", "stopped", "unknown"]


@dataclass(frozen=True, slots=True)
class Known:
    """What an error is.

    Args:
        what: in words; `{name}` stands for what the pattern found under that name.
        kind: what it is about.
        hand: whether who says it failed of itself.
        remedy: what helps, or empty.
    """

    what: str
    kind: Kind
    hand: Hand
    remedy: str = ""


_SHM = "give the container more: `docker run --shm-size=8g` or `--ipc=host`, in Kubernetes an emptyDir at /dev/shm"
_BATCH = "a smaller batch or activation checkpointing; if much is reserved but free, expandable_segments:True"
_PORT = "another process listens there: leave the port to rally, or end that one (`ss -ltnp` names it)"
LESS_MEMORY = "a smaller batch, fewer DataLoader workers, or a higher memory limit"
_MISSING = "some rank did not take part in it: the stacks of the ranks show which"
_LOOK = "who failed first is elsewhere: look at the other ranks"


def _row(pattern: str, what: str, kind: Kind, hand: Hand, remedy: str = "") -> tuple[str, Known]:
    return pattern, Known(what, kind, hand, remedy)


#: particular before general
_TABLE = (
    # -- memory of GPUs
    _row(
        r"CUDA out of memory\. Tried to allocate (?P<size>[\d.]+ \w+)\. GPU (?P<gpu>\d+) has a total capacity of "
        r"(?P<total>[\d.]+ \w+)(?: of which (?P<free>[\d.]+ \w+) is free)?",
        "CUDA out of memory: tried to allocate {size} (GPU {gpu}; {total} in all, {free} free)",
        "memory",
        "first",
        _BATCH,
    ),
    _row(
        r"CUDA out of memory\. Tried to allocate (?P<size>[\d.]+ \w+) \(GPU (?P<gpu>\d+); (?P<total>[\d.]+ \w+) total",
        "CUDA out of memory: tried to allocate {size} (GPU {gpu}; {total} in all)",
        "memory",
        "first",
        _BATCH,
    ),
    _row(
        r"(?:CUDA|HIP) out of memory\. Tried to allocate (?P<size>[\d.]+ \w+)",
        "CUDA out of memory: tried to allocate {size}",
        "memory",
        "first",
        _BATCH,
    ),
    _row(
        r"(?:CUDA|HIP) out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation",
        "CUDA out of memory",
        "memory",
        "first",
        "another process may hold the GPU's memory: `nvidia-smi` shows whose",
    ),
    # -- GPUs
    _row(
        r"device-side assert triggered",
        "assertion on the device (CUDA device-side assert)",
        "gpu",
        "first",
        "often an index out of range, such as a label or a token; CUDA_LAUNCH_BLOCKING=1 shows the place",
    ),
    _row(
        r"illegal memory access was encountered",
        "CUDA: illegal memory access",
        "gpu",
        "first",
        "CUDA_LAUNCH_BLOCKING=1 shows the place, compute-sanitizer the access; look for an Xid in the kernel's log",
    ),
    _row(
        r"uncorrectable (?:NVLink |ECC )error|double.bit ECC|hardware stack error|fallen off the bus",
        "the GPU is broken: {0}",
        "gpu",
        "first",
        "take this machine out, and have the GPU reset or replaced",
    ),
    _row(
        r"invalid device ordinal",
        "CUDA: no GPU of that number",
        "gpu",
        "first",
        "fewer workers per node, or more devices in CUDA_VISIBLE_DEVICES",
    ),
    _row(
        r"no kernel image is available for execution|forward compatibility was attempted|unsupported PTX version",
        "CUDA: this build is not for this GPU or driver",
        "gpu",
        "first",
        "a build of torch for this GPU's architecture and driver",
    ),
    _row(
        r"no CUDA-capable device is detected|No CUDA GPUs are available|Found no NVIDIA driver on your system"
        r"|CUDA driver version is insufficient|driver on your system is too old|CUDA-capable devices? (?:is/)?are busy",
        "CUDA: no GPU can be used: {0}",
        "gpu",
        "first",
        "`rally doctor` looks at GPUs and driver",
    ),
    _row(
        r"Duplicate GPU detected : rank (?P<one>\d+) and rank (?P<two>\d+)",
        "NCCL: ranks {one} and {two} use the same GPU",
        "gpu",
        "first",
        "torch.cuda.set_device(LOCAL_RANK) before anything else, or --virtual-local-rank",
    ),
    _row(r"unhandled cuda error|ncclUnhandledCudaError", "NCCL: a CUDA call failed", "gpu", "first"),
    _row(
        r"ncclInvalidUsage|invalid usage \(run with NCCL_DEBUG",
        "NCCL: used in a wrong way",
        "gpu",
        "first",
        "often two ranks on one GPU; NCCL_DEBUG=WARN says more",
    ),
    # -- peers that are gone
    _row(
        r"remote process exited or there was a network error|ncclRemoteError",
        "NCCL: remote process exited",
        "peer",
        "second",
        _LOOK,
    ),
    _row(
        r"Watchdog caught collective operation timeout: \w+\((?:SeqNum=(?P<seq>\d+), )?OpType=(?P<op>\w+)"
        r"(?:.{0,300}?Timeout\(ms\)=(?P<ms>\d+))?",
        "NCCL: a collective timed out ({op}, number {seq}, after {ms} ms)",
        "peer",
        "second",
        "some rank did not take part in it: the stacks of the ranks show which, and TORCH_NCCL_TRACE_BUFFER_SIZE tells",
    ),
    _row(
        r"[Ww]atchdog caught collective|collective (?:operation )?(?:timed out|timeout)",
        "a collective timed out",
        "peer",
        "second",
        _MISSING,
    ),
    _row(
        r"communicator (?:was|is) aborted|ncclCommAbort",
        "NCCL: the communicator was aborted",
        "peer",
        "second",
        _LOOK,
    ),
    _row(
        r"unhandled system error|ncclSystemError",
        "NCCL: a system call failed",
        "peer",
        "second",
        "NCCL_DEBUG=WARN says which; often the network, or a peer that is gone",
    ),
    _row(
        r"EADDRINUSE|[Aa]ddress already in use",
        "address already in use",
        "own",
        "first",
        _PORT,
    ),
    _row(
        r"gloo.{0,200}Connection (?:was )?closed by peer|Connection closed by peer \[(?P<peer>[^\]]{1,60})\]",
        "gloo: connection closed by peer",
        "peer",
        "second",
        _LOOK,
    ),
    _row(
        r"gloo.{0,200}(?:reset by peer|Broken pipe)",
        "gloo: connection reset by peer",
        "peer",
        "second",
        _LOOK,
    ),
    _row(
        r"gloo.{0,200}Timed out waiting (?P<ms>\d+)ms|Timed out waiting (?P<ms2>\d+)ms for (?:send|recv)"
        r"|Application timeout caused pair closure",
        "gloo: a collective timed out",
        "peer",
        "second",
        _MISSING,
    ),
    _row(
        r"Rank (?P<rank>\d+) failed to pass monitoredBarrier",
        "gloo: rank {rank} did not come to the barrier",
        "peer",
        "second",
        _LOOK,
    ),
    _row(r"monitoredBarrier", "gloo: not all ranks came to the barrier", "peer", "second", _LOOK),
    _row(
        r"gloo.{0,200}(?:Connection refused|connectFullMesh)",
        "gloo: a peer can't be reached",
        "peer",
        "second",
        _LOOK,
    ),
    _row(
        r"Timed out after \d+ seconds waiting for clients\. (?P<came>\d+)/(?P<all>\d+) clients joined",
        "torch's store: {came} of {all} ranks joined in time",
        "peer",
        "second",
        "some ranks never came so far: look at their logs",
    ),
    _row(
        r"client socket has (?:timed out|failed to connect)",
        "torch's store: rank 0 can't be reached",
        "peer",
        "second",
        "rank 0 is gone or never listened; or MASTER_ADDR is an address that this machine can't reach",
    ),
    _row(
        r"DistStoreError|wait timeout after \d+ ?ms|Socket Timeout",
        "torch's store: a key did not come in time",
        "peer",
        "second",
        _LOOK,
    ),
    _row(
        r"DistNetworkError|[Ff]ailed to recv, got 0 bytes|Connection was likely closed",
        "torch's store: the connection was closed",
        "peer",
        "second",
        _LOOK,
    ),
    # -- memory and disks of the machine
    _row(
        r"insufficient shared memory \(shm\)|out of shared memory"
        r"|unable to (?:write to file|open shared memory object) </?torch_"
        r"|No space left on device.{0,80}/dev/shm|/dev/shm.{0,200}No space left on device",
        "shared memory is full (/dev/shm)",
        "memory",
        "first",
        _SHM,
    ),
    _row(
        r"No space left on device|\bENOSPC\b",
        "disk full",
        "own",
        "first",
        "make room where the worker writes, or write elsewhere (`df -h`)",
    ),
    _row(
        r"Disk quota exceeded", "the disk quota is used up", "own", "first", "make room, or write elsewhere"
    ),
    _row(
        r"DataLoader worker \(pid (?P<pid>\d+)\) is killed by signal: Killed",
        "a DataLoader worker was killed (SIGKILL)",
        "memory",
        "first",
        "often the OOM killer: fewer or leaner DataLoader workers",
    ),
    _row(
        r"DataLoader worker \(pid (?P<pid>\d+)\) is killed by signal: (?P<how>[\w ]{1,40})",
        "a DataLoader worker died: {how}",
        "own",
        "first",
    ),
    _row(
        r"DefaultCPUAllocator: (?:can't|not enough memory|could not)|std::bad_alloc|MemoryError"
        r"|[Cc]annot allocate memory",
        "out of memory (the machine's, not a GPU's)",
        "memory",
        "first",
        LESS_MEMORY,
    ),
    _row(
        r"[Tt]oo many open files",
        "too many open files",
        "own",
        "first",
        "`ulimit -n` raises the limit; torch.multiprocessing's file_system strategy needs fewer",
    ),
    _row(
        r"can't start new thread|Resource temporarily unavailable|pthread_create failed",
        "no more threads or processes may be started",
        "own",
        "first",
        "`ulimit -u` or the pids limit of the container; OMP_NUM_THREADS=1 needs fewer",
    ),
    # -- scripts
    _row(
        r"can't open file ['\"](?P<path>[^'\"]{1,300})['\"]: \[Errno 2\]",
        "there is no script {path}",
        "own",
        "first",
        "the path is taken from the folder where rally was started",
    ),
    _row(
        r"ModuleNotFoundError: No module named ['\"](?P<name>[^'\"]{1,200})['\"]",
        "ModuleNotFoundError: no module named {name}",
        "own",
        "first",
        "install it where the workers' Python looks; `rally run` uses the Python that it runs under itself",
    ),
    _row(
        r"(?P<name>lib[\w.+-]{1,100}\.so[\w.]{0,40}): cannot open shared object file",
        "the library {name} can't be found",
        "own",
        "first",
        "install it, or have LD_LIBRARY_PATH name its folder",
    ),
    _row(r"undefined symbol: (?P<name>\w{1,200})", "two libraries do not fit together", "own", "first"),
    # -- general
    _row(r"CUDA error: (?P<how>.{1,120})", "CUDA: {how}", "gpu", "first"),
    _row(
        r"(?P<how>CUDNN_STATUS_\w{1,60}|CUBLAS_STATUS_\w{1,60}|CUSOLVER_STATUS_\w{1,60})",
        "CUDA: {how}",
        "gpu",
        "first",
    ),
    _row(
        r"ncclInternalError|NCCL error|DistBackendError",
        "NCCL: an error",
        "unknown",
        "unclear",
        "NCCL_DEBUG=WARN says more",
    ),
    _row(
        r"ConnectionResetError|ConnectionAbortedError|[Cc]onnection (?:was )?reset by peer",
        "connection reset by peer",
        "peer",
        "second",
        _LOOK,
    ),
    _row(
        r"BrokenPipeError|[Bb]roken pipe",
        "broken pipe: who should have read is gone",
        "peer",
        "second",
        _LOOK,
    ),
    _row(
        r"ConnectionRefusedError|[Cc]onnection refused",
        "connection refused: nobody listens there (any more)",
        "peer",
        "second",
        _LOOK,
    ),
    _row(
        r"[Cc]onnection (?:was )?closed|\bby (?:remote )?peer\b",
        "connection closed by peer",
        "peer",
        "second",
        _LOOK,
    ),
    _row(r"KeyboardInterrupt", "interrupted (SIGINT)", "stopped", "first"),
)

#: lines of C++ and C libraries that say why a process ended
_CRASH_LINES = (
    r"terminate called|Watchdog caught collective|what\(\): "
    r"|terminating (?:due to|with) uncaught|malloc\(\)|free\(\): |double free"
    r"|corrupted (?:size|double)"
    r"|stack smashing detected|Assertion [`'].{0,300} failed|munmap_chunk|invalid pointer|buffer overflow detected"
    r"|Segmentation fault|Bus error|Illegal instruction|Killed\b"
)


@cache
def _compiled() -> tuple[tuple[re.Pattern[str], Known], ...]:
    # Not when the module is imported: most runs do not fail, and their start is measured in milliseconds.
    return tuple((re.compile(pattern), is_it) for pattern, is_it in _TABLE)


def known(line: str) -> Known | None:
    """What one line says, with what was found in its place; None if it is none of the known."""
    for pattern, is_it in _compiled():
        found = pattern.search(line)
        if found:
            return _filled(is_it, found)
    return None


def _filled(is_it: Known, found: re.Match[str]) -> Known:
    if "{" not in is_it.what:
        return is_it
    names = {name: value or "?" for name, value in found.groupdict().items()}
    what = is_it.what.format(found[0], **names)
    # What the text does not say is left out.
    what = re.sub(r", (?:number |after )?\?(?: ms| free)?", "", what)
    return Known(what, is_it.kind, is_it.hand, is_it.remedy)


def first_known(lines: Iterable[str]) -> Known | None:
    """What the first of these lines says that says something known, and something in particular if one does."""
    found = [one for line in lines if (one := known(line)) is not None]
    return next((one for one in found if one.kind != "unknown"), found[0] if found else None)


def is_crash_line(line: str) -> bool:
    """Whether a library of C or C++ says here why the process ends."""
    return bool(re.search(_CRASH_LINES, line))
