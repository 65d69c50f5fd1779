"""Looks for broken promises: many seeds, each a small cluster and a fault script of its own; and a fault at each step.

No single searcher finds all. The **swarm** draws everything from the seed: 2 to 7 nodes, bounds, sizes, start times,
workload, and faults of families of which half are left out (`nemesis.py`). The others (`ANYWHERE`) take one small
cluster and strike each node at each of the store operations of its agent, one run for each: it loses power, or comes
back soon after, or is stopped for longer than its lease, so that two coordinators overlap.

`python -m simulator.explore` runs them over processes, and says for each kind of finding which run shows it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TextIO

from simulator.faults import CrashAtOperation, DropAtOperation, Fault, PauseAtOperation
from simulator.nemesis import Options, schedule
from simulator.report import Report, simulate
from simulator.rng import Tape
from simulator.scenario import NodePlan, Scenario
from simulator.workloads import Fail, Workload
from toolkit.core.errors import ConfigurationError

#: runs that one process does before it reports
_BATCH = 20
#: how often progress is told where there is no terminal, in seconds
_TELL_EVERY_S = 60.0


def swarm(seed: int) -> Scenario:
    """The scenario of one seed: a cluster of 2 to 7 nodes, its job and its faults."""
    tape = Tape(seed)

    def draw(what: str, low: int, high: int) -> int:
        return low + tape.draw(f"swarm/{what}", high - low + 1)

    nodes = draw("nodes", 2, 7)
    high = draw("max", max(1, nodes - 1), nodes)
    low = draw("min", 1, high)
    names = tuple(f"node{index}" for index in range(nodes))
    steps = draw("steps", 5, 120)
    workload = Workload(
        steps=steps,
        step_s=(0.2, 1.0, 3.0)[draw("step", 0, 2)],
        checkpoint_every=draw("checkpoint", 1, 20),
        start_s=(0.1, 2.0)[draw("start", 0, 1)],
        collective=bool(draw("collective", 0, 3)),
        collective_timeout_s=(30.0, 600.0)[draw("timeout", 0, 1)],
        term_s=(0.1, 3.0, None)[draw("term", 0, 2)],
        spread_s=(0.0, 0.0, 4.0)[draw("spread", 0, 2)],
        failures=(Fail(rank=draw("fails", 0, low - 1), at_step=steps // 2),)
        if draw("fail", 0, 2) == 0
        else (),
    )
    plans = {
        name: NodePlan(
            start_s=(0.0, tape.fraction(f"swarm/{name}/start"), 60 * tape.fraction(f"swarm/{name}/late"))[
                draw(f"{name}/when", 0, 2) if name != names[0] else 0
            ],
            local_world_size=draw(f"{name}/workers", 1, 2),
        )
        for name in names
    }
    cluster = Scenario(
        name=f"swarm-{seed}",
        about="a cluster, a job and faults that were drawn from the seed",
        source="swarm",
        nodes=nodes,
        names=names,
        min_nodes=low,
        max_nodes=high,
        max_restarts=draw("restarts", 0, 4),
        workload=workload,
        plans=plans,
        rdzv_conf={"last_call_timeout": "5"} if draw("last call", 0, 1) else {},
        store_apart=bool(draw("store apart", 0, 1)),
        quiet_by_s=2400.0,
        limit_s=3600.0,
    )
    return replace(cluster, faults=schedule(tape, cluster, Options(until_s=150.0)))


#: three nodes of which two are enough: a worker fails, so that there are two rounds to strike in
SMALL = Scenario(
    name="small",
    about="one of three nodes is struck at one of its store operations",
    source="swarm",
    nodes=3,
    names=("node0", "node1", "node2"),
    min_nodes=2,
    workload=Workload(steps=12, start_s=0.5, failures=(Fail(rank=1, at_step=6),), collective_timeout_s=60),
    rdzv_conf={"last_call_timeout": "5"},
    store_apart=True,
    quiet_by_s=1200.0,
)
_HOSTED = replace(SMALL, store_apart=False)


@dataclass(frozen=True, slots=True)
class Anywhere:
    """A fault for each store operation of each node.

    Args:
        cluster: that it strikes.
        fault: of a node and the number of its operation.
    """

    cluster: Scenario
    fault: Callable[[str, int], Fault]

    def strikes(self, name: str, nodes: Sequence[str] = SMALL.node_names) -> Iterator[Scenario]:
        """All of them, each a scenario of its own."""
        for node in nodes:
            for number in range(1, _operations(self.cluster, node) + 1):
                yield self.strike(name, node, number)

    def strike(self, name: str, node: str, number: int) -> Scenario:
        """One of them."""
        return replace(self.cluster, name=f"{name}-{node}-{number}", faults=(self.fault(node, number),))


ANYWHERE: Mapping[str, Anywhere] = {
    "crash": Anywhere(SMALL, lambda node, n: CrashAtOperation(node, number=n)),
    "reboot": Anywhere(SMALL, lambda node, n: CrashAtOperation(node, number=n, back_after_s=8)),
    "overlap": Anywhere(SMALL, lambda node, n: PauseAtOperation(node, number=n, for_s=5)),
    "pause": Anywhere(SMALL, lambda node, n: PauseAtOperation(node, number=n, for_s=12)),
    "lost-request": Anywhere(SMALL, lambda node, n: DropAtOperation(node, number=n, answer_lost=False)),
    "lost-answer": Anywhere(SMALL, lambda node, n: DropAtOperation(node, number=n, answer_lost=True)),
    "hosted-crash": Anywhere(_HOSTED, lambda node, n: CrashAtOperation(node, number=n)),
    "hosted-pause": Anywhere(_HOSTED, lambda node, n: PauseAtOperation(node, number=n, for_s=12)),
}


def anywhere(kind: str) -> Iterator[Scenario]:
    """The scenarios of one entry of `ANYWHERE`."""
    return ANYWHERE[kind].strikes(kind)


def named(name: str) -> Scenario:
    """One of these scenarios by its name, as "crash-node0-17".

    Raises:
        ConfigurationError: there is none of that form.
    """
    kind, node, number = ([*name.rsplit("-", 2), "", ""])[:3]
    if kind not in ANYWHERE or node not in SMALL.node_names or not number.isdecimal():
        raise ConfigurationError(
            f"there is no run {name!r}; give one of {', '.join(ANYWHERE)}, then a node and the number of its store "
            "operation: crash-node0-17"
        )
    return ANYWHERE[kind].strike(kind, node, int(number))


def _operations(cluster: Scenario, node: str) -> int:
    """How many store operations the agent of a node does when nothing strikes."""
    from simulator.simulation import ScenarioRun
    from simulator.subjects import subject_named

    simulation = ScenarioRun(cluster, subject_named("rally"), seed=1)
    simulation.run()
    done = simulation.agents[node].operations
    simulation.close()
    return done


@dataclass(frozen=True, slots=True)
class Found:
    """A run that did not hold.

    Args:
        name: of the scenario.
        seed: of the run.
        kinds: what broke, each without its numbers and names, so that equal kinds can be counted.
        detail: the first of them in words.
    """

    name: str
    seed: int
    kinds: tuple[str, ...]
    detail: str


def judged(scenario: Scenario, seed: int, subject: str = "rally") -> Found | None:
    """Run one. None if all promises held or are excused."""
    report = simulate(scenario, subject, seed)
    endless = any(found.broken.promise == "everyone-ends" for found in report.excused)
    # What can't be judged, because a full disk took the events, broke nothing that is known.
    if not report.broken and (not report.finding or endless):
        return None
    return Found(scenario.name, seed, tuple(dict.fromkeys(_kinds(report))), _detail(report))


def _kinds(report: Report) -> Iterator[str]:
    for broken in report.broken:
        yield f"{broken.promise}: {_without_numbers(broken.detail)}"
    if report.finding:
        yield f"finding: {_without_numbers(report.finding)}"


def _detail(report: Report) -> str:
    return f"{report.broken[0].promise}: {report.broken[0].detail}" if report.broken else report.finding


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+([.,]\d+)*", "N", re.sub(r"\bnode\d\S*", "NODE", text))[:160]


def _judge_seeds(seeds: Sequence[int]) -> list[Found]:
    found = [judged(swarm(seed), seed) for seed in seeds]
    return [finding for finding in found if finding is not None]


def _judge_named(name: str) -> list[Found]:
    finding = judged(named(name), 1)
    return [] if finding is None else [finding]


def explore(seeds: range, jobs: int, out: TextIO) -> list[Found]:
    """Judge the swarm of each seed, over `jobs` processes. Tells of its progress on a terminal."""
    batches = [seeds[at : at + _BATCH] for at in range(0, len(seeds), _BATCH)]
    return _over(_judge_seeds, batches, [len(batch) for batch in batches], jobs, out)


def explore_anywhere(kinds: Iterable[str], jobs: int, out: TextIO) -> list[Found]:
    """Judge a fault of each of these kinds at each store operation of each node."""
    # By name: lambdas don't go to another process.
    names = [scenario.name for kind in kinds for scenario in anywhere(kind)]
    return _over(_judge_named, names, [1] * len(names), jobs, out)


def _over(
    judge: Callable[[Any], list[Found]], work: Sequence[Any], sizes: Sequence[int], jobs: int, out: TextIO
) -> list[Found]:
    found: list[Found] = []
    progress = _Progress(sum(sizes), out)
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for size, findings in zip(sizes, pool.imap(judge, work), strict=True):
            found += findings
            progress.add(size, findings)
    progress.end()
    return found


class _Progress:
    """One line on a terminal, which is written anew; elsewhere a line a minute. Findings have a line each at once.

    Args:
        runs: in all.
        out: where it is written.
    """

    def __init__(self, runs: int, out: TextIO) -> None:
        self._runs, self._out = runs, out
        self._done = self._found = 0
        self._started = self._told = time.perf_counter()

    def add(self, runs: int, found: Sequence[Found]) -> None:
        """So many more are done, of which these did not hold."""
        self._done += runs
        self._found += len(found)
        start = "\r" if self._out.isatty() else ""
        for finding in found:
            # At once: who breaks a long search off must not lose them.
            self._out.write(f"{start}{finding.name} did not hold: {again(finding)}\n")
        if found:
            self._out.flush()
        if self._out.isatty():
            self._out.write(f"\r{self._words()}")
            self._out.flush()
        elif time.perf_counter() - self._told >= _TELL_EVERY_S:
            self._told = time.perf_counter()
            self._out.write(f"{self._words()}\n")
            self._out.flush()

    def end(self) -> None:
        """All are done."""
        took_s = time.perf_counter() - self._started
        start = "\r" if self._out.isatty() else ""
        rate = self._done / max(took_s, 1e-9)
        self._out.write(f"{start}{self._done:,} runs in {took_s:.0f} s, {rate:.0f} a second; ")
        self._out.write(f"{self._found} did not hold\n")
        self._out.flush()

    def _words(self) -> str:
        rate = self._done / max(time.perf_counter() - self._started, 1e-9)
        return f"{self._done:,} of {self._runs:,} runs, {rate:.0f} a second, {self._found} did not hold"


def summary(found: Iterable[Found]) -> Iterator[str]:
    """A line for each kind of finding, the most frequent first, with a seed that shows it."""
    found = list(found)
    counts = Counter(kind for finding in found for kind in finding.kinds)
    for kind, count in counts.most_common():
        shown = next(finding for finding in found if kind in finding.kinds)
        yield f"{count:5}  {kind}\n       for instance {shown.name}: {again(shown)}"


def again(found: Found) -> str:
    """The command that runs it again and prints its report."""
    which = f"--seed {found.seed}" if found.name.startswith("swarm-") else f"--run {found.name}"
    return f"python -m simulator.explore {which}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0 if all held, 1 if something did not, 2 for bad usage."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.seed is not None:
        return _show(simulate(swarm(args.seed), "rally", args.seed))
    if args.run is not None:
        try:
            return _show(simulate(named(args.run), "rally", 1))
        except ConfigurationError as error:
            parser.error(str(error))
    found = explore(range(args.first, args.first + args.seeds), args.jobs, sys.stdout)
    if not args.swarm_only:
        found += explore_anywhere(ANYWHERE, args.jobs, sys.stdout)
    sys.stdout.writelines(f"{line}\n" for line in summary(found))
    return 1 if found else 0


def _parser() -> argparse.ArgumentParser:
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(prog="python -m simulator.explore", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1000, help="how many swarms (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--jobs", type=int, default=cores, help="processes (default: all cores)")
    parser.add_argument(
        "--swarm-only", action="store_true", help="leave out the fault at each store operation"
    )
    parser.add_argument("--seed", type=int, help="run one swarm and print its report")
    parser.add_argument("--run", metavar="KIND-NODE-NUMBER", help="run one fault and print its report")
    return parser


def _show(report: Report) -> int:
    sys.stdout.write(f"{report}\n")
    return 0 if report.verdict == "held" else 1


if __name__ == "__main__":
    sys.exit(main())
