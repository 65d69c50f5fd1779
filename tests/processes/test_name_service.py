"""The name service is asked once at most, and never in a restart: where it is slow, nothing waits for it."""

import json
import os
from pathlib import Path

import pytest

from toolkit.core.events import RoundEnded, WorkersStarted

from .conftest import Rally, Script
from .jobs import LONG_S, REPOSITORY, Job

#: Runs in the agent before its first line: it notes each question to the name service, and holds it up for a while. The
#: addresses of this machine are no question. C code that asks by itself is not seen; the agent has none.
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
