"""A worker that runs until it is told to end and says when that was; after a restart it ends by itself."""

import os
import signal
import time


def told_to_end(_signum: int, _frame: object) -> None:
    # The monotonic clock is the same for all processes of a machine, so the harness can compare.
    os.write(1, f"told {os.environ['RANK']} {os.getpid()} {time.monotonic_ns()}\n".encode())
    os._exit(128 + signal.SIGTERM)


signal.signal(signal.SIGTERM, told_to_end)
os.write(1, f"ready {os.environ['RANK']} {os.getpid()}\n".encode())
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    while True:
        signal.pause()
