"""What one sees of a node of a simulation: its power, its processes, and where each of their tasks waits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from simulator.kernel import SECOND, Task
from simulator.simulation import ScenarioRun
from toolkit.core.errors import ConfigurationError
from toolkit.core.stacks import Frame
from toolkit.core.words import did_you_mean

_ROOT = str(Path(__file__).parents[2])


@dataclass(frozen=True, slots=True)
class Wait:
    """One task that waits.

    Args:
        task: its name.
        pid: of its process.
        waits_for: what.
        since_s: since when.
        until_s: when it goes on by itself; infinite for never.
        frames: its Python stack, innermost last; empty if it has not started.
    """

    task: str
    pid: int
    waits_for: str
    since_s: float
    until_s: float = math.inf
    frames: tuple[Frame, ...] = ()

    def __str__(self) -> str:
        until = "" if math.isinf(self.until_s) else f", until {self.until_s:.3f} s"
        return f"{self.task} waits for {self.waits_for} since {self.since_s:.3f} s{until}"


@dataclass(frozen=True, slots=True, repr=False)
class WaitingStacks:
    """The Python stacks of tasks that wait. Prints one line a call, innermost last."""

    waits: tuple[Wait, ...]

    def __str__(self) -> str:
        lines = []
        for wait in self.waits:
            lines.append(str(wait))
            lines.extend(f"  {frame.file}:{frame.line} {frame.function}" for frame in wait.frames)
        return "\n".join(lines) or "nothing waits here"

    __repr__ = __str__


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node at one moment.

    Args:
        name: of its host.
        at_s: the moment.
        up: whether it has power.
        paused: whether it stands still.
        result: of its latest agent: "RUNNING", "WAITING" (not started), "LOST", "KILLED", or how it ended.
        pids: what runs there, by pid.
        stopped: those of them that stand still.
        waits: what their tasks wait for.
        state: what the agent does, as its events tell it; empty if it has said nothing.
        group_state: of its workers, a `WorkerState`.
    """

    name: str
    at_s: float
    up: bool
    paused: bool
    result: str
    pids: Mapping[int, str] = field(default_factory=dict)
    stopped: tuple[int, ...] = ()
    waits: tuple[Wait, ...] = ()
    state: str = ""
    group_state: str = ""

    def stack(self) -> WaitingStacks:
        """Where each task waits, in Python."""
        return WaitingStacks(self.waits)

    def __str__(self) -> str:
        power = "without power" if not self.up else "paused" if self.paused else "up"
        if self.result == "RUNNING" and self.state:
            agent = f"its agent is {self.state}"
        else:
            agent = f"its agent is {self.result}" + (f" ({self.state})" if self.state else "")
        lines = [f"{self.name} at {self.at_s:.3f} s: {power}, {agent}"]
        for pid, label in self.pids.items():
            lines.append(f"  {pid} {label}{', stopped' if pid in self.stopped else ''}")
            lines.extend(f"    {wait}" for wait in self.waits if wait.pid == pid)
        return "\n".join(lines)


def view_of(run: ScenarioRun, name: str) -> NodeView:
    """Look at a node, from outside of all tasks.

    Raises:
        ConfigurationError: it isn't there.
    """
    nodes = run.world.nodes
    if name not in nodes:
        remedy = did_you_mean(name, nodes, f"nodes are {', '.join(list(nodes)[:8])}")
        raise ConfigurationError(f"there is no node {name!r}; {remedy}")
    node = nodes[name]
    outcome = run.outcome.nodes.get(name)
    alive = [process for process in node.processes.values() if process.alive]
    return NodeView(
        name=name,
        at_s=run.kernel.now_ns / SECOND,
        up=node.up,
        paused=node.paused,
        # The machine that serves the store apart has no agent.
        result="WAITING" if outcome is None else outcome.result,
        pids={process.pid: process.label for process in alive},
        stopped=tuple(process.pid for process in alive if process.paused),
        waits=tuple(
            _wait_of(process.pid, task)
            for process in alive
            for task in process.tasks
            if not (task.done or task.killed)
        ),
    )


def _wait_of(pid: int, task: Task) -> Wait:
    until_s = math.inf if task.deadline_ns is None else task.deadline_ns / SECOND
    frames = _frames_of(task.greenlet.gr_frame)
    return Wait(task.name, pid, task.waits_for, task.since_ns / SECOND, until_s, frames)


def _frames_of(frame: FrameType | None) -> tuple[Frame, ...]:
    """Of a greenlet that does not run."""
    found: list[Frame] = []
    while frame is not None:
        code = frame.f_code
        found.append(Frame(code.co_qualname, _shortened(code.co_filename), frame.f_lineno))
        frame = frame.f_back
    return tuple(reversed(found))


def _shortened(path: str) -> str:
    """From the package on."""
    return path.rpartition("/site-packages/")[2].removeprefix(f"{_ROOT}/")
