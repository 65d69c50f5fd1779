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
# # Plan a big run: what restarts, checkpoints and spares are worth
#
# Some thousand GPUs fail several times a day. How much of the time do they train? How often should one save? What is it worth
# to restart a minute sooner, and does a spare node pay? That is arithmetic with a few published figures. This notebook does
# it with `simulator.planning`, and then asks the simulator whether the formulas are right.

# %%
import statistics
from dataclasses import replace

import pandas

import toolkit  # from here on, plots show themselves
from simulator import Scenario, Workload, planning, sweep
from toolkit.views.plot import Plot, Point, Series

HOUR = 3600.0


def table(rows, columns, **formats):
    """Rows with a format for each column, as `"{:,.0f}"`."""
    return pandas.DataFrame(rows, columns=columns).style.format(formats, na_rep="").hide(axis="index")


# %% [markdown]
# ## What others have measured, and what they projected
#
# A figure was **measured**, or it was **projected** from a rate. `ours` is what the arithmetic here gives for it.

# %%
table(
    [(row.what, row.value, row.unit, row.kind, row.ours, row.source) for row in planning.published()],
    ["what", "value", "unit", "kind", "ours", "source"],
    value="{:,.4g}",
    ours="{:,.4g}",
)

# %% [markdown]
# The projections come out: 1.8 hours for 16,384 GPUs is one over nodes times rate. The measured figures do not. For jobs of
# 1,024 GPUs Meta *measured* 7.9 hours where the rate of the fleet gives 28.8. So a rate per node is a hint, and what stops
# your own jobs has to be counted, whatever it was.
#
# Llama 3 was counted. In 54 days 16,384 GPUs were interrupted 466 times, and 419 of these nobody had planned:

# %%
llama = planning.LLAMA_3
pandas.Series(
    {
        "hours between unexpected interruptions": llama.mttf_s / HOUR,
        "of these per thousand node-days": 1000 * llama.per_node_day,
        "for comparison, Meta's RSC-1": 1000 * planning.RSC_1,
        "and RSC-2": 1000 * planning.RSC_2,
    }
).round(2)

# %% [markdown]
# How long does a job of N GPUs run until it fails?

# %%
rates = {"RSC-1": planning.RSC_1, "Llama 3": llama.per_node_day, "RSC-2": planning.RSC_2}
sizes = [256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072]

Plot(
    title="Mean time to failure of a job",
    about="projected from rates per node; the dots are what was measured for jobs of that size",
    x_label="GPUs",
    y_label="hours",
    series=(
        *(
            Series(name, tuple(Point(gpus, planning.mttf_s(gpus, rate) / HOUR) for gpus in sizes))
            for name, rate in rates.items()
        ),
        Series("measured: RSC-1, 1,024", (Point(1024, 7.9),)),
        Series("measured: Llama 3", (Point(llama.gpus, llama.mttf_s / HOUR),)),
    ),
    x_log=True,
    y_log=True,
)

# %% [markdown]
# ## How often to save
#
# Saving often costs time, saving seldom costs work. With a checkpoint that stops training for `checkpoint_s` and a failure
# every `mttf_s`, Young's interval is `sqrt(2 * checkpoint_s * mttf_s)`. For a run like Llama 3's:

# %%
mttf_s = llama.mttf_s
restart_s = 300.0
rows = []
for checkpoint_s in (1, 5, 30, 60, 300):
    interval_s = planning.best_interval_s(mttf_s, checkpoint_s)
    ettr = planning.expected_ettr(mttf_s, interval_s, checkpoint_s, restart_s)
    hourly = planning.expected_ettr(mttf_s, HOUR, checkpoint_s, restart_s)
    rows.append((checkpoint_s, interval_s / 60, ettr, hourly))
columns = ["checkpoint (s)", "best interval (min)", "ETTR with that", "ETTR if saved hourly"]
table(rows, columns, **dict(zip(columns[1:], ["{:.1f}", "{:.3f}", "{:.3f}"], strict=True)))

# %% [markdown]
# *ETTR*, the effective training time ratio, is useful training by the time that it took: Daly's model, with failures that
# also strike during checkpoints and restarts. The restarts here take five minutes each, from the failure to the first step
# after it. (Llama 3's paper tells of more than 90 %, and not how long its checkpoints and restarts took.) The optimum is flat:
# a factor of two to either side costs little, a factor of ten a lot.

