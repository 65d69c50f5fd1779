"""A connection that is made anew: what is tried again, what is not, and when the store counts as lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agent.world import SECOND, FakeBell, Time
from toolkit.adapters.memory_store import MemoryStore
from toolkit.agent.rendezvous.link import CONNECT_S, RETRY_S, Ambiguous, Birth, Link, lost
from toolkit.core.errors import StoreError, StoreLostError, StoreTimeoutError

WHERE = "node0:29400"
#: how long the store may be gone, in seconds
TIMEOUT_S = 60.0


class FakeConnector:
    """Implements StoreConnector: one memory store, and a connection to it that breaks as it is told.

    Args:
        time: passes while nobody answers.
    """

    where = WHERE
    hosting = False
    local_address = "10.0.0.1"

    def __init__(self, time: Time) -> None:
        self.time = time
        self.store = MemoryStore()
        #: until when nobody answers, in nanoseconds
        self.gone_until_ns = 0
        #: what the next operations end with; None: they are done
        self.breaks: list[Exception | None] = []
        #: whether an operation that breaks has reached the store before
        self.reaches = False
        self.timeouts_s: list[float] = []

    @property
    def connects(self) -> int:
        return len(self.timeouts_s)

    def connect(self, timeout_s: float) -> Any:
        self.timeouts_s.append(timeout_s)
        if self.time.ns < self.gone_until_ns:
            self.time.ns = min(self.time.ns + int(timeout_s * SECOND), self.gone_until_ns)
            if self.time.ns < self.gone_until_ns:
                raise StoreError(f"nobody answers at {self.where}")
        return FakeConnection(self)

    def close(self) -> None:
        pass


class FakeConnection:
    """Implements Store; once broken it stays so."""

    def __init__(self, connector: FakeConnector) -> None:
        self._connector = connector
        self._broken: Exception | None = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = getattr(self._connector.store, name)

        def call(*arguments: Any) -> Any:
            connector = self._connector
            if self._broken is None and connector.breaks:
                self._broken = connector.breaks.pop(0)
            if self._broken is None and connector.time.ns < connector.gone_until_ns:
                self._broken = StoreError("the connection was reset")
            if self._broken is None or connector.reaches:
                answer = operation(*arguments)
            if self._broken is not None:
                raise self._broken
            return answer

        return call


class Setting:
    """A link and what is around it."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self.time = Time()
        self.connector = FakeConnector(self.time)
        self.pause = FakeBell(self.time)
        self.given_up = False
        self.birth = Birth()
        self.link = Link(self.connector, self.time, self.pause, timeout_s, self.birth, lambda: self.given_up)

    def come_in(self) -> None:
        """To the store that there is."""
        self.connector.store.set("born/1", b"1")
        assert self.link.call(lambda store: store.check(["born/1"]))
        self.birth.mark = "born/1"

    @property
    def now_s(self) -> float:
        return self.time.ns / SECOND


@pytest.fixture
def at() -> Setting:
    return Setting()


BROKEN = [
    StoreError("the connection was reset"),
    StoreTimeoutError("the key did not come"),
    # torch's stores raise this one, and classes derived from it.
    RuntimeError("Connection reset by peer\nException raised from recvBytes at Utils.hpp:675"),
    OSError(104, "Connection reset by peer"),
    ConnectionResetError(),
]


def test_one_connection_serves_all_that_is_done(at: Setting) -> None:
    assert at.connector.connects == 0, "it is made when it is needed"
    for expected in (1, 2, 3):
        assert at.link.call(lambda store: store.add("n", 1)) == expected
    assert at.connector.connects == 1
    assert at.link.answers == 3


@pytest.mark.parametrize("error", BROKEN, ids=lambda error: type(error).__name__)
def test_what_was_broken_off_is_done_over_a_new_connection(at: Setting, error: Exception) -> None:
    at.connector.breaks = [error]
    assert at.link.call(lambda store: store.compare_set("k", b"", b"new")) == b"new"
    assert at.connector.connects == 2
    assert at.pause.waits == [RETRY_S]


def test_a_connection_that_broke_is_not_used_again(at: Setting) -> None:
    at.connector.breaks = [None, StoreError("reset"), StoreError("reset again")]
    assert [at.link.call(lambda store: store.add("n", 1)) for _ in range(3)] == [1, 2, 3]
    assert at.connector.connects == 3


