"""A worker with four child processes, as data loaders are, that all sleep until they are told to end."""

import os
import signal

for _ in range(4):
    if os.fork() == 0:
        signal.pause()
os.write(1, f"ready {os.environ['RANK']} {os.getpid()}\n".encode())
signal.pause()
