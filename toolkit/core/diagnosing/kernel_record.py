"""What the kernel has on record of a worker's end: what it killed for want of memory, what its log says. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KernelRecord:
    """What happened while a worker ran, as far as this process may know.

    Args:
        counted: whether the kernel's count of killed processes could be read.
        oom_kills: processes that the OOM killer ended meanwhile where this worker runs.
        certain: whether this worker is among them: its log names it, or only it can be meant.
        limit_bytes: memory that its cgroup may use; None if there is no limit.
        xids: errors of GPUs that the driver reported meanwhile, oldest first, as "79 (GPU 0000:3b:00)".
        fault: where a segmentation fault was, such as "in libfoo.so"; or empty.
    """

    counted: bool = False
    oom_kills: int = 0
    certain: bool = False
    limit_bytes: int | None = None
    xids: tuple[str, ...] = ()
    fault: str = ""