def test_what_breaks_several_times_is_tried_as_often(at: Setting) -> None:
    at.connector.breaks = [StoreError("reset")] * 7
    at.link.call(lambda store: store.set("k", b"v"))
    assert at.connector.store.get("k") == b"v"
    assert at.pause.waits == [RETRY_S] * 7


def test_only_what_was_answered_counts_as_an_answer(at: Setting) -> None:
    at.connector.breaks = [StoreError("reset")] * 3
    at.link.call(lambda store: store.check([]))
    assert at.link.answers == 1


def test_an_error_that_is_not_the_stores_is_the_callers(at: Setting) -> None:
    def wrong(store: Any) -> None:
        raise ValueError("what came is malformed")

    with pytest.raises(ValueError, match="malformed"):
        at.link.call(wrong)
    assert at.link.call(lambda store: store.check([])) is True
    assert at.connector.connects == 1, "the connection is as good as before"


def test_a_store_that_comes_back_in_time_is_not_lost(at: Setting) -> None:
    at.link.call(lambda store: store.set("k", b"before"))
    at.connector.gone_until_ns = int(50 * SECOND)
    assert at.link.call(lambda store: store.get("k")) == b"before"
    assert 50 <= at.now_s < 50 + CONNECT_S + RETRY_S


def test_each_operation_has_its_own_time(at: Setting) -> None:
    """What was gone twice for a while was not gone for both together."""
    for until_s in (50, 110, 170):
        at.connector.gone_until_ns = until_s * SECOND
        at.link.call(lambda store: store.set("k", b"v"))
    assert at.now_s >= 170


def test_an_attempt_to_connect_is_bounded(at: Setting) -> None:
    at.connector.gone_until_ns = 20 * SECOND
    at.link.call(lambda store: store.set("k", b"v"))
    assert set(at.connector.timeouts_s) == {CONNECT_S}
    short = Setting(timeout_s=2.0)
    short.link.call(lambda store: store.set("k", b"v"))
    assert short.connector.timeouts_s == [2.0]


def test_a_key_that_need_not_be_there_is_found(at: Setting) -> None:
    assert at.link.find("k") is None
    assert not at.connector.store.check(["k"]), "it stays missing"
    at.connector.store.set("k", b"")
    assert at.link.find("k") == b""
    at.connector.store.set("k", b"v")
    assert at.link.find("k") == b"v" == at.connector.store.get("k")


def test_a_key_that_is_deleted_while_it_is_looked_for_is_not_waited_for(at: Setting) -> None:
    store = at.connector.store
    store.set_timeout(timedelta(milliseconds=50))
    store.set("k", b"v")
    seen: list[str] = []

    def deleted_after_the_look(keys: list[str]) -> bool:
        found = MemoryStore.check(store, keys)
        seen.extend(keys)
        store.delete_key("k")
        return found

    store.check = deleted_after_the_look  # type: ignore[method-assign]
    assert at.link.find("k") is None
    assert seen == ["k"]
    assert not MemoryStore.check(store, ["k"])


# -- once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reaches", [False, True])
@pytest.mark.parametrize("error", BROKEN, ids=lambda error: type(error).__name__)
def test_what_must_not_be_done_twice_is_not(at: Setting, error: Exception, reaches: bool) -> None:
    at.connector.breaks, at.connector.reaches = [error], reaches
    with pytest.raises(Ambiguous, match=WHERE) as caught:
        at.link.call(lambda store: store.add("n", 1), once=True)
    assert caught.value.__cause__ is error
    assert at.connector.store.add("n", 0) == int(reaches)
    assert at.pause.waits == []


def test_the_link_goes_on_after_it(at: Setting) -> None:
    at.connector.breaks = [StoreError("reset")]
    with pytest.raises(Ambiguous):
        at.link.call(lambda store: store.add("n", 1), once=True)
    assert at.link.call(lambda store: store.add("n", 1), once=True) == 1
    assert at.connector.connects == 2


def test_connecting_may_be_tried_again_even_then(at: Setting) -> None:
    """Nothing was sent that could be done twice."""
    at.connector.gone_until_ns = 20 * SECOND
    assert at.link.call(lambda store: store.add("n", 1), once=True) == 1
    assert at.connector.connects > 2


def test_what_may_be_repeated_can_count_twice(at: Setting) -> None:
    """So says the module: who calls `add` allows for it, or forbids it."""
    at.connector.breaks, at.connector.reaches = [StoreError("reset")], True
    assert at.link.call(lambda store: store.add("n", 1)) == 2


