"""The clocks of a node: they start at boot, may run fast or slow, and the wall clock may be wrong."""

from __future__ import annotations

from simulator.world import WALL_START_NS, Node


class NodeClock:
    """Implements `toolkit.ports.Clock`."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def now_ns(self) -> int:
        """Nanoseconds since the node's boot, as its own oscillator counts them, from a start of its own."""
        since_ns = self._node.world.kernel.now_ns - self._node.booted_ns
        # Nodes begin far apart, so that whoever compares two nodes' times is found out.
        return (self._node.index + 1) * 10**15 + int(since_ns * (1 + self._node.clock_drift))

    def wall_ns(self) -> int:
        """What the node takes for the time of day."""
        now_ns = self._node.world.kernel.now_ns
        return (
            WALL_START_NS + int(now_ns * (1 + self._node.clock_drift)) + int(self._node.clock_offset_s * 1e9)
        )

    def kernel_ns(self, seconds: float) -> int:
        """How long that many seconds of this node take in the world."""
        return int(seconds * 1e9 / (1 + self._node.clock_drift))
