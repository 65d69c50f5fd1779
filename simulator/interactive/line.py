"""Messages over a socket: each is a length and so many bytes, with descriptors beside it if there are any.

A message is never torn, also where Ctrl-C strikes while one is sent or awaited.
"""

from __future__ import annotations

import socket
import struct
from array import array
from collections.abc import Sequence
from typing import Any

from toolkit.core.errors import RallyError

#: bytes of one message; the choices of a run of 1,000 nodes take some 100 MB
MESSAGE_MAX = 1 << 30
#: bytes that a socket takes at once: such a message is sent whole or not at all
WHOLE_MAX = 1 << 16

_LENGTH = struct.Struct("!Q")
_CHUNK = 1 << 20
_DESCRIPTOR = array("i").itemsize
_BESIDE = socket.CMSG_SPACE(_DESCRIPTOR)


class LineError(RallyError):
    """A message that no line takes."""


class Line:
    """One end of a conversation.

    Args:
        end: a connected stream socket; the line owns it from here on.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        #: what came and was not taken yet, as the kernel gave it
        self._came: list[tuple[bytes, list[tuple[int, int, bytes]], int, Any]] = []

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a message.

        Raises:
            LineError: it is too long.
            OSError: nobody is at the other end.
        """
        if len(message) > MESSAGE_MAX:
            raise LineError(
                f"a message of {len(message):,} bytes is more than the {MESSAGE_MAX:,} that one may have"
            )
        framed = _LENGTH.pack(len(message)) + message
        try:
            if descriptors:
                assert len(framed) <= WHOLE_MAX, "what has descriptors beside it is short"
                beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))]
                self._socket.sendmsg([framed], beside)
            else:
                self._socket.sendall(framed)
        except KeyboardInterrupt:
            if len(framed) > WHOLE_MAX:
                self.close()  # half of it may be on its way
            raise

    def receive(self) -> tuple[bytes, list[int]]:
        """Wait for a message. Returns it, and the descriptors that came with it.

        Raises:
            EOFError: the other end is gone.
            LineError: it is too long.
        """
        while (whole := self._taken()) is None:
            try:
                # C code stores what it took in the call that takes it: between two calls Ctrl-C could lose it.
                self._came.extend(map(self._socket.recvmsg, (_CHUNK,), (_BESIDE,)))
            except OSError as error:
                raise EOFError from error
            if not self._came[-1][0]:
                raise EOFError
        return whole

    def _taken(self) -> tuple[bytes, list[int]] | None:
        there = sum(len(part[0]) for part in self._came)
        if there < _LENGTH.size:
            return None
        if len(self._came[0][0]) < _LENGTH.size:
            self._came[:] = [(b"".join(part[0] for part in self._came), self._beside(), 0, None)]
        (length,) = _LENGTH.unpack_from(self._came[0][0])
        if length > MESSAGE_MAX:
            raise LineError(f"a message of {length:,} bytes is announced; {MESSAGE_MAX:,} are the most")
        end = _LENGTH.size + length
        if there < end:
            return None
        data, beside = b"".join(part[0] for part in self._came), self._beside()
        self._came[:] = [(data[end:], [], 0, None)] if there > end else []
        return data[_LENGTH.size : end], [number for _, _, raw in beside for number in array("i", raw)]

    def _beside(self) -> list[tuple[int, int, bytes]]:
        return [item for part in self._came for item in part[1]]

    def close(self) -> None:
        """The other end reads the end of the file, and whoever waits here, too. May be called again."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end is gone, or this one is
        self._socket.close()

    def let_go(self) -> None:
        """Close this copy of it only: the process from which this one was forked talks on."""
        self._socket.close()
