"""The head and the one way to change it: of several who try one wins, and all others see who."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agent.world import FakeBell, Time
from toolkit.adapters.memory_store import MemoryStore
from toolkit.agent.rendezvous.desk import Desk
from toolkit.agent.rendezvous.keys import Keys
from toolkit.agent.rendezvous.link import Birth, Link
from toolkit.core import rounds
from toolkit.core.errors import StoreError
from toolkit.core.rounds import Head, Malformed, Ring, Settings

KEYS = Keys("job")
SETTINGS = Settings(min_nodes=1, max_nodes=4)
CRASH = Ring(action="restart", reason="rank 1 exited with code 3", by="b", spends=True)
JOIN = Ring(action="membership", reason="1 node waits to join: e", by="a")


class Connector:
    """Implements StoreConnector: connections to one memory store, which lose answers when they are told to."""

    where, hosting, local_address = "node0:29400", False, "10.0.0.1"

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        #: answers of compare-and-set that are lost after it was done, and those lost before
        self.lose, self.drop = 0, 0
        #: done between such a loss and the next try
        self.meanwhile: Callable[[], Any] = lambda: None

    def connect(self, timeout_s: float) -> Any:
        return Connection(self)

    def close(self) -> None:
        pass


class Connection:
    """Implements Store."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connector.store, name)

    def compare_set(self, key: str, expected: bytes, desired: bytes) -> bytes:
        connector = self._connector
        if connector.drop:
            connector.drop -= 1
            raise StoreError("the connection broke before")
        found = connector.store.compare_set(key, expected, desired)
        if connector.lose:
            connector.lose -= 1
            meanwhile, connector.meanwhile = connector.meanwhile, lambda: None
            meanwhile()
            raise StoreError("the connection broke behind it")
        return found


class Job:
    """Desks of several nodes over one store."""

    def __init__(self) -> None:
        self.time = Time()
        self.store = MemoryStore()
        self.connectors: dict[str, Connector] = {}

    def desk(self, node: str) -> Desk:
        connector = self.connectors[node] = Connector(self.store)
        link = Link(connector, self.time, FakeBell(self.time), 60.0, Birth())
        return Desk(node, SETTINGS, KEYS, link, self.time, lambda kind, **fields: None)

    def opened(self, *nodes: str) -> list[Desk]:
        """Desks that have seen a job whose first round runs; the first of them coordinates."""
        desks = [self.desk(node) for node in nodes]
        for desk in desks:
            desk.create(rounds.opened(nodes[0], SETTINGS))
        assert desks[0].change(lambda head: rounds.sealed(head, nodes[0], len(nodes)))
        for desk in desks:
            self.see(desk)
        return desks

    def see(self, desk: Desk) -> None:
        desk.take(self.store.get(KEYS.head))

    def head(self) -> Head:
        return rounds.head_of(self.store.get(KEYS.head))

    def rung(self, version: int) -> bool:
        return self.store.check([KEYS.bell(version)])


@pytest.fixture
def job() -> Job:
    return Job()


def ringing(desk: Desk, ring: Ring, number: int = 1) -> Callable[[Head], Head | None]:
    return lambda head: rounds.rung(head, desk.node, number, ring)


# -- seeing ---------------------------------------------------------------------------------------------------


def test_of_two_who_begin_a_job_one_does_and_both_know(job: Job) -> None:
    a, b = job.desk("a"), job.desk("b")
    a.create(rounds.opened("a", SETTINGS))
    b.create(rounds.opened("b", SETTINGS))
    assert a.head == b.head == job.head()
    assert (a.coordinating, b.coordinating) == (True, False)


@pytest.mark.parametrize(("lose", "drop"), [(1, 0), (0, 1), (2, 2)])
def test_who_begins_a_job_does_so_though_answers_are_lost(job: Job, lose: int, drop: int) -> None:
    a = job.desk("a")
    job.connectors["a"].lose, job.connectors["a"].drop = lose, drop
    a.create(rounds.opened("a", SETTINGS))
    assert a.head == rounds.opened("a", SETTINGS) == job.head()


