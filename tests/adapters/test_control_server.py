"""The control endpoint over a real Unix socket: what it answers, what it refuses, and that nobody slows the agent."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.adapters.control_world import (
    NODE,
    SOON_S,
    Endpoint,
    dechunked,
    endpoint,
    read_all,
    status_of,
    until,
)
from tests.adapters.control_world import tmp_path as tmp_path
from tests.leaks import nothing_left
from toolkit.adapters.control import handler
from toolkit.adapters.control.orders import QUEUE_MAX
from toolkit.core import events as ev
from toolkit.core.actions import Outcome

ROOT = Path(__file__).parents[2]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Endpoint]:
    with endpoint(tmp_path) as made:
        made.start()
        yield made


def lines_of(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in body.split(b"\n") if line]


def stream(agent: Endpoint, after: int) -> socket.socket:
    peer = agent.connect()
    peer.sendall(f"GET /events?after={after} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return peer


# -- what it answers ------------------------------------------------------------------------------------------


def test_only_its_owner_may_connect(agent: Endpoint) -> None:
    path = agent.run / f"control-{NODE}.sock"
    assert agent.server.path == path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_snapshot_tells_the_job_in_short(agent: Endpoint) -> None:
    status, body = agent.get("/snapshot")
    said = json.loads(body)
    assert status == 200
    assert (said["state"], said["seq"], said["restarts_left"], said["node"]) == (
        "running",
        agent.seq,
        3,
        NODE,
    )
    (node,) = said["nodes"]
    assert (node["incarnation"], node["pid"]) == (0, 7)
    assert [(rank["local_rank"], rank["pid"], rank["state"]) for rank in node["ranks"]] == [
        (0, 100, "running"),
        (1, 101, "running"),
    ]


def test_the_events_come_as_they_are_recorded_and_end_with_the_run(agent: Endpoint) -> None:
    with stream(agent, 2) as peer:
        until("a watcher", lambda: agent.server.feed._watchers)
        agent.say()
        agent.finish()
        agent.server.feed.close()
        head, _, body = read_all(peer).partition(b"\r\n\r\n")
    assert b"application/x-ndjson" in head
    recorded = agent.directory.events_path(NODE).read_bytes().splitlines()
    assert dechunked(body).splitlines() == recorded[2:]


def test_health_is_that_of_the_loop(agent: Endpoint) -> None:
    assert agent.get("/healthz") == (200, b"ok\n")
    agent.finish()
    assert agent.get("/healthz")[0] == 503


def test_metrics_are_what_prometheus_reads(agent: Endpoint) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    status, body = agent.get("/metrics")
    assert status == 200
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in parser.text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert samples[("rally_job_state", "running")] == 1
    assert samples[("rally_job_state", "failed")] == 0
    assert samples[("rally_workers", NODE, "running")] == 2
    assert samples[("rally_restarts_left",)] == 3
    assert samples[("rally_events_total", NODE)] == agent.seq


def test_without_prometheus_metrics_name_the_remedy(agent: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "toolkit.adapters.control.metrics", raising=False)
    monkeypatch.setattr("toolkit.adapters.control.metrics", None, raising=False)
    monkeypatch.delattr("toolkit.adapters.control.metrics", raising=False)
    for name in [name for name in sys.modules if name.startswith("prometheus_client")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    status, body = agent.get("/metrics")
    assert status == 501
    assert b"rallypoint[metrics]" in body


def test_an_action_is_done_by_the_loop_and_answered(agent: Endpoint) -> None:
    agent.answer_orders()
    assert agent.post({"action": "stop", "by": "ada", "why": "enough"}) == (
        200,
        {"outcome": "done", "detail": ""},
    )
    assert (agent.done[0].by, agent.done[0].why) == ("ada", "enough")


def test_who_does_not_say_who_he_is_is_named_by_the_kernel(agent: Endpoint) -> None:
    agent.answer_orders()
    agent.post({"action": "stop"})
    assert agent.done[0].by == f"user {os.getuid()}, process {os.getpid()}"


def test_what_the_loop_refuses_is_refused_with_its_reason(agent: Endpoint) -> None:
    agent.answer_orders(Outcome(outcome="refused", detail="not now"))
    assert agent.post({"action": "stop"}) == (409, {"outcome": "refused", "detail": "not now"})


def test_a_busy_loop_is_not_waited_for_for_ever_and_does_nothing_later(
    agent: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "ORDER_S", 0.1)
    status, answer = agent.post({"action": "stop"})
    assert status == 409
    assert "busy" in answer["detail"]
    order = agent.server.orders.take()
    assert order is not None
    assert order.withdrawn == answer["detail"], "the loop tells of it, and does not do it"


def test_what_the_loop_has_begun_with_is_not_said_to_be_refused(
    agent: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "ORDER_S", 0.2)
    agent.server.orders.rings(lambda: agent.server.orders.take() and None)
    status, answer = agent.post({"action": "stop"})
    assert (status, answer["outcome"]) == (504, "unknown")


def test_orders_have_a_bound(agent: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler, "ORDER_S", 0.01)
    for _ in range(QUEUE_MAX):
        agent.post({"action": "stop"})
    assert "wait for the agent already" in agent.post({"action": "stop"})[1]["detail"]


# -- streams --------------------------------------------------------------------------------------------------


def test_what_is_not_in_memory_any_more_comes_from_the_recording(tmp_path: Path) -> None:
    with endpoint(tmp_path, ring_max=16) as agent:
        for _ in range(1000):
            agent.say()
        agent.server.feed.close()
        with stream(agent, 100) as peer:
            body = dechunked(read_all(peer).partition(b"\r\n\r\n")[2])
    assert [line["seq"] for line in lines_of(body)] == list(range(101, 1001))


def test_a_slow_watcher_is_dropped_and_the_agent_stays_fast(tmp_path: Path) -> None:
    with endpoint(tmp_path, ring_max=64) as agent:
        with stream(agent, 0) as peer:
            agent.say()
            until("the first event", lambda: b'"seq":1,' in peer.recv(65536, socket.MSG_PEEK))
            took_s = sorted(agent.say(problem="x" * 1000) for _ in range(3000))
            assert took_s[len(took_s) // 2] < 0.001
            agent.say()
            body = dechunked(read_all(peer).partition(b"\r\n\r\n")[2])
        lines = lines_of(body)
        assert lines[-1]["type"] == "watcher_dropped"
        seqs = [line["seq"] for line in lines[:-1]]
        assert seqs == list(range(1, len(seqs) + 1)), "no gap before"
        assert lines[-1]["after"] == seqs[-1] < agent.seq
        agent.server.feed.close()
        with stream(agent, seqs[-1]) as peer:
            rest = lines_of(dechunked(read_all(peer).partition(b"\r\n\r\n")[2]))
        assert [line["seq"] for line in rest] == list(range(seqs[-1] + 1, agent.seq + 1)), "nothing is lost"


def test_a_watcher_that_takes_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler.Connection, "timeout", 0.3)
    with endpoint(tmp_path, ring_max=4096) as agent, stream(agent, 0):
        until("a watcher", lambda: agent.server.feed._watchers)
        for _ in range(2000):
            agent.say(problem="x" * 1000)
        until("its end", lambda: not agent.server.feed._watchers)
        assert json.loads(agent.get("/snapshot")[1])["watchers_dropped"] == 1


def test_a_quiet_stream_beats(agent: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler, "HEARTBEAT_S", 0.05)
    with stream(agent, agent.seq) as peer:
        seen = b""
        while b"1\r\n\n\r\n" not in seen:
            seen += peer.recv(4096)


def test_a_watcher_that_leaves_is_not_counted_any_more(
    agent: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stream(agent, 0):
        until("a watcher", lambda: agent.server.feed._watchers)

    def gone() -> bool:
        agent.say()
        return not agent.server.feed._watchers

    until("its end", gone)


def test_watchers_have_a_bound(agent: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler, "_WATCHERS_MAX", 1)
    with stream(agent, 0):
        until("a watcher", lambda: agent.server.feed._watchers)
        assert agent.get("/events")[0] == 503


def test_emit_costs_little_without_watchers(agent: Endpoint) -> None:
    took_s = sorted(agent.say() for _ in range(2000))
    assert took_s[1000] < 0.0005


def test_a_value_that_is_no_json_is_left_out(agent: Endpoint) -> None:
    agent.say(problem=object())
    agent.say(problem="\udcff")
    agent.server.feed.close()
    with stream(agent, agent.seq - 2) as peer:
        lines = lines_of(dechunked(read_all(peer).partition(b"\r\n\r\n")[2]))
    assert [line["seq"] for line in lines] == [agent.seq]


# -- what it refuses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 404),
        ("/actions", 404),
        ("/../../etc/passwd", 404),
        ("/events?after=-1", 400),
        ("/events?after=x", 400),
        ("/events?after=", 400),
        ("/events?after=" + "9" * 40, 400),
        ("/events?after=999999", 409),
        ("/events?" + "&".join(f"a{n}" for n in range(20)), 400),
        ("http://[/snapshot", 400),
        ("http://evil/snapshot", 200),
    ],
)
def test_paths_that_are_not_there(agent: Endpoint, path: str, status: int) -> None:
    assert agent.get(path)[0] == status


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"action":"reboot"}', b"\xff", b"[" * 5000])
def test_what_is_no_action(agent: Endpoint, body: bytes) -> None:
    status, answer = agent.post(body)
    assert status == 400
    assert "no action" in answer["error"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST /actions HTTP/1.1\r\n\r\n{}", 411),
        (b"POST /actions HTTP/1.1\r\nContent-Length: -5\r\n\r\n{}", 411),
        (b"POST /actions HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}", 411),
        (b"POST /actions HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n{}", 413),
        (b"POST /actions HTTP/1.1\r\nContent-Length: 70000\r\n\r\n{}", 413),
        (b"POST /snapshot HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404),
        (b"DELETE /snapshot HTTP/1.1\r\n\r\n", 501),
        (b"GET /snapshot HTTP/9.9\r\n\r\n", 505),
        (b"GET /events HTTP/1.0\r\n\r\n", 505),
        (b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /snapshot HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"\x16\x03\x01 not http\r\n\r\n", 400),
    ],
)
def test_requests_that_are_none(agent: Endpoint, data: bytes, status: int) -> None:
    assert agent.raw(data)[0] == status
    assert agent.get("/healthz")[0] == 200
    assert agent.told == []


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_no_bytes_do_harm(agent: Endpoint, data: bytes) -> None:
    with agent.connect() as peer:
        try:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            read_all(peer)
        except OSError:
            pass  # it need not be listened to
    assert agent.get("/healthz")[0] == 200
    assert agent.told == []


def test_who_says_nothing_does_not_stay(agent: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler.Connection, "timeout", 0.1)
    with agent.connect() as peer:
        peer.sendall(b"GET /snap")
        assert read_all(peer) == b""


def test_connections_have_a_bound(agent: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.adapters.control.server.CONNECTIONS_MAX", 2)
    with agent.connect(), agent.connect():
        until("two", lambda: len(agent.server._connections) == 2)
        with agent.connect() as third:
            assert third.recv(1) == b""
    until("room again", lambda: not agent.server._connections)
    assert agent.get("/healthz")[0] == 200


def test_one_connection_can_ask_several_times(agent: Endpoint) -> None:
    with agent.connect() as peer:
        for _ in range(3):
            peer.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"ok\n"):
                answer += peer.recv(4096)
            assert status_of(answer) == 200


# -- where it is ----------------------------------------------------------------------------------------------


def test_it_leaves_nothing_behind(tmp_path: Path) -> None:
    with nothing_left(), endpoint(tmp_path) as agent:
        agent.start()
        agent.get("/snapshot")
        peer = stream(agent, 0)
        until("a watcher", lambda: agent.server.feed._watchers)
        agent.close()
        assert read_all(peer).endswith(b"0\r\n\r\n"), "the watcher heard all of it"
        peer.close()
        assert [entry.name for entry in agent.run.iterdir() if entry.name.startswith("control")] == []


def test_an_end_is_quick_whatever_is_connected(agent: Endpoint) -> None:
    with ExitStack() as peers:
        for _ in range(3):
            for _ in range(500):
                agent.say(problem="x" * 1000)
            peers.enter_context(agent.connect())
            peers.enter_context(stream(agent, 0))
        began = time.monotonic()
        agent.server.close()
        assert time.monotonic() - began < 3


def test_a_long_path_is_kept_short(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    short = Path("/tmp") / f"rally-test-{os.getpid()}"
    short.mkdir(mode=0o700)
    try:
        made = Endpoint(deep)
        made.near_by = [tmp_path / ("x" * 100), short]
        made.listen()
        made.start()
        path = made.server.path
        assert path is not None
        assert path.parent.parent == short
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert (made.run / f"control-{NODE}.at").read_text() == str(path)
        assert made.client().snapshot()["seq"] == made.seq
        made.close()
        assert list(short.iterdir()) == []
        assert not (made.run / f"control-{NODE}.at").exists()
    finally:
        shutil.rmtree(short)


def test_a_run_without_a_socket_goes_on_and_says_so(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    made = Endpoint(deep)
    made.near_by = [Path("/nowhere/at/all")]
    made.listen()
    made.start()
    assert "nobody can watch this run" in made.told[0]
    made.close()


def test_the_socket_of_a_killed_agent_is_no_hindrance(tmp_path: Path) -> None:
    with endpoint(tmp_path) as agent:
        path = agent.server.path
        assert path is not None
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    with endpoint(tmp_path) as agent:
        agent.start()
        assert agent.told == []
        assert agent.client().snapshot()["seq"] == agent.seq


def test_the_socket_of_a_living_one_is_left_alone(tmp_path: Path) -> None:
    with endpoint(tmp_path) as agent:
        second = Endpoint.__new__(Endpoint)
        second.__dict__.update(agent.__dict__)
        from toolkit.adapters.control.server import ControlServer

        other = ControlServer(NODE, None, agent.told.append)
        other.listen_in(agent.run, [])
        assert "nobody can watch this run" in agent.told[0]
        other.close()
        assert agent.get("/healthz")[0] == 200


def test_a_run_that_nobody_watches_does_not_import_http(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from toolkit.adapters.control.server import ControlServer\n"
        "server = ControlServer('a', None, print)\n"
        f"server.listen_in(Path({str(tmp_path)!r}), [])\n"
        "server.close()\n"
        "print([name for name in ('http', 'http.server', 'email', 'ssl', 'prometheus_client') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_curl_can_ask(agent: Endpoint) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl")
    path = str(agent.server.path)
    done = subprocess.run(
        [curl, "-sS", "--unix-socket", path, "http://agent/snapshot"], capture_output=True, check=True
    )
    assert json.loads(done.stdout)["state"] == "running"
    agent.answer_orders()
    post = ["-d", '{"action": "stop"}', "http://agent/actions"]
    done = subprocess.run([curl, "-sS", "--unix-socket", path, *post], capture_output=True, check=True)
    assert json.loads(done.stdout)["outcome"] == "done"


def test_many_threads_may_ask_at_once(agent: Endpoint) -> None:
    agent.answer_orders()
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(agent.post({"action": "stop"})[0])) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON_S)
    assert found == [200] * 16


def test_all_kinds_of_events_are_understood(agent: Endpoint) -> None:
    agent.say(ev.ActionTaken, action="restart", by="ada", outcome="refused", detail="no")
    assert agent.get("/snapshot")[0] == 200
