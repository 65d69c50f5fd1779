"""What a worker that has failed has left: its error file, its last words, what the kernel has on record."""

from __future__ import annotations

import signal
from typing import Any

from toolkit.adapters.output.pump import OutputPump
from toolkit.adapters.processes import error_file
from toolkit.adapters.processes.kernel_record import KernelRecords
from toolkit.adapters.processes.last_words import end_of_file, written_at
from toolkit.core.launch_plan import WorkerPlan


def evidence_of(
    plan: WorkerPlan, pid: int, exit_code: int, pump: OutputPump, records: KernelRecords
) -> dict[str, Any]:
    """The fields of a `WorkerExit` that say why it failed. Never raises for what a dying process has left."""
    data = error_file.read(plan.error_file) if plan.error_file else None
    words, said_at_ns = pump.last_words(plan.local_rank)
    if plan.stderr and not pump.carries_stderr(plan.local_rank):
        words, said_at_ns = end_of_file(plan.stderr)
    return {
        "error_data": data,
        "error_unusable": isinstance(data, error_file.Unusable),
        "last_words": words,
        "said_at_ns": written_at(plan.error_file) if data is not None else said_at_ns,
        "kernel": records.of(pid, killed=exit_code == -signal.SIGKILL),
    }
