"""The name service is asked once at most, and never in a restart: where it is slow, nothing waits for it."""

import ctypes
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from toolkit.core.events import RoundEnded, WorkersStarted

from .conftest import Rally, Script
from .jobs import LONG_S, REPOSITORY, Job

#: Runs in the agent before its first line: it notes each question to the name service, and holds it up for a while. The
#: addresses of this machine are no question. C code that asks by itself is not seen here, but by `Silence`.
HOOK = """
import ipaddress, json, os, sys, time

ASKING = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")


def is_address(host):
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host in ("", "localhost")
    return True


def hook(event, args):
    if event in ASKING and not (event != "socket.gethostbyaddr" and is_address(str(args[0] or ""))):
        with open(f"{os.environ['ASKED']}-{os.getpid()}", "a") as file:
            file.write(json.dumps([time.monotonic_ns(), event, str(args[0])]) + "\\n")
        time.sleep(1)


if "toolkit.fronts.cli" in sys.orig_argv:
    sys.addaudithook(hook)
"""

#: the first two lives end with a failure
WORKER = """
    if os.environ["RANK"] == "0" and int(os.environ["TORCHELASTIC_RESTART_COUNT"]) < 2:
        sys.exit(3)
    if int(os.environ["TORCHELASTIC_RESTART_COUNT"]) < 2:
        signal.pause()
"""


@pytest.fixture
def slow_names(tmp_path: Path) -> dict[str, str]:
    """An environment in which each question takes a second and is noted."""
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "sitecustomize.py").write_text(HOOK)
    return {
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "names"), str(REPOSITORY)]),
        "ASKED": str(tmp_path / "asked"),
    }


def asked(job: Job) -> list[tuple[int, str, str]]:
    """What an agent asked, and when on its monotonic clock."""
    path = job.run_dir.parent / f"asked-{job.pid}"
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def test_one_node_asks_nothing(rally: Rally, script: Script, slow_names: dict[str, str]) -> None:
    words = ("--standalone", "--nproc-per-node", "8", "--max-restarts", "2")
    job = rally(*words, script(WORKER), env=slow_names)
    assert job.wait(LONG_S) == 0, job.told()
    assert len(job.events(WorkersStarted)) == 3
    assert asked(job) == []


@pytest.mark.torch
def test_torchs_event_handlers_get_the_full_name_of_one_question(
    rally: Rally, script: Script, slow_names: dict[str, str]
) -> None:
    """torch's agent asks for each event: 20 times for one run of 8 workers."""
    pytest.importorskip("torch")
    words = ("--standalone", "--nproc-per-node", "8", "--max-restarts", "2", "--event-log-handler", "console")
    job = rally(*words, script(WORKER), env=slow_names)
    assert job.wait(LONG_S) == 0, job.told()
    [(at_ns, *_)] = asked(job)
    first = job.events(WorkersStarted)[0]
    assert at_ns < first.mono_ns, "before the workers run, and so not in a restart"


@pytest.mark.torch
def test_several_nodes_ask_before_they_meet_and_not_again(
    rally: Rally, script: Script, slow_names: dict[str, str], port: int, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    meeting = ("--nnodes", "2", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "job")
    words = (*meeting, "--max-restarts", "2", script(WORKER))
    jobs = [rally(*words, env=slow_names, run_dir=tmp_path / "all") for _ in range(2)]
    assert [job.wait(LONG_S) for job in jobs] == [0, 0], jobs[0].told() + jobs[1].told()
    assert jobs[0].events(RoundEnded)
    for job in jobs:
        [started, *_] = (each for each in job.events(WorkersStarted) if each.node.endswith(f"_{job.pid}"))
        assert [question for question in asked(job) if question[0] > started.mono_ns] == []
        assert len(asked(job)) <= 1


#: this is another machine as far as names go
_NEW_MOUNTS, _PRIVATE, _BIND = 0x00020000, 1 << 18 | 1 << 14, 1 << 12
_SCM_TIMESTAMPNS = 35


class Silence:
    """A name service that hears all questions and answers none."""

    def __init__(self, folder: Path) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, _SCM_TIMESTAMPNS, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind(("127.0.53.53", 53))
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._conf = folder / "resolv.conf"
        self._conf.write_text("nameserver 127.0.53.53\n")

    def move_in(self) -> None:
        """This process has no other from now on. Raises OSError: that is not allowed here."""
        where, what = str(self._conf).encode(), b"/etc/resolv.conf"
        for failed in (
            self._libc.unshare(_NEW_MOUNTS),
            self._libc.mount(b"none", b"/", None, ctypes.c_ulong(_PRIVATE), None),
            self._libc.mount(where, what, None, ctypes.c_ulong(_BIND), None),
        ):
            if failed:
                raise OSError(ctypes.get_errno(), "no name service of its own")

    def questions(self) -> list[tuple[int, bytes]]:
        """When each came, in nanoseconds since 1970, and the question with its number."""
        found = []
        self.socket.setblocking(False)
        while True:
            try:
                question, [(_, _, when)], *_ = self.socket.recvmsg(4096, 1024)
            except BlockingIOError:
                return found
            seconds, nanoseconds = struct.unpack("@ll", when)
            found.append((seconds * 10**9 + nanoseconds, question))


@pytest.fixture
def silence(tmp_path: Path) -> Iterator[Silence]:
    try:
        silence = Silence(tmp_path)
    except PermissionError as error:
        pytest.skip(f"port 53 is not for us: {error}")
    with closing(silence.socket):
        if (pid := os.fork()) == 0:
            try:
                silence.move_in()
            except OSError:
                os._exit(1)
            os._exit(0)
        if os.waitpid(pid, 0)[1]:
            pytest.skip("a process can't have mounts of its own here")
        yield silence


#: Runs first in agents and workers: what the tests say of the name service is not to count here.
FORGET = """
import os, sys

sys.res_options = os.environ.pop("RES_OPTIONS", "none")
"""


@pytest.mark.torch
def test_a_silent_name_service_is_waited_for_shortly_and_by_no_restart(
    rally: Rally, script: Script, silence: Silence, port: int, tmp_path: Path
) -> None:
    """torch's store asks for the name of each peer, in C code, and waits for 10 s if it is not told otherwise."""
    pytest.importorskip("torch")
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "sitecustomize.py").write_text(FORGET)
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "names"), str(REPOSITORY)])}
    meeting = ("--nnodes", "2", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "job")
    words = (
        *meeting,
        "--max-restarts",
        "2",
        script(
            """
    say("options", sys.res_options)"""
            + WORKER
        ),
    )
    here: Callable[[], None] = silence.move_in
    jobs = [rally(*words, env=env, run_dir=tmp_path / "all", before_exec=here) for _ in range(2)]
    assert [job.wait(LONG_S) for job in jobs] == [0, 0], jobs[0].told() + jobs[1].told()
    asked = silence.questions()
    assert asked, "if torch asks no more, the code that has it wait less can go"
    running_ns = min(event.wall_ns for event in jobs[0].events(WorkersStarted))
    assert [question for when_ns, question in asked if when_ns > running_ns] == []
    for when_ns, question in asked:
        again_ns = [later_ns for later_ns, same in asked if same == question and later_ns > when_ns]
        assert all(later_ns - when_ns < 3e9 for later_ns in again_ns), "it asks again after 5 s by default"
    assert set(jobs[0].lines) == {"options none"}, "workers do as they please"
