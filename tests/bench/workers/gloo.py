"""A worker that imports torch and joins a gloo process group: says that it has joined, and ends."""

import os

import torch.distributed as dist

dist.init_process_group("gloo")
os.write(1, f"joined {os.environ['RANK']} {os.getpid()}\n".encode())
dist.destroy_process_group()
