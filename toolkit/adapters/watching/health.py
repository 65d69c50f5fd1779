"""The health check that torch's variable TORCHELASTIC_HEALTH_CHECK_PORT asks for: 200 while the agent's loop lives.

torch's own server there does nothing. This one answers any GET over plain HTTP, on all addresses, because whoever asks
is often a kubelet on another one; it tells nothing but that.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

from toolkit.core.errors import ConfigurationError
from toolkit.core.hanging.hang_settings import HEALTH_PORT

#: how long one who asks may take, in seconds
_ASK_S = 2.0
#: after an error of the listening socket itself
_AGAIN_S = 0.5


class HealthCheck:
    """Listens from the start; `close` ends it.

    Args:
        port: to listen on; 0 takes any.
        lives: whether the agent's loop lives; must not block, nor raise.

    Raises:
        ConfigurationError: the port can't be listened on.
    """

    def __init__(self, port: int, lives: Callable[[], bool]) -> None:
        self._lives = lives
        self._socket = _listening(port)
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._serve, name="rally-health", daemon=True).start()

    def close(self) -> None:
        """No more answers. May be called again."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # close alone does not wake who waits in accept
        except OSError:
            pass  # it is closed
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                if self._socket.fileno() < 0:
                    return
                time.sleep(_AGAIN_S)  # too many open files, say: the next try would fail as well
                continue
            with client:
                try:
                    self._answer(client)
                except OSError:
                    continue  # whoever asked is gone, or too slow

    def _answer(self, client: socket.socket) -> None:
        client.settimeout(_ASK_S)
        request = client.recv(4096)
        if not request:
            return
        status, words = (
            ("200 OK", "ok\n") if self._lives() else ("503 Service Unavailable", "the loop is stuck\n")
        )
        if not request.startswith((b"GET ", b"HEAD ")):
            status, words = "405 Method Not Allowed", "only GET\n"
        body = "" if request.startswith(b"HEAD ") else words
        head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(words)}\r\n"
        client.sendall(f"{head}Connection: close\r\n\r\n{body}".encode())


def check_port(port: int) -> None:
    """That it can be listened on.

    Raises:
        ConfigurationError: it can't.
    """
    _listening(port).close()


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server(("", port))
    except OSError as error:
        raise ConfigurationError(
            f"{HEALTH_PORT} is {port}, which can't be listened on: {error.strerror}; give a port that is free"
        ) from error
