"""The processes behind simulations: none is left behind, whoever ends first, and Ctrl-C does no harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

pytest.importorskip("greenlet")

from simulator.faults import KillWorker
from simulator.interactive.conversation import HostError, HostLost
from simulator.interactive.hosted import HostedRun
from simulator.scenario import Scenario
from simulator.workloads import Workload
from tests.leaks import nothing_left
from tests.simulator.interactive.jobs import ENDLESS_JOB, SMALL, straight
from toolkit.core.errors import ConfigurationError

ROOT = Path(__file__).parents[3]
Open = Callable[..., HostedRun]


def keeper_of(run: HostedRun) -> psutil.Process:
    """The process above all of its family."""
    return psutil.Process(run._history.talk._keeper.pid)


def family(keeper: psutil.Process) -> list[psutil.Process]:
    """The keeper and all below it."""
    return [keeper, *keeper.children(recursive=True)]


def settled(keeper: psutil.Process, more_than: int) -> list[psutil.Process]:
    """Its family once it has so many.

    A branch is a grandchild that the keeper adopts as soon as its parent has ended: just after its birth, a look at all
    processes, which takes its time, may find it below neither of them.
    """
    limit_s = time.monotonic() + 20
    while len(processes := family(keeper)) <= more_than:
        assert time.monotonic() < limit_s, processes
        time.sleep(0.01)
    return processes


def wait_for_end_of(processes: list[psutil.Process]) -> None:
    _, left = psutil.wait_procs(processes, timeout=20)
    assert left == []


# -- the end --------------------------------------------------------------------------------------------------


def test_nothing_is_left_after_the_last_is_closed() -> None:
    with nothing_left():
        run = HostedRun(SMALL)
        try:
            run.run(until=20.0)
            branch = run.branch()
            of_branch = branch.branch()
            run.inject(KillWorker("node1"))
            run.rewind(10.0)
            processes = settled(keeper_of(run), more_than=4)
        finally:
            run.close()
        of_branch.step()
        branch.close()
        of_branch.step()
        assert [p for p in family(keeper_of(of_branch)) if p.status() == psutil.STATUS_ZOMBIE] == []
        of_branch.close()
        assert [process for process in processes if process.is_running()] == []


def test_what_is_forgotten_is_closed() -> None:
    with nothing_left():
        run = HostedRun(SMALL)
        run.run(until=20.0)
        processes = family(keeper_of(run))
        del run
        wait_for_end_of(processes)


def test_who_ends_is_no_zombie(opened: Open) -> None:
    run = opened(SMALL)
    run.run(until=20.0)
    branch = run.branch()
    gone = psutil.Process(branch.pid)
    branch.close()
    wait_for_end_of([gone])


OWNER = """
import sys
from simulator.interactive.hosted import HostedRun
from tests.simulator.interactive.jobs import ENDLESS_JOB

run = HostedRun(ENDLESS_JOB)
run.run(until=20.0)
branch = run.branch()
of_branch = branch.branch()
print(run._history.talk._keeper.pid, flush=True)
of_branch.run()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_all_end_with_their_owner(how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as owner:
        try:
            assert owner.stdout is not None
            keeper = psutil.Process(int(owner.stdout.readline()))
            processes = settled(keeper, more_than=4)
        finally:
            owner.send_signal(how)
    wait_for_end_of(processes)


def test_one_that_hangs_is_ended_with_the_others(opened: Open) -> None:
    run = opened(SMALL)
    branch = run.branch()
    os.kill(branch.pid, signal.SIGSTOP)
    processes = family(keeper_of(run))
    run.close()
    branch.close()
    wait_for_end_of(processes)


def test_a_dead_process_is_told_and_can_be_replaced(opened: Open) -> None:
    run = opened(SMALL)
    run.run(until=20.0)
    victim = psutil.Process(run.pid)
    victim.kill()
    wait_for_end_of([victim])
    for _ in range(2):
        with pytest.raises(
            HostLost, match=rf"\({victim.pid}\) has ended, perhaps for want of memory; rewind it"
        ) as found:
            run.step()
        assert "\n" not in str(found.value)
    run.rewind(run.now_s)
    run.run()
    assert run.digest == straight(SMALL).digest


def test_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with nothing_left(), pytest.raises(HostLost, match="has ended"):
        HostedRun(SMALL)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with nothing_left(), pytest.raises(HostLost, match="can't be started: /nowhere/python"):
        HostedRun(SMALL)


def test_closed_while_it_goes_on(opened: Open) -> None:
    run = opened(ENDLESS_JOB)
    raised: list[Exception] = []

    def go_on() -> None:
        try:
            run.run()
        except HostError as error:
            raised.append(error)

    running = threading.Thread(target=go_on)
    running.start()
    while run.steps == 0:
        os.sched_yield()
    run.close()
    running.join(20)
    assert [str(error) for error in raised] == ["this simulation is closed; start another one"]


# -- Ctrl-C ---------------------------------------------------------------------------------------------------


class Armed:
    """Whether to interrupt. No Event: its lock may be held by the code that is struck."""

    on = False


@contextmanager
def interrupting(strike: Callable[[Callable[[], None]], None]) -> Iterator[Armed]:
    """A thread that interrupts this one as Ctrl-C does, by a signal that pytest does not want.

    Once each time that it is armed: else it would strike those who catch it, too.
    """
    armed = Armed()

    def raise_it(*_: object) -> None:
        if armed.on:
            armed.on = False
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, raise_it)
    thread = threading.Thread(target=strike, args=(lambda: os.kill(os.getpid(), signal.SIGUSR1),))
    thread.start()
    try:
        yield armed
    finally:
        armed.on = False
        thread.join()
        signal.signal(signal.SIGUSR1, before)


