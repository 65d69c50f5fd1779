"""Faults as values: one vocabulary for reports, scenarios and, later, real processes.

Each says in a line of words what it does. A target is a node's name, or a role that is looked up when the fault
strikes: "rank0" (the node with group rank 0), "store-host", "last-joiner", "any".
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from toolkit.core.errors import ConfigurationError

ROLES = ("rank0", "store-host", "last-joiner", "any")


@dataclass(frozen=True, slots=True)
class Fault:
    """What all faults have.

    Args:
        target: a node, or a role.
        at_s: seconds of virtual time from the start of the run.
    """

    target: str
    at_s: float = 0.0

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if (
                isinstance(value, int | float)
                and spec.name.endswith("_s")
                and value < 0
                and spec.name != "offset_s"
            ):
                raise ConfigurationError(
                    f"{type(self).__name__}({self.target!r}) has {spec.name}={value}; a time can't be negative"
                )

    def words(self) -> str:
        """What happens, for people."""
        return f"at {self.at_s:g} s {self.what()}"

    def what(self) -> str:
        """Without the time."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class CrashNode(Fault):
    """Power cut. Nobody is told; nothing comes back unless `reboot_after_s` says so."""

    reboot_after_s: float | None = None

    def what(self) -> str:
        back = (
            ""
            if self.reboot_after_s is None
            else f", and its agent starts again {self.reboot_after_s:g} s later"
        )
        return f"{self.target} loses power{back}"


@dataclass(frozen=True, slots=True)
class PauseNode(Fault):
    """Everything on the node stands still for a while; its clocks go on."""

    for_s: float = 30.0

    def what(self) -> str:
        return f"{self.target} stands still for {self.for_s:g} s"


@dataclass(frozen=True, slots=True)
class SlowNode(Fault):
    """Work on the node takes longer for a while."""

    factor: float = 10.0
    for_s: float = 60.0

    def what(self) -> str:
        return f"{self.target} is {self.factor:g} times slower for {self.for_s:g} s"


@dataclass(frozen=True, slots=True)
class KillAgent(Fault):
    """SIGKILL to the agent; its workers die with it."""

    restart_after_s: float | None = None

    def what(self) -> str:
        back = (
            "" if self.restart_after_s is None else f", and is started again {self.restart_after_s:g} s later"
        )
        return f"the agent on {self.target} is killed{back}"


@dataclass(frozen=True, slots=True)
class PauseAgent(Fault):
    """SIGSTOP to the agent, SIGCONT later; its workers run on."""

    for_s: float = 30.0

    def what(self) -> str:
        return f"the agent on {self.target} is stopped for {self.for_s:g} s"


@dataclass(frozen=True, slots=True)
class SignalAgent(Fault):
    """A death signal to the agent, several times."""

    signal: str = "SIGTERM"
    times: int = 1
    every_s: float = 1.2

    def what(self) -> str:
        return f"the agent on {self.target} gets {self.signal}" + (
            f" {self.times} times" if self.times > 1 else ""
        )


@dataclass(frozen=True, slots=True)
class KillWorker(Fault):
    """A signal to one worker of the node."""

    local_rank: int = 0
    signal: str = "SIGKILL"

    def what(self) -> str:
        return f"local rank {self.local_rank} on {self.target} gets {self.signal}"


@dataclass(frozen=True, slots=True)
class Partition(Fault):
    """The node can't reach the others, nor they it, for a while; `one_way` loses only what it sends."""

    for_s: float = 30.0
    one_way: bool = False

    def what(self) -> str:
        how = "can't be heard by" if self.one_way else "is cut off from"
        return f"{self.target} {how} the others for {self.for_s:g} s"


@dataclass(frozen=True, slots=True)
class SlowLinks(Fault):
    """Messages from and to the node take longer for a while."""

    latency_s: float = 0.5
    for_s: float = 60.0

    def what(self) -> str:
        return f"messages of {self.target} take {self.latency_s:g} s for {self.for_s:g} s"


@dataclass(frozen=True, slots=True)
class StallStore(Fault):
    """The store that the target hosts answers nothing for a while."""

    target: str = "store-host"
    for_s: float = 20.0

    def what(self) -> str:
        return f"the store on {self.target} answers nothing for {self.for_s:g} s"


@dataclass(frozen=True, slots=True)
class ClockOffset(Fault):
    """The node's wall clock is wrong from then on."""

    offset_s: float = 20.0

    def what(self) -> str:
        way = "ahead" if self.offset_s >= 0 else "behind"
        return f"the wall clock of {self.target} is {abs(self.offset_s):g} s {way}"


@dataclass(frozen=True, slots=True)
class ClockDrift(Fault):
    """The node's clocks run fast (or slow) from then on."""

    share: float = 0.01

    def what(self) -> str:
        return f"the clocks of {self.target} run {self.share:+.1%} wrong"


@dataclass(frozen=True, slots=True)
class FillDisk(Fault):
    """The node's disk is full for a while: events of its agent are lost."""

    for_s: float = 60.0

    def what(self) -> str:
        return f"the disk of {self.target} is full for {self.for_s:g} s"


@dataclass(frozen=True, slots=True)
class FailSpawn(Fault):
    """The next start of one local rank on the node fails."""

    local_rank: int = 0

    def what(self) -> str:
        return f"the next start of local rank {self.local_rank} on {self.target} fails"


KINDS: tuple[type[Fault], ...] = (
    CrashNode,
    PauseNode,
    SlowNode,
    KillAgent,
    PauseAgent,
    SignalAgent,
    KillWorker,
    Partition,
    SlowLinks,
    StallStore,
    ClockOffset,
    ClockDrift,
    FillDisk,
    FailSpawn,
)
