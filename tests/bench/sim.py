"""Speed and memory of the simulator, against fixed goals; each sample in a process of its own.

`python -m tests.bench.sim NAME` takes one sample and prints it.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

import psutil
from rich.table import Table

from .job import REPOSITORY, BenchError

_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class SimMeasure:
    """One figure that is held against a fixed goal.

    Args:
        name: for `--only` and `--json`.
        title: for people.
        unit: "s", "ms", "MB", "%" of one core, "/s" or "" for a count.
        goal: bound of the median; a lower one for "/s", else an upper one.
        sample: takes one, in a fresh process; None is the time of a whole command. One that yields several figures
            returns them by the name of their measure.
        command: which, of `rally`.
        runs_max: so many samples are enough, however many are asked for.
        slow: taken only if it is asked for by its name.
    """

    name: str
    title: str
    unit: str
    goal: float
    sample: Callable[[], float | Mapping[str, float]] | None = None
    command: tuple[str, ...] = ()
    runs_max: int = 3
    slow: bool = False


@dataclass(frozen=True, slots=True)
class SimRow:
    """The outcome of one measure; samples in the order they were taken, `[runs]`."""

    measure: SimMeasure
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def verdict(self) -> str:
        goal = self.measure.goal
        met = self.median >= goal if self.measure.unit == "/s" else self.median <= goal
        return "met" if met else "missed"


# -- samples ------------------------------------------------------------------------------------------------

_EVENTS, _TASKS = 400_000, 1_000
_PARKED = _NODES = 10_000


def kernel_events() -> float:
    """Events per CPU second: 1,000 tasks that sleep, half of them into ties; trace and digest are on."""
    from simulator.kernel import Kernel, Limits
    from simulator.rng import Tape

    kernel = Kernel(Tape(1), Limits(steps=10 * _EVENTS))

    def sleeps(task: int) -> Callable[[], None]:
        pause_ns = 1_000 if task % 2 else 1_000 + task

        def run() -> None:
            for _ in range(_EVENTS // _TASKS):
                kernel.sleep(pause_ns, "a step")

        return run

    for task in range(_TASKS):
        kernel.spawn(sleeps(task), f"task{task}")
    began_s = time.process_time()
    kernel.run()
    took_s = time.process_time() - began_s
    assert kernel.steps >= _EVENTS, "each sleep is an event"
    return kernel.steps / took_s


def parked_tasks() -> float:
    """MB that 10,000 tasks take which wait, each below some calls."""
    from simulator.kernel import Kernel
    from simulator.rng import Tape

    def deep(depth: int) -> None:
        if depth:
            deep(depth - 1)
        else:
            kernel.park("something that never comes")

    kernel = Kernel(Tape(1))
    before_mb = _resident_mb()
    for task in range(_PARKED):
        kernel.spawn(lambda: deep(8), f"task{task}")
    kernel.run()
    assert len(kernel.waiting()) == _PARKED, "all wait"
    return _resident_mb() - before_mb


def nodes() -> float:
    """MB that 10,000 nodes take, on each an agent's process with all its ports, which waits for its bell."""
    from simulator.kernel import Kernel
    from simulator.rng import Tape
    from simulator.scenario import Scenario
    from simulator.simulation import node_ports
    from simulator.workloads import Jobs
    from simulator.world import World

    before_mb = _resident_mb()
    scenario = Scenario(nodes=_NODES)
    kernel = Kernel(Tape(1))
    world = World(kernel, list(scenario.node_names))
    jobs = Jobs(world)
    for node in world.nodes.values():
        process = node.start_process("agent")
        ports = node_ports(process, scenario, jobs)
        process.spawn(lambda ports=ports: ports.bell.wait(None), "main")  # type: ignore[misc]
    kernel.run()
    assert len(kernel.waiting()) == _NODES, "all wait"
    return _resident_mb() - before_mb


def torch_8() -> float:
    """CPU seconds: torch as the subject, 8 nodes, 3 rounds."""
    return _three_rounds("torch", 8)


def torch_64() -> float:
    """CPU seconds: torch as the subject, 64 nodes, 3 rounds."""
    return _three_rounds("torch", 64)


def rally_8() -> float:
    """CPU seconds: our agent over torch's handler, 8 nodes, ten simulated minutes, two crashes."""
    from simulator import Fail, Scenario, Workload, faults

    workload = Workload(steps=580, failures=(Fail(3, at_s=150.0),))
    crash = faults.KillWorker("node5", at_s=400.0)
    scenario = Scenario("ten-minutes", nodes=8, workload=workload, faults=(crash,))
    return _cpu_s(scenario, "rally", restarts=2, virtual_s=600.0)


