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
# # What breaks torch's elastic agent
#
# `torchrun` is an elastic agent, too. This notebook puts it into fifteen situations that a cluster gets into sooner or
# later, and looks at what it does; and at what ours does in the same ones.
#
# torch's agent and torch's rendezvous run **unedited**. Only the world around them is simulated: time, nodes, network,
# store and workers. The workers are scripts that train in lockstep. A seed draws latencies and who is first when two
# things happen at once, so each run below can be had again, event for event.

# %%
import pandas
import torch

import toolkit  # from here on, reports and plots show themselves
from simulator import scenarios, simulate, sweep

torch.__version__

# %% [markdown]
# ## Fifteen scenarios, two agents
#
# A scenario is a value: nodes, a job, and what goes wrong. `simulate` runs it to its end and holds some 25 **promises**
# against what the agents said: all members of a round have the same master address, a dead node is noticed, a node that
# nothing has happened to does not end with an error, and so on.

# %%
gallery = list(scenarios.GALLERY)
theirs = {name: simulate(scenarios.named(name), "torch", seed=1) for name in gallery}
ours = {name: simulate(scenarios.named(name), "rally", seed=1) for name in gallery}


def promises(report):
    return ", ".join(dict.fromkeys(found.promise for found in report.broken)) or "✓\N{NO-BREAK SPACE}held"


def table(columns):
    left = {"selector": "th, td", "props": "text-align: left"}
    return pandas.DataFrame(columns).style.set_table_styles([left])


table(
    {
        "what happens": {name: scenarios.named(name).about for name in gallery},
        "torch breaks": {name: promises(report) for name, report in theirs.items()},
        "ours": {name: promises(report) for name, report in ours.items()},
    }
)

# %% [markdown]
# What each of these promises says:

# %%
from simulator.checkers import CHECKERS

broken = {found.promise for report in theirs.values() for found in report.broken}
for checker in CHECKERS:
    if checker.promise in broken:
        print(f"{checker.promise:28}{checker.about}")

# %% [markdown]
# A promise that held is not the same as a job that was saved. So look at how the nodes ended, and when:

# %%
outcome = {}
for name in gallery:
    for who, report in (("torch", theirs[name]), ("ours", ours[name])):
        results = [end.result for end in report.nodes.values()]
        words = ", ".join(f"{results.count(result)} {result}" for result in dict.fromkeys(results))
        outcome[name, who] = {"nodes ended": words, "after (s)": round(report.virtual_s)}
table(pandas.DataFrame(outcome).T.unstack().swaplevel(axis=1)[["torch", "ours"]].loc[gallery])

# %% [markdown]
# `LOST` is a node whose power was cut, `STOPPED` one that was not needed. In *store-host-loss* ours loses the job as well:
# nobody can go on when the node that serves the store is gone. It ends a minute later with an error that names the store;
# torch's nodes hold their GPUs for a quarter of an hour. In *bystander-closes* and *barrier-after-failure* a worker fails
# for good, and the job has to fail; the question is whether all nodes say so, and when. Where ours takes longer, in
# *scale-up* and *store-stall*, it trains with the node that has joined.
#
# ### Is it luck?
#
# The seed changes what is left to chance. The same scenarios again, each with two other seeds:

# %%


def in_gallery(scenario):
    return scenarios.named(scenario)


quick = [name for name in gallery if name not in ("scale-up", "join-contention")]
again = sweep(in_gallery, {"scenario": quick, "subject": ["torch", "rally"]}, seeds=[2, 3])
again.mean(by="subject", measures=("held", "succeeded"))

# %% [markdown]
# No seed is needed to find these: torch breaks its promise each time. (The two that are left out simulate many store
# operations and take seconds a run; they break in the same way.)
#
# Now four of them slowly.
#
# ## A node joins, and the master address is wrong: `moved-rank-0`
#
# Two nodes train, a third one joins. torch ranks nodes by their names, and the new one sorts first: it becomes rank 0.

# %%
scenarios.moved_rank_0

# %%
theirs["moved-rank-0"]

# %% [markdown]
# In round 2 `node-b` and `node-c` tell their workers `MASTER_ADDR=node-b.sim`, as in round 1, and `node-a` tells its own
# `MASTER_ADDR=node-a.sim`. Nobody meets anybody. **In production** you see all ranks hang in `init_process_group` until
# its timeout (10 minutes or more by default; 2 here), then a restart, then the same again, until the budget is used up;
# and a log that blames the network.
#
# Why: torch's agents share their own store with the workers, unless `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1`. Who has learned
# its address in one round hands it out in all later ones; whoever gets rank 0 serves another store.
#
# With ours all members of a round learn the address from that round:

# %%
ours["moved-rank-0"]

# %%
print(theirs["moved-rank-0"].command)
print(ours["moved-rank-0"].command)

