"""An agent as a process of its own: in a session of its own, so that no Ctrl-C meant for its starter reaches it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from toolkit.adapters.lifeline import Lifeline
from toolkit.core.errors import LaunchError

#: what it says to its console is kept up to here when it is asked for
_OUTPUT_MAX = 64 << 10


class AgentProcess:
    """`rally` with some words, started now. Its stdin is empty.

    Args:
        executable: the Python interpreter.
        words: behind `rally`: "run", ...
        environ: its environment, which its workers inherit.
        cwd: where it starts.
        output: a file that takes what it writes to its console; made new, for its owner alone.
        tied: whether it gets SIGTERM when this process goes away, however that ends.

    Raises:
        LaunchError: it can't be started.
    """

    def __init__(
        self,
        executable: str,
        words: Sequence[str],
        *,
        environ: Mapping[str, str],
        cwd: Path,
        output: Path,
        tied: bool,
    ) -> None:
        self.output = output
        self._lifeline = Lifeline() if tied else None
        theirs = [] if self._lifeline is None else [self._lifeline.theirs]
        module = ["-m", "toolkit.fronts.tied", str(theirs[0])] if theirs else ["-m", "toolkit"]
        try:
            with os.fdopen(os.open(output, _NEW_FILE, 0o600), "wb") as file:
                self._process = subprocess.Popen(
                    [executable, *module, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=dict(environ),
                    cwd=cwd,
                    pass_fds=theirs,
                    start_new_session=True,
                )
        except OSError as error:
            self.let_go()
            raise LaunchError(f"an agent can't be started: {error}") from error
        finally:
            if self._lifeline is not None:
                self._lifeline.given()

    @property
    def pid(self) -> int:
        """Of the agent."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """How it ended, -N by signal N; None while it runs. Reaps it."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> int | None:
        """Wait for its end, for so long at the most; returns as `exit_code`."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self._process.returncode

    def send(self, signum: signal.Signals) -> None:
        """A signal to it; nothing happens if it has ended."""
        self._process.send_signal(signum)

    def said(self) -> str:
        """The end of what it wrote to its console."""
        try:
            with self.output.open("rb") as file:
                file.seek(max(self.output.stat().st_size - _OUTPUT_MAX, 0))
                return file.read(_OUTPUT_MAX).decode("utf-8", "replace")
        except OSError:
            return ""

    def let_go(self) -> None:
        """End the tie: SIGTERM if it still runs."""
        if self._lifeline is not None:
            self._lifeline.close()


_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
