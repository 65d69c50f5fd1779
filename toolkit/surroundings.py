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
    so, and where nobody has, it is the same. Most may not write there, and are told that like anybody else.
    """
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def state_directory() -> Path:
    """Where runs are recorded unless the user says otherwise (XDG base directories)."""
    home = os.environ.get("XDG_STATE_HOME") or str(home_directory() / ".local" / "state")
    return Path(home) / "rallypoint" / "runs"


def short_lived_directories() -> list[Path]:
    """Folders for what a process needs while it lives, best first."""
    return [Path(text) for text in (os.environ.get("XDG_RUNTIME_DIR"), "/tmp") if text]
