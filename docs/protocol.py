"""Writes what toolkit/README.md shows of the rendezvous: its phases, from their table, and a restart, from a run.

`python docs/protocol.py` puts both between the marks in that file; `--check` says whether they are as they should be.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

from simulator.faults import KillWorker
from simulator.kernel import TraceEntry
from simulator.scenario import Scenario
from simulator.simulation import ScenarioRun
from simulator.subjects import subject_named
from simulator.workloads import Workload
from toolkit.core.rounds import STEPS

README = Path(__file__).parent.parent / "toolkit" / "README.md"
BEGIN, END = "<!-- made by docs/protocol.py -->", "<!-- end -->"

#: why a phase follows another, and who sees to it
WHY = {
    ("gathering", "running"): "all are there, and the coordinator seals the round",
    (
        "gathering",
        "gathering",
    ): "a failure comes to a change of members and is counted, or a back-off is cut short",
    ("gathering", "failed"): "too few nodes, or a failure that can't be paid for or forbids a restart",
    ("running", "gathering"): "a worker failed, or a node is lost, leaves or joins",
    ("running", "finishing"): "a first node has succeeded",
    ("running", "failed"): "a failure that can't be paid for or forbids a restart",
    ("finishing", "succeeded"): "all nodes have succeeded",
    ("finishing", "failed"): "a failure or a lost node, and nothing is started again",
}
#: three nodes; a worker of node1 is killed
SCENARIO = Scenario(
    name="restart",
    nodes=3,
    workload=Workload(steps=30, collective=False, term_s=0.001, start_s=0.01),
    faults=(KillWorker("node1", at_s=10.4),),
)


def phases() -> str:
    """The table of phases as a diagram."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> gathering"]
    for before, after in STEPS.items():
        lines += [f"    {before} --> {phase}: {WHY[before, phase]}" for phase in STEPS if phase in after]
        lines += [f"    {before} --> [*]"] if not after else []
    return "\n".join([*lines, "```"])


def restart() -> str:
    """What goes over the wire in one restart."""
    simulation = ScenarioRun(replace(SCENARIO), subject_named("rally"), seed=1)
    simulation.kernel.keep_trace(100_000)
    simulation.run(until_s=12)
    trace = simulation.kernel.trace
    simulation.close()
    began_ns = next(entry.at_ns for entry in trace if "append" in entry.what)
    rows = list(filter(None, (_row(entry, began_ns) for entry in trace if began_ns <= entry.at_ns)))
    # Until everybody waits for the next bell again; beats and looks come between them as always.
    last = max(at for at, row in enumerate(rows) if "bell/" in row)
    return "\n".join(["```text", *rows[: last + 1], "```"])


_SAID = re.compile(r"(node\d)/agent asks the store: (\w+) (.*)")


def _row(entry: TraceEntry, began_ns: int) -> str:
    said = _SAID.search(entry.what)
    if said is None or entry.at_ns - began_ns > 100_000_000:
        return ""
    node, operation, keys = said.groups()
    names = re.sub(r"rally/sim/", "", re.sub(r"_\d+_\w{6}", "", keys))
    lane = int(node[-1])
    return f"{(entry.at_ns - began_ns) / 1e6:6.1f} ms  {'·         ' * lane}{node} {operation} {names}"[:110]


def section() -> str:
    """All of it."""
    return (
        f"{BEGIN}\n{phases()}\n\nOne restart of three nodes, as it goes over the wire in the simulator: a worker of "
        f"node1 is killed, node0 coordinates.\n\n{restart()}\n{END}"
    )


def main(argv: list[str]) -> int:
    """Write or check it. Returns 1 if the check finds something else."""
    text = README.read_text()
    begin, end = text.index(BEGIN), text.index(END) + len(END)
    made = section()
    if "--check" in argv:
        return 0 if text[begin:end] == made else 1
    README.write_text(text[:begin] + made + text[end:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
