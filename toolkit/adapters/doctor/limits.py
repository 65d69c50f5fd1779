"""What processes of this user may have here."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from toolkit.core.doctor.facts import Limit, LimitsFacts

_PROC = Path("/proc")
#: CAP_SYS_ADMIN and CAP_SYS_RESOURCE: whoever has one may start any number of processes
_UNBOUND = (1 << 21) | (1 << 24)


def limits() -> LimitsFacts:
    """All limits, and how much of them is used."""
    return LimitsFacts(
        nofile=_limit(resource.RLIMIT_NOFILE),
        nproc=_limit(resource.RLIMIT_NPROC),
        memlock=_limit(resource.RLIMIT_MEMLOCK),
        core=_limit(resource.RLIMIT_CORE),
        stack=_limit(resource.RLIMIT_STACK),
        pid_max=number_in(_PROC / "sys/kernel/pid_max"),
        threads_max=number_in(_PROC / "sys/kernel/threads-max"),
        file_max=number_in(_PROC / "sys/fs/file-max"),
        threads_now=_threads_of(os.getuid()),
        privileged=os.getuid() == 0 or bool(_capabilities() & _UNBOUND),
        core_pattern=text_in(_PROC / "sys/kernel/core_pattern") or "",
        rdma=any(Path("/dev/infiniband").glob("uverbs*")),
    )


def text_in(path: Path) -> str | None:
    """What a small file says, stripped; None if it can't be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def number_in(path: Path) -> int | None:
    """The number in a file; None if there is none, as where it says "max"."""
    text = text_in(path)
    return int(text) if text and text.isdecimal() else None


def _limit(which: int) -> Limit:
    soft, hard = resource.getrlimit(which)
    endless = resource.RLIM_INFINITY
    return Limit(None if soft == endless else soft, None if hard == endless else hard)


def _threads_of(uid: int) -> int:
    """Threads of one user, as far as /proc shows them."""
    threads = 0
    for process in _PROC.iterdir():
        if not process.name.isdecimal():
            continue
        try:
            if process.stat().st_uid == uid:
                # The name stands in parentheses and may hold anything; the number of threads is 17 fields behind it.
                threads += int((process / "stat").read_text().rpartition(")")[2].split()[17])
        except (OSError, ValueError, IndexError):
            continue  # ended meanwhile
    return threads


def _capabilities() -> int:
    for line in (text_in(_PROC / "self/status") or "").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
