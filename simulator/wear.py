"""Failures that come by themselves: a scenario with `mtbf_s` lets each node fail at times that its seed draws. Pure.

Times between failures are exponential, so that failures of a cluster are a Poisson process: Kokolis et al.
(arXiv:2410.21680) fit one rate per node-day to large ones. Schroeder and Gibson (DSN 2006) find Weibull distributions
with a shape of 0.7 to 0.8 on older machines, which this does not draw. Each node draws from labels of its own, so that
one node more moves the failures of none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from simulator.faults import CrashNode, Fault, KillWorker
from simulator.rng import Tape

if TYPE_CHECKING:
    from simulator.scenario import Scenario

#: what a failure of a node may be: it loses power, or one of its workers is killed
HITS = ("node", "worker")
#: failures of one run; with more of them nothing is trained anyway
FAILURES_MAX = 100_000


def problem(scenario: Scenario) -> str:
    """What is wrong with the fields of a scenario that speak of failures, and the remedy; empty if nothing is."""
    if scenario.mtbf_hits not in HITS:
        return f"lets {scenario.mtbf_hits!r} fail; mtbf_hits is {' or '.join(HITS)}"
    if scenario.repair_s is not None and not 0 <= scenario.repair_s < math.inf:
        return f"has repair_s {scenario.repair_s}; give seconds, or None for never"
    if scenario.mtbf_s is None:
        return ""
    if not scenario.mtbf_s > 0:
        return f"has mtbf_s {scenario.mtbf_s}; give more than 0 seconds, or None for no failures"
    expected = scenario.nodes * scenario.limit_s / scenario.mtbf_s
    if expected > FAILURES_MAX:
        return (
            f"would draw {expected:,.0f} failures before its limit_s, and {FAILURES_MAX:,} are the most; "
            "give a longer mtbf_s or a lower limit_s"
        )
    return ""


def drawn(scenario: Scenario, seed: int) -> tuple[Fault, ...]:
    """The failures of one run, in the order of their times; the same for the same scenario and seed.

    A node that is down does not fail: its next failure is drawn from when it is back. Nodes that wait as spares fail
    as others do.
    """
    if scenario.mtbf_s is None or math.isinf(scenario.mtbf_s):
        return ()
    tape = Tape(seed)
    found = [fault for name in scenario.node_names for fault in _failures_of(name, scenario, tape)]
    return tuple(sorted(found, key=lambda fault: fault.at_s))


def _failures_of(node: str, scenario: Scenario, tape: Tape) -> Iterator[Fault]:
    assert scenario.mtbf_s is not None, "without it nothing is drawn"
    at_s, workers = 0.0, scenario.workers_of(node)
    while True:
        # 1 - fraction is never 0. In milliseconds, and not at 0, which is how the world is from the start.
        waited_s = -scenario.mtbf_s * math.log(1 - tape.fraction(f"wear/{node}/after"))
        at_s = round(at_s + max(waited_s, 0.001), 3)
        if at_s > scenario.limit_s:
            return
        if scenario.mtbf_hits == "worker":
            yield KillWorker(node, at_s, local_rank=tape.draw(f"wear/{node}/rank", workers))
            continue
        yield CrashNode(node, at_s, reboot_after_s=scenario.repair_s)
        if scenario.repair_s is None:
            return
        at_s += scenario.repair_s
