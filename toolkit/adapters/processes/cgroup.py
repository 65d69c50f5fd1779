"""A cgroup (v2) of its own for what workers start, where this process may make one: nothing leaves it by itself.

It only serves to find processes: no limits are set. The supervisor makes it and moves the workers in, beside their
start, because a move may take the kernel 10 ms. Like `process_tree` this imports next to nothing.
"""
# pathlib would take as long to import as the supervisor to start.
# ruff: noqa: PTH102, PTH106, PTH123

from __future__ import annotations

import os


class Cgroup:
    """One below that of this process.

    Args:
        parent: the folder of this process's own.
        name: of the new one.
    """

    def __init__(self, parent: str, name: str) -> None:
        self._parent = parent
        self.path = f"{parent.rstrip('/')}/{name}"

    def make(self) -> bool:
        """Make it if it isn't there. Returns whether it is."""
        try:
            os.mkdir(self.path)
        except FileExistsError:
            pass
        except OSError:
            return False
        return True

    def take(self, pid: int) -> bool:
        """Move a process in; its children of later are born there. Returns whether it is in."""
        return _write(f"{self.path}/cgroup.procs", pid)

    def pids(self) -> list[int]:
        """Who is in; nobody where there is no such cgroup."""
        try:
            fd = os.open(f"{self.path}/cgroup.procs", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return []
        try:
            parts = []
            while part := os.read(fd, 1 << 16):
                parts.append(part)
            return [pid for pid in map(int, b"".join(parts).split()) if pid > 0]
        except OSError:
            return []
        finally:
            os.close(fd)

    def remove(self) -> None:
        """Move out who is still in, and remove it."""
        for pid in self.pids():
            _write(f"{self._parent.rstrip('/')}/cgroup.procs", pid)
        try:
            os.rmdir(self.path)
        except OSError:
            pass  # not there, or somebody has come


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
