"""The arithmetic of big runs: how often one fails, what that costs, and what a second of restart or a spare is worth.

Pure, with the published figures that it stands on. Times are in seconds unless a name says otherwise; a node is a
server of several GPUs, and a job stops when any of its nodes fails. Failures are a Poisson process of one rate.

    from simulator import planning

    mttf_s = planning.mttf_s(16_384, planning.RSC_1)
    planning.expected_ettr(mttf_s, planning.best_interval_s(mttf_s, checkpoint_s=30), checkpoint_s=30, restart_s=300)

Sources:

* Meta: Kokolis et al., "Revisiting Reliability in Large-Scale Machine Learning Research Clusters", HPCA 2025,
  arXiv:2410.21680. Two clusters of A100 GPUs over 11 months.
* Llama 3: Grattafiori et al., "The Llama 3 Herd of Models", arXiv:2407.21783, section 3.3.4. A snapshot of 54 days.
* Young, "A first order approximation to the optimum checkpoint interval", CACM 17 (1974).
* Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", FGCS 22 (2006).
* Barlow and Proschan, "Mathematical Theory of Reliability", 1965: systems of which k in n have to work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from toolkit.core.errors import ConfigurationError

HOUR_S, DAY_S = 3600.0, 86_400.0
GPUS_PER_NODE = 8

#: failures per node-day that Meta fitted to its clusters (arXiv:2410.21680): 6.50 and 2.34 per thousand node-days
RSC_1, RSC_2 = 6.50e-3, 2.34e-3


@dataclass(frozen=True, slots=True)
class Published:
    """A figure that somebody published, beside what this arithmetic gives.

    Args:
        what: it is.
        value: as published.
        unit: of it.
        kind: "measured" there, or "projected" there from a rate.
        ours: what the functions here give for it; None if they don't say.
        source: the paper.
    """

    what: str
    value: float
    unit: str
    kind: Literal["measured", "projected"]
    ours: float | None
    source: str


def published() -> tuple[Published, ...]:
    """The figures that this module can be held against.

    Meta measured an MTTF of 47.7 days for jobs of 8 GPUs and of 7.9 hours for jobs of 1,024, and projects 1.8 hours
    for 16,384 and 0.23 hours for 131,072 GPUs from its rate for RSC-1. The projections are `1 / (nodes * rate)`. The
    measured ones are not: for 1,024 GPUs the same formula gives 28.8 hours, 3.7 times as long as what was measured. So
    take `mttf_s` for what the rate of a fleet implies, and measure how often your own jobs stop, whatever stops them.
    """
    meta, llama = "arXiv:2410.21680", "arXiv:2407.21783"

    def hours(gpus: int) -> float:
        return mttf_s(gpus, RSC_1) / HOUR_S

    return (
        Published("MTTF of a job of 8 GPUs, RSC-1", 47.7 * 24, "h", "measured", hours(8), meta),
        Published("MTTF of a job of 1,024 GPUs, RSC-1", 7.9, "h", "measured", hours(1024), meta),
        Published("MTTF of a job of 16,384 GPUs, RSC-1", 1.8, "h", "projected", hours(16_384), meta),
        Published("MTTF of a job of 131,072 GPUs, RSC-1", 0.23, "h", "projected", hours(131_072), meta),
        Published("interruptions of Llama 3 405B", LLAMA_3.interruptions, "", "measured", None, llama),
        Published("of these unexpected", LLAMA_3.unexpected, "", "measured", None, llama),
        Published("effective training time of Llama 3 405B, at least", 0.90, "", "measured", None, llama),
    )


@dataclass(frozen=True, slots=True)
class Observed:
    """A run that somebody told of.

    Args:
        gpus: of the job.
        days: it was watched.
        interruptions: all of them.
        unexpected: those that nobody had planned.
        gpus_per_node: of its servers.
    """

    gpus: int
    days: float
    interruptions: int
    unexpected: int
    gpus_per_node: int = GPUS_PER_NODE

    @property
    def mttf_s(self) -> float:
        """Mean time between unexpected interruptions, in seconds."""
        return self.days * DAY_S / self.unexpected

    @property
    def per_node_day(self) -> float:
        """Unexpected interruptions per node-day, to be compared with `RSC_1`."""
        return self.unexpected / (self.days * self.gpus / self.gpus_per_node)


#: a snapshot of the pre-training of Llama 3 405B: an unexpected interruption each 3.1 h, 3.8 per thousand node-days
LLAMA_3 = Observed(gpus=16_384, days=54, interruptions=466, unexpected=419)


# -- how often ------------------------------------------------------------------------------------------------


def mttf_s(gpus: int, per_node_day: float, gpus_per_node: int = GPUS_PER_NODE) -> float:
    """Mean time to failure of a job, in seconds: one over nodes times rate.

    Meta's projection (arXiv:2410.21680): 16,384 GPUs at 6.50 failures per thousand node-days give 1.8 hours.

    Args:
        gpus: of the job; a node that is used in part counts as one.
        per_node_day: failures of one node in a day, such as `RSC_1`.
        gpus_per_node: of a server.
    """
    _positive(gpus=gpus, per_node_day=per_node_day, gpus_per_node=gpus_per_node)
    return DAY_S / (math.ceil(gpus / gpus_per_node) * per_node_day)


def mtbf_of_node_s(per_node_day: float) -> float:
    """Mean time between failures of one node, in seconds: what a scenario calls `mtbf_s`."""
    _positive(per_node_day=per_node_day)
    return DAY_S / per_node_day


def failures(duration_s: float, mttf: float) -> float:
    """Failures to expect in a time, both in seconds."""
    _positive(duration_s=duration_s, mttf=mttf)
    return duration_s / mttf


# -- what it costs --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Restart:
    """What a restart is made of, in seconds, from the failure to the first step after it.

    Args:
        detect_s: until somebody knows of it: the lease for a lost node, nothing for a worker that ended.
        stop_s: until no worker of before is left.
        rendezvous_s: until the group has formed again; with the back-off, if there is one.
        start_s: until the new workers are at user code.
        load_s: until they have read the checkpoint, compiled and warmed up.
    """

    detect_s: float = 0.0
    stop_s: float = 0.0
    rendezvous_s: float = 0.0
    start_s: float = 0.0
    load_s: float = 0.0

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.detect_s + self.stop_s + self.rendezvous_s + self.start_s + self.load_s


def best_interval_s(mttf: float, checkpoint_s: float, *, order: Literal["young", "daly"] = "young") -> float:
    """How much to train between two checkpoints so that the least is lost, in seconds.

    Young's `sqrt(2 * checkpoint_s * mttf)`; Daly's estimate of higher order is better where a checkpoint takes a
    noticeable share of the time between failures.

    Args:
        mttf: mean time between failures of the job, in seconds.
        checkpoint_s: that training stands still to save one; more than 0.
        order: whose formula.
    """
    _positive(mttf=mttf, checkpoint_s=checkpoint_s)
    young_s = math.sqrt(2 * checkpoint_s * mttf)
    if order == "young":
        return young_s
    if checkpoint_s >= 2 * mttf:
        return mttf
    ratio = math.sqrt(checkpoint_s / (2 * mttf))
    return young_s * (1 + ratio / 3 + ratio * ratio / 9) - checkpoint_s


def expected_ettr(mttf: float, interval_s: float, checkpoint_s: float = 0.0, restart_s: float = 0.0) -> float:
    """Effective training time ratio to expect, from 0 to 1: useful training by the time that it takes.

    Daly's complete model (2006): with M the mean time between failures, t the training between two
    checkpoints, d a checkpoint and R a restart, a useful second takes `M e^(R/M) (e^((t+d)/M) - 1) / t` seconds.
    Failures strike while checkpoints are saved and while the job restarts, too. For R and t much shorter than M it is
    `1 - d/t - (t/2 + R) / M`, near the estimate that Meta gives (arXiv:2410.21680). Queueing is not in it.

    Args:
        mttf: mean time between failures of the job, in seconds.
        interval_s: training between two checkpoints.
        checkpoint_s: that training stands still to save one.
        restart_s: from a failure to the first step after it, as `Restart.total_s`.
    """
    _positive(mttf=mttf, interval_s=interval_s)
    _not_negative(checkpoint_s=checkpoint_s, restart_s=restart_s)
    exponent = (restart_s + interval_s + checkpoint_s) / mttf
    if exponent > 500:
        return 0.0  # it never gets anywhere
    return interval_s / (mttf * math.exp(restart_s / mttf) * math.expm1((interval_s + checkpoint_s) / mttf))


def restart_budget_s(ettr: float, mttf: float, interval_s: float, checkpoint_s: float = 0.0) -> float:
    """How long a restart may take for this ratio to be reached, in seconds: `expected_ettr` solved for the restart.

    Negative if it can't be reached even with restarts that take no time.
    """
    if not 0 < ettr <= 1:
        raise ConfigurationError(f"ettr is {ettr}; give a share above 0, and at most 1")
    _positive(mttf=mttf, interval_s=interval_s)
    _not_negative(checkpoint_s=checkpoint_s)
    return mttf * math.log(interval_s / (ettr * mttf * math.expm1((interval_s + checkpoint_s) / mttf)))


def worth_of_restart_second(gpus: int, duration_s: float, mttf: float) -> float:
    """GPU hours that a run wins with each second by which its restarts get shorter.

    Each failure keeps all GPUs waiting for that second. Llama 3's snapshot: 419 failures of 16,384 GPUs make each
    second of a restart 1,907 GPU hours.

    Args:
        gpus: of the job.
        duration_s: of the run.
        mttf: mean time between failures of the job, in seconds.
    """
    _positive(gpus=gpus)
    return failures(duration_s, mttf) * gpus / HOUR_S


# -- spares ---------------------------------------------------------------------------------------------------


def availability(nodes: int, spares: int, mtbf_s: float, repair_s: float) -> float:
    """Share of the time in which enough nodes are there to train, from 0 to 1.

    `nodes` of `nodes + spares` have to work. Each is down for a share `repair / (mtbf + repair)` of the time,
    independently of the others, so the number of those that are down is binomial (Barlow and Proschan 1965: k out of n
    with separate repair). That holds for repair times of any distribution, and for as many repairs at a time as there
    are nodes down. Spares that wait fail as others do.

    Args:
        nodes: that the job needs.
        spares: beyond these.
        mtbf_s: mean time between failures of one node, in seconds.
        repair_s: until a node that failed is back.
    """
    _positive(nodes=nodes, mtbf_s=mtbf_s)
    _not_negative(spares=spares, repair_s=repair_s)
    down = repair_s / (mtbf_s + repair_s)
    return min(1.0, math.fsum(_binomial(nodes + spares, down, spares)))


def _binomial(n: int, share: float, most: int) -> Iterator[float]:
    """The probabilities of 0 to `most` of `n`; in logarithms, since n may be thousands."""
    if share == 0:
        yield 1.0
        return
    for k in range(most + 1):
        ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        yield math.exp(ways + k * math.log(share) + (n - k) * math.log1p(-share))


def ettr_with_spares(
    nodes: int,
    spares: int,
    mtbf_s: float,
    repair_s: float,
    *,
    interval_s: float,
    checkpoint_s: float = 0.0,
    restart_s: float = 0.0,
) -> float:
    """Effective training time ratio of a job that takes a spare for a node that it lost, and waits if there is none.

    The share of the time in which enough nodes are there, times the ratio with restarts that find a node. A first-order
    product: what a wait leaves of an interval is counted once, as a restart.

    Args:
        nodes: that the job needs.
        spares: that wait beside it.
        mtbf_s: mean time between failures of one node, in seconds.
        repair_s: until a node that failed is back.
        interval_s: training between two checkpoints.
        checkpoint_s: that training stands still to save one.
        restart_s: from a failure to the first step after it, with a spare at hand.
    """
    there = availability(nodes, spares, mtbf_s, repair_s)
    return there * expected_ettr(mtbf_s / nodes, interval_s, checkpoint_s, restart_s)


@dataclass(frozen=True, slots=True)
class SpareWorth:
    """What one more spare is worth.

    Args:
        spares: with it.
        ettr: with it.
        gained_gpu_hours: useful GPU hours that it adds to the run.
        cost_gpu_hours: its own GPUs, which wait.
    """

    spares: int
    ettr: float
    gained_gpu_hours: float
    cost_gpu_hours: float

    @property
    def pays(self) -> bool:
        """Whether it adds more than it costs."""
        return self.gained_gpu_hours > self.cost_gpu_hours


def worth_of_spares(
    nodes: int,
    spares_max: int,
    mtbf_s: float,
    repair_s: float,
    duration_s: float,
    *,
    interval_s: float,
    checkpoint_s: float = 0.0,
    restart_s: float = 0.0,
    gpus_per_node: int = GPUS_PER_NODE,
) -> list[SpareWorth]:
    """What each spare adds to a run, from the first one on; arguments as of `ettr_with_spares`.

    Args:
        spares_max: how many to look at.
        duration_s: of the run.
        gpus_per_node: of a server.
    """
    _positive(duration_s=duration_s, gpus_per_node=gpus_per_node)
    ratios = [
        ettr_with_spares(
            nodes,
            spares,
            mtbf_s,
            repair_s,
            interval_s=interval_s,
            checkpoint_s=checkpoint_s,
            restart_s=restart_s,
        )
        for spares in range(spares_max + 1)
    ]
    of_node = gpus_per_node * duration_s / HOUR_S
    return [
        SpareWorth(spares, ratios[spares], (ratios[spares] - ratios[spares - 1]) * nodes * of_node, of_node)
        for spares in range(1, spares_max + 1)
    ]


def spares_that_pay(worth: list[SpareWorth]) -> int:
    """How many spares there should be: up to the last one that adds more than it costs."""
    return max((spare.spares for spare in worth if spare.pays), default=0)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ConfigurationError(f"{name} is {value}; give a number above 0")


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ConfigurationError(f"{name} is {value}; give 0 or more")
