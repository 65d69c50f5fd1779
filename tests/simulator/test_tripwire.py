"""The tripwire: what a run may not touch raises where it is called, and is itself again afterwards."""

from __future__ import annotations

import os
import random
import secrets
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from simulator import tripwire
from simulator.scenario import Scenario
from simulator.simulation import RallySubject, ScenarioRun
from simulator.subject import Ended
from simulator.tripwire import RealWorldTouched, Tripwire
from simulator.workloads import Jobs, Workload
from simulator.world import Process, World

#: what is touched, and a call that does it; text, so that the names mean what they mean at the time of the call
TOUCHES = {
    "time.time": "time.time()",
    "time.sleep": "time.sleep(0)",
    "time.monotonic": "time.monotonic()",
    "time.monotonic_ns": "time.monotonic_ns()",
    "time.perf_counter": "time.perf_counter()",
    "random.random": "random.random()",
    "random.choice": "random.choice([1, 2])",
    "os.urandom": "os.urandom(4)",
    "secrets.token_hex": "secrets.token_hex()",
    "socket.socket.__init__": "socket.socket()",
    "socket.gethostname": "socket.gethostname()",
    "socket.getaddrinfo": "socket.getaddrinfo('localhost', 1)",
    "threading.Thread.start": "threading.Thread(target=print).start()",
    "threading.Condition.wait": "threading.Event().wait(1)",
    "subprocess.Popen.__init__": "subprocess.run(['true'], check=False)",
}
MODULES = [os, random, secrets, socket, subprocess, threading, time]


@pytest.mark.parametrize("name", list(TOUCHES))
def test_it_raises_where_it_is_called(name: str) -> None:
    wire = Tripwire()
    with wire, pytest.raises(RealWorldTouched) as caught:
        eval(TOUCHES[name], {module.__name__: module for module in MODULES})
    assert name in str(caught.value)
    assert "use a port" in str(caught.value)
    assert [str(error) for error in wire.touched] == [str(caught.value)]


def test_the_place_is_named() -> None:
    with Tripwire(), pytest.raises(RealWorldTouched, match=r"test_tripwire\.py:\d+"):
        time.sleep(0)


def test_entropy_behind_another_module_is_found() -> None:
    with Tripwire(), pytest.raises(RealWorldTouched, match=r"os\.urandom"):
        uuid.uuid4()


def test_everything_is_itself_again() -> None:
    before = [getattr(owner, name) for owner, name in tripwire._WATCHED if hasattr(owner, name)]
    with pytest.raises(ZeroDivisionError), Tripwire():
        _ = 1 / 0
    assert before == [getattr(owner, name) for owner, name in tripwire._WATCHED if hasattr(owner, name)]
    assert time.time() > 0


def test_it_can_be_entered_again_and_again() -> None:
    wire = Tripwire()
    for _ in range(2):
        with wire, pytest.raises(RealWorldTouched):
            time.sleep(0)
    assert len(wire.touched) == 2
    time.sleep(0)


def test_other_threads_are_not_watched() -> None:
    go, done, seen = threading.Event(), threading.Event(), []

    def elsewhere() -> None:
        go.wait(10)
        seen.append(time.monotonic())
        done.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    with Tripwire():
        go.set()
        while not done.is_set():  # waiting would trip it
            pass
    thread.join(10)
    assert seen


def test_test_runners_and_debuggers_may() -> None:
    names = {"__name__": "hypothesis.internal", "time": time}
    with Tripwire():
        assert eval("time.perf_counter()", names) > 0


class Sinner:
    """A subject that reads the real clock, and hides it."""

    name = "sinner"

    def surroundings(self, world: World, scenario: Scenario) -> Any:
        return RallySubject().surroundings(world, scenario)

    def agent(
        self, process: Process, scenario: Scenario, jobs: Jobs, done: Callable[[Ended], None]
    ) -> Callable[[], None]:
        def run() -> None:
            try:
                time.monotonic()
            except Exception:
                done(Ended("SUCCEEDED", 0, ""))
            process.end(0)

        return run


def test_a_touch_that_was_swallowed_is_a_finding() -> None:
    simulation = ScenarioRun(Scenario(), Sinner())
    outcome = simulation.run()
    simulation.close()
    assert "time.monotonic" in outcome.finding


def test_a_run_without_it_may_touch() -> None:
    simulation = ScenarioRun(Scenario(), Sinner(), tripwire=False)
    outcome = simulation.run()
    simulation.close()
    assert outcome.finding == ""


def test_our_agent_touches_nothing() -> None:
    scenario = Scenario(solo=True, local_world_size=2, workload=Workload(steps=3))
    simulation = ScenarioRun(scenario, RallySubject())
    outcome = simulation.run()
    simulation.close()
    assert (outcome.finding, outcome.nodes["node0"].result) == ("", "SUCCEEDED")
