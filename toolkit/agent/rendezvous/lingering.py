"""How an agent that hosts the store stays when it is done itself: without the store the others would end."""

from __future__ import annotations

from collections.abc import Callable

from toolkit.agent.rendezvous.desk import Desk
from toolkit.agent.rendezvous.heart import LEFT
from toolkit.core import seats
from toolkit.core.liveness import Standstill
from toolkit.core.rounds import Head
from toolkit.ports import Bell

#: between two looks once the job has ended, in seconds
_AGAIN_S = 0.05
#: how much longer than a beat a gap between two looks may count for
_GAP = 1.5


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
    gap_ns, gone_ns = int(_GAP * settings.beat_s * 1e9), int(2 * settings.lease_s * 1e9)
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
    key = desk.keys.plan(desk.head.round, desk.head.sealed_epoch)
    if not desk.head.round or not desk.link.call(lambda store: store.check([key])):
        return []
    plan = seats.plan_of(desk.link.call(lambda store: store.get(key)))
    return [place.node for place in plan.members if place.node != desk.node]
