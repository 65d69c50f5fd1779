"""The contract of `Bell`: no ring is lost, many rings are one, and ringing never blocks."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from toolkit.adapters.loop_bell import LoopBell
from toolkit.ports import Bell

#: timeout of waits that are meant to end earlier, in seconds
LONG_S = 30.0
#: how long a wake-up may take on a busy machine, in seconds
SOON_S = 5.0
#: how long a wait that nobody ends lasts, in seconds
SHORT_S = 0.05

#: makes a bell; one with a `close` is closed after the test
ADAPTERS: dict[str, Callable[[], Any]] = {"loop": LoopBell}


@pytest.fixture(params=ADAPTERS.values(), ids=list(ADAPTERS))
def bell(request: pytest.FixtureRequest) -> Iterator[Bell]:
    made = request.param()
    yield made
    if hasattr(made, "close"):
        made.close()


def wakes_soon(bell: Bell, timeout_s: float | None = LONG_S) -> bool:
    began = time.monotonic()
    rung = bell.wait(timeout_s)
    return rung and time.monotonic() - began < SOON_S


def test_without_a_ring_the_wait_lasts_its_time(bell: Bell) -> None:
    began = time.monotonic()
    assert bell.wait(SHORT_S) is False
    assert SHORT_S * 0.9 <= time.monotonic() - began < SHORT_S + SOON_S


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
def test_a_wait_without_time_only_looks(bell: Bell, timeout_s: float) -> None:
    assert bell.wait(timeout_s) is False
    bell.ring()
    assert bell.wait(timeout_s) is True


@pytest.mark.parametrize("timeout_s", [LONG_S, None])
def test_a_ring_before_the_wait_is_kept(bell: Bell, timeout_s: float | None) -> None:
    bell.ring()
    assert wakes_soon(bell, timeout_s)


def test_a_ring_wakes_once(bell: Bell) -> None:
    bell.ring()
    assert bell.wait(LONG_S) is True
    assert bell.wait(0.0) is False


def test_many_rings_are_one_and_do_not_block(bell: Bell) -> None:
    for _ in range(100_000):  # more than a pipe holds
        bell.ring()
    assert wakes_soon(bell)
    assert bell.wait(0.0) is False


def test_another_thread_wakes_the_waiter(bell: Bell) -> None:
    ringer = threading.Timer(SHORT_S, bell.ring)
    ringer.start()
    assert wakes_soon(bell)
    ringer.join(SOON_S)


def test_no_ring_of_several_threads_is_lost(bell: Bell) -> None:
    rounds = 200
    turn = threading.Semaphore(0)

    def ring_each_turn() -> None:
        for _ in range(rounds):
            turn.acquire(timeout=SOON_S)
            bell.ring()

    ringers = [threading.Thread(target=ring_each_turn) for _ in range(2)]
    for ringer in ringers:
        ringer.start()
    for _ in range(rounds * len(ringers)):
        turn.release()
        assert bell.wait(SOON_S) is True
    for ringer in ringers:
        ringer.join(SOON_S)


def test_a_signal_handler_wakes_the_waiter(bell: Bell) -> None:
    before = signal.signal(signal.SIGUSR1, lambda signum, frame: bell.ring())
    main = threading.main_thread().ident
    assert main is not None
    sender = threading.Timer(SHORT_S, lambda: signal.pthread_kill(main, signal.SIGUSR1))
    try:
        sender.start()
        assert wakes_soon(bell)
        sender.join(SOON_S)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_handler_that_rings_during_a_ring_does_no_harm(bell: Bell) -> None:
    before = signal.signal(signal.SIGALRM, lambda signum, frame: bell.ring())
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        deadline = time.monotonic() + 0.1
        while time.monotonic() < deadline:
            bell.ring()
            assert bell.wait(SOON_S) is True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