def hour() -> float:
    """CPU seconds: 8 nodes for an hour over our rendezvous, a crash each ten minutes."""
    from simulator import Fail, Scenario, Workload

    crashes = Fail(3, at_s=598.0, incarnations=5)
    workload = Workload(steps=358, step_s=10.0, checkpoint_every=1, failures=(crashes,))
    scenario = Scenario("hour", nodes=8, max_restarts=5, workload=workload)
    return _cpu_s(scenario, "rally", restarts=5, virtual_s=3600.0)


def thousand() -> dict[str, float]:
    """1,000 nodes, ten minutes, one failure."""
    from simulator import Fail, Scenario, Workload

    workload = Workload(steps=58, step_s=10.0, checkpoint_every=1, failures=(Fail(3, at_s=300.0),))
    scenario = Scenario("thousand", nodes=1000, workload=workload)
    took_s = _cpu_s(scenario, "rally", restarts=1, virtual_s=590.0, runs=1)
    return {"sim-1000": took_s, "sim-1000-rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}


def ten_thousand() -> float:
    """CPU seconds: 10,000 nodes come together, train, and end."""
    from simulator import Scenario, Workload

    scenario = Scenario("ten-thousand", nodes=10_000, workload=Workload(steps=1, step_s=1.0, start_s=1.0))
    return _cpu_s(scenario, "rally", restarts=0, runs=1)


def operations_of(nodes: int) -> Callable[[], float]:
    """What takes the store operations of a node in the restart round of so many: from the crash to the last seat."""

    def operations() -> float:
        from simulator import Fail, Scenario, Workload
        from simulator.simulation import ScenarioRun
        from simulator.subjects import subject_named

        workload = Workload(steps=2, step_s=1.0, start_s=1.0, term_s=0.0, failures=(Fail(1, at_step=1),))
        simulation = ScenarioRun(
            Scenario("crash", nodes=nodes, workload=workload), subject_named("rally"), seed=1
        )
        outcome = simulation.run()
        assert not outcome.finding, outcome.finding
        done = {"WorkerExited": [], "RendezvousCompleted": []}  # type: dict[str, list[int]]
        for event, said in zip(outcome.events, outcome.said, strict=True):
            done.get(type(event).__name__, []).append(said.operations)
        assert len(done["RendezvousCompleted"]) == 2 * nodes, "all had two rounds"
        return (done["RendezvousCompleted"][-1] - done["WorkerExited"][0]) / nodes

    return operations


def _three_rounds(subject: str, count: int) -> float:
    from simulator import Fail, Scenario, Workload

    workload = Workload(steps=5, failures=(Fail(1, at_step=2, incarnations=2),))
    return _cpu_s(Scenario("three-rounds", nodes=count, workload=workload), subject, restarts=2)


def _cpu_s(scenario: object, subject: str, *, restarts: int, virtual_s: float = 0.0, runs: int = 2) -> float:
    """CPU seconds of the second run, since the first one imports; where that is nothing, of the only one."""
    from simulator import Scenario
    from simulator.simulation import ScenarioRun
    from simulator.subjects import subject_named

    assert isinstance(scenario, Scenario), "it is one"
    took_s = 0.0
    for _ in range(runs):
        simulation = ScenarioRun(scenario, subject_named(subject), seed=1)
        began_s = time.process_time()
        outcome = simulation.run()
        took_s = time.process_time() - began_s
        simulation.close()
        rounds = sum(type(event).__name__ == "RendezvousCompleted" for event in outcome.events)
        assert rounds == scenario.nodes * (restarts + 1), f"{rounds} agents of {scenario.nodes} had a round"
        assert outcome.virtual_s >= virtual_s, f"only {outcome.virtual_s} s"
        assert not outcome.finding, outcome.finding
    return took_s


def _resident_mb() -> float:
    return psutil.Process().memory_info().rss / 1e6


MEASURES = (
    SimMeasure("sim-events", "kernel events per CPU second, 1,000 tasks", "/s", 200_000, kernel_events),
    SimMeasure("sim-parked", "10,000 parked tasks", "MB", 100, parked_tasks),
    SimMeasure("sim-nodes", "10,000 nodes, an agent's ports on each", "MB", 250, nodes),
    SimMeasure("sim-torch-8", "torch's agent, 8 nodes, 3 rounds (CPU)", "s", 0.3, torch_8),
    SimMeasure("sim-torch-64", "  64 nodes, 3 rounds (CPU)", "s", 3.0, torch_64),
    SimMeasure("sim-rally-8", "our agent, 8 nodes, 10 min, 2 crashes (CPU)", "s", 5.0, rally_8),
    SimMeasure(
        "sim-start",
        "rally sim, without torch: launch → a short run has ended",
        "s",
        0.5,
        command=("sim", "solo", "--set", "workload.steps=1"),
    ),
    SimMeasure(
        "sim-start-torch",
        "  with torch's handler",
        "s",
        2.5,
        command=("sim", "happy-1", "--subject", "torch", "--set", "workload.steps=1"),
    ),
    SimMeasure("sim-hour", "8 nodes for an hour, a crash each 10 min (CPU)", "s", 1.0, hour, runs_max=3),
    *(
        SimMeasure(
            f"sim-operations-{nodes}",
            f"store operations per node of a restart round, {nodes:,} nodes",
            "",
            10.0,
            operations_of(nodes),
            runs_max=1,
            slow=nodes > 1024,
        )
        for nodes in (2, 4, 16, 64, 256, 1024, 10_000)
    ),
    SimMeasure(
        "sim-1000", "1,000 nodes, 10 min, one failure (CPU)", "s", 60.0, thousand, runs_max=1, slow=True
    ),
    SimMeasure("sim-1000-rss", "  its peak RSS", "MB", 500.0, thousand, runs_max=1, slow=True),
    SimMeasure("sim-10000", "10,000 nodes, one round (CPU)", "s", 60.0, ten_thousand, runs_max=1, slow=True),
)
#: asks for all of them in `--only`
ALL = "sim"


def by_sample(measures: Sequence[SimMeasure]) -> Iterator[list[SimMeasure]]:
    """Those that one sample yields, together."""
    for _, together in groupby(measures, lambda measure: measure.sample or measure):
        yield list(together)


def measured(
    together: Sequence[SimMeasure], runs: int, environ: Mapping[str, str], module: str = ALL
) -> list[SimRow]:
    """Take the samples of measures that one sample yields, after one that does not count if there are several.

    Args:
        module: of this package, which takes them.

    Raises:
        BenchError: one could not be taken.
    """
    first = together[0]
    count = min(runs, first.runs_max)
    warm_up = 0 if count == 1 else 1
    taken = [_taken(first, environ, module) for _ in range(count + warm_up)][warm_up:]
    return [SimRow(measure, tuple(figures[measure.name] for figures in taken)) for measure in together]


def _taken(measure: SimMeasure, environ: Mapping[str, str], module: str) -> dict[str, float]:
    if measure.sample is None:
        command = [sys.executable, "-m", "toolkit.fronts.cli", *measure.command]
    else:
        command = [sys.executable, "-m", f"tests.bench.{module}", measure.name]
    began_s = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=dict(environ),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{measure.name} took longer than {_TIMEOUT_S:g} s") from error
    took_s = time.monotonic() - began_s
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no words"])[-1]
        raise BenchError(f"{measure.name} ended with exit code {done.returncode}: {last}")
    if measure.sample is None:
        return {measure.name: took_s}
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def as_table(rows: list[SimRow], runs: int, title: str = "sim: the simulator") -> Table:
    """One row a measure; medians, with the smallest and the largest sample below."""
    table = Table(title=f"{title}, medians of up to {runs}", title_justify="left")
    table.add_column("measure")
    for heading in ("figure", "goal"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for row in rows:
        unit, sign = row.measure.unit, "≥" if row.measure.unit == "/s" else "≤"
        low, high = _figure(min(row.samples), unit), _figure(max(row.samples), unit)
        table.add_row(
            row.measure.title,
            f"{_figure(row.median, unit)} {unit}".rstrip()
            + (f"\n{low} - {high}" if len(row.samples) > 1 else ""),
            f"{sign} {row.measure.goal:,g} {unit}".rstrip(),
            row.verdict,
        )
    return table


def _figure(value: float, unit: str) -> str:
    return f"{value:,.0f}" if unit == "/s" else f"{value:.2f}" if unit == "s" else f"{value:.1f}"


def as_json(rows: list[SimRow]) -> list[dict[str, object]]:
    return [
        {key: value for key, value in asdict(row.measure).items() if key in ("name", "title", "unit", "goal")}
        | {"median": row.median, "samples": row.samples, "verdict": row.verdict}
        for row in rows
    ]


def take(measures: Sequence[SimMeasure], name: str) -> None:
    """Take one sample in this process and print it."""
    (chosen,) = (measure for measure in measures if measure.name == name)
    assert chosen.sample is not None, "it is taken from outside"
    figures = chosen.sample()
    print(json.dumps({name: figures} if isinstance(figures, float) else dict(figures)))


if __name__ == "__main__":
    take(MEASURES, sys.argv[1])
