"""Faults as values: one vocabulary for reports, scenarios and both worlds, the simulated and that of real processes.

Each says in a line of words what it does. A target is a node's name, or a role that is looked up when the fault
strikes: "rank0" (the node with group rank 0 in the latest round), "store-host" (the node that serves the rendezvous
store), "last-joiner" (the node whose agent started last), "busy" (a node that waits for the store's answer), "any".
"""

from __future__ import annotations

import math
import signal as signals
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from simulator.named_fields import NamedFields
from toolkit.core.errors import ConfigurationError
from toolkit.core.words import did_you_mean

if TYPE_CHECKING:
    from simulator.strike import Place

ROLES = ("rank0", "store-host", "last-joiner", "busy", "any")
#: how a worker can be made to fail, in words
WORKER_CAUSES = {"oom": "is killed by the kernel for want of memory", "gpu": "reports an error of its GPU"}

#: fields in seconds that may be below zero: clocks may be behind
_SIGNED = ("offset_s", "step_s")


@dataclass(frozen=True, slots=True)
class Fault(NamedFields):
    """What all faults have.

    Args:
        target: a node, or a role.
        at_s: seconds of virtual time from the start of the run.

    Raises:
        ConfigurationError: a time is negative or no number, or a value makes no sense.
    """

    target: str
    at_s: float = 0.0

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.name.endswith("_s") and isinstance(value, int | float):
                self._check_time(spec.name, value)
        problem = self.problem()
        if problem:
            raise ConfigurationError(f"{type(self).__name__}({self.target!r}): {problem}")

    def _check_time(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise ConfigurationError(
                f"{type(self).__name__}({self.target!r}) has {name}={value}; give a number of seconds"
            )
        if value < 0 and name not in _SIGNED:
            raise ConfigurationError(
                f"{type(self).__name__}({self.target!r}) has {name}={value}; a time can't be negative"
            )

    def problem(self) -> str:
        """What is wrong with the values, and the remedy; empty if nothing is."""
        return ""

    def lasts_s(self) -> float:
        """Seconds from its strike until nothing of it goes on; what is permanent has passed at once."""
        return 0.0

    def stays(self) -> bool:
        """Whether what it does is never undone."""
        # What passes says for how long in one of these.
        ends = ("for_s", "reboot_after_s", "restart_after_s")
        return any(getattr(self, name, 0.0) is None for name in ends)

    def words(self) -> str:
        """What happens, for people."""
        return f"at {self.at_s:g} s {self.what()}"

    def what(self) -> str:
        """Without the time."""
        return f"{type(self).__name__} strikes {self.target}"

    def strike(self, place: Place) -> str | None:
        """What a fault of one's own does when its moment has come; those in this file are in `strike.py`.

        `self.target` is the node that was found, also where a role was given.

        Returns:
            Why nothing was struck; nothing, or an empty text, if something was.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class CrashNode(Fault):
    """Power cut. Nobody is told; nothing comes back unless `reboot_after_s` says so."""

    reboot_after_s: float | None = None

    def lasts_s(self) -> float:
        return self.reboot_after_s or 0.0

    def what(self) -> str:
        back = (
            ""
            if self.reboot_after_s is None
            else f", and its agent starts again {self.reboot_after_s:g} s later"
        )
        return f"{self.target} loses power{back}"


@dataclass(frozen=True, slots=True)
class CrashAtOperation(Fault):
    """Power cut when the node's agent sends its `number`-th store operation from then on, which still goes out.

    With `back_after_s` the node's agent starts again so much later.
    """

    number: int = 1
    back_after_s: float | None = None

    def problem(self) -> str:
        return "" if self.number >= 1 else f"number is {self.number}; give 1 or more"

    def what(self) -> str:
        return f"{self.target} loses power at store operation {self.number} of its agent from then on"


@dataclass(frozen=True, slots=True)
class PauseAtOperation(Fault):
    """SIGSTOP to the node's agent when it sends its `number`-th store operation from then on, and SIGCONT later.

    The operation still goes out. What the agent had read before is old when it goes on: it acts on what is no more.
    """

    number: int = 1
    for_s: float = 12.0

    def problem(self) -> str:
        return "" if self.number >= 1 else f"number is {self.number}; give 1 or more"

    def lasts_s(self) -> float:
        return self.for_s

    def what(self) -> str:
        return (
            f"the agent on {self.target} is stopped {_span(self.for_s)} "
            f"at its store operation {self.number} from then on"
        )


@dataclass(frozen=True, slots=True)
class DropAtOperation(Fault):
    """The connections of the node's agent are reset when it sends its `number`-th store operation from then on.

    Whether that was done nobody knows: with `answer_lost` it was, and the answer is lost; else it did not arrive.
    """

    number: int = 1
    answer_lost: bool = True

    def problem(self) -> str:
        return "" if self.number >= 1 else f"number is {self.number}; give 1 or more"

    def what(self) -> str:
        lost = "an answer is" if self.answer_lost else "it is"
        return (
            f"connections of the agent on {self.target} are reset at its store operation {self.number} from then on, "
            f"so that {lost} lost"
        )


@dataclass(frozen=True, slots=True)
class PauseNode(Fault):
    """Everything on the node stands still for a while, or for ever with None; its clocks go on."""

    for_s: float | None = 30.0

    def lasts_s(self) -> float:
        return self.for_s or 0.0

    def what(self) -> str:
        return f"{self.target} stands still {_span(self.for_s)}"


@dataclass(frozen=True, slots=True)
class SlowNode(Fault):
    """Work on the node takes `factor` times longer for a while, or for ever with None."""

    factor: float = 10.0
    for_s: float | None = 60.0

    def problem(self) -> str:
        return "" if self.factor > 0 else f"factor is {self.factor:g}; give a number above 0"

    def lasts_s(self) -> float:
        return self.for_s or 0.0

    def what(self) -> str:
        return f"{self.target} is {self.factor:g} times slower {_span(self.for_s)}"


@dataclass(frozen=True, slots=True)
class KillAgent(Fault):
    """SIGKILL to the agent; its workers die with it."""

    restart_after_s: float | None = None

    def lasts_s(self) -> float:
        return self.restart_after_s or 0.0

    def what(self) -> str:
        back = (
            "" if self.restart_after_s is None else f", and is started again {self.restart_after_s:g} s later"
        )
        return f"the agent on {self.target} is killed{back}"


@dataclass(frozen=True, slots=True)
class PauseAgent(Fault):
    """SIGSTOP to the agent, SIGCONT later (never with None); its workers run on."""

    for_s: float | None = 30.0

    def lasts_s(self) -> float:
        return self.for_s or 0.0

    def what(self) -> str:
        return f"the agent on {self.target} is stopped {_span(self.for_s)}"


@dataclass(frozen=True, slots=True)
class SignalAgent(Fault):
    """A death signal to the agent, `times` times, `every_s` seconds apart."""

    signal: str = "SIGTERM"
    times: int = 1
    every_s: float = 1.2

    def problem(self) -> str:
        if self.times < 1:
            return f"times is {self.times}; give 1 or more"
        return _signal_problem(self.signal)

    def lasts_s(self) -> float:
        return (self.times - 1) * self.every_s

    def what(self) -> str:
        return f"the agent on {self.target} gets {self.signal}" + (
            f" {self.times} times, every {self.every_s:g} s" if self.times > 1 else ""
        )


@dataclass(frozen=True, slots=True)
class KillWorker(Fault):
    """A signal to one worker of the node; SIGSTOP leaves it there, and hung."""

    local_rank: int = 0
    signal: str = "SIGKILL"

    def problem(self) -> str:
        return _signal_problem(self.signal)

    def what(self) -> str:
        return f"local rank {self.local_rank} on {self.target} gets {self.signal}"


@dataclass(frozen=True, slots=True)
class FailWorker(Fault):
    """One worker of the node ends as real ones do: "oom" (the kernel kills it) or "gpu" (an error that it reports)."""

    local_rank: int = 0
    cause: str = "oom"

    def problem(self) -> str:
        return (
            ""
            if self.cause in WORKER_CAUSES
            else f"cause is {self.cause!r}; give {' or '.join(WORKER_CAUSES)}"
        )

    def what(self) -> str:
        return f"local rank {self.local_rank} on {self.target} {WORKER_CAUSES[self.cause]}"


@dataclass(frozen=True, slots=True)
class SlowWorker(Fault):
    """Work of one worker takes `factor` times longer for a while, or until it ends with None."""

    local_rank: int = 0
    factor: float = 10.0
    for_s: float | None = None

    def problem(self) -> str:
        return "" if self.factor > 0 else f"factor is {self.factor:g}; give a number above 0"

    def lasts_s(self) -> float:
        return self.for_s or 0.0

    def what(self) -> str:
        return f"local rank {self.local_rank} on {self.target} is {self.factor:g} times slower {_span(self.for_s)}"


@dataclass(frozen=True, slots=True)
class Partition(Fault):
    """The node can't reach the others, nor they it, for a while (for ever with None); `one_way` loses what it sends."""

    for_s: float | None = 30.0
    one_way: bool = False

    def lasts_s(self) -> float:
        return self.for_s or 0.0

    def what(self) -> str:
        how = "can't be heard by" if self.one_way else "is cut off from"
        return f"{self.target} {how} the others {_span(self.for_s)}"


@dataclass(frozen=True, slots=True)
class SlowLinks(Fault):
    """Messages from and to the node take longer for a while, or for ever with None."""

    latency_s: float = 0.5
    for_s: float | None = 60.0

    def lasts_s(self) -> float:
        return self.for_s or 0.0

    def what(self) -> str:
        return f"messages of {self.target} take {self.latency_s:g} s {_span(self.for_s)}"


@dataclass(frozen=True, slots=True)
class ConnectionDrop(Fault):
    """Every open connection of the node's processes is reset: to the store, of the store, between workers."""

    def what(self) -> str:
        return f"all connections of {self.target} are reset"


@dataclass(frozen=True, slots=True)
class StallStore(Fault):
    """The stores that the target serves answer nothing for a while."""

    target: str = "store-host"
    for_s: float = 20.0

    def lasts_s(self) -> float:
        return self.for_s

    def what(self) -> str:
        return f"the store on {self.target} answers nothing for {self.for_s:g} s"


@dataclass(frozen=True, slots=True)
class ClockOffset(Fault):
    """The node's wall clock is wrong by `offset_s` from then on."""

    offset_s: float = 20.0

    def stays(self) -> bool:
        return True

    def what(self) -> str:
        way = "ahead" if self.offset_s >= 0 else "behind"
        return f"the wall clock of {self.target} is {abs(self.offset_s):g} s {way}"


@dataclass(frozen=True, slots=True)
class ClockStep(Fault):
    """The node's wall clock jumps by `step_s`, as when a time service sets it."""

    step_s: float = -20.0

    def stays(self) -> bool:
        return True

    def what(self) -> str:
        way = "forward" if self.step_s >= 0 else "back"
        return f"the wall clock of {self.target} jumps {abs(self.step_s):g} s {way}"


@dataclass(frozen=True, slots=True)
class ClockDrift(Fault):
    """The node's clocks run fast (or slow) by this share from then on."""

    share: float = 0.01

    def problem(self) -> str:
        return "" if -1 < self.share < 10 else f"share is {self.share:g}; give more than -1 and less than 10"

    def stays(self) -> bool:
        return True

    def what(self) -> str:
        return f"the clocks of {self.target} run {self.share:+.1%} wrong"


@dataclass(frozen=True, slots=True)
class FillDisk(Fault):
    """The node's disk is full for a while, or for ever with None: events of its agent are lost."""

    for_s: float | None = 60.0

    def lasts_s(self) -> float:
        return self.for_s or 0.0

    def what(self) -> str:
        return f"the disk of {self.target} is full {_span(self.for_s)}"


@dataclass(frozen=True, slots=True)
class FailSpawn(Fault):
    """The next start of one local rank on the node fails, as with a full process table."""

    local_rank: int = 0

    def what(self) -> str:
        return f"the next start of local rank {self.local_rank} on {self.target} fails"


@dataclass(frozen=True, slots=True)
class SlowStart(Fault):
    """Workers that start on the node need `extra_s` seconds more to come to user code, for a while."""

    extra_s: float = 60.0
    for_s: float | None = 60.0

    def lasts_s(self) -> float:
        return (self.for_s or 0.0) + self.extra_s

    def what(self) -> str:
        return f"workers on {self.target} start {self.extra_s:g} s later {_span(self.for_s)}"


@dataclass(frozen=True, slots=True)
class FlappingJoiner(Fault):
    """The node joins, vanishes without a word after `stays_s`, comes back `away_s` later, `times` times in all.

    A node that is named as the target starts no agent before: the fault brings it. After its last time it stays away.
    """

    stays_s: float = 20.0
    away_s: float = 20.0
    times: int = 5

    def problem(self) -> str:
        return "" if self.times >= 1 else f"times is {self.times}; give 1 or more"

    def lasts_s(self) -> float:
        return self.times * self.stays_s + (self.times - 1) * self.away_s

    def what(self) -> str:
        return (
            f"{self.target} joins and vanishes {self.stays_s:g} s later, "
            f"{self.times} times, {self.away_s:g} s apart"
        )


KINDS: tuple[type[Fault], ...] = (
    CrashNode,
    CrashAtOperation,
    PauseAtOperation,
    DropAtOperation,
    PauseNode,
    SlowNode,
    KillAgent,
    PauseAgent,
    SignalAgent,
    KillWorker,
    FailWorker,
    SlowWorker,
    Partition,
    SlowLinks,
    ConnectionDrop,
    StallStore,
    ClockOffset,
    ClockStep,
    ClockDrift,
    FillDisk,
    FailSpawn,
    SlowStart,
    FlappingJoiner,
)


def kind_named(name: str) -> type[Fault]:
    """The kind of fault with that name.

    Raises:
        ConfigurationError: there is none; names the nearest ones.
    """
    kinds = {kind.__name__: kind for kind in KINDS}
    if name not in kinds:
        remedy = did_you_mean(name, kinds, f"kinds are {', '.join(kinds)}")
        raise ConfigurationError(f"there is no fault {name!r}; {remedy}")
    return kinds[name]


def quiet_at_s(faults: tuple[Fault, ...]) -> float:
    """When the last fault that passes has passed, in seconds from the start of the run."""
    return max((fault.at_s + fault.lasts_s() for fault in faults), default=0.0)


def is_own(fault: Fault) -> bool:
    """Whether it says itself what it does: a fault of somebody's own."""
    return type(fault).strike is not Fault.strike


def check(fault: Fault, workers: Mapping[str, int]) -> None:
    """Whether a cluster has what the fault strikes, and anybody knows what it does.

    Args:
        fault: what is to strike.
        workers: local world size by node.

    Raises:
        ConfigurationError: the node or the local rank isn't there, or the fault has no `strike`.
    """
    check_target(fault, workers)
    if not isinstance(fault, KINDS) and not is_own(fault):
        raise ConfigurationError(
            f"{type(fault).__name__} doesn't say what it does; give it a method strike(self, place)"
        )
    if isinstance(fault, KillWorker | FailWorker | SlowWorker | FailSpawn):
        size = workers.get(fault.target, max(workers.values()))
        if not 0 <= fault.local_rank < size:
            raise ConfigurationError(
                f"{type(fault).__name__} strikes local rank {fault.local_rank} on {fault.target}, "
                f"which isn't there; give 0 to {size - 1}"
            )


def check_target(fault: Fault, names: Iterable[str]) -> None:
    """Whether a cluster of these nodes has whom the fault strikes.

    Raises:
        ConfigurationError: the node isn't there.
    """
    nodes = list(names)
    if fault.target not in nodes and fault.target not in ROLES:
        known = f"nodes are {', '.join(nodes[:8])}; roles are {', '.join(ROLES)}"
        remedy = did_you_mean(fault.target, [*nodes, *ROLES], known)
        raise ConfigurationError(
            f"{type(fault).__name__} strikes node {fault.target!r}, which isn't there; {remedy}"
        )


def _span(for_s: float | None) -> str:
    return "for ever" if for_s is None else f"for {for_s:g} s"


def _signal_problem(name: str) -> str:
    names = [known.name for known in signals.Signals]
    if name in names:
        return ""
    return f"signal is {name!r}; {did_you_mean(name.upper(), names, 'give a name like SIGTERM')}"


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    kinds = [kind.__name__ for kind in KINDS]
    remedy = did_you_mean(name, kinds, f"there are {', '.join(kinds)}")
    raise AttributeError(f"there is no fault {name}; {remedy}")
