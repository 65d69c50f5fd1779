"""The contract of `Interrupts`: death signals are counted, ring the bell, and raise only where that was asked for.

Each scenario runs in a process of its own where the adapter's signals are real: `python -m` this module, the
adapter and the scenario.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pytest

from tests.agent.world import FakeBell, FakeInterrupts, Time
from toolkit.adapters.interrupts import SignalInterrupts
from toolkit.adapters.loop_bell import LoopBell
from toolkit.core.errors import SignalException
from toolkit.ports import Bell, Interrupts

from .worlds import SimWorld

ROOT = Path(__file__).parents[2]
#: how long something that should happen at once may take on a busy machine, in seconds
SOON_S = 10.0


@dataclass(frozen=True, slots=True)
class InterruptsAdapter:
    """One way to learn of death signals.

    Args:
        make: the adapter.
        make_bell: the bell of the same world.
        send: sends a signal to the node of the adapter; it has arrived when that returns.
        run: runs a scenario.
    """

    make: Callable[[], Interrupts]
    make_bell: Callable[[], Bell]
    send: Callable[[int], None]
    run: Callable[[Callable[[], None]], None] = lambda scenario: scenario()


def _of_the_system() -> InterruptsAdapter:
    return InterruptsAdapter(lambda: SignalInterrupts(os.getpid()), LoopBell, signal.raise_signal)


def _simulated() -> InterruptsAdapter:
    world = SimWorld()
    from simulator.adapters.bell import TaskBell
    from simulator.adapters.clock import NodeClock
    from simulator.adapters.interrupts import ProcessInterrupts

    interrupts = ProcessInterrupts(world.process)

    def send(signum: int) -> None:
        # A signal comes while a task blocks, and the blocking call is what it breaks off.
        world.kernel.call_after(10, "a signal", lambda: world.process.receive(signum))
        world.kernel.sleep(20)
        interrupts.raise_pending()

    return InterruptsAdapter(
        lambda: interrupts, lambda: TaskBell(world.kernel, NodeClock(world.node)), send, world.run
    )


def _fake() -> InterruptsAdapter:
    interrupts = FakeInterrupts()
    # Its bell is of its own kind.
    return InterruptsAdapter(
        lambda: interrupts,  # type: ignore[arg-type,return-value]
        lambda: FakeBell(Time()),
        lambda signum: interrupts.send(signal.Signals(signum)),
    )


#: whose signals are the operating system's, so that a scenario needs its own process
REAL = {"signals": _of_the_system}
VIRTUAL = {"simulated": _simulated, "fake": _fake}
ADAPTERS = REAL | VIRTUAL


# -- scenarios of every adapter -----------------------------------------------------------------------------


def signals_are_counted_and_taken_in_order(adapter: InterruptsAdapter) -> None:
    interrupts, bell = adapter.make(), adapter.make_bell()
    assert (interrupts.count(), interrupts.take()) == (0, None)
    with interrupts.handling(bell):
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            adapter.send(signum)
        assert interrupts.count() == 3
        taken = [interrupts.take() for _ in range(4)]
        assert taken == [signal.SIGTERM, signal.SIGINT, signal.SIGTERM, None]
        assert interrupts.count() == 3


def a_signal_rings_the_bell(adapter: InterruptsAdapter) -> None:
    interrupts, bell = adapter.make(), adapter.make_bell()
    with interrupts.handling(bell):
        assert bell.wait(0.0) is False
        adapter.send(signal.SIGTERM)
        assert bell.wait(SOON_S) is True


def handling_is_reentrant(adapter: InterruptsAdapter) -> None:
    interrupts, bell = adapter.make(), adapter.make_bell()
    with interrupts.handling(bell):
        with interrupts.handling(bell):
            adapter.send(signal.SIGTERM)
        adapter.send(signal.SIGTERM)
        assert interrupts.count() == 2


def a_signal_raises_at_once_in_interruptible_code(adapter: InterruptsAdapter) -> None:
    interrupts, bell = adapter.make(), adapter.make_bell()
    with interrupts.handling(bell):
        went_on = False
        try:
            with interrupts.interruptible():
                adapter.send(signal.SIGTERM)
                went_on = True
        except SignalException as error:
            assert error.sigval is signal.SIGTERM
        else:
            raise AssertionError("no SignalException")
        assert not went_on
        assert interrupts.take() is None
        assert interrupts.count() == 1
        # Outside it is only noted again.
        adapter.send(signal.SIGTERM)
        assert interrupts.take() == signal.SIGTERM


def a_signal_from_before_raises_on_entering(adapter: InterruptsAdapter) -> None:
    interrupts, bell = adapter.make(), adapter.make_bell()
    with interrupts.handling(bell):
        adapter.send(signal.SIGINT)
        entered = False
        try:
            with interrupts.interruptible():
                entered = True
        except SignalException as error:
            assert error.sigval is signal.SIGINT
        assert not entered


def interruptible_code_without_a_signal_runs_through(adapter: InterruptsAdapter) -> None:
    interrupts, bell = adapter.make(), adapter.make_bell()
    with interrupts.interruptible():
        pass  # also while nothing is handled
    with interrupts.handling(bell), interrupts.interruptible():
        pass


# -- scenarios of real signals ------------------------------------------------------------------------------


def _own_handler(signum: int, frame: FrameType | None) -> None:
    raise AssertionError("the handler of before must not run while signals are handled")


def handlers_of_before_are_back_afterwards(adapter: InterruptsAdapter) -> None:
    before = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
        signal.SIGHUP: signal.SIG_IGN,
        signal.SIGQUIT: _own_handler,
        signal.SIGUSR1: signal.SIG_DFL,
    }
    for signum, handler in before.items():
        signal.signal(signum, handler)
    interrupts, bell = adapter.make(), adapter.make_bell()
    try:
        with interrupts.handling(bell):
            adapter.send(signal.SIGQUIT)
            raise RuntimeError("the code inside fails")
    except RuntimeError:
        pass
    assert {signum: signal.getsignal(signum) for signum in before} == before
    assert interrupts.count() == 1


def an_ignored_signal_stays_ignored(adapter: InterruptsAdapter) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupts, bell = adapter.make(), adapter.make_bell()
    with interrupts.handling(bell):
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        adapter.send(signal.SIGHUP)
        assert interrupts.count() == 0
        assert bell.wait(0.0) is False


def nothing_is_installed_in_another_thread(adapter: InterruptsAdapter) -> None:
    interrupts, bell = adapter.make(), adapter.make_bell()
    before = signal.getsignal(signal.SIGTERM)

    def inside() -> object:
        with interrupts.handling(bell), interrupts.interruptible():
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(inside).result(SOON_S) is before


def interruptible_code_of_another_thread_is_not_interrupted(adapter: InterruptsAdapter) -> None:
    interrupts, bell = adapter.make(), adapter.make_bell()
    entered, sent = threading.Event(), threading.Event()

    def inside() -> bool:
        with interrupts.interruptible():
            entered.set()
            return sent.wait(SOON_S)

    with interrupts.handling(bell), ThreadPoolExecutor(1) as thread:
        running = thread.submit(inside)
        assert entered.wait(SOON_S)
        adapter.send(signal.SIGTERM)  # would raise here if the thread's wish counted for this one
        sent.set()
        assert running.result(SOON_S) is True
        assert interrupts.take() == signal.SIGTERM


def signals_for_the_workers_are_kept_apart_each_once(adapter: InterruptsAdapter) -> None:
    interrupts, bell = SignalInterrupts(os.getpid(), forwarded=(signal.SIGUSR1, signal.SIGUSR2)), LoopBell()
    with interrupts.handling(bell), interrupts.interruptible():
        assert bell.wait(0.0) is False
        for signum in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR2):
            adapter.send(signum)
        assert bell.wait(SOON_S) is True
        assert interrupts.take_forwarded() == [signal.SIGUSR2, signal.SIGUSR1]
        assert interrupts.take_forwarded() == []
        assert (interrupts.count(), interrupts.take()) == (0, None)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def what_comes_before_there_is_a_bell_is_kept(adapter: InterruptsAdapter) -> None:
    interrupts, bell = SignalInterrupts(os.getpid()), LoopBell()
    interrupts.install()
    adapter.send(signal.SIGTERM)
    with interrupts.handling(bell):
        adapter.send(signal.SIGINT)
        assert bell.wait(SOON_S) is True
        assert [interrupts.take(), interrupts.take()] == [signal.SIGTERM, signal.SIGINT]
    adapter.send(signal.SIGHUP)
    assert interrupts.count() == 3, "the handlers are there to the end"
    interrupts.uninstall()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def other_signals_can_be_chosen_meanwhile(adapter: InterruptsAdapter) -> None:
    interrupts = SignalInterrupts(os.getpid())
    interrupts.install()
    interrupts.choose([signal.SIGTERM, signal.SIGUSR2], [signal.SIGHUP])
    assert signal.getsignal(signal.SIGQUIT) is signal.SIG_DFL
    for signum in (signal.SIGUSR2, signal.SIGHUP):
        adapter.send(signum)
    assert (interrupts.count(), interrupts.take_forwarded()) == (1, [signal.SIGHUP])
    interrupts.uninstall()
    assert signal.getsignal(signal.SIGHUP) is signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


def a_blocking_call_is_interrupted(adapter: InterruptsAdapter) -> None:
    interrupts, bell = adapter.make(), adapter.make_bell()
    with interrupts.handling(bell):
        print("ready", flush=True)
        began = time.monotonic()
        try:
            with interrupts.interruptible():
                time.sleep(10 * SOON_S)
        except SignalException as error:
            assert error.sigval is signal.SIGTERM
        else:
            raise AssertionError("no SignalException")
        assert time.monotonic() - began < SOON_S


def signals_from_outside_wake_a_wait_on_the_bell(adapter: InterruptsAdapter) -> None:
    interrupts, bell = adapter.make(), adapter.make_bell()
    with interrupts.handling(bell):
        print("ready", flush=True)
        assert bell.wait(SOON_S) is True
        assert interrupts.take() == signal.SIGTERM


IN_EVERY_WORLD = [
    signals_are_counted_and_taken_in_order,
    a_signal_rings_the_bell,
    handling_is_reentrant,
    a_signal_raises_at_once_in_interruptible_code,
    a_signal_from_before_raises_on_entering,
    interruptible_code_without_a_signal_runs_through,
]
OF_THE_PROCESS = [
    handlers_of_before_are_back_afterwards,
    an_ignored_signal_stays_ignored,
    nothing_is_installed_in_another_thread,
    interruptible_code_of_another_thread_is_not_interrupted,
    signals_for_the_workers_are_kept_apart_each_once,
    what_comes_before_there_is_a_bell_is_kept,
    other_signals_can_be_chosen_meanwhile,
]
FROM_OUTSIDE = [
    a_blocking_call_is_interrupted,
    signals_from_outside_wake_a_wait_on_the_bell,
]
SCENARIOS = {scenario.__name__: scenario for scenario in (*IN_EVERY_WORLD, *OF_THE_PROCESS, *FROM_OUTSIDE)}

Scenario = Callable[[InterruptsAdapter], None]


def _start(adapter: str, scenario: Scenario) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", __name__, adapter, scenario.__name__],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _expect_success(process: subprocess.Popen[str]) -> None:
    try:
        _, errors = process.communicate(timeout=3 * SOON_S)
    finally:
        process.kill()
    assert process.returncode == 0, errors


@pytest.mark.parametrize("scenario", IN_EVERY_WORLD, ids=lambda scenario: scenario.__name__)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_in_every_world(adapter: str, scenario: Scenario) -> None:
    if adapter in REAL:
        _expect_success(_start(adapter, scenario))
    else:
        made = ADAPTERS[adapter]()
        made.run(lambda: scenario(made))


@pytest.mark.parametrize("scenario", OF_THE_PROCESS, ids=lambda scenario: scenario.__name__)
@pytest.mark.parametrize("adapter", REAL)
def test_of_the_process(adapter: str, scenario: Scenario) -> None:
    _expect_success(_start(adapter, scenario))


@pytest.mark.parametrize("scenario", FROM_OUTSIDE, ids=lambda scenario: scenario.__name__)
@pytest.mark.parametrize("adapter", REAL)
def test_from_outside(adapter: str, scenario: Scenario) -> None:
    with _start(adapter, scenario) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            _expect_success(process)
        finally:
            process.kill()


if __name__ == "__main__":
    SCENARIOS[sys.argv[2]](ADAPTERS[sys.argv[1]]())
