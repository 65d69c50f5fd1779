"""A node as its agent sees it: names, ports, environment, randomness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from simulator.world import Process


@dataclass(frozen=True, slots=True)
class SimReservation:
    """Implements `toolkit.ports.Reservation`: ports of a node are never given twice."""

    port: int

    def release(self) -> None:
        """Nothing to give back."""


class NodeHost:
    """Implements `toolkit.ports.Host`."""

    def __init__(self, process: Process, environment: Mapping[str, str]) -> None:
        self._process = process
        self._environment = environment

    def hostname(self) -> str:
        """The node's name."""
        return self._process.node.name

    def fq_hostname(self) -> str:
        """The node's name in the simulated domain."""
        return self._process.node.full_name

    def pid(self) -> int:
        """Of the agent."""
        return self._process.pid

    def environment(self) -> Mapping[str, str]:
        """What workers inherit."""
        return self._environment

    def reserve_port(self) -> SimReservation:
        """A port that nobody on this node has had."""
        return SimReservation(self._process.node.free_port())


class TapeEntropy:
    """Implements `toolkit.ports.Entropy` from the choice tape."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def random(self) -> float:
        """A number in [0, 1)."""
        return self._process.node.world.kernel.tape.fraction(f"random/{self._process.node.name}")

    def token(self) -> str:
        """32 hexadecimal digits."""
        tape, label = self._process.node.world.kernel.tape, f"token/{self._process.node.name}"
        return "".join(f"{tape.draw(label, 1 << 32):08x}" for _ in range(4))
