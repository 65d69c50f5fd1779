"""Function entrypoints of the parity suite. Imported in worker processes: nothing heavy here."""

from __future__ import annotations

import json
import os
from typing import Any


def rank_and_args(*args: Any) -> tuple[str, int, tuple[Any, ...]]:
    """Who this worker is, and what it was given."""
    return os.environ["RANK"], os.getpid(), args


def dump_environment(path: str) -> None:
    """Write the environment of this worker as JSON."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(dict(os.environ), file)


def fail(local_rank: str) -> str:
    """Fail in local rank 1 with a traceback; wait in the others until they are stopped."""
    if local_rank == "1":
        raise ValueError("bad shape (3, 4)")
    return wait_for_ever()


def wait_for_ever() -> str:
    """End by a signal only."""
    import signal

    while True:
        signal.pause()


def nothing() -> None:
    """Return at once."""


def leave(code: int) -> None:
    """Leave without returning."""
    os._exit(code)


def talk(local_rank: str) -> None:
    """Write to both streams, through Python and past it."""
    import sys

    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        stream.write(f"{name} {local_rank}\n")
        stream.flush()
    os.write(1, f"raw {local_rank}\n".encode())
