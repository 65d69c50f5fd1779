"""Programs as worker processes."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Mapping
from typing import Any

from toolkit.adapters.leftovers.bonds import Bonds
from toolkit.adapters.output.pump import WorkerStreams
from toolkit.adapters.processes import numa, setpriv
from toolkit.adapters.processes.child import CODE_TAKEN, exit_code_of_child
from toolkit.adapters.processes.parent_death import die_with
from toolkit.core.errors import LaunchError
from toolkit.core.launch_plan import WorkerPlan


class ProgramProcess:
    """A program, started by its path. Implements `toolkit.adapters.processes.child.Process`.

    Args:
        plan: how to start it.
        entrypoint: its path or name.
        streams: what it writes to.
        environment: what it inherits.
        bonds: to its agent.
        numa_options: torch's `NumaOptions`, or None.

    Raises:
        LaunchError: it can't be started.
    """

    def __init__(
        self,
        plan: WorkerPlan,
        entrypoint: str,
        streams: WorkerStreams,
        environment: Mapping[str, str],
        bonds: Bonds,
        numa_options: Any,
    ) -> None:
        argv = numa.bound_command((entrypoint, *plan.args), plan.local_rank, numa_options)
        agent_pid = os.getpid()
        env = {**environment, **plan.env}
        quick = _one_of_many(plan) and setpriv.dying_with_parent(argv, env)

        def begin() -> None:
            # System calls only; what makes them was loaded before.
            die_with(agent_pid)
            bonds.take()

        self._code_taken = False
        try:
            self._popen = subprocess.Popen(
                quick or argv,
                env=env,
                stdout=streams.stdout,
                stderr=streams.stderr,
                start_new_session=True,
                preexec_fn=None if quick else begin,  # noqa: PLW1509
            )
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise LaunchError(
                f"local rank {plan.local_rank} can't be started: {argv[0]}: {_reason(error)}"
            ) from error
        if quick:
            bonds.put_on(self._popen.pid)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def exit_code(self) -> int | None:
        if self._popen.returncode is not None:
            return self._popen.returncode
        try:
            return exit_code_of_child(self._popen.pid)
        except ChildProcessError:
            self._code_taken = True
            return 0

    def exit_code_fd(self) -> int | None:
        return None

    def outcome(self) -> tuple[Any, str]:
        return None, CODE_TAKEN if self._code_taken else ""

    def owns_group(self) -> bool:
        return self._popen.returncode is None and not self._code_taken

    def reap(self) -> None:
        self._popen.poll()


def _one_of_many(plan: WorkerPlan) -> bool:
    return int(plan.env.get("LOCAL_WORLD_SIZE") or 1) >= setpriv.MANY


def _reason(error: Exception) -> str:
    match error:
        case OSError(errno=errno.EMFILE | errno.ENFILE):
            return "too many open files; raise the limit (ulimit -n) or start fewer workers"
        case OSError(errno=errno.EAGAIN):
            return "too many processes; raise the limit (ulimit -u, or that of the container) or start fewer workers"
        case OSError(strerror=str(reason)):
            return reason
        case _:
            return str(error)
