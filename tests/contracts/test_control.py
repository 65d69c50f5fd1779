"""The contract of `Control`: orders come in their order, each once; one that comes rings the bell; nothing blocks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from simulator.adapters.control import SimControl
from tests.agent.world import FakeBell, FakeControl, Time
from toolkit.adapters.control.orders import Orders
from toolkit.adapters.tasks import ThreadBell
from toolkit.core.actions import Action, NoOrders, Outcome
from toolkit.ports import Bell, Control

STOP = Action(action="stop", by="ada")
DONE = Outcome(outcome="done")


@dataclass(frozen=True, slots=True)
class Subject:
    """A control and the one who gives it orders.

    Args:
        control: under test.
        bell: that it rings.
        put: gives an order without waiting for its end; returns what tells the outcome, or None while there is none.
    """

    control: Control
    bell: Bell
    put: Callable[[Action], Callable[[], Outcome | None]]


def _production() -> Subject:
    orders, bell = Orders(), ThreadBell()
    rung = threading.Event()

    def ring() -> None:
        bell.ring()
        rung.set()

    orders.rings(ring)

    def put(action: Action) -> Callable[[], Outcome | None]:
        outcomes: list[Outcome] = []
        rung.clear()
        asking = threading.Thread(target=lambda: outcomes.append(orders.ask(action, 10.0)), daemon=True)
        asking.start()
        assert rung.wait(10.0)

        def outcome() -> Outcome | None:
            asking.join(10.0)
            return outcomes[0] if outcomes else None

        return outcome

    return Subject(orders, bell, put)


def _simulated() -> Subject:
    bell = FakeBell(Time())
    control = SimControl(bell)

    def put(action: Action) -> Callable[[], Outcome | None]:
        order = control.put(action)
        return lambda: order.outcome

    return Subject(control, bell, put)


def _fake() -> Subject:
    bell = FakeBell(Time())
    control = FakeControl(bell)

    def put(action: Action) -> Callable[[], Outcome | None]:
        order = control.put(action)
        return lambda: order.outcome

    return Subject(control, bell, put)


@pytest.fixture(params=[_production, _simulated, _fake], ids=["production", "simulated", "fake"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    made: Subject = request.param()
    yield made
    while (order := made.control.take()) is not None:
        order.answer(DONE)


@pytest.fixture(params=["production", "simulated", "fake", "nobody"])
def empty(request: pytest.FixtureRequest) -> Any:
    makers: dict[str, Callable[[], Any]] = {
        "production": Orders,
        "simulated": lambda: SimControl(FakeBell(Time())),
        "fake": lambda: FakeControl(FakeBell(Time())),
        "nobody": NoOrders,
    }
    return makers[request.param]()


def test_without_orders_there_is_none(empty: Control) -> None:
    assert not empty.waiting()
    assert empty.take() is None


def test_an_order_rings_the_bell_and_waits_to_be_taken(subject: Subject) -> None:
    subject.put(STOP)
    assert subject.bell.wait(0.0)
    assert subject.control.waiting()
    order = subject.control.take()
    assert order is not None
    assert order.action == STOP
    assert order.withdrawn == ""
    assert not subject.control.waiting()
    assert subject.control.take() is None
    order.answer(DONE)


def test_orders_come_in_their_order(subject: Subject) -> None:
    actions = [Action(action="restart", incarnation=number) for number in range(5)]
    for action in actions:
        subject.put(action)
    taken = [subject.control.take() for _ in actions]
    assert [order.action for order in taken if order] == actions
    for order in taken:
        assert order is not None
        order.answer(DONE)


def test_who_gave_it_hears_what_became_of_it(subject: Subject) -> None:
    outcome = subject.put(STOP)
    order = subject.control.take()
    assert order is not None
    order.answer(Outcome(outcome="refused", detail="not now"))
    assert outcome() == Outcome(outcome="refused", detail="not now")


def test_after_the_end_nobody_waits_in_vain() -> None:
    subject = _production()
    outcome = subject.put(STOP)
    assert isinstance(subject.control, Orders)
    subject.control.close()
    said = outcome()
    assert said is not None
    assert (said.outcome, said.detail) == ("refused", "the run has ended")
    assert subject.control.ask(STOP, 10.0).outcome == "refused"
