"""One agent as a process of its own: python -m tests.parity.agent_process SIDE FOLDER GRACE_S [IGNORE].

Its two workers write their pids into the folder; with IGNORE they ignore SIGTERM and SIGINT. The process ends with
128 + the signal that its agent was ended by.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .scripted import ScriptedRendezvous
from .subjects import subject_named

WORKER = (
    "import os, signal, sys\n"
    "if 'IGNORE' in sys.argv:\n"
    "    for sig in (signal.SIGTERM, signal.SIGINT): signal.signal(sig, signal.SIG_IGN)\n"
    "path = f\"{sys.argv[1]}/{os.environ['RANK']}.pid\"\n"
    "open(path + '.part', 'w').write(str(os.getpid())); os.rename(path + '.part', path)\n"
    "while True: signal.pause()\n"
)


def main(side: str, folder: str, grace_s: str, *flags: str) -> int:
    """Run the agent to its end."""
    agent = subject_named(side).local(
        ScriptedRendezvous(),
        Path(folder) / "logs",
        {"shutdown_timeout": float(grace_s)},
        local_world_size=2,
        entrypoint=sys.executable,
        args=("-c", WORKER, folder, *flags),
    )
    try:
        agent.run()
    except Exception as error:
        sigval = getattr(error, "sigval", None)
        if sigval is None:
            raise
        return 128 + int(sigval)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
