"""The watch as an agent has it: the contract of `Watch`, and that nothing is left of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.world import FakeWatch, Time
from tests.processes.jobs import until
from toolkit.adapters.tasks import ThreadBell
from toolkit.adapters.watching import watcher as watcher_module
from toolkit.adapters.watching.health import HealthCheck
from toolkit.adapters.watching.watcher import WorkerWatcher
from toolkit.core import events as ev
from toolkit.core.errors import ConfigurationError
from toolkit.core.hanging.watched import HangSettings, NoWatch, WatchedWorker
from toolkit.ports import Watch

RESTART = HangSettings(action="restart", timeout_s=60)


class Said:
    """Takes what is said, as an agent does."""

    def __init__(self) -> None:
        self.events: list[tuple[type[ev.Event], dict[str, Any]]] = []

    def __call__(self, still: Callable[[], bool], kind: type[ev.Event], /, **fields: Any) -> None:
        if still():
            kind(**fields)  # it has all fields, and no others
            self.events.append((kind, fields))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "100"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def watches() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rally-watch"]


@pytest.mark.parametrize(
    "make",
    [lambda: WorkerWatcher(HangSettings()), lambda: FakeWatch(Time()), NoWatch],
    ids=["real", "fake", "none"],
)
def test_the_contract(make: Callable[[], Watch], sleeper: subprocess.Popen[bytes]) -> None:
    watch, said, bell = make(), Said(), ThreadBell()
    watch.end()
    assert watch.condemned() == ()
    for incarnation in range(3):
        variables = watch.prepare(2)
        assert len(variables) == 2
        workers = [WatchedWorker(0, 0, sleeper.pid), WatchedWorker(1, 1, 0)]
        watch.begin(incarnation, workers, alone=True, say=said, bell=bell)
        assert watch.condemned() == ()
        assert watch.steps() == {}
        watch.end()
        watch.end()
        assert watch.condemned() == ()
    assert said.events == []


def test_a_stopped_worker_is_condemned_and_the_bell_rings_until_it_is_gone(
    sleeper: subprocess.Popen[bytes],
) -> None:
    watch, said, bell = WorkerWatcher(RESTART), Said(), ThreadBell()
    watch.prepare(1)
    watch.begin(4, [WatchedWorker(0, 8, sleeper.pid)], alone=True, say=said, bell=bell)
    sleeper.send_signal(signal.SIGSTOP)
    assert bell.wait(60)
    ((kind, fields),) = said.events
    assert kind is ev.WorkersHung
    assert (fields["incarnation"], fields["kills"]) == (4, [0])
    assert fields["workers"][0].global_rank == 8
    (doomed,) = watch.condemned()
    assert (doomed.local_rank, doomed.signum) == (0, signal.SIGKILL)
    assert doomed.why.startswith(f"hung: rank 8 (pid {sleeper.pid}) is stopped")
    assert bell.wait(60), "again, because it is still there"
    watch.end()
    until("the end of its thread", lambda: not watches())


def test_nothing_is_left_of_many_incarnations(sleeper: subprocess.Popen[bytes]) -> None:
    watch = WorkerWatcher(HangSettings(timers=True))
    workers = [WatchedWorker(0, 0, sleeper.pid)]

    def one(watch: WorkerWatcher, incarnation: int) -> None:
        watch.prepare(1)
        watch.begin(incarnation, workers, alone=True, say=Said(), bell=ThreadBell())
        watch.end()

    one(watch, 0)
    until("the end of the thread", lambda: not watches())
    before = len(os.listdir("/proc/self/fd"))
    for incarnation in range(50):
        one(watch, incarnation)
    until("the end of all threads", lambda: not watches())
    assert len(os.listdir("/proc/self/fd")) <= before
    del watch
    until("its memory is gone", lambda: len(os.listdir("/proc/self/fd")) <= before - 2)


def test_where_nobody_is_to_look_nobody_does(sleeper: subprocess.Popen[bytes]) -> None:
    watch = WorkerWatcher(HangSettings(action="off"))
    watch.prepare(1)
    watch.begin(0, [WatchedWorker(0, 0, sleeper.pid)], alone=True, say=Said(), bell=ThreadBell())
    assert watches() == []
    watch.end()


def test_the_next_incarnation_has_the_pipe_of_the_same_name(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    path = tmp_path / "pipe"
    watch = WorkerWatcher(HangSettings(timers=True, timer_file=str(path)))
    assert not path.exists(), "only once workers start"
    for incarnation in range(10):
        variables = watch.prepare(1)
        assert variables[0]["TORCHELASTIC_TIMER_FILE"] == str(path)
        watch.begin(
            incarnation, [WatchedWorker(0, 0, sleeper.pid)], alone=True, say=Said(), bell=ThreadBell()
        )
        assert path.is_fifo()
        watch.end()
    until("the end of all threads", lambda: not watches())
    assert not path.exists()


def test_a_pipe_that_can_not_be_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no pipe can be made there"):
        WorkerWatcher(HangSettings(timers=True, timer_file=str(tmp_path / "no" / "pipe")))


def test_a_loop_lives_that_answers_its_bell(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, bell = WorkerWatcher(HangSettings()), ThreadBell()
    assert watch.loop_lives(), "it has not begun"
    watch.prepare(1)
    watch.begin(0, [WatchedWorker(0, 0, sleeper.pid)], alone=True, say=Said(), bell=bell)
    assert watch.loop_lives()
    assert bell.wait(10), "it was asked"
    monkeypatch.setattr(watcher_module, "_LOOP_S", 0.0)
    assert not watch.loop_lives(), "it has not answered for so long"
    watch.condemned()
    assert watch.loop_lives()
    watch.end()
    assert watch.loop_lives(), "it stops its workers"


def test_the_health_check_tells_what_it_is_told() -> None:
    alive = True
    health = HealthCheck(0, lambda: alive)
    url = f"http://127.0.0.1:{health.port}/healthz"
    # Somebody who says nothing keeps nobody out for long.
    with (
        socket.create_connection(("127.0.0.1", health.port)),
        urllib.request.urlopen(url, timeout=30) as answer,
    ):
        assert (answer.status, answer.read()) == (200, b"ok\n")
    alive = False
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url, timeout=30)
    assert caught.value.code == 503
    caught.value.close()
    with pytest.raises(ConfigurationError, match="give a port that is free"):
        HealthCheck(health.port, lambda: True)
    health.close()
    health.close()
    until("its end", lambda: not [t for t in threading.enumerate() if t.name == "rally-health"])
