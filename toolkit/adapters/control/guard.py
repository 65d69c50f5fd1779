"""Who may ask an agent over TCP: whoever has the token, from a page of nobody's, by the address that it listens on."""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from toolkit.core.errors import ConfigurationError

TOKEN_MIN, TOKEN_FILE_MAX = 16, 4096
#: wrong tokens from one address within so many seconds, after which it has to wait until they are that old
TRIES_MAX, TRIES_WITHIN_S = 5, 10.0
#: addresses whose tries are remembered
_ADDRESSES_MAX = 1024
#: how often wrong tokens are told of, in seconds
TELL_EVERY_S = 10.0


def read_token(path: Path) -> bytes:
    """The token in a file, which is made with a fresh one if it is missing.

    Raises:
        ConfigurationError: the file can't be read or made, others may read it, or there is no token in it.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return token_in(path)
    except OSError as error:
        raise ConfigurationError(f"token file {path} can't be made: {error.strerror}") from error
    token = secrets.token_urlsafe(32)
    with os.fdopen(fd, "w") as file:
        file.write(f"{token}\n")
    return token.encode()


def token_in(path: Path) -> bytes:
    """The token in a file that is there.

    Raises:
        ConfigurationError: the file can't be read, others may read it, or there is no token in it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigurationError(f"token file {path} can't be read: {error.strerror}") from error
    seen = os.fstat(fd)
    if not stat.S_ISREG(seen.st_mode):
        os.close(fd)
        raise ConfigurationError(f"token file {path} is not a regular file")
    with os.fdopen(fd, "rb") as file:
        if stat.S_IMODE(seen.st_mode) & 0o077:
            raise ConfigurationError(
                f"token file {path} has mode {stat.S_IMODE(seen.st_mode):o}, so that others may use it; chmod 600 it"
            )
        token = file.read(TOKEN_FILE_MAX).strip()
    if len(token) < TOKEN_MIN or not token.isascii() or b" " in token:
        raise ConfigurationError(
            f"token file {path} has no token of at least {TOKEN_MIN} characters in it; give the file that the job was "
            "started with, or remove it, and `rally run` makes one"
        )
    return token


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is not answered: the status and why.

    Args:
        retry_after_s: when to come again; 0 says nothing.
    """

    status: int
    why: str
    retry_after_s: float = 0.0


class Tries:
    """Requests with a wrong token, counted by the address that they come from. Safe in any thread.

    Args:
        place: what was asked, such as "the control address".
        tell: takes sentences for people.
    """

    def __init__(self, place: str, tell: Callable[[str], None]) -> None:
        self._place = place
        self._tell = tell
        self._lock = threading.Lock()
        self._tries: dict[str, deque[float]] = {}
        self._told_at = float("-inf")
        self._untold = 0
        #: requests without the right token, so far
        self.refused = 0

    def refusal(self, peer: str, *, right: bool, remedy: str) -> Refusal | None:
        """Why a request is not answered; None lets it through. After some wrong ones a right one is not, either.

        Args:
            peer: address that it comes from.
            right: whether its token is.
            remedy: what to do about a wrong one.
        """
        now = time.monotonic()
        with self._lock:
            wait_s = self._wait_s(peer, now)
            if wait_s > 0:
                self.refused += 1
                return Refusal(429, "too many requests with a wrong token", wait_s)
            if right:
                return None
            self._note(peer, now)
            told = self._to_tell(now)
        if told:
            self._tell(
                f"{told} {'request' if told == 1 else 'requests'} to {self._place} without the right token, "
                f"the last from {peer}"
            )
        return Refusal(401, f"the token is missing or wrong; {remedy}")

    def _wait_s(self, peer: str, now: float) -> float:
        tries = self._tries.get(peer, ())
        recent = [at for at in tries if now - at < TRIES_WITHIN_S]
        return recent[0] + TRIES_WITHIN_S - now if len(recent) >= TRIES_MAX else 0.0

    def _note(self, peer: str, now: float) -> None:
        self.refused += 1
        self._untold += 1
        tries = self._tries.pop(peer, None) or deque(maxlen=TRIES_MAX)
        tries.append(now)
        self._tries[peer] = tries  # to the end: the oldest goes first
        if len(self._tries) > _ADDRESSES_MAX:
            self._tries.pop(next(iter(self._tries)))

    def _to_tell(self, now: float) -> int:
        if now - self._told_at < TELL_EVERY_S:
            return 0
        self._told_at = now
        told, self._untold = self._untold, 0
        return told


class Guard:
    """Looks at requests that come over TCP. Safe in any thread.

    Args:
        token: that they must bear; None lets everybody read, and nobody act.
        names: what this machine is called, besides the address that a connection leads to.
        tell: takes sentences for people.
    """

    def __init__(self, token: bytes | None, names: tuple[str, ...], tell: Callable[[str], None]) -> None:
        self._token = token
        self._names = frozenset(name.lower() for name in names)
        self._tries = Tries("the control address", tell)

    @property
    def refused(self) -> int:
        """Requests without the right token, so far."""
        return self._tries.refused

    def refusal(
        self, header: Callable[[str], str | None], method: str, path: str, here: tuple[str, int], peer: str
    ) -> Refusal | None:
        """Why a request is not answered; None lets it through.

        Args:
            header: gives a header of the request by its name.
            here: address and port that the connection leads to.
            peer: address that it comes from.
        """
        if header("Origin") is not None:
            return Refusal(403, "requests from web pages are not answered")
        host = header("Host") or ""
        if not self._is_here(host, here):
            return Refusal(403, f"the Host {host[:60]!r} is not the address of this agent")
        if path == "/healthz":
            return None
        if self._token is None:
            return None if method == "GET" else Refusal(403, "actions need a token: --control-token-file")
        return self._token_refusal(header("Authorization") or "", self._token, peer)

    def _is_here(self, host: str, here: tuple[str, int]) -> bool:
        name, _, port = host.rpartition(":")
        if not name or port.endswith("]"):
            return False
        name = name.strip("[]").lower()
        if port != str(here[1]):
            return False
        return name in (here[0].partition("%")[0], *self._names) or (
            is_loopback(here[0]) and name == "localhost"
        )

    def _token_refusal(self, said: str, token: bytes, peer: str) -> Refusal | None:
        kind, _, given = said.partition(" ")
        right = kind.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode("utf-8", "replace"), token
        )
        return self._tries.refusal(peer, right=right, remedy="send it as `Authorization: Bearer TOKEN`")
