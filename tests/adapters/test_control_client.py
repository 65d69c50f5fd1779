"""The client of the control endpoint over a real Unix socket: it reconnects without loss, and its errors are words."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.control_world import NODE, SOON_S, Endpoint, endpoint, until
from tests.adapters.control_world import tmp_path as tmp_path
from toolkit.adapters.control import asking, client, handler
from toolkit.adapters.control.client import (
    AgentGoneError,
    ControlClient,
    ControlError,
    EventStream,
    nodes_in,
    whoami,
)
from toolkit.adapters.recording.reader import EventFile
from toolkit.core import events as ev
from toolkit.core.actions import Action, Outcome


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Endpoint]:
    with endpoint(tmp_path) as made:
        made.start()
        yield made


class Reader:
    """Reads a stream in a thread."""

    def __init__(self, stream: EventStream) -> None:
        self.stream = stream
        self.events: list[Any] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            self.events.extend(iter(self.stream.__iter__()))
        except ControlError as error:
            self.error = error

    def wait(self) -> list[int]:
        """The numbers of all events, once the stream has ended."""
        self._thread.join(SOON_S)
        assert not self._thread.is_alive()
        return [event.seq for event in self.events]


def test_it_asks_for_the_snapshot(agent: Endpoint) -> None:
    assert nodes_in(agent.run) == [NODE]
    assert agent.client().snapshot()["state"] == "running"


def test_it_has_the_agent_do_something_in_the_name_of_its_user(agent: Endpoint) -> None:
    agent.answer_orders()
    assert agent.client().act(Action(action="stop", why="enough")) == Outcome(outcome="done")
    assert agent.done[0].by == whoami()
    assert f"process {os.getpid()}" in whoami()


def test_a_refusal_is_an_outcome_and_no_error(agent: Endpoint) -> None:
    agent.answer_orders(Outcome(outcome="refused", detail="not now"))
    assert agent.client().act(Action(action="drain", by="ada")).detail == "not now"


def test_a_stream_ends_with_the_run(agent: Endpoint) -> None:
    reader = Reader(agent.client().events(after=2))
    agent.say()
    agent.finish()
    assert reader.wait() == list(range(3, agent.seq + 1))
    assert reader.error is None
    assert reader.stream.seq == agent.seq


def test_a_stream_that_fell_behind_is_taken_up_without_loss(tmp_path: Path) -> None:
    with endpoint(tmp_path, ring_max=32) as agent:
        agent.start()
        stream = agent.client().events()
        events = iter(stream)
        seen = [next(events).seq]
        for _ in range(3000):
            agent.say(problem="x" * 500)
        agent.finish()
        seen += [event.seq for event in events]
        assert seen == list(range(1, agent.seq + 1))
        assert agent.client().snapshot()["watchers_dropped"] >= 1


def test_a_stream_that_breaks_is_taken_up_without_loss(agent: Endpoint) -> None:
    reader = Reader(agent.client().events())
    for _ in range(5):
        until("it reads", lambda: agent.server._connections and reader.stream.seq == agent.seq)
        agent.say()
        for connection in list(agent.server._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        agent.say()
    agent.finish()
    assert reader.wait() == list(range(1, agent.seq + 1))


def test_a_stream_can_be_closed_while_somebody_reads(agent: Endpoint) -> None:
    reader = Reader(agent.client().events())
    until("it reads", lambda: reader.stream.seq == agent.seq)
    reader.stream.close()
    reader.wait()
    assert reader.error is None


def test_an_agent_that_dies_is_missed(agent: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_PAUSE_S", 0.01)
    reader = Reader(agent.client().events())
    until("it reads", lambda: reader.stream.seq == agent.seq)
    agent.server.close()
    reader.wait()
    assert isinstance(reader.error, AgentGoneError)
    assert "does not listen" in str(reader.error)


def test_the_stream_is_what_the_recording_has(agent: Endpoint) -> None:
    agent.say(
        ev.FailureRecorded,
        incarnation=0,
        local_rank=0,
        global_rank=0,
        pid=1,
        hostname="h",
        exit_code=1,
        signal="",
        message="\udcff",
    )
    agent.finish()
    agent.sink.close()
    recorded = list(EventFile(agent.directory.events_path(NODE)).read_new())
    assert list(agent.client().events()) == recorded


# -- errors ---------------------------------------------------------------------------------------------------


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(AgentGoneError, match="the run has ended"):
        ControlClient(tmp_path, NODE).snapshot()
    with pytest.raises(AgentGoneError):
        next(iter(ControlClient(tmp_path / "nowhere", NODE).events()))
    assert nodes_in(tmp_path / "nowhere") == []


def test_a_socket_that_nobody_listens_on(tmp_path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / f"control-{NODE}.sock"))
    dead.close()
    with pytest.raises(AgentGoneError, match="it has died"):
        ControlClient(tmp_path, NODE).act(Action(action="stop"))


def test_another_users_socket(agent: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may connect to any socket; what others get is EACCES.
    def refused(self: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(client._UnixConnection, "connect", refused)
    with pytest.raises(ControlError, match="another user's"):
        agent.client().snapshot()


@pytest.mark.parametrize("text", ["relative/path", "", "/" + "x" * 200, "/a\0b"])
def test_a_note_that_leads_nowhere(tmp_path: Path, text: str) -> None:
    (tmp_path / f"control-{NODE}.at").write_text(text)
    with pytest.raises(ControlError, match="names no socket"):
        ControlClient(tmp_path, NODE).snapshot()


def test_a_note_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / f"control-{NODE}.at").symlink_to("/etc/passwd")
    with pytest.raises(ControlError, match="links are not followed"):
        ControlClient(tmp_path, NODE).snapshot()


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / f"control-{NODE}.sock").write_text("hello")
    with pytest.raises(ControlError, match="is not a socket"):
        ControlClient(tmp_path, NODE).snapshot()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nnot json",
        b"HTTP/1.1 200 OK\r\n\r\n[]",
        b"HTTP/1.1 500 X\r\n\r\n{}",
    ],
)
def test_something_else_that_answers(tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / f"control-{NODE}.sock"))
        other.listen(1)

        def serve() -> None:
            peer, _ = other.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ControlError):
            ControlClient(tmp_path, NODE).snapshot()
        thread.join(SOON_S)


def test_an_agent_that_does_not_answer(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / f"control-{NODE}.sock"))
        other.listen(1)
        with pytest.raises(ControlError, match=r"has not answered for 0\.1 s"):
            ControlClient(tmp_path, NODE, timeout_s=0.1).snapshot()


def test_a_number_from_another_life_is_refused_in_words(agent: Endpoint) -> None:
    with pytest.raises(ControlError, match="begin anew with 0"):
        next(iter(agent.client().events(after=10**6)))


def test_too_many_watchers_are_refused_in_words(agent: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler, "_WATCHERS_MAX", 0)
    with pytest.raises(ControlError, match="watch already"):
        next(iter(agent.client().events()))
