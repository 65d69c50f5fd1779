"""Memory of this machine, and that which is shared."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from toolkit.adapters.doctor.limits import number_in
from toolkit.core.doctor.facts import MemoryFacts


def memory(shm: Path = Path("/dev/shm"), proc: Path = Path("/proc")) -> MemoryFacts:
    """What there is and what is free."""
    whole = psutil.virtual_memory()
    there = shm.is_dir()
    room = os.statvfs(shm) if there else None
    return MemoryFacts(
        total_bytes=whole.total,
        available_bytes=whole.available,
        shm_there=there,
        shm_writable=there and os.access(shm, os.W_OK | os.X_OK),
        shm_total_bytes=room.f_blocks * room.f_frsize if room else None,
        shm_free_bytes=room.f_bavail * room.f_frsize if room else None,
        overcommit=number_in(proc / "sys/vm/overcommit_memory"),
    )
