"""Real runs that are watched and told what to do through their control endpoint."""

import json
import shutil
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from toolkit.adapters.control.client import AgentGoneError, ControlClient, nodes_in
from toolkit.core.actions import Action
from toolkit.core.events import (
    ActionTaken,
    AgentFinished,
    DecisionMade,
    FailureRecorded,
    JobEnded,
    WorkersStarted,
)

from .conftest import Meet, Rally, Script
from .jobs import LONG_S, Job, Up, until

WORKER = """
    say("up", os.environ["RANK"], os.getpid())
    wait_for(os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "go"))
"""


def client_of(job: Job) -> ControlClient:
    """Of the agent that this job is."""
    own = f"_{job.pid}"
    node = until("its socket", lambda: next((n for n in nodes_in(job.run_dir) if n.endswith(own)), ""))
    return ControlClient(job.run_dir, node)


def kill(local_rank: int, incarnation: int) -> Action:
    return Action(
        action="signal", local_ranks=(local_rank,), signal="SIGKILL", incarnation=incarnation, by="ada"
    )


def test_a_rank_is_killed_comes_back_and_the_run_is_stopped(rally: Rally, script: Script) -> None:
    job = rally("--standalone", "--nproc-per-node", "2", "--max-restarts", "2", script(WORKER))
    job.wait_for_lines("up", 2)
    client = client_of(job)
    stream = iter(client.events())
    first = next(stream)
    assert client.act(kill(1, 0)).outcome == "done"
    job.wait_for_lines("up", 4)
    job.wait_for_events(WorkersStarted, 2)
    (failure,) = job.events(FailureRecorded)
    assert (failure.global_rank, failure.signal) == (1, "SIGKILL")
    snapshot = client.snapshot()
    assert (snapshot["state"], snapshot["restarts_left"]) == ("running", 1)

    late = client.act(kill(1, 0))
    assert late.outcome == "refused"
    assert "incarnation 1 is here now" in late.detail

    assert client.act(Action(action="stop", by="ada", why="enough")).outcome == "done"
    assert job.wait() == 1
    assert "stop asked for by ada: enough" in job.stderr
    assert [event.outcome for event in job.events(ActionTaken)] == ["done", "refused", "done"]
    watched = [first.seq, *(event.seq for event in stream)]
    assert watched == list(range(1, job.timeline().nodes[client.node].last_seq + 1)), "all of it, to the end"
    with pytest.raises(AgentGoneError, match="the run has ended"):
        client.snapshot()
    assert not [entry for entry in job.run_dir.iterdir() if entry.name.startswith("control")]


def test_a_restart_that_is_asked_for_costs_nothing(rally: Rally, script: Script, tmp_path: Path) -> None:
    job = rally("--standalone", "--nproc-per-node", "2", script(WORKER))
    job.wait_for_lines("up", 2)
    assert client_of(job).act(Action(action="restart", by="ada", incarnation=0)).outcome == "done"
    job.wait_for_lines("up", 4)
    (tmp_path / "go").touch()
    assert job.wait() == 0, job.told()
    decisions = [event for event in job.events(DecisionMade) if event.action == "restart"]
    assert [(event.spends_budget, event.reason) for event in decisions] == [
        (False, "restart asked for by ada")
    ]
    assert job.timeline().nodes[job.events(AgentFinished)[0].node].restart_count == 0


def test_curl_is_all_that_one_needs(rally: Rally, script: Script) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl")
    job = rally("--standalone", script(WORKER))
    job.wait_for_lines("up")
    path = job.run_dir / f"control-{client_of(job).node}.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ask = [curl, "-sS", "--unix-socket", str(path)]
    said = subprocess.run(
        [*ask, "-d", '{"action": "stop", "by": "curl"}', "http://agent/actions"],
        capture_output=True,
        check=True,
    )
    assert json.loads(said.stdout)["outcome"] == "done"
    assert job.wait() == 1


def test_an_agent_that_is_killed_leaves_a_socket_that_says_so(rally: Rally, script: Script) -> None:
    job = rally("--standalone", script(WORKER))
    job.wait_for_lines("up")
    client = client_of(job)
    stream = iter(client.events())
    next(stream)
    job.signal(signal.SIGKILL)
    job.wait()
    with pytest.raises(AgentGoneError, match="died"):
        client.snapshot()
    with pytest.raises(AgentGoneError):
        list(stream)


def test_from_other_machines_with_a_token(rally: Rally, script: Script, tmp_path: Path, port: int) -> None:
    token = tmp_path / "my token"
    words = ("--control-addr", f"127.0.0.1:{port}", "--control-token-file", token)
    job = rally("--standalone", *words, script(WORKER))
    job.wait_for_lines("up")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert f"http://127.0.0.1:{port}" in job.stderr

    def ask(bearer: str) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
            peer.sendall(
                f"GET /snapshot HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {bearer}\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            return b"".join(iter(lambda: peer.recv(4096), b""))

    assert ask("wrong").startswith(b"HTTP/1.1 401")
    assert ask(token.read_text().strip()).startswith(b"HTTP/1.1 200")
    until("a note", lambda: "without the right token" in job.stderr)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--control-addr", "0.0.0.0:0"), "--control-token-file"),
        (("--control-addr", "127.0.0.1:0", "--control-token-file", "/proc/nowhere"), "token file"),
        (("--control-addr", "127.0.0.1:0", "--control-tls-cert", "/nowhere"), "can't be used"),
        (("--control-addr", "192.0.2.1:9", "--control-token-file", "token"), "can't be listened on"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_starts(
    rally: Rally, script: Script, words: tuple[str, ...], said: str
) -> None:
    job = rally("--standalone", *words, script(WORKER))
    assert job.wait() == 2
    assert said in job.stderr
    assert "Traceback" not in job.stderr
    assert job.stdout == ""


NODE = f"""
    {Up.SCRIPT.strip()}
    wait_for(os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "go"))
"""


@pytest.mark.torch
def test_of_three_nodes_one_is_drained_all_are_restarted_and_stopped(meet: Meet, script: Script) -> None:
    pytest.importorskip("torch")
    worker = script(NODE)
    nodes = meet("2:3", last_call_timeout=1)
    first = nodes.start(worker)
    others = nodes.start_several(2, worker)
    nodes.world(3, [first, *others])
    leaver, stayer = others

    assert client_of(stayer).act(Action(action="restart", by="ada", incarnation=0)).outcome == "done"
    nodes.ups(2)
    assert client_of(leaver).act(Action(action="drain", by="ada")).outcome == "done"
    assert leaver.wait(LONG_S) == 0, leaver.told()
    nodes.world(2, [first, stayer])
    assert client_of(stayer).act(Action(action="stop", by="ada", why="enough")).outcome == "done"
    nodes.assert_all_end_with(1, [first, stayer])
    assert {event.why for event in nodes.events(JobEnded)} == {"stop asked for by ada: enough"}
    assert {event.restart_count for event in nodes.events(AgentFinished)} == {0}
    nodes.assert_promises_held()
