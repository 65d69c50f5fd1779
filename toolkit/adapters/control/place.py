"""Where the Unix socket of an agent is: in its run directory, or, where that path is too long, near by.

The kernel takes paths of 107 bytes. For a longer one the socket goes into a private folder with a short name, and a
file `control-<node>.at` in the run directory holds its path.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from toolkit.adapters.recording.layout import open_regular, path_safe
from toolkit.core.errors import RecordingError

#: bytes of a socket's path; the 108th ends it
PATH_MAX = 107
_BACKLOG = 16
_SOCKET, _AT = ".sock", ".at"
_NAME = re.compile(r"control-(.+)\.(?:sock|at)")


def socket_path(run_directory: Path, node: str) -> Path:
    """Where the socket of a node is, if it fits."""
    return run_directory / f"control-{path_safe(node)}{_SOCKET}"


def is_socket_name(name: str) -> bool:
    """Whether a file of a run directory is the socket of an agent, by its name."""
    return name.endswith(_SOCKET) and _NAME.fullmatch(name) is not None


def _at_path(run_directory: Path, node: str) -> Path:
    return run_directory / f"control-{path_safe(node)}{_AT}"


def nodes_in(run_directory: Path) -> list[str]:
    """The nodes that have a socket there, whether somebody listens or not; their names as in the files'."""
    with contextlib.suppress(OSError):
        names = (_NAME.fullmatch(entry.name) for entry in run_directory.iterdir())
        return sorted({match[1] for match in names if match})
    return []


def find_socket(run_directory: Path, node: str) -> Path:
    """Where the socket of a node is, by what its run directory says. It need not exist.

    Raises:
        RecordingError: the file that says so can't be read, or names no path.
    """
    note = _at_path(run_directory, node)
    if not os.path.lexists(note):
        return socket_path(run_directory, node)
    fd = open_regular(note)
    with os.fdopen(fd, "rb") as file:
        text = os.fsdecode(file.read(4096)).strip()
    if not text.startswith("/") or "\0" in text or len(os.fsencode(text)) > PATH_MAX:
        raise RecordingError(f"{note} names no socket: {text[:60]!r}")
    return Path(text)


@dataclass(frozen=True, slots=True)
class Listening:
    """A socket that listens, and what is to be removed with it.

    Args:
        socket: of the kind AF_UNIX.
        path: where.
        leavings: files and folders that go with it, in that order.
    """

    socket: socket.socket
    path: Path
    leavings: tuple[Path, ...]

    def close(self) -> None:
        """Nobody finds it any more. Never raises."""
        with contextlib.suppress(OSError):
            self.socket.close()
        for path in self.leavings:
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()


def listen(run_directory: Path, node: str, near_by: Iterable[Path]) -> Listening:
    """Listen for this user's programs.

    Args:
        near_by: folders for the socket of a run directory whose path is too long, best first.

    Raises:
        OSError: that can't be.
    """
    path = socket_path(run_directory, node)
    if _fits(path):
        with contextlib.suppress(FileNotFoundError):
            _at_path(run_directory, node).unlink()
        return Listening(_bound(path), path, (path,))
    for folder in _private_folders(near_by):
        path = folder / f"c{_SOCKET}"
        note = _at_path(run_directory, node)
        try:
            listening = _bound(path)
        except OSError:
            folder.rmdir()
            raise
        leavings = (path, folder, note)
        try:
            _write_note(note, path)
        except OSError:
            Listening(listening, path, leavings).close()
            raise
        return Listening(listening, path, leavings)
    raise OSError(0, f"its path {socket_path(run_directory, node)} is longer than {PATH_MAX} bytes")


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= PATH_MAX


def _private_folders(near_by: Iterable[Path]) -> Iterator[Path]:
    for parent in near_by:
        if not _fits(parent / "rally-12345678" / f"c{_SOCKET}"):
            continue
        with contextlib.suppress(OSError):
            yield Path(tempfile.mkdtemp(prefix="rally-", dir=parent))


def _write_note(note: Path, path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        note.unlink()
    fd = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(os.fsencode(path))


def _bound(path: Path) -> socket.socket:
    """A socket that listens at `path`, for its owner alone."""
    _remove_dead(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(os.fspath(path))
        # Nobody can connect before `listen`, so that it never stands open, whatever the umask says.
        path.chmod(0o600)
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _remove_dead(path: Path) -> None:
    """Remove the socket of an agent that was killed. One that somebody listens on stays, and can't be bound."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
