"""A worker that imports next to nothing: says that it runs, and ends."""

import os

# One write, so that the lines of two workers never mix, whatever PYTHONUNBUFFERED says.
os.write(1, f"ready {os.environ['RANK']} {os.getpid()}\n".encode())
