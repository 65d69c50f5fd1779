"""Heads, cards and candidates for tests, and strategies that draw them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from toolkit.core import rounds
from toolkit.core.rounds import (
    Head,
    Phase,
    Ring,
    Settings,
)
from toolkit.core.seats import (
    Candidate,
    Card,
)

SECOND = 1_000_000_000

SETTINGS = Settings(min_nodes=1, max_nodes=4)
CRASH = Ring(action="restart", reason="rank 1 exited with code 3", by="b", cause="exit code 3", spends=True)
JOIN = Ring(action="membership", reason="1 node waits to join: e", by="a")


def settings(**changes: Any) -> Settings:
    return Settings(**({"min_nodes": 1, "max_nodes": 4} | changes))


def card(node: str, **changes: Any) -> Card:
    fields: dict[str, Any] = {
        "node": node,
        "host": f"host-{node}",
        "address": "10.0.0.1",
        "port": 29500,
        "role": "trainer",
        "local_world_size": 2,
        "settings": SETTINGS,
    }
    return Card(**(fields | changes))


def candidate(node: str, seat: int, since_ns: int = 0, **changes: Any) -> Candidate:
    return Candidate(seat, card(node, **changes), since_ns)


def gathering(**changes: Any) -> Head:
    """A job whose first round is yet to form."""
    return Head(**({"coordinator": "a", "writer": "a", "settings": SETTINGS} | changes))


def running(number: int = 1, size: int = 2, **changes: Any) -> Head:
    return gathering(**({"round": number, "phase": "running", "size": size, "sealed_epoch": 1} | changes))


def regathering(number: int = 1, size: int = 2, ring: Ring = CRASH, **changes: Any) -> Head:
    """A job whose round has ended."""
    return running(number, size, phase="gathering", ring=ring, **changes)


def in_phase(phase: Phase, number: int = 1, **changes: Any) -> Head:
    if phase == "gathering":
        return regathering(number, **changes)
    return running(number, phase=phase, **({"why": "rank 1 failed"} if phase == "failed" else {}) | changes)


def lost(head: Head, hosts: list[str]) -> Head:
    after = rounds.rung(head, "a", 1, JOIN, hosts)
    assert after is not None
    return after


@st.composite
def situations(draw: st.DrawFn, *, honest: bool = True) -> tuple[Head, list[Candidate], int]:
    head = draw(heads_that_gather())
    return head, draw(candidates_of(head, honest=honest)), draw(st.integers(0, 100)) * SECOND


FOUR = [candidate(node, at) for at, node in enumerate("abcd")]
FIRST = gathering(settings=settings(min_nodes=2, max_nodes=4, last_call_s=30, join_timeout_s=600))


def back(nodes: str, number: int = 1) -> list[Candidate]:
    return [candidate(node, at, round=number, group_rank=at) for at, node in enumerate(nodes)]


@st.composite
def heads_that_gather(draw: st.DrawFn) -> Head:
    most = draw(st.integers(1, 7))
    its = settings(
        min_nodes=draw(st.integers(1, most)), max_nodes=most, spares=draw(st.sampled_from([None, 0, 1, 3]))
    )
    number = draw(st.integers(0, 2))
    size = draw(st.integers(its.min_nodes, most)) if number else 0
    losses = draw(st.dictionaries(st.sampled_from(["h0", "h1", "h2"]), st.integers(1, 5), max_size=3))
    return gathering(
        round=number,
        size=size,
        settings=its,
        losses=losses,
        restarts=draw(st.integers(0, 3)),
        ring=CRASH if number else None,
    )


@st.composite
def candidates_of(draw: st.DrawFn, head: Head, *, honest: bool = True) -> list[Candidate]:
    """Whoever waits for the round after `head`.

    Args:
        head: of the job.
        honest: whether old ranks and wishes are one of a kind, as admission sees to it; else they are anything.
    """
    size = draw(st.integers(0, 10))
    old_ranks = iter(draw(st.permutations(range(head.size))))
    wishes = iter(draw(st.permutations(range(head.settings.max_nodes))))
    seats = draw(st.permutations(range(-1, size)))
    made = []
    for at in range(size):
        old = next(old_ranks, None) if draw(st.booleans()) else None
        wish = next(wishes, None) if draw(st.integers(0, 3)) == 0 else None
        if not honest:
            old, wish = draw(st.sampled_from([None, 0, 1, 50])), draw(st.sampled_from([None, -1, 0, 1, 99]))
        made.append(
            Candidate(
                seats[at],
                card(
                    f"n{at}",
                    host=f"h{draw(st.integers(0, 9))}",
                    address=draw(ADDRESSES),
                    port=29500 + at,
                    role=draw(st.sampled_from(["trainer", "ps"])),
                    local_world_size=draw(st.integers(1, 8)),
                    topology=draw(LABELS),
                    node_rank=wish,
                    spare=draw(st.booleans()),
                    round=head.round if old is not None else draw(st.integers(0, 3)) * 10,
                    group_rank=-1 if old is None else old,
                ),
                draw(st.integers(0, 50)) * SECOND,
            )
        )
    return made


# -- any candidates at all ------------------------------------------------------------------------------------

LABELS = st.sampled_from(["", "a", "b", "rack1", "rack01", "rack2", "rack10", "a/1", "1"])
ADDRESSES = st.sampled_from(["10.0.0.9", "10.0.0.10", "10.0.0.100", "10.0.10.1", "node9", "node10", "::1"])

OTHER_VALUES: dict[str, Any] = {
    "min_nodes": 2,
    "max_nodes": 5,
    "max_restarts": 7,
    "spares": 3,
    "beat_s": 1.5,
    "lease_s": 5.0,
    "last_call_s": 31.0,
    "join_timeout_s": 601.0,
    "join_window_s": 6.0,
    "store_timeout_s": 61.0,
}
