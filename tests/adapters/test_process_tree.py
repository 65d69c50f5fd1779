"""What belongs to a run is found in /proc by session, by parents and by the mark."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from toolkit.adapters.leftovers import process_tree
from toolkit.adapters.leftovers.process_tree import KEEP, MARK, Seen

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        ["/bin/sleep", "600"], env={MARK: "outer/mine"}, start_new_session=True, stdout=subprocess.DEVNULL
    )
    yield process
    process.kill()
    process.wait()


def test_a_process_is_seen_as_it_is(sleeper: subprocess.Popen[bytes]) -> None:
    seen = process_tree.snapshot()[sleeper.pid]
    assert (seen.name, seen.parent, seen.session) == ("sleep", os.getpid(), sleeper.pid)
    assert seen.started >= process_tree.snapshot()[os.getpid()].started
    assert process_tree.is_there(seen)
    assert sleeper.pid in (process_tree.children(os.getpid()) or [sleeper.pid])


def test_who_has_ended_is_not_there_though_nobody_has_reaped_it(sleeper: subprocess.Popen[bytes]) -> None:
    seen = process_tree.look(sleeper.pid)
    assert seen is not None
    assert process_tree.send(seen, 9) is False
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not process_tree.is_there(seen)
    assert process_tree.send(seen, 9) is True


def test_a_signal_never_reaches_another_one_of_that_number(sleeper: subprocess.Popen[bytes]) -> None:
    seen = process_tree.look(sleeper.pid)
    assert seen is not None
    seen.started -= 1  # as if its number had been somebody else's before
    assert process_tree.send(seen, 9) is True
    assert sleeper.poll() is None


def test_a_name_may_hold_anything() -> None:
    script = "import pathlib; pathlib.Path('/proc/self/comm').write_text('a) R (b'); input()"
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    try:
        while (seen := process_tree.look(process.pid)) is None or seen.name != "a) R (b":
            assert process.poll() is None
        assert seen.parent == os.getpid()
    finally:
        process.communicate(b"\n")


@pytest.mark.parametrize(
    ("entries", "marked"),
    [
        (b"A=1\0RALLY_WORKER_OF=mine\0", True),
        (b"RALLY_WORKER_OF=outer/mine\0A=1\0", True),
        (b"RALLY_WORKER_OF=mine/inner\0", True),
        (b"RALLY_WORKER_OF=mines\0", False),
        (b"NOT_RALLY_WORKER_OF=mine\0", False),
        (b"A=RALLY_WORKER_OF=mine\0", False),
        (b"", False),
    ],
)
def test_marks(entries: bytes, marked: bool) -> None:
    assert process_tree.marked_with(b"mine", entries) is marked


@pytest.mark.parametrize(
    ("entries", "stays"),
    [
        (b"RALLY_KEEP=1\0", True),
        (b"A=1\0RALLY_KEEP=yes\0", True),
        (b"RALLY_KEEP=\0", False),
        (b"NOT_RALLY_KEEP=1\0", False),
        (b"", False),
    ],
)
def test_wishes_to_stay(entries: bytes, stays: bool) -> None:
    assert process_tree.wants_to_stay(entries) is stays


def test_the_family_is_found_by_each_of_its_signs(sleeper: subprocess.Popen[bytes]) -> None:
    seen = process_tree.snapshot()
    me = os.getpid()

    def found(token: bytes = b"", sessions: set[int] | None = None, roots: set[int] | None = None) -> bool:
        family = process_tree.family(seen, token, sessions or set(), roots or set(), 0, {me})
        return sleeper.pid in [each.pid for each in family]

    assert not found(b"nobody's")
    assert found(b"mine")
    assert found(b"outer")
    assert found(sessions={sleeper.pid})
    assert found(roots={sleeper.pid})
    late = seen[sleeper.pid].started + 1
    assert process_tree.family(seen, b"mine", set(), set(), late, {me}) == []


def test_who_has_dropped_session_and_environment_is_found_by_a_limit() -> None:
    marks = {"agent": process_tree.limit_mark("agent.1"), "other": process_tree.limit_mark("other.1")}
    first = subprocess.Popen(
        ["/bin/sh", "-c", "/bin/sleep 600 & echo $!"],
        env={},
        start_new_session=True,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: process_tree.set_limit_mark(marks["agent"]),  # noqa: PLW1509
    )
    assert first.stdout is not None
    pid = int(first.stdout.readline())
    first.stdout.close()
    first.wait()
    try:
        seen = process_tree.snapshot()
        for token, found in ((b"agent", True), (b"agent.1", True), (b"agent.2", False), (b"other", False)):
            family = process_tree.family(seen, token, set(), set(), 0, {os.getpid()})
            assert (pid in [each.pid for each in family]) is found, token
    finally:
        os.kill(pid, 9)


def test_what_wants_to_stay_keeps_children_that_have_dropped_their_environment() -> None:
    daemon = subprocess.Popen(
        ["/bin/sh", "-c", "env -i /bin/sleep 600 >/dev/null & echo $!; wait"],
        env={**os.environ, MARK: "agent", KEEP: "1"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: process_tree.set_limit_mark(process_tree.limit_mark("agent.1")),  # noqa: PLW1509
    )
    assert daemon.stdout is not None
    child = int(daemon.stdout.readline())
    try:
        deadline = time.monotonic() + 30
        while (seen := process_tree.look(child)) is None or seen.name != "sleep":
            assert time.monotonic() < deadline
        for roots in (set(), {child, daemon.pid}):  # as they are where there is a cgroup, too
            family = process_tree.family(process_tree.snapshot(), b"agent", set(), roots, 0, {os.getpid()})
            assert not {child, daemon.pid} & {each.pid for each in family}
        os.kill(daemon.pid, 9)
        daemon.wait()
        family = process_tree.family(process_tree.snapshot(), b"agent", set(), set(), 0, {os.getpid()})
        assert child in [each.pid for each in family], "nobody speaks for it any more"
    finally:
        os.kill(child, 9)
        daemon.kill()
        daemon.communicate()


def test_a_limit_that_somebody_has_set_is_left_as_it_is() -> None:
    import resource

    process = subprocess.Popen(
        ["/bin/sleep", "600"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_RTTIME, (200_000, resource.RLIM_INFINITY)),  # noqa: PLW1509
    )
    try:
        assert not process_tree.set_limit_mark(process_tree.limit_mark("agent.1"), process.pid)
        assert resource.prlimit(process.pid, resource.RLIMIT_RTTIME)[0] == 200_000
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("token", ["0123456789abcdef", "a token of nobody", ""])
def test_marks_of_limits_are_no_limits(token: str) -> None:
    marks = [process_tree.limit_mark(f"{token}.{number}") for number in (0, 1, 2**20 - 1)]
    assert len(set(marks)) == 3
    assert all(2**62 <= mark < 2**63 for mark in marks)


def test_an_environment_is_not_missed_while_the_kernel_sets_it_up() -> None:
    # Several loops keep the processors busy, so that a start is interrupted often:
    # of 1,500 starts about 10 were missed.
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        for _ in range(300):
            process = subprocess.Popen(["/bin/sleep", "600"], env={MARK: "mine"}, start_new_session=True)
            try:
                assert process_tree.marked_with(b"mine", process_tree.environment(process.pid))
            finally:
                process.kill()
                process.wait()
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_an_empty_environment_is_read_at_once() -> None:
    process = subprocess.Popen(["/bin/sleep", "600"], env={}, start_new_session=True)
    try:
        assert process_tree.environment(process.pid) == b""  # by now it is beyond its exec
        started = time.perf_counter()
        assert process_tree.environment(process.pid) == b""
        assert time.perf_counter() - started < 0.04
    finally:
        process.kill()
        process.wait()
    assert process_tree.environment(process.pid) == b""


def test_who_wants_to_stay_is_left_alone_with_its_children_unless_it_is_in_a_workers_session() -> None:
    environment = {MARK: "mine", KEEP: "1"}
    process = subprocess.Popen(["/bin/sleep", "600"], env=environment, start_new_session=True)
    try:
        seen = process_tree.snapshot()
        child = Seen(process.pid + 10**7, "child", "S", process.pid, 1, 1, seen[process.pid].started)
        seen[child.pid] = child
        of_mark = process_tree.family(seen, b"mine", set(), {process.pid}, 0, {os.getpid()})
        of_session = process_tree.family(seen, b"mine", {process.pid}, set(), 0, {os.getpid()})
        assert [each.pid for each in of_mark] == []
        assert sorted(each.pid for each in of_session) == [process.pid, child.pid]
    finally:
        process.kill()
        process.wait()


def test_the_signals_that_a_process_handles() -> None:
    script = (
        "import signal, sys; signal.signal(10, print); signal.signal(15, signal.SIG_IGN);"
        " print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        caught = process_tree.caught(process.pid)
        assert [sig for sig in (10, 12, 15) if caught >> (sig - 1) & 1] == [10]
    finally:
        process.communicate()
    assert process_tree.caught(process.pid) == 0