# %% [markdown]
# ## A clock that is 20 seconds ahead: `clock-skew`
#
# torch's heartbeats are times of the sender's wall clock. The reader compares them with its own, and what is older than
# 15 s is dead.

# %%
theirs["clock-skew"]

# %% [markdown]
# To `node-b`, whose clock is ahead, `node-a` was dead at once. It tells its worker that it is rank 1 of a world of **1**,
# while `node-a` counts two. (The simulated workers take what they are told; real ones would not come far. And in the
# picture `node-b` begins 20 s late: lanes are drawn by each node's own clock.)
#
# **In production** this is one node where the time service is not up after a reboot: ranks that do not add up in the logs,
# and a node that waits five minutes at the exit barrier for somebody who has left.
#
# How far may a clock be off? `sweep` tries. Its rows go into pandas:

# %%
grid = {"subject": ["torch", "rally"], "fault.0.offset_s": [-20.0, -14.0, -10.0, -5.0, 5.0, 10.0, 14.0, 20.0]}
skew = sweep("clock-skew", grid, seeds=1)
skew.to_pandas().pivot(index="fault.0.offset_s", columns="subject", values=["verdict", "result"])

# %% [markdown]
# Ahead by less than 15 s torch does well, and behind by some 10 s, too: a heartbeat comes every 5 s, and ages until the next
# one. Beyond that, look at the results as well as the verdicts: with a clock that is behind, `node-a` trains alone and
# `node-b` ends with an error after a minute. No promise of this list forbids it, and yet nobody wants it.
#
# Ours takes intervals on its own monotonic clock, and never compares two clocks:

# %%
ours["clock-skew"]

# %% [markdown]
# ## The job is nearly done, and a node joins: `late-joiner`

# %%
theirs["late-joiner"]

# %% [markdown]
# `node-a` has finished and waits at the exit barrier. `node-c` joins, `node-b` sees somebody waiting, stops its healthy
# workers and forms a new round with the newcomer, although the job only had to come to its end. `node-a` is not told and
# waits for 300 s.
#
# **In production**: an autoscaler adds a node at the wrong moment. All work since the last checkpoint is done again, and the
# job holds its nodes for minutes after its last step.
#
# Ours closes the door when the first member has succeeded. Who comes later is sent away, with exit code 0:

# %%
ours["late-joiner"]

# %% [markdown]
# ## Who waits at the barrier is taken for dead: `barrier-blocks-beat`

# %%
theirs["barrier-blocks-beat"]

# %% [markdown]
# The exit barrier of torch's agent is a call that blocks. While `node-a` waits in it, it sends no heartbeats, and after 15 s
# the others take it for dead. There is a spare, so the round is formed again without `node-a`: `node-b`'s healthy workers are
# restarted.
#
# **In production**: a job with spares whose ranks finish at different times, for instance because rank 0 still uploads
# something, restarts at its very end.

# %%
ours["barrier-blocks-beat"]

# %% [markdown]
# ## The agent's fault, or the rendezvous'?
#
# Our agent can run over torch's rendezvous, too. What is broken in that column is the rendezvous' doing, or follows from
# what it can't tell; what is not, was the agent's. (In *late-joiner* the pair breaks something else than torch alone: our agent doesn't
# restart finished work, and torch's rendezvous can't send the newcomer away.)

# %%
mixed = {name: simulate(scenarios.named(name), "rally-over-c10d", seed=1) for name in gallery}
table(
    {
        who: {name: promises(report) for name, report in reports.items()}
        for who, reports in {"torch": theirs, "our agent, torch's rendezvous": mixed, "ours": ours}.items()
    }
)

# %% [markdown]
# ## Where torch holds
#
# Most days are not like these. In the plain scenarios (no fault; a worker that crashes; a budget that is used up; mixed
# roles; 64 nodes), torch keeps all promises:

# %%
plain = {name: simulate(scenario, "torch", seed=1) for name, scenario in scenarios.PLAIN.items()}
table(
    {
        "what happens": {name: scenarios.named(name).about for name in plain},
        "torch": {name: promises(report) for name, report in plain.items()},
    }
)

# %% [markdown]
# ## Again, in a terminal
#
# Each row of this notebook is one line. The exit code is 1 where a promise was broken, so it works in CI.
#
# ```console
# rally sim --list
# rally sim moved-rank-0 --subject torch --seed 1
# rally sim store-stall --subject torch --seed 1 --verify
# ```
#
# What it shows there is what `print` shows here, a lane for each node:

# %%
print(theirs["store-stall"])

# %% [markdown]
# After 20 s in which the store said nothing, each node found all heartbeats too old and evicted everybody, itself included.
# So `node-c` meets nobody, trains alone, and both worlds write the same checkpoints.
#
# What is not in here: real NCCL, real kernels, real disks. A simulated collective hangs until its timeout when a peer is
# silent, and that is all that is known of it. What the agents do is theirs.
#
# Next: [scenarios, faults and promises of your own](05-write-your-own.ipynb).
