"""How an agent that hosts the store stays when it is done itself: without the store the others would end."""

from __future__ import annotations

from collections.abc import Callable

from toolkit.agent.rendezvous.desk import Desk
from toolkit.agent.rendezvous.heart import LEFT
from toolkit.core import seats
from toolkit.core.liveness import Standstill, gap_max_ns
from toolkit.core.rounds import Head
from toolkit.ports import Bell

#: between two looks once the job has ended, in seconds
_AGAIN_S = 0.05


def linger(desk: Desk, pause: Bell, nodes: list[str], given_up: Callable[[], bool]) -> None:
    """Host the store as long as somebody else lives who uses it: members of the latest round, or who waits.

    Args:
        desk: of this agent.
        pause: waits between two looks; whoever wants this to end rings it.
        nodes: known to wait beside the round.
        given_up: whether this is to end.
    """
    settings = desk.head.settings
    beats: dict[str, Standstill] = {}
    gap_ns, gone_ns = gap_max_ns(settings.beat_s), int(2 * settings.lease_s * 1e9)
    seen: Head | None = None
    while not given_up():
        if desk.head is not seen:
            seen, nodes = desk.head, list(dict.fromkeys([*members(desk), *nodes]))
        now_ns, values = desk.clock.now_ns(), _look(desk, nodes)
        for node, value in zip(nodes, values, strict=True):
            beats.setdefault(node, Standstill(value, now_ns)).look(value, now_ns, gap_ns)
        nodes = [node for node in nodes if beats[node].value != LEFT and beats[node].stood_ns < gone_ns]
        if not nodes and desk.head is seen:
            return
        pause.wait(_AGAIN_S if desk.head.ended else settings.beat_s)


def _look(desk: Desk, nodes: list[str]) -> list[bytes]:
    keys = [desk.keys.head, *(desk.keys.beat(node) for node in nodes)]
    head, *beats = desk.link.call(lambda store: store.multi_get(keys))
    desk.take(head)
    return beats


def members(desk: Desk) -> list[str]:
    """The other members of the latest round."""
    head = desk.head
    raw = desk.link.find(desk.keys.plan(head.round, head.sealed_epoch)) if head.round else None
    places = [] if raw is None else seats.plan_of(raw).members
    return [place.node for place in places if place.node != desk.node]