# -- lost -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("once", [False, True])
def test_a_store_that_was_never_there_is_lost_after_its_time(at: Setting, once: bool) -> None:
    at.connector.gone_until_ns = 10**6 * SECOND
    with pytest.raises(StoreLostError) as caught:
        at.link.call(lambda store: store.check([]), once=once)
    said = str(caught.value)
    assert WHERE in said
    assert "nobody answers" in said
    assert "start the job anew" in said
    assert TIMEOUT_S <= at.now_s <= TIMEOUT_S + 2 * CONNECT_S + RETRY_S


def test_a_store_that_goes_is_lost_after_its_time(at: Setting) -> None:
    at.link.call(lambda store: store.set("k", b"v"))
    at.time.ns = 1000 * SECOND
    at.connector.gone_until_ns = 10**6 * SECOND
    with pytest.raises(StoreLostError, match=WHERE):
        at.link.call(lambda store: store.get("k"))
    assert TIMEOUT_S <= at.now_s - 1000 <= TIMEOUT_S + CONNECT_S + RETRY_S


def test_a_store_that_answers_connections_and_nothing_else_is_lost(at: Setting) -> None:
    at.connector.breaks = [RuntimeError("broken pipe\na C++ stack trace")] * 1000
    with pytest.raises(StoreLostError) as caught:
        at.link.call(lambda store: store.check([]))
    assert "broken pipe" in str(caught.value)
    assert "C++" not in str(caught.value)
    assert TIMEOUT_S <= at.now_s <= TIMEOUT_S + RETRY_S


def test_an_error_without_words_is_named_by_its_kind(at: Setting) -> None:
    at.connector.breaks = [ConnectionResetError()] * 1000
    with pytest.raises(StoreLostError, match="ConnectionResetError"):
        at.link.call(lambda store: store.check([]))


def test_what_is_said_of_a_lost_store() -> None:
    said = lost("10.0.0.1:29400", 61.4, "connection refused")
    assert "10.0.0.1:29400" in said
    assert "61 s" in said
    assert "connection refused" in said


@given(st.floats(0.5, 120), st.floats(0, 200))
def test_it_is_lost_if_and_only_if_it_was_gone_too_long(timeout_s: float, gone_s: float) -> None:
    at = Setting(timeout_s)
    at.connector.gone_until_ns = int(gone_s * SECOND)
    attempt_s = min(CONNECT_S, timeout_s)
    try:
        at.link.call(lambda store: store.check([]))
    except StoreLostError:
        assert gone_s > timeout_s
    else:
        assert gone_s <= timeout_s + 2 * attempt_s + RETRY_S
    assert at.now_s <= timeout_s + 2 * attempt_s + RETRY_S + 1e-6


# -- started anew ---------------------------------------------------------------------------------------------


def test_the_same_store_is_known_again(at: Setting) -> None:
    at.come_in()
    at.connector.breaks = [StoreError("reset"), None]
    assert at.link.call(lambda store: store.add("n", 1)) == 1
    assert at.connector.connects == 2


@pytest.mark.parametrize("born", [None, "born/2"])
@pytest.mark.parametrize("tells", [False, True])
def test_a_store_that_was_started_anew_is_lost_at_once(at: Setting, tells: bool, born: str | None) -> None:
    """It knows nothing of the job: whoever went on with it would be alone, or form a second one."""
    at.come_in()
    at.connector.store = MemoryStore()
    if born is not None:
        at.connector.store.set(born, b"1")
    at.connector.breaks = [StoreError("reset")]
    operation = at.link.tell if tells else at.link.call
    with pytest.raises(StoreLostError, match=f"{WHERE} was started anew"):
        operation(lambda store: store.set("k", b"v"))
    assert not at.connector.store.check(["k"]), "nothing was written there"
    assert at.now_s < 1


def test_it_stays_lost(at: Setting) -> None:
    at.come_in()
    at.connector.store = MemoryStore()
    at.connector.breaks = [StoreError("reset")]
    for operation in (at.link.call, at.link.tell, at.link.call):
        with pytest.raises(StoreLostError, match="started anew"):
            operation(lambda store: store.add("n", 1))


def test_a_connection_that_breaks_while_it_is_looked_at_is_made_again(at: Setting) -> None:
    at.come_in()
    at.connector.breaks = [StoreError("reset"), StoreError("reset again"), None, StoreError("and again")]
    assert at.link.call(lambda store: store.add("n", 1)) == 1
    assert at.connector.connects == 4


