"""The one reader of `os.environ`: what the user's surroundings say. Imports next to nothing, because every command
needs it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def environment() -> Mapping[str, str]:
    """The environment of this process; live."""
    return os.environ


def set_default(name: str, value: str) -> None:
    """Set a variable of this process that is not set. For libraries that take a setting in no other way."""
    os.environ.setdefault(name, value)


@contextmanager
def default_for_now(name: str, value: str) -> Iterator[None]:
    """A variable of this process that is not set is, for a while: for what is read once and is not for workers."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def set_for_libraries(name: str, value: str) -> None:
    """Set a variable that is not set, for the C code of this process only: neither Python nor a worker sees it."""
    if name not in os.environ:
        os.putenv(name, value)


def home_directory() -> Path:
    """The home of this process's user.

    A user id that no account has, as containers are given, is at home in the root folder: container engines set HOME
    so, and where nobody has, it is the same.
    """
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def state_directory() -> Path:
    """Where runs are recorded unless the user says otherwise (XDG base directories).

    Who may not write at home, as in most containers whose user no account has, records in a folder of their own among
    the temporary files, so that a job runs there, too.
    """
    given = os.environ.get("XDG_STATE_HOME")
    usual = Path(given or home_directory() / ".local" / "state") / "rallypoint"
    place = usual if given or _may_be_made(usual) else _own_temporary() or usual
    return place / "runs"


def _may_be_made(folder: Path) -> bool:
    """Whether a folder is there, or the nearest one above that is there may be written."""
    if os.path.lexists(folder):
        return True
    above = next(each for each in folder.absolute().parents if os.path.lexists(each))
    return os.access(above, os.W_OK | os.X_OK)


def _own_temporary() -> Path | None:
    import tempfile  # late: few need it

    try:
        place = Path(tempfile.gettempdir(), f"rallypoint-{os.getuid()}")
        # The folder is everybody's: what another user has put there is not ours.
        return place if not os.path.lexists(place) or place.lstat().st_uid == os.getuid() else None
    except OSError:
        return None  # there is none that can be written


def short_lived_directories() -> list[Path]:
    """Folders for what a process needs while it lives, best first."""
    return [Path(text) for text in (os.environ.get("XDG_RUNTIME_DIR"), "/tmp") if text]
