"""The store of a job as a process that does nothing else, held until it may serve: `python -m ... PORT`."""

from __future__ import annotations

import signal
import sys

from toolkit.adapters.experiment.processes import wait_to_be_let_go
from toolkit.adapters.from_torch.tcp_store import load_torch, serve


def main(port: str) -> None:
    """Serve until a signal comes."""
    load_torch()
    if wait_to_be_let_go():
        server = serve(int(port))
        signal.pause()
        del server


if __name__ == "__main__":
    main(*sys.argv[1:])
