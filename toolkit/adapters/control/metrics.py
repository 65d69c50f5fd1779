"""The job in Prometheus' text format. Needs prometheus_client, and is imported where somebody asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from toolkit.core.timeline import JobState, Node, Timeline

CONTENT_TYPE = CONTENT_TYPE_LATEST


def exposition(timeline: Timeline, feed: Mapping[str, int]) -> bytes:
    """All metrics as text.

    Args:
        feed: what there is to say of the endpoint itself.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(timeline, feed))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, timeline: Timeline, feed: Mapping[str, int]) -> None:
        self._timeline = timeline
        self._feed = feed

    def collect(self) -> Iterable[Metric]:
        """All of them."""
        timeline, feed = self._timeline, self._feed
        state = GaugeMetricFamily("rally_job_state", "1 for the state that the job is in.", labels=["state"])
        for name in get_args(JobState):
            state.add_metric([name], float(name == timeline.state))
        yield state
        yield GaugeMetricFamily("rally_round", "Rounds so far.", value=timeline.rounds)
        yield CounterMetricFamily(
            "rally_restarts", "Restarts, whatever the reason.", value=timeline.restarts_total
        )
        left = max(0, timeline.restarts_max - timeline.restarts_used)
        yield GaugeMetricFamily(
            "rally_restarts_left", "Restarts after failures that the budget still pays.", value=left
        )
        yield CounterMetricFamily("rally_failures", "Workers that failed.", value=len(timeline.failures))
        yield CounterMetricFamily(
            "rally_time_lost_seconds", "Time without running workers in restarts.", value=timeline.time_lost_s
        )
        yield from (metric for node in timeline.nodes.values() for metric in _of_node(node))
        yield GaugeMetricFamily(
            "rally_watchers", "Who watches the events now.", value=feed.get("watchers", 0)
        )
        yield CounterMetricFamily(
            "rally_watchers_dropped", "Watchers that fell behind.", value=feed.get("watchers_dropped", 0)
        )
        yield CounterMetricFamily(
            "rally_refused_requests",
            "Requests without the right token.",
            value=feed.get("refused_requests", 0),
        )


def _of_node(node: Node) -> Iterable[Metric]:
    workers = GaugeMetricFamily("rally_workers", "Workers of this node by state.", labels=["node", "state"])
    counts: dict[str, int] = {"running": 0}
    for rank in node.ranks.values():
        counts[rank.now.state] = counts.get(rank.now.state, 0) + 1
    for name, count in sorted(counts.items()):
        workers.add_metric([node.name, name], count)
    yield workers
    incarnation = GaugeMetricFamily(
        "rally_incarnation", "Starts of the workers of this node, from 0.", labels=["node"]
    )
    incarnation.add_metric([node.name], node.incarnation)
    yield incarnation
    events = CounterMetricFamily("rally_events", "Events of this node.", labels=["node"])
    events.add_metric([node.name], node.last_seq)
    yield events
