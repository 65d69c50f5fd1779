"""The parent-death signal by util-linux's `setpriv`, for many programs at once.

Python code in a child (`preexec_fn`) costs a whole fork of the agent, some 5 ms; without it no copy is needed.
`setpriv` then asks the kernel for the signal and becomes the program, under the same pid, in less than 1 ms. Where it
is missing or too old, or can't be trusted to fail as exec fails, the caller has to do it the other way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

#: programs of one node from which on it is worth the look for `setpriv`
MANY = 8
_PROBE_S = 5.0
#: how a file begins that the kernel runs itself; what doesn't, `setpriv` would hand to a shell
_MAGIC = (b"\x7fELF", b"#!")


def dying_with_parent(argv: Sequence[str], environment: Mapping[str, str]) -> list[str] | None:
    """The command line that runs `argv` so that it gets SIGKILL when its parent dies; None if there is none.

    Args:
        environment: of the program; its PATH says where it is looked for.
    """
    setpriv = _setpriv()
    if not setpriv or not _will_run(argv[0], environment.get("PATH", os.defpath)):
        return None
    return [setpriv, "--pdeathsig", "KILL", "--", *argv]


@cache
def _setpriv() -> str:
    """Its path, or empty if it does not know the signal (util-linux before 2.33, busybox)."""
    path = shutil.which("setpriv")
    if path is None:
        return ""
    try:
        tried = subprocess.run(
            [path, "--pdeathsig", "KILL", "--", path, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PROBE_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return path if tried.returncode == 0 else ""


@cache
def _will_run(program: str, search: str) -> bool:
    """Whether the kernel will run it: then `setpriv` says of it what exec would say, which is nothing."""
    path = shutil.which(program, path=search)
    if path is None:
        return False
    try:
        with Path(path).open("rb") as file:
            return file.read(4).startswith(_MAGIC)
    except OSError:
        return False