# %%
minutes = [1, 2, 3, 5, 8, 12, 20, 30, 45, 60, 90, 120]
Plot(
    title="ETTR by the interval between checkpoints",
    about="16,384 GPUs, a failure every 3.1 h, restarts of 5 min",
    x_label="minutes between checkpoints",
    y_label="ETTR",
    series=tuple(
        Series(
            f"checkpoint of {checkpoint_s} s",
            tuple(
                Point(m, planning.expected_ettr(mttf_s, m * 60.0, checkpoint_s, restart_s)) for m in minutes
            ),
        )
        for checkpoint_s in (5, 30, 60)
    ),
    x_log=True,
)

# %% [markdown]
# ## What a second is worth
#
# Each failure keeps all GPUs waiting for as long as the restart takes. Over a run like this one, a restart that is a second
# shorter wins this many GPU hours:

# %%
duration_s = llama.days * planning.DAY_S
second = planning.worth_of_restart_second(llama.gpus, duration_s, mttf_s)
f"{second:,.0f} GPU hours"

# %% [markdown]
# So look at where the seconds are. A restart has five phases. In the first row below is a job whose peers hang in a collective
# until its timeout (10 minutes) before anybody knows that a node is lost; in the second a lease of 20 s says so; in the
# third the workers load their checkpoint from a peer's memory, too.

# %%
restarts = {
    "collective timeout finds it": planning.Restart(
        detect_s=600, stop_s=30, rendezvous_s=30, start_s=60, load_s=120
    ),
    "a lease finds it": planning.Restart(detect_s=20, stop_s=5, rendezvous_s=2, start_s=60, load_s=120),
    "and the checkpoint is near": planning.Restart(
        detect_s=20, stop_s=5, rendezvous_s=2, start_s=60, load_s=15
    ),
}
interval_s = planning.best_interval_s(mttf_s, 30)
whole = llama.gpus * duration_s / HOUR
rows = []
for name, restart in restarts.items():
    ettr = planning.expected_ettr(mttf_s, interval_s, 30, restart.total_s)
    rows.append((name, restart.total_s, ettr, (1 - ettr) * whole / 1e6))
columns = ["restart", "seconds", "ETTR", "million GPU hours without progress"]
table(rows, columns, **dict(zip(columns[1:], ["{:.0f}", "{:.3f}", "{:.2f}"], strict=True)))

# %% [markdown]
# (The seconds are an example; put in yours. `rally show` tells what each phase of your restarts took.) And turned around:
# how long may a restart take, if 95 % of the time shall be training?

# %%
budgets = {}
for gpus in (1024, 4096, 16_384, 65_536):
    mttf = planning.mttf_s(gpus, llama.per_node_day)
    for checkpoint_s in (5, 30):
        interval = planning.best_interval_s(mttf, checkpoint_s)
        seconds = planning.restart_budget_s(0.95, mttf, interval, checkpoint_s)
        budgets[gpus, f"checkpoint of {checkpoint_s} s"] = (
            f"{seconds:,.0f} s" if seconds > 0 else "out of reach"
        )
pandas.Series(budgets).unstack().rename_axis("GPUs")

# %% [markdown]
# ## What a spare is worth
#
# Without a spare the job stands still until the node that failed is repaired. With one it goes on after a restart. The nodes
# that are down at one time are binomial, so a few spares go a long way. 2,048 nodes, and a repair that takes two hours:

# %%
node_mtbf_s = planning.mtbf_of_node_s(llama.per_node_day)
job = {
    "interval_s": interval_s,
    "checkpoint_s": 30,
    "restart_s": restarts["a lease finds it"].total_s,
}
worth = planning.worth_of_spares(2048, 10, node_mtbf_s, 2 * HOUR, duration_s, **job)
none = planning.ettr_with_spares(2048, 0, node_mtbf_s, 2 * HOUR, **job)
print(f"ETTR without a spare: {none:.3f}")
columns = ["spares", "ETTR", "adds (GPU hours)", "costs (GPU hours)", "pays"]
table(
    [(each.spares, each.ettr, each.gained_gpu_hours, each.cost_gpu_hours, each.pays) for each in worth],
    columns,
    **dict(zip(columns[1:4], ["{:.3f}", "{:,.0f}", "{:,.0f}"], strict=True)),
)

