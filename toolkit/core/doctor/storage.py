"""Judges of folders: where runs are recorded, where logs go, and where everybody puts what is in the way."""

from __future__ import annotations

from toolkit.core.doctor.amounts import GIB, number, seconds, size
from toolkit.core.doctor.facts import FolderFacts, Machine
from toolkit.core.doctor.findings import Asked, Said, note, ok, problem, warning

#: less is soon full, in bytes and files
_FREE_FEW, _FREE_NONE = GIB, 16 << 20
_INODES_FEW = 10_000
#: a file that takes longer to be made, in seconds
_SLOW_S = 1.0
_OVER_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "afs")


def state_dir(facts: FolderFacts, asked: Asked, machine: Machine) -> Said:
    """Where runs are recorded."""
    said = _judged(facts, "recordings", "XDG_STATE_HOME=/DIR rally run ...")
    if said.level != "ok" or facts.filesystem not in _OVER_NETWORK:
        return said
    return note(
        f"runs are recorded on {facts.filesystem} ({facts.path})",
        "an event is written before the agent goes on, so that a server that hangs holds up the agent; sockets to "
        "watch a run do not work between machines there",
        "have them on a disk of this machine",
        "export XDG_STATE_HOME=/var/tmp/$USER",
    )


def log_dir(facts: FolderFacts, asked: Asked, machine: Machine) -> Said:
    """Where the output of workers goes."""
    return _judged(facts, "logs", "rally run --log-dir DIR ...")


def tmp_dir(facts: FolderFacts, asked: Asked, machine: Machine) -> Said:
    """For what lives shortly."""
    return _judged(facts, "temporary files", "export TMPDIR=/DIR")


def _judged(facts: FolderFacts, what: str, elsewhere: str) -> Said:
    where = facts.path if facts.exists in ("", facts.path) else f"{facts.path} (to be made in {facts.exists})"
    if not facts.writable:
        return problem(
            f"{what} can't be written to {where}: {facts.problem}",
            "a run that would is refused",
            "give a folder of yours",
            elsewhere,
        )
    free, inodes = facts.free_bytes, facts.free_inodes
    if free is not None and free < _FREE_FEW:
        return (problem if free < _FREE_NONE else warning)(
            f"{size(free)} are free for {what} in {where}",
            "when it is full, lines of logs are lost, checkpoints fail, and nothing more is recorded",
            "make room, or give another folder",
            elsewhere,
        )
    if inodes is not None and inodes < _INODES_FEW:
        return warning(
            f"{number(inodes)} more files may be made in {where}",
            "no file can be made then, however much room there is",
            "remove small files, or give another folder",
            elsewhere,
        )
    if facts.took_s > _SLOW_S:
        return warning(
            f"making a file in {where} took {seconds(facts.took_s)}",
            "the agent records events there while it decides",
            "give a folder on a faster disk",
            elsewhere,
        )
    room = f"{size(free)} free" if free is not None else "writable"
    return ok(f"{what} {room}")
