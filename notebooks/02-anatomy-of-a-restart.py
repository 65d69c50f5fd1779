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
# # Anatomy of a restart
#
# When a worker fails, all workers of the job start again. What does that cost, and where does the time go? A restart
# has four phases, and each agent measures them with its own clock:
#
# | phase | from | to |
# |---|---|---|
# | **detect** | the worker's end | the agent's decision |
# | **stop** | the decision | the last of the other workers is gone |
# | **rendezvous** | then | the nodes have met, and ranks are given |
# | **start** | then | the new workers run |

# %%
from toolkit import launch


def steady(seconds):
    import time

    end = time.time() + seconds
    while time.time() < end:
        time.sleep(0.01)


job = launch(steady, 3, nproc=8, max_restarts=3)
job.until("running")
job.kill(5)
await job
job.restarts()

# %% [markdown]
# Milliseconds. The agent does not look every few seconds whether its workers live: the kernel tells it the moment that
# one ends. What is left is mostly *start*: new Python processes, eight of them on the cores that this machine has. Around
# that moment, in a quarter of a second:

# %%
moment = job.failures[0].at.wall_ns / 1e9 - job.now.started.wall_ns / 1e9
job.timeline(by="ranks", between_s=(moment - 0.03, moment + 0.22))

# %% [markdown]
# ## When *stop* is the slow phase
#
# A worker that ignores SIGTERM, because it hangs in a collective or saves something, is waited for until the grace is
# over (`shutdown_timeout`, 30 s by default), and then killed.


# %%
def stubborn(seconds):
    import os
    import signal
    import time

    if os.environ["RANK"] == "0":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", flush=True)
    time.sleep(seconds)


job = launch(stubborn, 3, nproc=4, max_restarts=1, shutdown_timeout=1)
job.until(lambda: len(job.logs()) == 4)
job.kill(3)
await job
job

# %%
job.restarts()

# %% [markdown]
# ## torchrun beside it
#
# The same script under `torchrun` and under `rally run`: rank 1 fails once, when all eight workers are there. How long
# does it take from its end until all eight run again?

# %%
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
script = folder / "fails_once.py"
script.write_text(
    """
import json, os, sys, time
folder, rank, restart = sys.argv[1], os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
open(f"{folder}/began-{restart}-{rank}", "w").write(str(time.time()))
while len([name for name in os.listdir(folder) if name.startswith(f"began-{restart}-")]) < 8:
    time.sleep(0.001)
if restart == "0":
    if rank == "1":
        open(f"{folder}/failed", "w").write(str(time.time()))
        sys.exit(7)
    time.sleep(60)
"""
)


def back_after(launcher):
    """Seconds from the failure until the last of the new workers runs."""
    runs = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", *launcher, "--standalone", "--nproc-per-node=8", "--max-restarts=1"]
    subprocess.run([*command, script, runs], check=True, capture_output=True)
    again = [float(path.read_text()) for path in runs.glob("began-1-*")]
    return max(again) - float((runs / "failed").read_text())


times = {"rally run": [], "torchrun": []}
for _ in range(3):
    times["rally run"].append(back_after(["toolkit", "run"]))
    times["torchrun"].append(back_after(["torch.distributed.run"]))
{name: f"{statistics.median(each):.3f} s" for name, each in times.items()}

# %% [markdown]
# `make bench` measures this with care, interleaved and with medians of more runs.
#
# ## The same restart, slowly
#
# In the simulator time is a number, and the same agent can be watched in a cluster. Here four nodes lose rank 3 after
# 20 seconds: node1, whose worker it was, rings the bell (the arrows), and all nodes meet in round 2.

# %%
from simulator import scenarios, simulate

scenarios.worker_crash

# %%
ours = simulate(scenarios.worker_crash, seed=3)
ours

# %% [markdown]
# And torch's own agent with torch's own rendezvous in the same cluster, with the same seed. Its code is unedited; only
# the world around it is simulated.

# %%
theirs = simulate(scenarios.worker_crash, "torch", seed=3)
theirs

# %%
import pandas

phases = ["detect_s", "stop_s", "rendezvous_s", "start_s", "total_s"]
pandas.DataFrame(
    {
        name: {phase: max(getattr(each, phase) or 0 for each in report.timeline.restarts) for phase in phases}
        for name, report in {"ours": ours, "torch": theirs}.items()
    }
)

# %% [markdown]
# torch's nodes notice each other's failures when they next look: the agents poll, the rendezvous waits for a last call.
# Ours are told.
#
# Next: [simulate a cluster of your own](03-simulate-a-cluster.ipynb).
