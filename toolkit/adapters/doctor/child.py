"""A program that is asked something, for a time that has an end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial

from toolkit.adapters.processes.parent_death import die_with

#: the reaping of what was killed; what hangs in the kernel is left to it
_LAST_S = 0.2
#: killed, and not gone when that was over
_left: list[subprocess.Popen[bytes]] = []


def output_of(
    argv: Sequence[str],
    patience_s: float,
    environ: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> tuple[int, str, str] | None:
    """Exit code, stdout and stderr; None if it did not end in time, and was killed. It dies with this thread.

    Raises:
        OSError: it can't be run.
    """
    _left[:] = [each for each in _left if each.poll() is None]
    with_environ = dict(environ) if environ is not None else None
    process = subprocess.Popen(
        argv,
        env=with_environ,
        pass_fds=pass_fds,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Runs one system call in the child, whose function was looked up before.
        preexec_fn=partial(die_with, os.getpid()),  # noqa: PLW1509
    )
    try:
        said, complained = process.communicate(timeout=patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        try:
            process.communicate(timeout=_LAST_S)
        except subprocess.TimeoutExpired:
            # It hangs in a driver, where nobody can end it, or in a busy machine.
            _left.append(process)
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        return None
    return process.returncode, said.decode(errors="replace"), complained.decode(errors="replace")