def test_ctrl_c_leaves_a_simulation_that_goes_on(opened: Open) -> None:
    run = opened(ENDLESS_JOB)

    def strike(interrupt: Callable[[], None]) -> None:
        while run.steps == 0:
            os.sched_yield()
        interrupt()

    with interrupting(strike) as armed, pytest.raises(KeyboardInterrupt):
        armed.on = True
        run.run()
    now_s = run.now_s
    assert run.node("node0").at_s == now_s, "it stands still"
    run.run(until=now_s + 5)
    digest = run.digest
    run.rewind(now_s / 2)
    run.run(until=now_s + 5)
    assert run.digest == digest


# Where it strikes between the making of a socket and its first use, the socket is closed when it is forgotten.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_ctrl_c_again_and_again_changes_nothing(opened: Open) -> None:
    job = Scenario("long", nodes=4, min_nodes=2, max_restarts=20, workload=Workload(steps=150, step_s=1.0))
    run = opened(job)
    ended = threading.Event()
    count = 0

    def strike(interrupt: Callable[[], None]) -> None:
        while not ended.wait(0.007):
            interrupt()

    with interrupting(strike) as armed:
        try:
            while not run.over:
                try:
                    armed.on = True
                    while not run.over:
                        run.step(3)
                        run.branch().close()
                        if not run.over and run.now_s > 20 * len(run.injected) + 20:
                            run.inject(KillWorker("any", 0.5))
                    armed.on = False
                except KeyboardInterrupt:
                    count += 1
            armed.on = False
        finally:
            ended.set()
    assert count > 3
    told = straight(job, injected=run._history.injected)
    assert run.digest == told.digest
    assert list(run.events) == told.events


# -- what crosses over ------------------------------------------------------------------------------------------


def test_classes_of_a_notebook_cross_over(tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    script = tmp_path / "cell.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(ROOT)!r})
            from dataclasses import dataclass
            from simulator import Scenario, Workload, faults
            from simulator.interactive.hosted import HostedRun

            @dataclass(frozen=True, slots=True)
            class Short(Workload):
                steps: int = 7

            class Outage(faults.CrashNode):
                __slots__ = ()
                def what(self):
                    return f"the cleaner unplugs {{self.target}}"

            with HostedRun(Scenario("mine", nodes=2, min_nodes=1, workload=Short())) as run:
                run.run(until=2)
                run.inject(Outage("node1", 30.0))
                run.run()
                print(run.report().struck)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert "at 32 s the cleaner unplugs node1" in done.stdout, done.stderr


def test_without_cloudpickle_what_can_not_cross_over_is_told(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Local(Workload):
        """Nobody can import it."""

        __slots__ = ()

    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    opened(SMALL).step()
    with pytest.raises(
        ConfigurationError,
        match=r"scenario 'mine' can't be taken to the process .* `pip install cloudpickle`",
    ):
        HostedRun(Scenario("mine", workload=Local()))


def test_what_can_not_be_pickled_at_all() -> None:
    pytest.importorskip("cloudpickle")
    lock = threading.Lock()

    class Locked(Workload):
        """Holds what belongs to this process."""

        __slots__ = ()

        def held(self) -> bool:
            return lock.locked()

    with pytest.raises(ConfigurationError, match="leave out what belongs to this process"):
        HostedRun(Scenario("mine", workload=Locked()))
