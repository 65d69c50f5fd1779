"""The clocks of a node: they start at boot, may run fast or slow, and the wall clock may be wrong."""

from __future__ import annotations

from simulator.world import WALL_START_NS, Node


class NodeClock:
    """Implements `toolkit.ports.Clock`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._kernel = node.world.kernel
        # Nodes begin far apart, so that whoever compares two nodes' times is found out.
        self._start_ns = (node.index + 1) * 10**15

    def now_ns(self) -> int:
        """Nanoseconds since the node's boot, as its own oscillator counts them, from a start of its own."""
        node = self._node
        if node.clock_drift:
            return self._start_ns + node.uptime_ns
        return self._start_ns + self._kernel.now_ns + node.gained_ns  # asked millions of times

    def wall_ns(self) -> int:
        """What the node takes for the time of day."""
        node = self._node
        return WALL_START_NS + node.world.kernel.now_ns + node.ahead_ns + int(node.clock_offset_s * 1e9)

    def kernel_ns(self, seconds: float) -> int:
        """How long that many seconds of this node take in the world."""
        if seconds <= 0:
            return 0
        # Upwards, save for what is only a float's last digits: a wait for the rest of a nanosecond that took no time
        # would be repeated for ever.
        return int(seconds * 1e9 / (1 + self._node.clock_drift) + 0.999) or 1
