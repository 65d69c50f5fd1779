"""A Python module run in a fresh interpreter, with another order of hashes."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolkit.core.errors import LaunchError


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended.

    Args:
        exit_code: as `subprocess` counts.
        stderr: what it wrote there.
    """

    exit_code: int
    stderr: str


def run_fresh(
    executable: str,
    module: str,
    arguments: Sequence[str],
    *,
    environ: Mapping[str, str],
    hash_seed: int,
    timeout_s: float,
) -> Ended:
    """Run `python -m module arguments` and wait for its end; its stdout is dropped.

    Args:
        executable: the interpreter.
        module: its full name.
        arguments: of the module.
        environ: its environment.
        hash_seed: PYTHONHASHSEED; iteration over sets of strings depends on it.
        timeout_s: after which it is killed.

    Raises:
        LaunchError: it can't be started, or takes longer.
    """
    command = [executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command,
            env={**environ, "PYTHONHASHSEED": str(hash_seed)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LaunchError(f"{executable} -m {module} did not end within {timeout_s:g} s") from error
    except OSError as error:
        raise LaunchError(f"{executable} can't be run: {error.strerror}") from error
    return Ended(done.returncode, done.stderr.decode(errors="replace"))
