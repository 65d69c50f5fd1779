"""Asks a running agent of this machine, through its Unix socket.

Errors are in words: nobody listens because the run has ended or the agent died, or the socket is another user's.
"""

from __future__ import annotations

import errno
import http.client
import os
import socket
import stat
from pathlib import Path

from toolkit.adapters.control.asking import TIMEOUT_S, AgentClient, EventStream, whoami
from toolkit.adapters.control.place import find_socket, nodes_in
from toolkit.core.errors import AgentGoneError, ControlError, RecordingError

__all__ = ["AgentGoneError", "ControlClient", "ControlError", "EventStream", "nodes_in", "whoami"]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


class ControlClient(AgentClient):
    """One agent of one run on this machine.

    Args:
        run_directory: of the run.
        node: the agent, as events name it.
        timeout_s: how long it may take to answer.
    """

    def __init__(self, run_directory: Path, node: str, *, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(f"agent {node}", timeout_s)
        self.run_directory = run_directory
        self.node = node

    def connect(self, timeout_s: float) -> http.client.HTTPConnection:
        """A connection.

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
        return AgentGoneError(f"{self.name} of {self.run_directory} {why}")

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
        return ControlError(f"{self.name} can't be asked at {path}: {error.strerror or error}")
