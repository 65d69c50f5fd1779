"""`--run-path`: a script as a function entrypoint, so that a worker runs it without another interpreter start."""

from __future__ import annotations

import runpy
import sys


def run_script_path(training_script: str, *training_script_args: str) -> None:
    """Run a script as `__main__` in this process, with these arguments in `sys.argv`."""
    sys.argv = [training_script, *training_script_args]
    runpy.run_path(training_script, run_name="__main__")
