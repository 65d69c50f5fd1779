# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A first run: launch a job, watch it, kill a worker, read what happened
#
# A *job* is a number of **workers**: processes that run the same function or script. An **agent** starts them, watches
# them, and starts them again when one of them fails. Here the agent is a process beside this kernel: no cell blocks,
# an interrupt does not reach it, and CUDA is not touched in the kernel.

# %%
from toolkit import launch

# %% [markdown]
# The function below is what every worker runs. It fits a line to points by gradient descent, and rank 0 saves a
# checkpoint after each epoch, so that a restart goes on where the last one ended. Nothing here is special: it could be
# your training loop, with `torch.distributed.init_process_group()` at the top. The workers find `RANK`, `WORLD_SIZE`,
# `MASTER_ADDR` and the rest in their environment, as under torchrun.


# %%
def train(epochs, checkpoint):
    import json
    import os
    import time
    from pathlib import Path

    rank, restarts = int(os.environ["RANK"]), os.environ["TORCHELASTIC_RESTART_COUNT"]
    saved = Path(checkpoint)
    start = json.loads(saved.read_text()) if saved.exists() else {"epoch": 0, "slope": 0.0}
    slope = start["slope"]
    print(f"rank {rank} begins at epoch {start['epoch']}, restart {restarts}", flush=True)
    for epoch in range(start["epoch"], epochs):
        for x in (1.0, 2.0, 3.0):
            slope += 0.01 * (3.0 * x - slope * x) * x
        time.sleep(0.15)
        print(f"epoch {epoch}: slope {slope:.4f}", flush=True)
        if rank == 0:
            partial = saved.with_suffix(".partial")
            partial.write_text(json.dumps({"epoch": epoch + 1, "slope": slope}))
            partial.rename(saved)
    return round(slope, 3)


# %% [markdown]
# `launch` returns at once. What the cell shows is **live** while the job runs: a lane for each rank, rounds as bands,
# failures as marks, and buttons to kill a rank or to stop the job. When the run has ended the view freezes into plain
# HTML, so that the saved notebook keeps it.

# %%
import tempfile

folder = tempfile.mkdtemp()
job = launch(train, 30, f"{folder}/checkpoint.json", nproc=4, max_restarts=3)
job

# %% [markdown]
# Now break it. The next cell waits until the first epochs are done, then kills rank 2, as the kernel's out-of-memory
# killer would. (The `kill` button above does the same.)

# %%
job.until(lambda: "epoch 4" in job.logs(2))
job.kill(2, why="to see what happens")

# %% [markdown]
# Look at the view above: the red lane is the one that failed, and all four workers started again. A job can be awaited;
# the interrupt button ends this wait, not the job.

# %%
await job

# %% [markdown]
# ## What happened?
#
# Who failed first, in words; the restarts with what each phase took; what the workers wrote; and everything that was
# said, as a DataFrame.

# %%
job.failures

# %%
print(job.report())

# %%
job.restarts()

# %%
job.logs(2)

# %%
job.events("decision_made")[["at_s", "node", "words"]]

# %% [markdown]
# Rank 2 began again at the epoch that the checkpoint had, not at zero. Each worker has returned its slope:

# %%
job.returned

# %% [markdown]
# ## When it is your own mistake
#
# An exception in a function that was written in a cell comes back with the line of that cell.


# %%
def forgetful():
    settings = {"lr": 0.1}
    return settings["momentum"]


broken = launch(forgetful, nproc=2)
await broken
broken.failures

# %% [markdown]
# ## Without a function
#
# A script works as well: `launch("train.py", "--lr", 0.1, nproc=4)`. Or the text of a cell, with the options of
# `rally run`:

# %%
# %%rally --nproc-per-node 2 --as hello
import os

print("hello from rank", os.environ["RANK"], "of", os.environ["WORLD_SIZE"])

# %%
hello.wait()
hello.logs()

# %% [markdown]
# ## Where it goes from here
#
# * The job ends with this kernel, unless it was launched with `detach=True`; then `attach("RUN_ID")` finds it again.
# * `rally top` in a terminal shows the same run, live or recorded; `rally show` tells it in words.
# * Next: [what a restart is made of](02-anatomy-of-a-restart.ipynb), and
#   [a cluster of 64 nodes that needs none](03-simulate-a-cluster.ipynb).
