"""Asks a running agent: what it does, what it has said, and to do something; the part that is alike near and far.

How a connection is made, `client` knows for this machine and `remote` for others. Errors are in words.
"""

from __future__ import annotations

import abc
import getpass
import http.client
import os
import platform
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from toolkit.adapters.recording.writer import LINE_MAX
from toolkit.core.actions import Action, Outcome
from toolkit.core.errors import AgentGoneError, ControlError
from toolkit.core.events import AgentFinished, AnyEvent, decode

#: how long an agent may take to answer, in seconds; an action waits for its loop
TIMEOUT_S = 15.0
#: how long a stream may be silent, in seconds; the agent says something more often
SILENCE_S = 30.0
#: how often and how fast a broken stream is taken up again
_ATTEMPTS, _PAUSE_S = 5, 0.2
_ANSWER_MAX = 1 << 26


def whoami() -> str:
    """Who this process acts for, as events name it: user@host and process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"user {os.getuid()}"
    return f"{user}@{platform.node()}, process {os.getpid()}"


class AgentClient(abc.ABC):
    """One agent. Safe in several threads: each request has a connection of its own.

    Args:
        name: of the agent, in words: "agent gpu-a_12".
        timeout_s: how long it may take to answer.
    """

    #: sent with each request
    headers: Mapping[str, str] = {}

    def __init__(self, name: str, timeout_s: float) -> None:
        self.name = name
        self._timeout_s = timeout_s

    @abc.abstractmethod
    def connect(self, timeout_s: float) -> http.client.HTTPConnection:
        """A connection.

        Raises:
            AgentGoneError: nobody listens.
            ControlError: the agent can't be asked.
        """

    @abc.abstractmethod
    def gone(self, why: str) -> AgentGoneError:
        """The error for an agent that is not there."""

    def snapshot(self) -> dict[str, Any]:
        """The state of the job in short; `seq` numbers the last event in it.

        Raises:
            AgentGoneError: nobody listens.
            ControlError: the agent can't be asked, or answers something else.
        """
        return self.answer_to("/snapshot")

    def answer_to(self, path: str) -> dict[str, Any]:
        """What is answered to a GET, a JSON object.

        Raises:
            AgentGoneError: nobody listens.
            ControlError: the agent can't be asked, or refuses.
        """
        status, data = self._ask("GET", path)
        answer = _object(data)
        if status != 200:
            raise self.refuses(answer, status)
        return answer

    def events(self, after: int = 0) -> EventStream:
        """The events behind number `after`, then those that come; see `EventStream`. Connects when it is read."""
        return EventStream(self, after)

    def act(self, action: Action, node: str = "") -> Outcome:
        """Have the agent do something; returns what became of it. Who tells it is added where it is missing.

        Args:
            node: whose agent is meant, if that is another one of the job; it is handed on.

        Raises:
            AgentGoneError: nobody listens.
            ControlError: the agent can't be asked, or does not understand.
        """
        if not action.by:
            action = msgspec.structs.replace(action, by=whoami())
        path = f"/actions?{urllib.parse.urlencode({'node': node})}" if node else "/actions"
        status, data = self._ask("POST", path, msgspec.json.encode(action))
        answer = _object(data)
        try:
            return msgspec.convert(answer, Outcome)
        except msgspec.ValidationError:
            raise self.refuses(answer, status) from None

    def stacks(self, local_ranks: str, node: str = "") -> dict[str, Any]:
        """Where the threads of some workers are, by local rank; as `toolkit.core.stacks` has it, in plain values.

        Args:
            local_ranks: numbers with commas between.
            node: whose agent is meant, if that is another one of the job.

        Raises:
            AgentGoneError: nobody listens.
            ControlError: the agent can't be asked, or refuses.
        """
        asked = {"local_ranks": local_ranks, **({"node": node} if node else {})}
        return self.answer_to(f"/stacks?{urllib.parse.urlencode(asked)}")

    def refuses(self, answer: Mapping[str, Any], status: int) -> ControlError:
        """The error for an answer that says no."""
        return ControlError(f"{self.name} refuses: {answer.get('error', status)}")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = self.connect(self._timeout_s)
        try:
            connection.request(method, path, body, {"Connection": "close", **self.headers})
            response = connection.getresponse()
            data = response.read(_ANSWER_MAX)
        except TimeoutError:
            raise ControlError(f"{self.name} has not answered for {self._timeout_s:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise self.gone(f"broke the connection off: {error or type(error).__name__}") from error
        finally:
            connection.close()
        return response.status, data


class LineStream:
    """Lines that an agent sends on one connection after another. Can be closed from any thread.

    Args:
        client: whom to ask.
    """

    def __init__(self, client: AgentClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        # Not the connection: that forgets its socket once it has handed it to the answer.
        self._socket: socket.socket | None = None
        self.closed = False

    def close(self) -> None:
        """End it; from any thread, also while another one waits for the next line."""
        with self._lock:
            self.closed = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def once(self, path: str) -> Iterator[bytes]:
        """The lines of one connection, beats included.

        Raises:
            AgentGoneError: nobody listens.
            ControlError: the agent can't be asked, or refuses.
            OSError, http.client.HTTPException: the connection broke.
        """
        client = self._client
        connection = client.connect(SILENCE_S)
        with self._lock:
            self._socket = connection.sock
        try:
            if self.closed:
                return
            connection.request("GET", path, headers=dict(client.headers))
            response = connection.getresponse()
            if response.status != 200:
                raise client.refuses(_object(response.read(LINE_MAX)), response.status)
            while line := response.readline(LINE_MAX + 1):
                yield line
        finally:
            with self._lock:
                self._socket = None
            connection.close()


class EventStream:
    """The events of one agent, in their order, each once. Iterate over it in one thread.

    A stream that breaks, or that the agent ends because its reader was too slow, is taken up again behind the last
    event that was read. It ends after `AgentFinished`, or when it is closed.

    Raises:
        AgentGoneError: while iterating: nobody listens any more, though the agent has not said that it ends.
        ControlError: while iterating: the agent can't be asked.
    """

    def __init__(self, client: AgentClient, after: int = 0) -> None:
        self._client = client
        self._lines = LineStream(client)
        #: number of the last event that was read
        self.seq = after

    def close(self) -> None:
        """End it; from any thread, also while another one waits for the next event."""
        self._lines.close()

    def __iter__(self) -> Iterator[AnyEvent]:
        failed = 0
        while not self._lines.closed:
            before, why = self.seq, "breaks the stream off again and again"
            try:
                for line in self._lines.once(f"/events?after={self.seq}"):
                    event = decode(line) if not line.isspace() else None
                    # What is no event is a beat of the stream, its last word, or of a newer agent.
                    if event is None or event.seq <= self.seq:
                        continue
                    self.seq = event.seq
                    yield event
                    if isinstance(event, AgentFinished):
                        return
            except (OSError, http.client.HTTPException) as error:
                why = f"does not say anything any more: {error or type(error).__name__}"
            failed = 0 if self.seq > before else failed + 1
            if failed >= _ATTEMPTS and not self._lines.closed:
                raise self._client.gone(why)
            if failed:
                time.sleep(_PAUSE_S * failed)


def _object(data: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ControlError(f"the agent answers something that is no JSON object: {data[:60]!r}") from error