# %%
f"{planning.spares_that_pay(worth)} spares pay for themselves"

# %%
Plot(
    title="ETTR by the number of spares",
    about="2,048 nodes at Llama 3's rate of failures",
    x_label="spares",
    y_label="ETTR",
    series=tuple(
        Series(
            f"repair takes {hours} h",
            tuple(
                Point(n, planning.ettr_with_spares(2048, n, node_mtbf_s, hours * HOUR, **job))
                for n in range(13)
            ),
        )
        for hours in (1, 2, 8)
    ),
    x_log=False,
)

# %% [markdown]
# ## Is the formula right?
#
# The formulas leave out much: leases, rendezvous, nodes that come back in the middle of something. The simulator has all of
# that, with the agent that really runs. 2,048 nodes over 54 days are too much for it; four nodes that fail far more often
# are not. What counts is the ratio of the times to each other.

# %%
small = Scenario(
    name="four-nodes",
    nodes=5,
    min_nodes=4,
    max_nodes=4,
    store_apart=True,
    max_restarts=1000,
    workload=Workload(steps=360, step_s=10, checkpoint_every=18, checkpoint_s=5, start_s=30),
    repair_s=300,
    limit_s=40_000,
    rdzv_conf={"beat": "5", "lease": "20"},
)


def cluster(spares):
    return replace(small, nodes=4 + spares)


mtbfs_s = [3600, 7200, 14_400, 28_800]
measured = sweep(cluster, {"mtbf_s": mtbfs_s, "spares": [0, 1]}, seeds=6)
means = measured.mean(measures=("ettr", "mttr_s", "restarts"))
means

# %% [markdown]
# The formula needs to know how long a restart takes, and the simulator measured it: `mttr_s`, with a spare at hand.

# %%
with_spare = [means.at(mtbf_s=mtbf_s, spares=1).estimates["mttr_s"].mean for mtbf_s in mtbfs_s]
measured_s = statistics.median(with_spare)
rows = []
for mtbf_s in mtbfs_s:
    for spares in (0, 1):
        ettr = means.at(mtbf_s=mtbf_s, spares=spares).estimates["ettr"]
        foretold = planning.ettr_with_spares(
            4, spares, mtbf_s, 300, interval_s=180, checkpoint_s=5, restart_s=measured_s
        )
        rows.append((mtbf_s, spares, foretold, ettr.mean, ettr.low, ettr.high))
both = pandas.DataFrame(
    rows, columns=["node fails every (s)", "spares", "formula", "simulated", "low", "high"]
)
both.style.format(dict.fromkeys(["formula", "simulated", "low", "high"], "{:.3f}")).hide(axis="index")

# %%
lines = []
for spares, rows in both.groupby("spares"):
    points = [
        Point(m, s, low, high) for m, s, low, high in rows.iloc[:, [0, 3, 4, 5]].itertuples(index=False)
    ]
    formula = [Point(m, f) for m, f in rows.iloc[:, [0, 2]].itertuples(index=False)]
    who = "one spare" if spares else "no spare"
    lines += [Series(f"simulated, {who}", tuple(points)), Series(f"formula, {who}", tuple(formula))]
Plot(
    title="The formula and the simulator",
    about="four nodes, an hour of training; bands: 95 % confidence of 6 runs",
    x_label="mean time between failures of a node (s)",
    y_label="ETTR",
    series=tuple(lines),
    x_log=True,
)

# %% [markdown]
# The formula stays within the simulator's uncertainty, and below its middle where nodes fail most often: with a failure each
# 15 minutes and repairs of five it still lets nodes fail while the job stands still. Big runs are not there: with a spare at
# hand and restarts that are short beside the time between failures, both say the same.
#
# What neither knows: queues, bad nodes that come back and fail again, stragglers, failures that come in groups (a rack, a
# switch, a bad release), and errors in your own code, which look just like these in the count. For groups,
# [write a fault of your own](05-write-your-own.ipynb) and let `sweep` tell.