def test_what_was_seen_before_is_no_news(job: Job) -> None:
    a, b = job.opened("a", "b")
    assert b.take(job.store.get(KEYS.head)) is False
    a.change(ringing(a, JOIN))
    assert b.take(job.store.get(KEYS.head)) is True
    assert b.head == a.head
    assert b.raw == job.store.get(KEYS.head)


def test_what_is_no_head_changes_nothing(job: Job) -> None:
    [a] = job.opened("a")
    before = a.head, a.raw
    with pytest.raises(Malformed):
        a.take(b'{"v": 1}')
    assert (a.head, a.raw) == before


# -- changing -------------------------------------------------------------------------------------------------


def test_a_change_is_there_for_all_and_rings(job: Job) -> None:
    a, _ = job.opened("a", "b")
    version = a.head.version
    assert a.change(ringing(a, JOIN)) is True
    assert job.head() == a.head
    assert a.head.phase == "gathering"
    assert rounds.head_of(job.store.get(KEYS.bell(version + 1))) == a.head


def test_who_rings_by_itself_is_left_to(job: Job) -> None:
    a, _ = job.opened("a", "b")
    assert a.change(ringing(a, JOIN), ring=False) is True
    assert not job.rung(a.head.version)
    a.ring(a.head.version)
    assert job.store.get(KEYS.bell(a.head.version)) == a.raw


def test_what_is_not_to_be_had_changes_nothing_and_rings_nobody(job: Job) -> None:
    a, _ = job.opened("a", "b")
    before = job.store.get(KEYS.head)
    assert a.change(lambda head: None) is False
    assert job.store.get(KEYS.head) == before
    assert not job.rung(a.head.version + 1)


def test_of_two_who_end_one_round_one_wins_and_the_other_sees_who(job: Job) -> None:
    a, b = job.opened("a", "b")
    assert a.change(ringing(a, JOIN))
    assert b.change(ringing(b, JOIN)) is False, "it knew of a running round"
    assert b.head == a.head == job.head()
    assert b.head.writer == "a"


def test_a_change_between_the_look_and_the_write_is_seen(job: Job) -> None:
    """B's change falls into A's, after A has made its head and before it writes it."""
    a, b = job.opened("a", "b")
    seen: list[Head] = []

    def slow(head: Head) -> Head | None:
        seen.append(head)
        made = rounds.finishing(head, "a", 1)
        if len(seen) == 1:
            assert b.change(ringing(b, CRASH))
        return made

    assert a.change(slow) is False
    assert [head.phase for head in seen] == ["running", "gathering"]
    assert a.head == b.head == job.head()
    assert (a.head.restarts, a.head.writer) == (1, "b")


def test_changes_that_go_together_are_both_made(job: Job) -> None:
    """One takes over while another rings: neither undoes the other."""
    a, b = job.opened("a", "b")
    done: list[bool] = []

    def slow(head: Head) -> Head | None:
        if not done:
            done.append(b.change(lambda now: rounds.taken_over(now, "b")))
        return rounds.rung(head, "a", 1, CRASH)

    assert a.change(slow) is True
    assert done == [True]
    assert (job.head().coordinator, job.head().epoch, job.head().restarts) == ("b", 2, 1)


def test_a_replaced_coordinator_cannot_form_a_round(job: Job) -> None:
    a, b = job.opened("a", "b")
    a.change(ringing(a, JOIN))
    job.see(b)

    def slow(head: Head) -> Head | None:
        if head.coordinator == "a":
            assert b.change(lambda now: rounds.taken_over(now, "b"))
        return rounds.sealed(head, "a", 2)

    assert a.change(slow) is False
    assert job.head().phase == "gathering"
    assert a.coordinating is False


def test_who_is_beaten_again_and_again_goes_on(job: Job) -> None:
    a, b = job.opened("a", "b")
    beaten = iter(range(20))

    def slow(head: Head) -> Head | None:
        if next(beaten, None) is not None:
            assert b.change(lambda now: rounds.taken_over(now, "b"))
        return rounds.rung(head, "a", 1, CRASH)

    assert a.change(slow) is True
    assert job.head().epoch == 21
    assert job.head().restarts == 1


