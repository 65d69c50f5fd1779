"""Where a simulated agent's events go: into the world's list, if the node's disk takes them."""

from __future__ import annotations

from simulator.world import Process
from toolkit.core.events import Event


class WorldSink:
    """Implements `toolkit.ports.EventSink`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.dropped = 0

    def emit(self, event: Event) -> None:
        """Record it. A dead agent says nothing more; a full disk drops and counts."""
        if not self._process.alive:
            return
        if self._process.node.disk_full:
            self.dropped += 1
            return
        self._process.node.world.say(event)


class NoTelemetry:
    """Implements `toolkit.ports.Telemetry`: nobody listens."""

    def put_metric(self, name: str, value: int, group: str) -> None:
        """Dropped."""

    def wanted(self, destination: str) -> bool:
        """No."""
        return False

    def record(self, event: object, destination: str) -> None:
        """Dropped."""
