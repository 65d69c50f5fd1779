"""When a round closes, and when a running one ends for nodes that want to join. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.core.rounds import Head, Ring
from toolkit.core.seats import Candidate, chosen, held_ns
from toolkit.core.words import plural


@dataclass(frozen=True, slots=True)
class Seal:
    """The round forms now, with these."""

    members: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet.

    Args:
        why: in words.
        until_ns: when to look again if nothing happens before; by the coordinator's clock.
    """

    why: str
    until_ns: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It won't form."""

    why: str


@dataclass(frozen=True, slots=True)
class Gathering:
    """What the coordinator knows while a round forms.

    Args:
        candidates: that are alive and not refused, by their coming.
        awaited: nodes of the last round that are alive and not back yet.
        since_ns: when the gathering began.
        enough_since_ns: since when there are min_nodes; None if there aren't.
    """

    candidates: tuple[Candidate, ...]
    awaited: tuple[str, ...]
    since_ns: int
    enough_since_ns: int | None


def late_ns(head: Head, since_ns: int) -> int:
    """Until when nodes are waited for. A back-off of the restart policy is not their delay.

    Args:
        since_ns: when the gathering began.
    """
    delay_s = 0.0 if head.ring is None else head.ring.delay_s
    return since_ns + int((head.settings.join_timeout_s + delay_s) * 1e9)


def look(head: Head, gathering: Gathering, now_ns: int) -> Seal | Wait | GiveUp:
    """Whether the next round closes now.

    The first round does with max_nodes, or when enough are there and last_call_s has passed since. A later one does
    when everyone of the last round that lives is back, also those for whom others could step in, and they are enough;
    it never waits for the last call.
    """
    settings = head.settings
    members = chosen(head, gathering.candidates, now_ns)
    late_at_ns = late_ns(head, gathering.since_ns)
    awaited = gathering.awaited if now_ns < late_at_ns else ()
    if awaited:
        return Wait(f"{plural(len(awaited), 'node')} of the last round to come back", late_at_ns)
    if len(members) < settings.min_nodes:
        missing = f"{len(members)} of the {settings.min_nodes} nodes that a round needs are there"
        if now_ns >= late_at_ns:
            return GiveUp(f"{missing} after {settings.join_timeout_s:g} s (join_timeout)")
        return Wait(missing, late_at_ns)
    if len(members) == settings.max_nodes or head.round > 0:
        return Seal(tuple(members))
    since_ns = now_ns if gathering.enough_since_ns is None else gathering.enough_since_ns
    called_ns = since_ns + int(settings.last_call_s * 1e9)
    if now_ns >= called_ns:
        return Seal(tuple(members))
    return Wait(f"more than {plural(len(members), 'node')} (last call)", called_ns)


def welcome(head: Head, candidates: Sequence[Candidate], now_ns: int) -> Ring | Wait | None:
    """Whether a running round is restarted for nodes that wait to join.

    A join that would only add a spare restarts nobody; joins are gathered for join_window_s; a host that was lost again
    and again is held back.

    Returns:
        Why the round ends, or when to look again, or None if nobody is to be let in.
    """
    settings = head.settings
    if head.phase != "running" or head.size >= settings.max_nodes:
        return None
    eager = [c for c in candidates if not c.card.spare]
    if not eager:
        return None
    ready = [max(c.since_ns + int(settings.join_window_s * 1e9), held_ns(c, head)) for c in eager]
    if min(ready) > now_ns:
        return Wait("joins are gathered", min(ready))
    let_in = [c for c in eager if held_ns(c, head) <= now_ns][: settings.max_nodes - head.size]
    names = ", ".join(c.node for c in let_in[:4]) + (
        f" and {len(let_in) - 4} more" if len(let_in) > 4 else ""
    )
    verb = "waits" if len(let_in) == 1 else "wait"
    return Ring(
        action="membership",
        reason=f"{plural(len(let_in), 'node')} {verb} to join: {names}",
        by=head.coordinator,
    )