def test_whoever_waits_for_the_next_version_hears_of_a_change_of_two_parts(job: Job) -> None:
    """The coordinator ends a round and counts the lost hosts in one change; all wait for the bell that comes next."""
    a, b = job.opened("a", "b")
    waits_for = b.head.version + 1

    assert a.change(lambda head: rounds.rung(head, "a", 1, JOIN, ["host-b"])) is True
    assert job.head().losses == {"host-b": 1}
    assert job.rung(waits_for), f"version {a.head.version} was rung, and {waits_for} is waited for"


# -- lost answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lose", "drop"), [(1, 0), (0, 1), (3, 0), (2, 2)])
def test_a_change_whose_answer_was_lost_is_made_once(job: Job, lose: int, drop: int) -> None:
    a, b = job.opened("a", "b")
    job.connectors["b"].lose, job.connectors["b"].drop = lose, drop
    assert b.change(ringing(b, CRASH)) is True
    assert (job.head().restarts, job.head().version) == (1, a.head.version + 1)
    assert job.rung(b.head.version)


def test_a_change_that_others_have_built_upon_meanwhile_is_not_made_again(job: Job) -> None:
    a, b = job.opened("a", "b")
    connector = job.connectors["b"]

    def seal() -> None:
        job.see(a)
        assert a.change(lambda head: rounds.sealed(head, "a", 2))

    connector.lose, connector.meanwhile = 1, seal
    b.change(ringing(b, CRASH))
    assert b.head == job.head()
    assert (job.head().round, job.head().restarts, job.head().phase) == (2, 1, "running")


def test_a_failure_that_upgrades_a_join_is_counted_once_though_its_answer_is_lost(job: Job) -> None:
    a, b = job.opened("a", "b")
    assert a.change(ringing(a, JOIN))
    job.connectors["b"].lose = 1
    assert b.change(ringing(b, CRASH)) is True
    assert (job.head().restarts, job.head().moves, job.head().ring) == (1, 0, CRASH)


# -- any interleaving -----------------------------------------------------------------------------------------

ACTIONS: dict[str, Callable[[Head, str], Head | None]] = {
    "crash": lambda head, node: rounds.rung(head, node, head.round, CRASH),
    "join": lambda head, node: rounds.rung(head, node, head.round, JOIN),
    "seal": lambda head, node: rounds.sealed(head, node, 2),
    "take over": rounds.taken_over,
    "vacate": rounds.vacated,
}
NODES = ("a", "b", "c")
STEP = st.tuples(st.integers(0, 2), st.sampled_from(list(ACTIONS)), st.integers(0, 1), st.integers(0, 1))


@given(st.lists(st.lists(STEP, min_size=1, max_size=4), max_size=8))
def test_whatever_falls_into_whatever_each_version_has_one_writer(nests: list[list[tuple[int, ...]]]) -> None:
    """Each list is a nest: a step begins between the look and the write of the one before it."""
    job = Job()
    desks = job.opened(*NODES)
    won: list[tuple[str, Head]] = []

    def begin(steps: list[Any], busy: frozenset[int]) -> None:
        (at, action, lose, drop), rest = steps[0], steps[1:]
        if at in busy:
            return
        desk, inner = desks[at], [rest] if rest else []
        job.connectors[desk.node].lose, job.connectors[desk.node].drop = lose, drop

        def make(head: Head) -> Head | None:
            made = ACTIONS[action](head, desk.node)
            if inner:
                begin(inner.pop(), busy | {at})
            return made

        if desk.change(make):
            won.append((desk.node, desk.head))
        job.connectors[desk.node].lose = job.connectors[desk.node].drop = 0

    first = job.head().version
    for steps in nests:
        begin(steps, frozenset())
    versions = sorted(head.version for _, head in won)
    assert versions == list(range(first + 1, first + 1 + len(won))), (
        "each is won by one, and none is left out"
    )
    assert all(head.writer == node for node, head in won)
    assert job.head().version == first + len(won)
    assert all(job.rung(version) for version in versions)
    for desk in desks:
        job.see(desk)
        assert desk.head == job.head()
    last: Head | None = None
    for _, head in sorted(won, key=lambda pair: pair[1].version):
        if last is not None:
            assert head.phase == last.phase or head.phase in rounds.STEPS[last.phase]
            assert (head.epoch, head.round, head.restarts) >= (last.epoch, last.round, last.restarts)
        last = head
