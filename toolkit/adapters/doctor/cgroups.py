"""The control groups that this process is in, of either version, up to the root that it can see."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from toolkit.adapters.doctor.limits import number_in, text_in
from toolkit.core.doctor.facts import CgroupFacts

#: version 1 says "no limit" with a number near the end of 64 bits
_ENDLESS = 1 << 60


def cgroup(proc: Path = Path("/proc/self"), *, trial: bool = True) -> CgroupFacts:
    """Limits that hold for this process.

    Args:
        proc: of the process.
        trial: whether to make a child group, and remove it, to see if that can be.
    """
    mounts = _mounts(text_in(proc / "mountinfo") or "")
    places = _places(text_in(proc / "cgroup") or "")
    unified = _folder("", mounts, places)
    memory, cpu, pids = (_folder(name, mounts, places) for name in ("memory", "cpu", "pids"))
    v1 = memory is not None or cpu is not None
    memory_folder, memory_limit = _smallest(
        memory or unified, "memory.limit_in_bytes" if memory else "memory.max"
    )
    pids_folder, pids_limit = _smallest(pids or unified, "pids.max")
    possible, problem, kill = _try_child(unified) if trial else (None, "", False)
    return CgroupFacts(
        version=" and ".join(filter(None, ("v1" if v1 else "", "v2" if unified else ""))),
        path=places.get("", ""),
        memory_limit_bytes=memory_limit,
        memory_used_bytes=_used(memory_folder, "memory.usage_in_bytes" if memory else "memory.current"),
        oom_kills=_oom_kills(memory, unified),
        cpu_quota_cores=_quota(cpu, unified),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        pids_limit=pids_limit,
        pids_used=_used(pids_folder, "pids.current"),
        child_possible=possible,
        child_problem=problem,
        kill_possible=kill,
    )


def _mounts(mountinfo: str) -> dict[str, tuple[str, Path]]:
    """Controller ("" for version 2) -> the part of the hierarchy that is mounted, and where."""
    found: dict[str, tuple[str, Path]] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            found.setdefault("", (fields[3], Path(fields[4])))
        elif kind[0] == "cgroup":
            for controller in kind[2].split(","):
                found.setdefault(controller, (fields[3], Path(fields[4])))
    return found


def _places(cgroup: str) -> dict[str, str]:
    """Controller ("" for version 2) -> the path of this process."""
    places: dict[str, str] = {}
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            places[controller] = path
    return places


def _folder(
    controller: str, mounts: dict[str, tuple[str, Path]], places: dict[str, str]
) -> tuple[Path, Path] | None:
    """The folder of this process's group, and the root of what is mounted."""
    if controller not in mounts or controller not in places:
        return None
    root, mount = mounts[controller]
    path = places[controller]
    inside = path[len(root) :] if root != "/" and path.startswith(root) else path
    folder = mount / inside.strip("/")
    # In a container the path may be that of the host, which is not mounted; the group is then the root of the mount.
    return (folder if folder.is_dir() else mount), mount


def _upwards(where: tuple[Path, Path] | None) -> Iterator[Path]:
    if where is None:
        return
    folder, root = where
    while True:
        yield folder
        if folder == root:
            return
        folder = folder.parent


def _smallest(where: tuple[Path, Path] | None, name: str) -> tuple[Path | None, int | None]:
    """The group with the smallest limit on the way up, and the limit."""
    found: list[tuple[int, Path]] = []
    for folder in _upwards(where):
        limit = number_in(folder / name)
        if limit is not None and limit < _ENDLESS:
            found.append((limit, folder))
    if not found:
        return None, None
    limit, folder = min(found, key=lambda one: one[0])
    return folder, limit


def _used(folder: Path | None, name: str) -> int | None:
    return number_in(folder / name) if folder is not None else None


def _oom_kills(memory: tuple[Path, Path] | None, unified: tuple[Path, Path] | None) -> int | None:
    where, name = (memory, "memory.oom_control") if memory else (unified, "memory.events")
    if where is None:
        return None
    for line in (text_in(where[0] / name) or "").splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == "oom_kill" and words[1].isdecimal():
            return int(words[1])
    return None


def _quota(cpu: tuple[Path, Path] | None, unified: tuple[Path, Path] | None) -> float | None:
    """The smallest CPU quota on the way up, in cores."""
    quotas = []
    for folder in _upwards(cpu):
        quota, period = text_in(folder / "cpu.cfs_quota_us"), number_in(folder / "cpu.cfs_period_us")
        if quota and quota.isdecimal() and period:
            quotas.append(int(quota) / period)
    for folder in _upwards(unified):
        words = (text_in(folder / "cpu.max") or "").split()
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
    return round(min(quotas), 2) if quotas else None


def _try_child(unified: tuple[Path, Path] | None) -> tuple[bool | None, str, bool]:
    """Whether a child group can be made, why not, and whether it could be killed as one."""
    if unified is None:
        return False, "cgroup v2 is not mounted", False
    child = unified[0] / f"rallypoint-doctor-{os.getpid()}"
    try:
        child.mkdir()
    except OSError as error:
        return False, f"{unified[0]}: {error.strerror}", False
    try:
        kill = (child / "cgroup.kill").exists()
        possible = os.access(child / "cgroup.procs", os.W_OK) and os.access(
            unified[0] / "cgroup.procs", os.W_OK
        )
        return possible, "" if possible else f"{unified[0]}/cgroup.procs can't be written", kill
    finally:
        child.rmdir()
