"""A cgroup (v2) of its own for what workers start, where this process may make one: nothing leaves it by itself.

It only serves to find processes: no limits are set. The agent makes it. A worker moves itself in before it becomes what
it is to run, so that whatever it starts is born there. One that `setpriv` starts can't: the supervisor moves it in,
beside its start, because a move may take the kernel 10 ms. Like `process_tree` this imports next to nothing.
"""
# pathlib would take as long to import as the supervisor to start.
# ruff: noqa: PTH102, PTH106, PTH123, PTH208

from __future__ import annotations

import os

#: what the names of those begin with that agents make
PREFIX = "rally-"


class Cgroup:
    """One below that of this process.

    Args:
        parent: the folder of this process's own.
        token: of the agent; its name is "rally-TOKEN".
    """

    def __init__(self, parent: str, token: str) -> None:
        self._parent = parent
        self.path = f"{parent.rstrip('/')}/{PREFIX}{token}"
        #: who writes 0 to this file is in
        self.procs = f"{self.path}/cgroup.procs"

    def make(self) -> bool:
        """Make it if it is not there. Returns whether it is."""
        try:
            os.mkdir(self.path)
        except OSError:
            return os.access(self.procs, os.W_OK)
        return True

    def pids(self) -> list[int]:
        """Who is in, or in one that an agent below has made; nobody where there is no such cgroup."""
        found: list[int] = []
        for folder in _all_below(self.path):
            try:
                found += map(int, _read(f"{folder}/cgroup.procs").split())
            except OSError:
                continue  # it has gone
        return [pid for pid in found if pid > 0]

    def remove(self) -> bool:
        """Move out who is still in, and remove it.

        Returns:
            Whether it is gone; who has just died may be in for a moment.
        """
        for pid in self.pids():
            _write(f"{self._parent.rstrip('/')}/cgroup.procs", pid)
        for folder in reversed(_all_below(self.path)):
            try:
                os.rmdir(folder)
            except OSError:
                continue  # not there, or somebody is in
        return not os.access(self.path, os.F_OK)


def _all_below(folder: str) -> list[str]:
    """A cgroup and those that agents have made in it, outer ones first."""
    found = [folder]
    for each in found:
        try:
            found += [f"{each}/{name}" for name in os.listdir(each) if name.startswith(PREFIX)]
        except OSError:
            continue
    return found


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def join(procs: str) -> None:
    """Move this process into a cgroup, if that can be done. For the child that is to become a worker.

    Args:
        procs: its `cgroup.procs`, or "" for none.
    """
    if procs:
        _write(procs, 0)


def _write(path: str, pid: int) -> bool:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, b"%d" % pid)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def own_folder() -> tuple[str, str]:
    """The folder of the cgroup v2 in which this process may make another.

    Returns:
        The folder and "", or "" and why there is none.
    """
    try:
        with open("/proc/self/cgroup") as file:
            lines = file.read().splitlines()
        with open("/proc/self/mountinfo") as file:
            mounts = file.read().splitlines()
    except OSError as error:
        return "", f"/proc can't be read ({error.strerror})"
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    found = next((mount for mount in map(_cgroup2_mount, mounts) if mount is not None), None)
    if path is None or found is None:
        return "", "no cgroup v2 is mounted"
    root, point = found
    if "/../" in f"{path}/" or not f"{path}/".startswith(root.rstrip("/") + "/"):
        return "", f"the own cgroup {path} is not below {point}"
    folder = point + path[len(root.rstrip("/")) :].rstrip("/")
    for needed in (folder, f"{folder}/cgroup.procs"):
        if not os.access(needed, os.W_OK):
            return "", f"{needed} can't be written"
    return folder, ""


def _cgroup2_mount(line: str) -> tuple[str, str] | None:
    """The root and the mount point of a line of mountinfo, if it is a cgroup v2."""
    fields, _, tail = line.partition(" - ")
    if not tail.startswith("cgroup2 "):
        return None
    words = fields.split()
    return words[3], words[4].replace("\\040", " ")
