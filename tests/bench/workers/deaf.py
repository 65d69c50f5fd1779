"""A worker that ignores SIGTERM and runs until it is killed."""

import os
import signal

signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, f"ready {os.environ['RANK']} {os.getpid()}\n".encode())
while True:
    signal.pause()
