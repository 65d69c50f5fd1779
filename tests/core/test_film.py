"""The film: whatever portions events come in, a moment of it is the fold of all events until then."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.test_timeline import ANY_EVENTS
from toolkit.core import events as ev
from toolkit.core import film as films
from toolkit.core.film import Film
from toolkit.core.timeline import fold_all

SECOND = 10**9


def changes(count: int, node: str = "a_1", wall_ns: int = 0, start: int = 0) -> list[ev.AnyEvent]:
    """So many events, one each second."""
    return [
        ev.MembershipChanged(
            node=node, seq=start + n + 1, mono_ns=(start + n) * SECOND, wall_ns=wall_ns + (start + n) * SECOND,
            nodes_waiting=n,
        )
        for n in range(count)
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few events fill blocks."""
    monkeypatch.setattr(films, "BLOCK", 4)
    monkeypatch.setattr(films, "CHECKPOINTS_MAX", 3)


@settings(deadline=None, max_examples=200)
@given(events=ANY_EVENTS, data=st.data())
def test_any_moment_is_the_fold_of_what_came_before(events: list[ev.AnyEvent], data: st.DataObject) -> None:
    films.BLOCK, films.CHECKPOINTS_MAX = 4, 3
    film, rest = Film(), list(events)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        film.add(rest[:size])
        rest = rest[size:]
    assert len(film) == len(events)
    assert repr(film.latest) == repr(fold_all(events))
    for _ in range(5):
        count = data.draw(st.integers(0, len(events)))
        assert repr(film.after(count)) == repr(fold_all(events[:count]))
    time_ns = data.draw(st.integers(-(2**62), 2**62))
    assert repr(film.at(time_ns)) == repr(fold_all(events[: film.count_at(time_ns)]))


def test_times_never_fall_and_a_clock_that_jumps_moves_nothing() -> None:
    events = changes(10)
    jumped = [*events[:5], *(_later(event, 3600) for event in events[5:])]
    film = Film()
    film.add(jumped)
    assert [film.time_of(n) // SECOND for n in range(10)] == list(range(10))
    film.add(changes(3, node="b_1", wall_ns=-100 * SECOND))
    assert film.time_of(12) == film.time_of(9), "a node whose clock is behind"


def _later(event: ev.AnyEvent, seconds: int) -> ev.AnyEvent:
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    return type(event)(**{**fields, "wall_ns": event.wall_ns + seconds * SECOND})


def test_events_are_found_by_their_places() -> None:
    film, events = Film(), changes(23)
    film.add(events)
    for start, end in ((0, 23), (3, 5), (4, 8), (7, 22), (22, 99), (5, 5)):
        assert list(film.between(start, end)) == events[start:end]


def test_a_copy_goes_its_own_way() -> None:
    film, events = Film(), changes(23)
    film.add(events)
    copy = film.copy()
    film.add(changes(9, start=23))
    copy.add(changes(40, start=30))
    assert list(film.between(0, 99)) == [*events, *changes(9, start=23)]
    theirs = [*events, *changes(40, start=30)]
    assert list(copy.between(0, 99)) == theirs
    for count in range(len(theirs) + 1):
        assert copy.after(count) == fold_all(theirs[:count])
        assert film.after(min(count, 32)) == fold_all([*events, *changes(9, start=23)][: min(count, 32)])


def test_there_are_few_timelines_however_many_events() -> None:
    film = Film()
    for start in range(0, 400, 7):
        film.add(changes(7, start=start))
    assert len(film._checkpoints) <= 3
    assert film.after(0) == fold_all([])


def test_an_empty_film_has_a_timeline() -> None:
    film = Film()
    assert film.latest == film.at(5) == film.after(3)
    assert (len(film), film.started_ns, film.ended_ns) == (0, 0, 0)


def test_a_million_events_take_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a sample of them: the blocks are what grows."""
    monkeypatch.setattr(films, "BLOCK", 1_000)
    film = Film()
    film.add(changes(20_000))
    size = sum(map(sys.getsizeof, film._blocks)) + sys.getsizeof(film._times)
    assert size / len(film) < 60
