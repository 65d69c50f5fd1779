"""A timeline as rows of tables: nodes, and ranks. Pure; a row that did not change is the same object as before.

A row has a key that stays the same while everything else about it changes: selections hold on to that.
"""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.core.history import STATE_OF_RESULT, Failure, Incarnation, Node, Timeline
from toolkit.core.moment import Moment
from toolkit.core.words import ending, failing
from toolkit.views.filtering import Fields

RankKey = tuple[str, int]

#: worst first, for sorting by what is wrong
RANK_STATES = ("failed", "lost", "unkillable", "stopped", "running", "succeeded")
NODE_FIELDS = ("node", "host", "state", "group", "round", "workers", "failed", "restarts", "role", "reason")
RANK_FIELDS = (
    "rank", "node", "host", "local", "state", "incarnation", "pid", "step", "cpu", "memory", "util", "gpumem", "temp",
    "role", "last",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Usage:
    """What a worker used by the last reading; None where nothing was read.

    Args:
        cpu_percent: of one core.
        util_percent: of its GPU, the busiest if there are several.
        gpu_memory_bytes: in use on its GPUs, by anybody.
        step: that it told last by `toolkit.progress`; None if it never did.
    """

    cpu_percent: float | None = None
    rss_bytes: int | None = None
    util_percent: float | None = None
    gpu_memory_bytes: int | None = None
    temperature_c: float | None = None
    step: int | None = None


@dataclass(frozen=True, slots=True)
class RankRow:
    """One rank.

    Args:
        key: node and local rank.
        now: its latest incarnation.
        last: how it ended, or what is known of it besides its state.
        lost: whether its node is.
    """

    key: RankKey
    host: str
    role: str
    now: Incarnation
    usage: Usage
    last: str
    lost: bool = False

    @property
    def state(self) -> str:
        """What it does, or how it ended; with a node that is lost it is lost."""
        return "lost" if self.lost and self.now.state == "running" else self.now.state

    @property
    def step(self) -> int | None:
        """At which it is, if it says so. Not of one that has ended: what it came to after the reading nobody knows."""
        return self.usage.step if self.now.state == "running" else None

    @property
    def fields(self) -> Fields:
        """What a filter sees."""
        now, usage = self.now, self.usage
        return {
            "rank": now.global_rank,
            "node": self.key[0],
            "host": self.host,
            "local": now.local_rank,
            "state": self.state,
            "incarnation": now.number,
            "pid": now.pid,
            "step": self.step,
            "cpu": usage.cpu_percent,
            "memory": usage.rss_bytes,
            "util": usage.util_percent,
            "gpumem": usage.gpu_memory_bytes,
            "temp": usage.temperature_c,
            "role": self.role,
            "last": self.last,
        }


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node.

    Args:
        lost: whether the others know it to be lost.
        running: workers that run now, of `node.local_world_size`.
        failed: those of its ranks whose latest incarnation failed.
    """

    key: str
    node: Node
    lost: bool
    coordinates: bool
    running: int
    failed: int

    @property
    def state(self) -> str:
        """What it does, or how it ended, in a word."""
        if self.lost and not self.node.result:
            return "lost"
        return STATE_OF_RESULT.get(self.node.result, "error") if self.node.result else self.node.state

    @property
    def fields(self) -> Fields:
        """What a filter sees."""
        node = self.node
        return {
            "node": node.name,
            "host": node.host,
            "state": self.state,
            "group": node.group_rank,
            "round": node.round,
            "workers": self.running,
            "failed": self.failed,
            "restarts": node.restarts_total,
            "role": node.role,
            "reason": node.reason,
        }


class RowMaker:
    """Makes rows, and makes them anew only where something changed."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[Node, bool, bool, NodeRow]] = {}
        self._ranks: dict[str, tuple[Node, bool, dict[RankKey, RankRow]]] = {}
        self._order: list[RankKey] = []
        #: what the rows were made of last
        self._ranked: Timeline | None = None
        self._in_order: list[RankRow] = []

    def nodes(self, timeline: Timeline) -> list[NodeRow]:
        """One for each node, by group rank; those without one come last."""
        lost = lost_nodes(timeline)
        coordinator = _coordinator(timeline)
        made: dict[str, tuple[Node, bool, bool, NodeRow]] = {}
        for name, node in timeline.nodes.items():
            flags = (name in lost, name == coordinator)
            known = self._nodes.get(name)
            if known is None or known[0] is not node or known[1:3] != flags:
                known = (node, *flags, _node_row(node, *flags))
            made[name] = known
        self._nodes = made
        return sorted((row for *_, row in made.values()), key=_place_of_node)

    def ranks(self, timeline: Timeline) -> list[RankRow]:
        """One for each rank, by global rank. The list is the caller's."""
        if timeline is not self._ranked:
            self._ranked, self._in_order = timeline, self._made_ranks(timeline)
        return list(self._in_order)

    def _made_ranks(self, timeline: Timeline) -> list[RankRow]:
        lost = lost_nodes(timeline)
        made: dict[str, tuple[Node, bool, dict[RankKey, RankRow]]] = {}
        moved = len(timeline.nodes) != len(self._ranks)
        for name, node in timeline.nodes.items():
            known, is_lost = self._ranks.get(name), name in lost
            if known is None or known[0] is not node or known[1] != is_lost:
                before = known[2] if known else {}
                known = node, is_lost, _rank_rows(node, is_lost, before, timeline)
                moved = moved or _places(before) != _places(known[2])
            made[name] = known
        self._ranks = made
        if not moved:
            # Sorting 10,000 rows takes as long as all the rest.
            return [made[key[0]][2][key] for key in self._order]
        rows = [row for *_, of_node in made.values() for row in of_node.values()]
        rows.sort(key=_place_of_rank)
        self._order = [row.key for row in rows]
        return rows


def _places(rows: dict[RankKey, RankRow]) -> list[tuple[int, RankKey]]:
    return [(row.now.global_rank, key) for key, row in rows.items()]


def _coordinator(timeline: Timeline) -> str:
    epochs = timeline.job.epochs
    return epochs[max(epochs)].coordinator if epochs else ""


def lost_nodes(timeline: Timeline) -> frozenset[str]:
    """Nodes that were lost, and did not say how they ended nor join again."""
    lost = {lost.node: lost.round for lost in timeline.job.lost}
    return frozenset(
        name
        for name, number in lost.items()
        if (node := timeline.nodes.get(name)) is not None and not node.result and node.round <= number
    )


def _node_row(node: Node, lost: bool, coordinates: bool) -> NodeRow:
    states = [rank.now.state for rank in node.ranks.values()]
    running = 0 if lost else states.count("running")
    return NodeRow(node.name, node, lost, coordinates, running, states.count("failed"))


def _place_of_node(row: NodeRow) -> tuple[bool, int, str]:
    return row.node.group_rank < 0, row.node.group_rank, row.key


def _place_of_rank(row: RankRow) -> tuple[bool, int, RankKey]:
    return row.now.global_rank < 0, row.now.global_rank, row.key


def _rank_rows(
    node: Node, lost: bool, before: dict[RankKey, RankRow], timeline: Timeline
) -> dict[RankKey, RankRow]:
    usages = usage_by_local_rank(node)
    rows: dict[RankKey, RankRow] = {}
    for local_rank, rank in node.ranks.items():
        key, usage = (node.name, local_rank), usages.get(local_rank, NO_USAGE)
        known = before.get(key)
        if known is None or known.now is not rank.now or known.usage != usage or known.lost != lost:
            last = _last_of(node, rank.now, timeline)
            known = RankRow(key, node.host, node.role, rank.now, usage, last, lost)
        rows[key] = known
    return rows


def _last_of(node: Node, now: Incarnation, timeline: Timeline) -> str:
    failure = failure_of(timeline, node, now)
    if failure is not None:
        first = "first on this node: " if failure.first else ""
        how, detail = failing(failure.exit_code, failure.signal, failure.message)
        return f"{first}{detail or how}"
    if now.state == "running":
        return f"hangs: {now.hangs}" if now.hangs else ""
    return ending(now.exit_code, now.signal) if now.exit_code or now.signal else ""


def failure_of(timeline: Timeline, node: Node, now: Incarnation) -> Failure | None:
    """The failure with which an incarnation ended, if it did."""
    return timeline.failures.get((node.name, node.life, now.number, now.local_rank))


NO_USAGE = Usage()


def usage_by_local_rank(node: Node) -> dict[int, Usage]:
    """By the last reading of the node."""
    if node.readings is None:
        return {}
    reading = node.readings.latest
    usages: dict[int, Usage] = {}
    if not reading.gpus:
        return {w.local_rank: Usage(w.cpu_percent, w.rss_bytes, step=w.step) for w in reading.workers}
    for worker in reading.workers:
        mine = [gpu for gpu in reading.gpus if worker.local_rank in gpu.local_ranks]
        usages[worker.local_rank] = Usage(
            worker.cpu_percent,
            worker.rss_bytes,
            max((gpu.util_percent for gpu in mine if gpu.util_percent is not None), default=None),
            sum(gpu.memory_used_bytes or 0 for gpu in mine) if mine else None,
            max((gpu.temperature_c for gpu in mine if gpu.temperature_c is not None), default=None),
            worker.step,
        )
    return usages


def age_s(began: Moment | None, now_ns: int) -> float | None:
    """Seconds since a moment, by the wall clock."""
    return None if began is None else max(now_ns - began.wall_ns, 0) / 1e9


def size_in_words(count: int | None) -> str:
    """Bytes in three digits and a unit: "812M", "2.3G"."""
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "K", "M", "G", "T"):
        if value < 999.5 or unit == "T":
            return f"{value:.1f}{unit}" if unit in "GT" and value < 99.95 else f"{value:.0f}{unit}"
        value /= 1024
    raise AssertionError("the last unit takes what is left")


def short_duration(seconds: float | None) -> str:
    """In at most six letters: "12s", "4m05s", "3h12m", "5d03h"."""
    if seconds is None:
        return ""
    whole = int(min(seconds, 1e9))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
