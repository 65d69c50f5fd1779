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
# # Simulate a cluster: 64 nodes, faults, branches, and back in time
#
# The agent in here is the one that runs your jobs, line for line. Only what surrounds it is simulated: time, the
# network, the store, processes. So an hour of a few nodes takes a second, nothing is random but by the seed, and you may
# break whatever you like.

# %%
from simulator import NodePlan, Scenario, Workload, faults
from toolkit import Simulation

# %% [markdown]
# ## A cluster of your own
#
# 64 nodes of 8 GPUs train 600 steps of half a second, in lockstep, and save a checkpoint every 100 steps. Two more
# nodes come a second later, as spares: `min_nodes` and `max_nodes` say that a round has 64.

# %%
cluster = Scenario(
    name="my-cluster",
    about="512 workers in lockstep on 64 nodes, two spares beside them",
    nodes=66,
    min_nodes=64,
    max_nodes=64,
    local_world_size=8,
    workload=Workload(steps=600, step_s=0.5, checkpoint_every=100),
    plans={name: NodePlan(spare=True, start_s=1.0) for name in ("node64", "node65")},
)
cluster

# %% [markdown]
# A `Simulation` stands still until it is told to move. It shows itself as a real job does, and the picture below moves
# with the cells that come.

# %%
sim = Simulation(cluster, seed=7)
sim

# %% [markdown]
# `step` goes on to the next thing that an agent says, or to the next few; what it says in one go is not torn apart:

# %%
sim.step(3)

# %% [markdown]
# `run` goes on to a moment of virtual time, or until something holds:

# %%
sim.run(until=lambda timeline: timeline.state == "running")
f"{sim.now_s:.2f} s: all 512 workers run"

# %%
sim.run(until=60)
sim.ranks().groupby("state").size()

# %% [markdown]
# ## Break it
#
# First a branch: a second cluster, which stands at exactly this moment and goes its own way. Then node 7 loses power in
# the one and not in the other. Nobody tells the agents.

# %%
undisturbed = sim.branch()
sim.inject(faults.CrashNode("node7"))
sim.step()

# %% [markdown]
# Four seconds later its counter has not moved, and the coordinator rings the bell. Where does some other node's agent
# stand in this very moment? Its process, what each of its tasks waits for, and where in the code:

# %%
sim.node("node3")

# %%
print(*str(sim.node("node3").stack()).splitlines()[:16], sep="\n")

# %% [markdown]
# On, until everybody trains again:

# %%
sim.run(until=lambda timeline: timeline.rounds == 2 and timeline.state == "running")
sim.run(until=sim.now_s + 4)
sim.timeline(by="nodes", lanes_max=12, between_s=(58, sim.now_s))

# %% [markdown]
# Node 7 is lost (☠), a spare has taken its rank, and the other ranks have stayed where they were. All had to start
# again from the last checkpoint. Noticing took the four seconds of the lease; the restart itself a tenth of a second, most
# of it until the workers of before were gone:

# %%
sim.restarts()[["node", "reason", "stop_s", "rendezvous_s", "start_s", "total_s"]].head(3)

# %% [markdown]
# ## What if?
#
# What if the store, where all nodes meet, had stalled for 20 seconds just when the loss was to be noticed? Go back to the
# moment before, and try. What came after it is gone, the crash as well: it is injected again, and then the stall.

# %%
sim.rewind(60)
sim.inject(faults.CrashNode("node7"))
sim.run(until=64.0)
sim.inject(faults.StallStore(for_s=20))
sim.run()
print(repr(sim))

# %% [markdown]
# The job succeeds all the same, as many seconds later as the store was silent; the picture of `sim`, further up, shows
# it. And the branch that nobody has disturbed?

# %%
undisturbed.run()
sim.compare(undisturbed)

# %% [markdown]
# ## Was everything as promised?
#
# A report holds the run against all promises of the agent and the rendezvous: no node works in two rounds at once, the
# budget is spent once for each failure, everybody ends, who failed first is one answer, ...

# %%
sim.report()

# %% [markdown]
# The same seed gives the same run, to the last bit, here and on any other machine. So a strange moment is not lost: it
# is a seed, and `rewind` goes there.

# %%
again = Simulation(cluster, seed=7)
again.run()
again.digest, undisturbed.digest

# %% [markdown]
# Next: [what breaks torch](04-what-breaks-torch.ipynb).

# %%
for each in (sim, undisturbed, again):
    each.close()
