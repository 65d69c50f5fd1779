"""Asks a running agent through its Unix socket: what it does, what it has said, and to do something.

Errors are in words: nobody listens because the run has ended or the agent died, or the socket is another user's.
"""

from __future__ import annotations

import errno
import getpass
import http.client
import os
import platform
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from toolkit.adapters.control.place import find_socket, nodes_in
from toolkit.adapters.recording.writer import LINE_MAX
from toolkit.core.actions import Action, Outcome
from toolkit.core.errors import AgentGoneError, ControlError, RecordingError
from toolkit.core.events import AgentFinished, AnyEvent, decode

#: how long an agent may take to answer, in seconds; an action waits for its loop
TIMEOUT_S = 15.0
#: how long a stream may be silent, in seconds; the agent says something more often
SILENCE_S = 30.0
#: how often and how fast a broken stream is taken up again
_ATTEMPTS, _PAUSE_S = 5, 0.2
_ANSWER_MAX = 1 << 26

__all__ = ["AgentGoneError", "ControlClient", "ControlError", "EventStream", "nodes_in", "whoami"]


def whoami() -> str:
    """Who this process acts for, as events name it: user@host and process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"user {os.getuid()}"
    return f"{user}@{platform.node()}, process {os.getpid()}"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


class ControlClient:
    """One agent of one run. Safe in several threads: each request has a connection of its own.

    Args:
        run_directory: of the run.
        node: the agent, as events name it.
        timeout_s: how long it may take to answer.
    """

    def __init__(self, run_directory: Path, node: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.run_directory = run_directory
        self.node = node
        self._timeout_s = timeout_s

    def snapshot(self) -> dict[str, Any]:
        """The state of the job in short; `seq` numbers the last event in it.

        Raises:
            AgentGoneError: nobody listens.
            ControlError: the agent can't be asked, or answers something else.
        """
        status, data = self._ask("GET", "/snapshot")
        answer = _object(data)
        if status != 200:
            raise ControlError(f"agent {self.node} refuses: {answer.get('error', status)}")
        return answer

    def events(self, after: int = 0) -> EventStream:
        """The events behind number `after`, then those that come; see `EventStream`. Connects when it is read."""
        return EventStream(self, after)

    def act(self, action: Action) -> Outcome:
        """Have the agent do something; returns what became of it. Who tells it is added where it is missing.

        Raises:
            AgentGoneError: nobody listens.
            ControlError: the agent can't be asked, or does not understand.
        """
        if not action.by:
            action = msgspec.structs.replace(action, by=whoami())
        status, data = self._ask("POST", "/actions", msgspec.json.encode(action))
        answer = _object(data)
        try:
            return msgspec.convert(answer, Outcome)
        except msgspec.ValidationError:
            raise ControlError(f"agent {self.node} refuses: {answer.get('error', status)}") from None

    def connect(self, timeout_s: float) -> http.client.HTTPConnection:
        """A connection; for streams.

        Raises:
            AgentGoneError: nobody listens.
            ControlError: the agent can't be asked.
        """
        path = self._socket()
        connection = _UnixConnection(path, timeout_s)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise self._in_words(path, error) from error
        return connection

    def gone(self, why: str) -> AgentGoneError:
        """The error for an agent that is not there."""
        return AgentGoneError(f"agent {self.node} of {self.run_directory} {why}")

    def _socket(self) -> Path:
        try:
            path = find_socket(self.run_directory, self.node)
            mode = path.stat().st_mode
        except RecordingError as error:
            raise ControlError(str(error)) from error
        except FileNotFoundError:
            raise self.gone(
                "does not listen: the run has ended, or it is recorded without a socket"
            ) from None
        except OSError as error:
            raise self._in_words(self.run_directory, error) from error
        if not stat.S_ISSOCK(mode):
            raise ControlError(f"{path} is not a socket")
        return path

    def _in_words(self, path: Path, error: OSError) -> ControlError:
        if error.errno in (errno.ECONNREFUSED, errno.ENOENT):
            return self.gone("does not listen: it has died, or the run has ended")
        if error.errno in (errno.EACCES, errno.EPERM):
            return ControlError(
                f"{path} is another user's: only who started the run may watch it and act on it"
            )
        return ControlError(f"agent {self.node} can't be asked at {path}: {error.strerror or error}")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = self.connect(self._timeout_s)
        try:
            connection.request(method, path, body, {"Connection": "close"})
            response = connection.getresponse()
            data = response.read(_ANSWER_MAX)
        except TimeoutError:
            raise ControlError(f"agent {self.node} has not answered for {self._timeout_s:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise self.gone(f"broke the connection off: {error or type(error).__name__}") from error
        finally:
            connection.close()
        return response.status, data


class EventStream:
    """The events of one agent, in their order, each once. Iterate over it in one thread.

    A stream that breaks, or that the agent ends because its reader was too slow, is taken up again behind the last
    event that was read. It ends after `AgentFinished`, or when it is closed.

    Raises:
        AgentGoneError: while iterating: nobody listens any more, though the agent has not said that it ends.
        ControlError: while iterating: the agent can't be asked.
    """

    def __init__(self, client: ControlClient, after: int = 0) -> None:
        self._client = client
        self._lock = threading.Lock()
        # Not the connection: that forgets its socket once it has handed it to the answer.
        self._socket: socket.socket | None = None
        self._closed = False
        #: number of the last event that was read
        self.seq = after

    def close(self) -> None:
        """End it; from any thread, also while another one waits for the next event."""
        with self._lock:
            self._closed = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def __iter__(self) -> Iterator[AnyEvent]:
        failed = 0
        while not self._closed:
            before, why = self.seq, "breaks the stream off again and again"
            try:
                for event in self._once():
                    self.seq = event.seq
                    yield event
                    if isinstance(event, AgentFinished):
                        return
            except (OSError, http.client.HTTPException) as error:
                why = f"does not say anything any more: {error or type(error).__name__}"
            failed = 0 if self.seq > before else failed + 1
            if failed >= _ATTEMPTS and not self._closed:
                raise self._client.gone(why)
            if failed:
                time.sleep(_PAUSE_S * failed)

    def _once(self) -> Iterator[AnyEvent]:
        """The events of one connection."""
        connection = self._client.connect(SILENCE_S)
        with self._lock:
            self._socket = connection.sock
        try:
            if self._closed:
                return
            connection.request("GET", f"/events?after={self.seq}")
            response = connection.getresponse()
            if response.status != 200:
                answer = _object(response.read(LINE_MAX))
                raise ControlError(
                    f"agent {self._client.node} refuses: {answer.get('error', response.status)}"
                )
            yield from _events_in(response, self.seq)
        finally:
            with self._lock:
                self._socket = None
            connection.close()


def _events_in(response: http.client.HTTPResponse, after: int) -> Iterator[AnyEvent]:
    while line := response.readline(LINE_MAX + 1):
        event = decode(line) if not line.isspace() else None
        # What is no event is a beat of the stream, its last word, or of a newer agent.
        if event is not None and event.seq > after:
            after = event.seq
            yield event


def _object(data: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ControlError(f"the agent answers something that is no JSON object: {data[:60]!r}") from error