def test_what_must_not_be_done_twice_is_not_ambiguous_before_it_was_sent(at: Setting) -> None:
    at.come_in()
    at.connector.breaks = [StoreError("reset")]
    with pytest.raises(Ambiguous):
        at.link.call(lambda store: store.add("n", 1), once=True)
    at.connector.breaks = [StoreError("while it is looked at")]
    assert at.link.call(lambda store: store.add("n", 1), once=True) == 1


def test_a_second_connection_of_an_agent_that_has_come_in_is_to_the_same_store(at: Setting) -> None:
    """Each task has a link of its own, which may be made when the store has been started anew."""
    at.come_in()
    at.connector.store = MemoryStore()
    another = Link(at.connector, at.time, at.pause, TIMEOUT_S, at.birth)
    with pytest.raises(StoreLostError, match="started anew"):
        another.call(lambda store: store.set("k", b"v"))


# -- given up -------------------------------------------------------------------------------------------------


def test_a_link_that_nobody_wants_any_more_does_not_try_again(at: Setting) -> None:
    at.connector.breaks = [StoreError("reset")]
    at.given_up = True
    with pytest.raises(StoreLostError, match=f"{WHERE} was given up"):
        at.link.call(lambda store: store.check([]))
    assert at.pause.waits == []


def test_giving_up_ends_the_tries_that_go_on(at: Setting) -> None:
    at.connector.gone_until_ns = 10**6 * SECOND

    def give_up() -> None:
        at.given_up = True
        at.pause.ring()

    at.time.at(12.0, give_up)
    with pytest.raises(StoreLostError, match="given up"):
        at.link.call(lambda store: store.check([]))
    assert at.now_s <= 12 + 2 * (CONNECT_S + RETRY_S)


def test_giving_up_does_not_take_away_an_answer(at: Setting) -> None:
    at.given_up = True
    assert at.link.call(lambda store: store.add("n", 1)) == 1


# -- tell -----------------------------------------------------------------------------------------------------


def test_what_is_told_is_done_and_not_counted(at: Setting) -> None:
    at.link.tell(lambda store: store.set("k", b"v"))
    assert at.connector.store.get("k") == b"v"
    assert at.link.answers == 0, "torch's stores don't answer it"


@pytest.mark.parametrize("error", BROKEN, ids=lambda error: type(error).__name__)
def test_what_was_told_to_a_broken_connection_is_told_again(at: Setting, error: Exception) -> None:
    at.connector.breaks = [error, StoreError("reset again")]
    at.link.tell(lambda store: store.multi_set(["a", "b"], [b"1", b"2"]))
    assert at.connector.store.multi_get(["a", "b"]) == [b"1", b"2"]
    assert at.connector.connects == 3


def test_what_is_told_before_there_is_a_connection_makes_one(at: Setting) -> None:
    at.connector.gone_until_ns = 20 * SECOND
    at.link.tell(lambda store: store.set("k", b"v"))
    assert at.connector.store.get("k") == b"v"


def test_telling_a_store_that_is_gone_ends_as_well(at: Setting) -> None:
    at.connector.gone_until_ns = 10**6 * SECOND
    with pytest.raises(StoreLostError, match=WHERE):
        at.link.tell(lambda store: store.set("k", b"v"))
    assert at.now_s <= TIMEOUT_S + 3 * CONNECT_S + RETRY_S


@pytest.mark.parametrize("reaches", [False, True])
def test_what_was_told_before_a_break_is_told_again_in_its_order(at: Setting, reaches: bool) -> None:
    """It was on its way and is lost with the connection, and nobody says so."""
    at.link.call(lambda store: store.check([]))
    at.link.tell(lambda store: store.set("k", b"first"))
    at.link.tell(lambda store: store.set("k", b"second"))
    at.connector.store = MemoryStore()  # as if neither had come
    at.connector.breaks, at.connector.reaches = [StoreError("reset")], reaches
    assert at.link.call(lambda store: store.add("n", 1)) == 1 + reaches
    assert at.connector.store.get("k") == b"second"


def test_what_was_answered_since_is_not_told_again(at: Setting) -> None:
    at.link.tell(lambda store: store.append("k", b"line"))
    at.link.call(lambda store: store.check([]))
    at.connector.breaks = [StoreError("reset")]
    assert at.link.call(lambda store: store.get("k")) == b"line"


def test_what_is_told_anew_soon_is_not_told_again(at: Setting) -> None:
    at.link.tell(lambda store: store.append("beats", b"1"), lasting=False)
    at.connector.breaks = [StoreError("reset")]
    assert at.link.call(lambda store: store.get("beats")) == b"1"
