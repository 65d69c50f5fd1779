"""A worker that says 250,000 lines as soon as it may, and ends when it may."""

import os
import sys
import time
from pathlib import Path

LINES = 250_000


def wait_for(name: str) -> None:
    while not Path(os.environ["TMPDIR"], name).exists():
        time.sleep(0.01)


rank = os.environ["RANK"]
print(f"ready {rank} {os.getpid()}", flush=True)
wait_for("go")
for step in range(LINES):
    # What a training loop logs; torch flushes its loggers with each line, print() into a pipe does not.
    print(f"step {step} of rank {rank}: loss 0.123456, 1234.5 samples/s")
sys.stdout.flush()
wait_for("end")
